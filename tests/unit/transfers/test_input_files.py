from __future__ import annotations

import csv
import io
import itertools
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.exceptions import RunFilesUnavailable, SequentumRequestRefused
from airflow_provider_sequentum.transfers.input_files import (
    ObjectStorageToInputFilesOperator,
    check_content,
    rows_as_file,
    rows_to_input_parameters,
    stable_name,
)
from tests.support.airflow import FakeTask
from tests.support.service import Clock

ROWS: list[dict[str, Any]] = [{"sku": "A1", "price": Decimal("9.5")}, {"sku": "B,2", "note": None, "tags": ["x", "é"]}]


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


@pytest.mark.parametrize("value", ["a\rb", "a\nb", "a\r\nb", '"', " a ", "a,b", "\u2028"])
def test_a_value_is_one_field_of_one_row_of_a_csv_file(value: str) -> None:
    text = rows_as_file([{"a": value, "b": 1}], "in.csv", "utf-8").decode()
    assert list(csv.DictReader(io.StringIO(text, newline=""))) == [{"a": value, "b": "1"}]


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
        ({"a": 1}, "must be a list of mappings, not"),
        ([1], "number 1 is 1"),
        ([{"a": 1}, {}], "number 2"),
        ([{"a": object()}], "not JSON serializable"),
        ([{"a": "half \ud83d"}], "surrogate"),
        ([{"a": "x\0y"}], "NUL"),
        ([{"a": float("-inf")}], "JSON compliant"),
        ([{"a": [float("nan")]}], "JSON compliant"),
    ],
)
@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_rows_that_cannot_be_written(rows: Any, reason: str, suffix: str) -> None:
    assert reason in refusal(rows=rows, file_name=f"in.{suffix}")


def test_what_is_missing_in_a_data_frame_is_missing_in_the_file() -> None:
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "text": ["x", None],
            "number": [1.5, None],
            "time": pandas.to_datetime(["2026-01-31T06:00:00", None]),
            "integer": pandas.array([7, None], dtype="Int64"),
            "choice": pandas.Categorical(["a", None]),
        }
    )
    for rows in (frame.to_dict("records"), frame.to_json(orient="records", date_format="iso")):
        assert rows_as_file(rows, "in.csv", "utf-8").decode().splitlines()[2] == ",,,,"
        (row,) = rows_to_input_parameters(rows)[1:]
        assert set(row.values()) == {None}
    for missing in (float("nan"), numpy.float32("nan"), Decimal("NaN"), pandas.NA, pandas.NaT, None):
        assert rows_as_file([{"a": missing, "b": 1}], "in.csv", "utf-8") == b"a,b\n,1\n"
        assert rows_as_file([{"a": missing}], "in.json", "utf-8") == b'[{"a": null}]'


def test_rows_in_another_encoding() -> None:
    assert rows_as_file([{"a": "é"}], "in.csv", "latin-1") == b"a\n\xe9\n"
    assert "'€', which latin-1 cannot encode" in refusal(rows=[{"a": "€"}], encoding="latin-1")


def test_rows_of_a_format_that_they_cannot_have() -> None:
    assert "its extension must be one of .csv, .ndjson" in refusal(rows=ROWS, file_name="in.xlsx")


# Rows as input parameters


def test_each_row_is_the_input_parameters_of_a_run() -> None:
    assert rows_to_input_parameters(ROWS) == [{"sku": "A1", "price": 9.5}, {**ROWS[1]}]
    assert rows_to_input_parameters('[{"a": 1}]') == [{"a": 1}]


def test_several_rows_are_one_parameter_as_csv_with_a_header_of_all_columns() -> None:
    rows = [{"sku": "A1"}, {"sku": 'B "2"\nC', "note": "é"}, {"sku": "D4"}]
    parts = rows_to_input_parameters(rows, "products", max_rows=2)
    assert parts == [{"products": 'sku,note\nA1,\n"B ""2""\nC",é\n'}, {"products": "sku,note\nD4,\n"}]
    assert [list(csv.DictReader(io.StringIO(part["products"]))) for part in parts] == [
        [{"sku": "A1", "note": ""}, {"sku": 'B "2"\nC', "note": "é"}],
        [{"sku": "D4", "note": ""}],
    ]


ANY = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


@given(
    st.lists(st.text(ANY, min_size=1, max_size=20), max_size=30),
    st.integers(1, 9),
    st.integers(150, 400),
)
def test_no_part_is_longer_than_it_may_be_and_no_row_is_lost(names: list[str], rows: int, size: int) -> None:
    parts = rows_to_input_parameters([{"name": name} for name in names], "list", max_rows=rows, max_bytes=size)
    read = [list(csv.DictReader(io.StringIO(part["list"], newline=""))) for part in parts]
    assert [row["name"] for part in read for row in part] == names
    assert all(0 < len(part) <= rows for part in read)
    assert all(len(json.dumps(part, ensure_ascii=False).encode()) <= size for part in parts)
    wasted = [here for here, after in itertools.pairwise(parts) if _fits(here, after, rows, size)]
    assert wasted == []


def _fits(part: dict[str, str], after: dict[str, str], rows: int, size: int) -> bool:
    """Whether the first row of the next part could have been in this one."""
    lines = [list(csv.DictReader(io.StringIO(each["list"], newline=""))) for each in (part, after)]
    joined = rows_to_input_parameters([*lines[0], lines[1][0]], "list", max_rows=10**6, max_bytes=10**6)
    return len(lines[0]) < rows and len(json.dumps(joined[0], ensure_ascii=False).encode()) <= size


def test_no_rows_give_no_runs() -> None:
    assert rows_to_input_parameters([]) == rows_to_input_parameters("[]", "products") == []


@pytest.mark.parametrize(
    ("rows", "options", "reason"),
    [
        ([{"a": "x"}, {"a": "x" * 99}], {}, "Row number 2 takes 108 bytes as input parameters, more than max_bytes=99"),
        ([{"a": "x"}, {"a": "x" * 99}], {"parameter": "p"}, "Row number 2 takes 113 bytes"),
        ([{"a": 1}], {"max_rows": 0}, "max_rows must be 1 or more, not 0"),
        ([1], {}, "number 1 is 1"),
        ({"a": 1}, {}, "must be a list of mappings"),
        ([{"a": float("inf")}], {}, "JSON compliant"),
    ],
)
def test_rows_that_cannot_be_input_parameters(rows: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(SequentumRequestRefused, match="Nothing was started") as caught:
        rows_to_input_parameters(rows, **{"max_bytes": 99, **options})
    assert reason in str(caught.value)


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
        (b"<html>", "in.xlsx", "utf-8", "is not a .xlsx file"),
        (b"a,b", "in.parquet", "utf-8", "is not a .parquet file"),
    ],
)
def test_what_does_not_fit(content: bytes, name: str, encoding: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_content(content, name, encoding)


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_bytes(b"x" * 101)
    assert "has more than max_bytes=100 bytes" in refusal(source=str(file), max_bytes="100")
    assert "with the rows has 102 bytes, more than max_bytes=100" in refusal(rows=[{"a": "x" * 99}], max_bytes=100)


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
        ({"source": "s3://user:secret@bucket/a.csv"}, "it contains a password"),
        ({"source": "a.csv"}, "neither an address"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_sent(arguments: dict[str, Any], reason: str) -> None:
    message = refusal(**arguments)
    assert reason in message
    assert "secret" not in message
