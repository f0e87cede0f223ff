"""DuckDB reads of every file what ``iter_records`` reads, and reaches nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_sequentum.exceptions import RunFilesUnavailable
from airflow_provider_sequentum.quality.engine import ROW, Table, Workspace, open_workspace, text_of
from airflow_provider_sequentum.records.reading import read_records
from tests.unit.records.test_agreement import (
    ARROW_COLUMNS,
    CELLS,
    HEADERS,
    KEYS,
    SHEET_CELLS,
    VALUES,
    outcome,
    says_the_same,
    workbook,
)


class MemoryFile:
    def __init__(self, name: str, content: bytes) -> None:
        self.name, self.content = name, content

    def open(self, mode: str) -> Any:
        assert mode == "rb"
        return io.BytesIO(self.content)


@pytest.fixture(scope="module")
def workspace() -> Iterator[Workspace]:
    with open_workspace() as opened:
        yield opened


def rows_of(workspace: Workspace, table: Table) -> list[dict[str, Any]]:
    """A table's rows by the names that the records have."""
    names = list(table.columns)
    cells = [table.columns[name].sql for name in names]
    sql = f"SELECT {', '.join([*cells, ROW])} FROM {table.sql} ORDER BY {ROW}"
    found = [row for batch in workspace.connection.sql(sql).to_arrow_reader() for row in batch.to_pylist()]
    assert [row[ROW] for row in found] == list(range(len(found)))
    return [{name: row[table.columns[name].sql] for name in names} for row in found]


def without_gaps(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_gaps(inner) for key, inner in value.items() if inner is not None}
    return [without_gaps(inner) for inner in value] if isinstance(value, list) else value


def check(workspace: Workspace, name: str, content: bytes) -> list[dict[str, Any]]:
    """Check that DuckDB reads of a file what the reader of records reads, and return it."""
    records, refusal = outcome(lambda: list(read_records(io.BytesIO(content), name)))
    table, other_refusal = outcome(lambda: workspace.load([MemoryFile(name, content)]))
    assert refusal == other_refusal
    if refusal is not None:
        return []
    rows = rows_of(workspace, table)
    assert table.records == len(rows) == len(records)
    is_table = name.endswith("csv")
    for record, row in zip(records, rows, strict=True):
        for key in {*record, *row}:
            value, other = without_gaps(record.get(key)), row.get(key)
            if isinstance(value, (dict, list)):
                assert other == json.dumps(value, ensure_ascii=False, sort_keys=True)
            else:
                assert says_the_same(value, other, is_cell=is_table), (key, value, other)
    return rows


FEW = settings(max_examples=30)


@FEW
@given(HEADERS, st.lists(st.lists(CELLS, min_size=1, max_size=3), max_size=6))
def test_tables(workspace: Workspace, header: list[str], rows: list[list[str]]) -> None:
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [header, *rows]]
    check(workspace, "a.csv", "\n".join(quoted).encode())


@FEW
@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=5), st.sampled_from(["a.json", "a.ndjson"]))
def test_objects(workspace: Workspace, records: list[dict[str, Any]], name: str) -> None:
    lines = [json.dumps(record) for record in records]
    check(workspace, name, ("[" + ",".join(lines) + "]" if name == "a.json" else "\n".join(lines)).encode())


@settings(max_examples=15)
@given(HEADERS, st.lists(st.lists(SHEET_CELLS, max_size=3), max_size=5))
def test_sheets(workspace: Workspace, header: list[str], rows: list[list[Any]]) -> None:
    check(workspace, "a.xlsx", workbook([header, *rows]))


@FEW
@given(st.lists(ARROW_COLUMNS, min_size=1, max_size=3))
def test_parquet(workspace: Workspace, columns: list[Any]) -> None:
    pq.write_table(
        pa.Table.from_arrays(columns, [str(number) for number in range(len(columns))]), content := io.BytesIO()
    )
    check(workspace, "a.parquet", content.getvalue())


def test_names_that_sql_would_confuse_are_columns_of_their_own(workspace: Workspace) -> None:
    content = json.dumps({"Name": 1, "name": 2, "": 3, '"; DROP TABLE x; --': 4, "n": 5, "c0": 6}).encode()
    assert check(workspace, "a.json", content) == [json.loads(content)]


def test_the_columns_of_several_files_are_put_together_by_name(workspace: Workspace) -> None:
    files = [
        MemoryFile("1.csv", b"sku,price\n007,1.5\n008,2\n"),
        MemoryFile("2.ndjson", b'{"price": 3, "sku": 9, "seen": true}\n'),
        MemoryFile("3.csv", b"sku\n"),
    ]
    table = workspace.load(files)
    assert rows_of(workspace, table) == [
        {"sku": "007", "price": "1.5", "seen": None},
        {"sku": "008", "price": "2", "seen": None},
        {"sku": "9", "price": "3", "seen": True},
    ]
    assert table.sources[0].sha256 == hashlib.sha256(files[0].content).hexdigest()
    assert [source.records for source in table.sources] == [2, 1, 0]
    assert table.sources[0].size == len(files[0].content)


