from __future__ import annotations

import pytest

from airflow_provider_sequentum.api.files import RunFile
from airflow_provider_sequentum.lifecycle.choices import FILE_KINDS
from airflow_provider_sequentum.lifecycle.file_selection import select


def run_file(number: int, name: str | None, file_type: int | None = 1) -> RunFile:
    return RunFile(id=number, name=name, file_type=file_type)


FILES = [
    run_file(5, "log.txt", 6),
    run_file(1, "b.csv"),
    run_file(2, "a.pdf"),
    run_file(3, "shot.PNG", 2),
    run_file(4, "cache.png", 8),
    run_file(6, "log.html", 7),
    run_file(7, "new.bin", 99),
    run_file(8, "untyped.csv", None),
]


@pytest.mark.parametrize(
    ("kinds", "patterns", "names"),
    [
        (["delivered"], ["*"], ["b.csv", "a.pdf"]),
        (["delivered"], ["*.csv"], ["b.csv"]),
        (["delivered"], ["*.CSV"], []),
        (["delivered"], ["*.pdf", "b.*"], ["b.csv", "a.pdf"]),
        (["logs"], ["*"], ["log.txt", "log.html"]),
        (["screenshots"], ["*"], ["shot.PNG"]),
        (["extracted", "screenshots"], ["*"], ["shot.PNG"]),
        (["delivered", "logs"], ["log.*", "*.csv"], ["b.csv", "log.txt", "log.html"]),
    ],
)
def test_files_are_chosen_by_kind_and_pattern_in_the_order_of_their_ids(
    kinds: list[str], patterns: list[str], names: list[str]
) -> None:
    assert [file.name for file in select(FILES, kinds, patterns).chosen] == names


def test_delivered_files_left_out_are_named() -> None:
    assert select(FILES, ["delivered"], ["*.csv"]).delivered_left_out == ["a.pdf"]
    assert select(FILES, ["logs"], ["*"]).delivered_left_out == ["b.csv", "a.pdf"]
    assert select(FILES, ["delivered"], ["*"]).delivered_left_out == []


def test_every_kind_is_known() -> None:
    assert select(FILES, FILE_KINDS, ["*"]).chosen
