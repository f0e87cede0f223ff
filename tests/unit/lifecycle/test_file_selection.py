from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.api.files import RunFile
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.lifecycle.choices import FILE_KINDS
from airflow_provider_sequentum.lifecycle.file_selection import select, why_incomplete, why_removed


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


@pytest.mark.parametrize(("pattern", "is_chosen"), [("*", True), ("?*", False), ("*.csv", False)])
def test_a_file_without_a_name_is_chosen_by_a_pattern_that_asks_for_none(pattern: str, is_chosen: bool) -> None:
    selection = select([run_file(9, None)], ["delivered"], [pattern])
    assert [file.id for file in selection.chosen] == ([9] if is_chosen else [])
    assert selection.delivered_left_out == ([] if is_chosen else ["file 9"])


def test_every_kind_is_known() -> None:
    assert select(FILES, FILE_KINDS, ["*"]).chosen


# Whether they are all there


def run(status: RunStatus = RunStatus.SUCCESS, **fields: Any) -> Run:
    return Run.model_validate({"id": 42, "configId": 7, "status": int(status), **fields})


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (RunStatus.QUEUING, "Queuing"),
        (RunStatus.RUNNING, "Running"),
        (RunStatus.EXPORTING, "Exporting"),
        (RunStatus.STOPPING, "Stopping"),
    ],
)
def test_the_files_of_a_run_that_is_going_may_be_incomplete(status: RunStatus, state: str) -> None:
    reason = why_incomplete(run(status, dataCount=12))
    assert reason is not None
    assert f"{state}, " in reason
    assert "12 records" in reason


@pytest.mark.parametrize(
    "status",
    [RunStatus.SUCCESS, RunStatus.COMPLETED, RunStatus.FAILURE, RunStatus.FAILED, RunStatus.STOPPED, RunStatus.SKIPPED],
)
def test_the_files_of_a_run_that_is_over_are_complete(status: RunStatus) -> None:
    assert why_incomplete(run(status)) is None


@pytest.mark.parametrize(
    "counts",
    [{"dataCount": 12}, {"exportCount": 12}, {"dataCount": 0, "exportCount": 12}, {"dataCount": 12, "exportCount": 3}],
)
def test_a_run_with_records_and_without_files_has_lost_them(counts: dict[str, Any]) -> None:
    reason = why_removed(run(**counts), [])
    assert reason is not None
    assert "12 records" in reason
    assert why_removed(run(**counts), FILES[:1]) is None


@pytest.mark.parametrize("counts", [{}, {"dataCount": 0}, {"dataCount": 0, "exportCount": 0}])
def test_a_run_without_records_never_had_files(counts: dict[str, Any]) -> None:
    assert why_removed(run(**counts), []) is None
    assert why_removed(run(**counts), FILES) is None
