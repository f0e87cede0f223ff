from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sequentum.exceptions import RunFilesUnavailable, SequentumRequestRefused
from airflow_provider_sequentum.transfers.input_files import (
    ObjectStorageToInputFilesOperator,
    check_content,
    rows_as_file,
    stable_name,
)
from tests.support.airflow import FakeTask
from tests.support.service import Clock

ROWS = [{"sku": "A1", "price": Decimal("9.5")}, {"sku": "B,2", "note": None, "tags": ["x", "é"]}]


def refusal(**arguments: Any) -> str:
    arguments = {"space_id": 1, **arguments}
    with pytest.raises(SequentumRequestRefused, match="Nothing was uploaded") as caught:
        ObjectStorageToInputFilesOperator(task_id="upload", **arguments).execute(FakeTask(Clock()).context)
    return str(caught.value)


# The name


def test_a_name_is_stable_and_of_one_task_and_map_index() -> None:
    tasks = [("a-b", "c", -1), ("a", "b-c", -1), ("a", "b-c", 0), ("a", "b-c", 1), ("a", "b-c-0", -1), ("a/b", "c", -1)]
    names = [stable_name(*task, ".csv") for task in tasks]
    assert len(set(names)) == len(tasks)
    assert names == [stable_name(*task, ".csv") for task in tasks]
    assert names[3].startswith("a-b-c-1-")
    assert names[3].endswith(".csv")


@pytest.mark.parametrize("dag_id", ["x" * 250, "пример", "a b", "..", "a\nb"])
@pytest.mark.parametrize("suffix", ["", ".CSV", ".c/s\0v", "." + "x" * 300])
def test_a_name_is_safe_whatever_the_ids_are(dag_id: str, suffix: str) -> None:
    name = stable_name(dag_id, "task.in.group", 3, suffix)
    assert name.isascii()
    assert len(name) <= 200
    assert not set(name) & set("/\\ \0\n")
    assert not name.startswith(".")


@pytest.mark.parametrize("name", ["a/b.csv", "a\\b.csv", "..", "a\nb.csv", "x" * 201, "a\0.csv"])
def test_a_name_of_ones_own_is_that_of_a_file(name: str) -> None:
    assert "file_name must" in refusal(rows=ROWS, file_name=name)


# Rows


def test_rows_as_csv() -> None:
    text = rows_as_file(ROWS, "in.csv", "utf-8").decode()
    assert text == 'sku,price,note,tags\nA1,9.5,,\n"B,2",,,"[""x"", ""é""]"\n'


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("in.ndjson", '{"a": 1}\n{"a": null}\n'),
        ("in.jsonl", '{"a": 1}\n{"a": null}\n'),
        ("in.JSON", '[{"a": 1}, {"a": null}]'),
        ("in.csv", 'a\n1\n""\n'),
    ],
)
def test_rows_as(name: str, expected: str) -> None:
    assert rows_as_file([{"a": 1}, {"a": None}], name, "utf-8").decode() == expected
    assert rows_as_file('[{"a": 1}, {"a": null}]', name, "utf-8").decode() == expected


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "at least one"),
        ("[]", "at least one"),
        ("{", "must be a list of mappings"),
        ({"a": 1}, "at least one"),
        ([1], "number 1 is 1"),
        ([{"a": 1}, {}], "number 2"),
        ([{"a": object()}], "not JSON serializable"),
        ([{"a": "half \ud83d"}], "surrogate"),
        ([{"a": "x\0y"}], "NUL"),
        ([{"a": float("nan")}], "JSON compliant"),
    ],
)
def test_rows_that_cannot_be_written(rows: Any, reason: str) -> None:
    assert reason in refusal(rows=rows, file_name="in.json")


def test_rows_in_another_encoding() -> None:
    assert rows_as_file([{"a": "é"}], "in.csv", "latin-1") == b"a\n\xe9\n"
    assert "'€', which latin-1 cannot encode" in refusal(rows=[{"a": "€"}], encoding="latin-1")


def test_rows_of_a_format_that_they_cannot_have() -> None:
    assert "its extension must be one of .csv, .ndjson" in refusal(rows=ROWS, file_name="in.xlsx")


# What a file holds


@pytest.mark.parametrize(
    ("content", "name", "encoding"),
    [
        (b"a\n1\n", "in.csv", "utf-8"),
        ("é".encode("utf-16"), "in.txt", "utf-16"),
        (b"PK\3\4...", "in.xlsx", "utf-8"),
        (b"PAR1...", "in.parquet", "utf-8"),
        (b"\xff\xfe\0", "in.bin", "utf-8"),
        (b"\xff", "in", "utf-8"),
    ],
)
def test_what_fits(content: bytes, name: str, encoding: str) -> None:
    check_content(content, name, encoding)
    with pytest.raises(ValueError, match="is empty"):
        check_content(content[:0], name, encoding)


@pytest.mark.parametrize(
    ("content", "name", "encoding", "reason"),
    [
        (b"", "in.csv", "utf-8", "is empty"),
        (b" \n", "in.xlsx", "utf-8", "is empty"),
        (b"a\xe9b", "in.csv", "utf-8", "not encoded in utf-8 at byte 1"),
        ("a".encode("utf-16-le"), "in.json", "utf-8", "NUL"),
        (b"abc", "in.TXT", "utf-16", "not encoded in utf-16"),
        (b"<html>", "in.xlsx", "utf-8", "is no .xlsx file"),
        (b"a,b", "in.parquet", "utf-8", "is no .parquet file"),
    ],
)
def test_what_does_not_fit(content: bytes, name: str, encoding: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_content(content, name, encoding)


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_bytes(b"x" * 101)
    assert "has more than max_bytes=100 bytes" in refusal(source=str(file), max_bytes="100")
    assert "102 bytes as a file, more than max_bytes=100" in refusal(rows=[{"a": "x" * 99}], max_bytes=100)


def test_a_file_that_is_not_there_may_come(tmp_path: Path) -> None:
    with pytest.raises(RunFilesUnavailable, match=r"in\.csv could not be read.*Nothing was uploaded"):
        ObjectStorageToInputFilesOperator(task_id="upload", space_id=1, source=str(tmp_path / "in.csv")).execute(
            FakeTask(Clock()).context
        )


# Parameters


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "Give either source or rows"),
        ({"source": "/a.csv", "rows": ROWS}, "Give either source or rows"),
        ({"rows": ROWS, "space_id": None}, "Give either space_id or agent_id"),
        ({"rows": ROWS, "agent_id": 7}, "Give either space_id or agent_id"),
        ({"rows": ROWS, "space_id": "x"}, "space_id must be a positive whole number"),
        ({"rows": ROWS, "space_id": None, "agent_id": 0}, "agent_id must be a positive whole number"),
        ({"rows": ROWS, "encoding": "klingon"}, "encoding must be the name of an encoding"),
        ({"rows": ROWS, "max_bytes": -1}, "max_bytes must be a whole number"),
        ({"source": "s3://user:secret@bucket/a.csv"}, "it holds a password"),
        ({"source": "a.csv"}, "neither an address"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_sent(arguments: dict[str, Any], reason: str) -> None:
    message = refusal(**arguments)
    assert reason in message
    assert "secret" not in message