def test_no_records_are_an_empty_table(workspace: Workspace) -> None:
    for files in ([], [MemoryFile("a.csv", b"a,b\n")]):
        table = workspace.load(files)
        assert (table.records, table.columns, rows_of(workspace, table)) == (0, {}, [])


@pytest.mark.parametrize(("first", "second"), [(1, 1.0), (2.5, 2.5), (10**17, 1e17), (-1, -1.0), (True, True)])
def test_a_number_has_one_text(workspace: Workspace, first: Any, second: Any) -> None:
    texts = []
    for value in (first, second):
        table = workspace.load([MemoryFile("a.json", json.dumps([{"a": value}]).encode())])
        texts += workspace.rows(f"SELECT {text_of(table.columns['a'])} FROM {table.sql}")
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("whole", "fractions", "kind"),
    [
        (pa.array([7, 2**53]), pa.array([0.5]), "DOUBLE"),
        (pa.array([7, 2**53 + 1]), pa.array([0.5]), "VARCHAR"),
        (pa.array([2**63 - 1]), pa.array([0.5], pa.float32()), "VARCHAR"),
        (pa.array([2**64 - 1], pa.uint64()), pa.array([0.5]), "VARCHAR"),
        (pa.array([2**64 - 1], pa.uint64()), pa.array([-1]), "HUGEINT"),
        (pa.array([2**31 - 1], pa.int32()), pa.array([0.5, None]), "DOUBLE"),
        (pa.array([Decimal("0.10")]), pa.array([0.5]), "DOUBLE"),
        (pa.array([Decimal("0.1")]), pa.array([Decimal("0.25")]), "DOUBLE"),
        (pa.array([Decimal("0.123456789012345678")]), pa.array([0.5]), "VARCHAR"),
        (pa.array([2**53 + 1]), pa.array([Decimal("0.25")]), "VARCHAR"),
    ],
)
def test_a_column_of_several_files_has_a_type_that_rounds_no_number(
    workspace: Workspace, whole: Any, fractions: Any, kind: str
) -> None:
    values = [value for part in (whole, fractions) for value in part.to_pylist()]
    files = []
    for name, column in (("1.parquet", whole), ("2.parquet", fractions)):
        pq.write_table(pa.table({"a": column}), stream := io.BytesIO())
        files.append(MemoryFile(name, stream.getvalue()))
    table = workspace.load(files)
    assert table.columns["a"].kind == kind
    text = table.as_text()
    rows = workspace.rows(f"SELECT {text.columns['a'].sql} FROM {text.sql} ORDER BY {ROW}")
    assert [cell and Decimal(cell) for (cell,) in rows] == [value and Decimal(str(value)) for value in values]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{outside}')",
        "SELECT * FROM read_text('{data}/../../outside.csv')",
        "SELECT * FROM '{outside}'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM 'https://example.com/x.csv'",
        "COPY (SELECT 1) TO '{outside}.copy'",
        "ATTACH '{outside}.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET memory_limit = '64GB'",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "PRAGMA temp_directory = '/'",
        "RESET max_temp_directory_size",
        "SELECT * FROM of_python",
    ],
)
def test_nothing_else_is_reached_and_nothing_can_be_set(tmp_path: Path, sql: str) -> None:
    outside = tmp_path / "outside.csv"
    outside.write_text("a\n1\n")
    of_python = pa.table({"a": [1]})
    assert of_python.num_rows == 1
    with open_workspace() as opened, pytest.raises(duckdb.Error):
        opened.execute(sql.format(outside=outside, data=opened.folder / "data"))
    assert [path.name for path in tmp_path.iterdir()] == ["outside.csv"]


def test_what_is_too_large_is_refused_and_nothing_stays_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = MemoryFile("a.csv", b"a\n" + b"x" * 10_000)
    with open_workspace(disk=5_000) as opened, pytest.raises(RunFilesUnavailable, match="more than 5,000 bytes"):
        opened.load([file])
    big = "CREATE TEMP TABLE big AS SELECT md5(i::VARCHAR) AS s FROM range(2_000_000) r(i)"
    with (
        open_workspace(memory=32 * 1024 * 1024, disk=1024 * 1024) as opened,
        pytest.raises(RunFilesUnavailable, match="does not have enough memory"),
    ):
        opened.execute(big)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullFile(MemoryFile):
        def open(self, mode: str) -> Any:
            monkeypatch.setattr(workspace, "_check_disk", full)
            return super().open(mode)

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    with pytest.raises(RunFilesUnavailable, match="is full"):
        workspace.load([FullFile("a.csv", b"a\n1\n")])


@pytest.mark.parametrize("missing", ["duckdb", "pyarrow"])
def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    says = rf"needs {missing}: pip install 'airflow-provider-sequentum\[quality\]'"
    with pytest.raises(ImportError, match=says), open_workspace():
        pass
