"""The types of columns: how they are chosen, and that no value is lost or changed in them."""

from __future__ import annotations

import datetime as dt
import io
import json
import math
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_sequentum.records import writing
from airflow_provider_sequentum.records.columns import (
    LARGE_INTEGER,
    Misfit,
    arrow_type,
    choose_types,
    parse_type,
    typed_array,
)
from airflow_provider_sequentum.records.flat import flat_records
from airflow_provider_sequentum.records.formats import RecordsUnreadable
from airflow_provider_sequentum.records.parquet import PARTITION
from airflow_provider_sequentum.records.reading import read_flat, read_records
from airflow_provider_sequentum.records.writing import RecordFile, folder_of, write_parquet

Table = list[dict[str, Any]]


@pytest.mark.parametrize(
    ("found", "declared", "remembered", "chosen"),
    [
        (["integer"], None, None, "integer"),
        ([LARGE_INTEGER], None, None, "integer"),
        (["integer", LARGE_INTEGER], None, None, "integer"),
        (["integer", "number"], None, None, "number"),
        ([LARGE_INTEGER, "number"], None, None, "string"),
        (["integer", LARGE_INTEGER, "number"], None, None, "string"),
        (["number", None, "integer"], None, None, "number"),
        (["date", "timestamp"], None, None, "string"),
        (["boolean", "integer"], None, None, "string"),
        ([None], None, None, "string"),
        ([None], None, "number", "number"),
        (["integer"], None, "string", "string"),
        (["string"], None, "integer", "integer"),
        (["integer"], "decimal(9,2)", "number", "decimal(9,2)"),
        ([None], "date", None, "date"),
    ],
)
def test_a_declared_type_wins_then_that_of_earlier_runs(
    found: list[str | None], declared: str | None, remembered: str | None, chosen: str
) -> None:
    given_types = ({"a": kind} if kind else {} for kind in (declared, remembered))
    assert choose_types([{"a": kind} for kind in found], *given_types) == {"a": chosen}


DAY, TIME = dt.date.fromisoformat("2024-02-29"), dt.datetime.fromisoformat("2024-02-29T10:00:00.5")
UTC = TIME.replace(tzinfo=dt.UTC)
MIDNIGHT = dt.datetime.fromisoformat("2024-02-29T00:00:00")


@pytest.mark.parametrize(
    ("name", "held", "refused"),
    [
        ("string", {"7": "7", "": "", 7: "7", True: "true", 0.5: "0.5", DAY: "2024-02-29"}, []),
        (
            "integer",
            {
                "7": 7,
                "-7": -7,
                "": None,
                # Ids of nineteen digits, such as those of posts, are within 64 bits.
                "1790000000000000001": 1790000000000000001,
                str(2**63 - 1): 2**63 - 1,
                str(-(2**63)): -(2**63),
                7.0: 7,
                2**63 - 1: 2**63 - 1,
                Decimal("7.00"): 7,
            },
            [
                "007",
                "7.0",
                " 7",
                "+7",
                "1e3",
                "7 EUR",
                "12345678901234567890",
                str(2**63),
                str(-(2**63) - 1),
                0.5,
                True,
                2**63,
                2.0**60,
                math.nan,
                DAY,
            ],
        ),
        (
            "number",
            {"7": 7.0, "7.50": 7.5, "1e5": 1e5, "0.30000000000000004": 0.1 + 0.2, "": None, 7: 7.0, 2**60: 2.0**60},
            ["007.5", "7,5", "12345678901234567890", "1e999", "NaN", "--1", 2**53 + 1, 10**400, True, DAY],
        ),
        ("boolean", {"true": True, "FALSE": False, "": None, True: True}, ["yes", "1", 1, "t"]),
        ("date", {"2024-02-29": DAY, "": None, DAY: DAY, MIDNIGHT: DAY}, ["2024-02-31", "29.02.2024", TIME, 45000]),
        ("timestamp", {"2024-02-29 10:00:00.5": TIME, TIME: TIME}, ["2024-02-29", "2024-02-29T10:00:00Z", UTC, DAY]),
        ("timestamptz", {"2024-02-29T10:00:00.5Z": UTC, UTC: UTC}, ["2024-02-29T10:00:00", TIME]),
        (
            "decimal(6,2)",
            {
                "9.5": Decimal("9.50"),
                "9.5" + "0" * 60: Decimal("9.50"),
                "-0.10": Decimal("-0.10"),
                7: Decimal("7.00"),
                0.1: Decimal("0.10"),
                "": None,
            },
            ["9.999", "12345.67", "9" * 60, "0." + "1" * 60, "09.5", "1e2", 9.999, 1e30, 10**500, True, math.inf, DAY],
        ),
        ("time", {dt.time(10, 30): dt.time(10, 30)}, ["10:30:00", TIME]),
        ("binary", {b"\xff": b"\xff", "": None}, ["x", 7]),
    ],
)
def test_a_type_holds_a_value_as_it_is_or_not_at_all(name: str, held: dict[Any, Any], refused: list[Any]) -> None:
    as_text = json.dumps if name != "string" else lambda value: json.dumps(value, default=str).strip('"')
    for value, expected in held.items():
        for values in ([value], [None, value, None]):
            array = typed_array(values, name, as_text)
            assert (array.type, array.to_pylist()) == (
                arrow_type(name),
                [expected if v is value else None for v in values],
            )
    assert typed_array(list(held), name, as_text).to_pylist() == list(held.values())
    for value in refused:
        with pytest.raises(Misfit) as misfit:
            typed_array([*held, value, value], name, str)
        assert misfit.value.place == len(held)


@pytest.mark.parametrize(
    "name", ["text", "int64", "decimal", "decimal(39,2)", "decimal(2,3)", "decimal(0,0)", "", None, 7]
)
def test_an_unknown_type_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="must be one of string, integer"):
        parse_type(name)
    assert parse_type(" Decimal( 9, 2 ) ") == "decimal(9,2)"


CELLS = st.sampled_from(
    [
        *["", "0", "-0", "007", "7", "1.5", "1e5", "12345678901234567890", "9007199254740993", "0.30000000000000004"],
        *["true", "2024-02-29", "2024-02-31", "2024-01-05 10:00:00", "2024-01-05T10:00:00Z"],
        *["x", 'a"b', "a\nb", "é", "a/b"],
    ]
)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "7", "x", "2024-02-29", [1, {"b": None}], {"b": [2], "a": None}])
)


def landed(content: bytes, name: str, by: list[str] = [], gathered: int = 2**26) -> tuple[Table, Table]:  # noqa: B006
    """Return the records of a file, flat, and those of its Parquet files."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_GATHERED", gathered)
        patch.setattr(writing, "ROW_GROUP", gathered)
        source = RecordFile(Path(folder) / "source", name)
        source.path.write_bytes(content)
        types = choose_types([found := source.types()], {}, {})
        work = Path(folder) / "work"
        work.mkdir()
        parts = write_parquet(source, list(found), types, by, work, lambda: None)
        read = []
        for part in parts:
            rows = list(read_records(io.BytesIO(part.path.read_bytes()), "a.parquet"))
            assert len(rows) == part.records
            if by and rows:
                assert part.folder == folder_of({column: rows[0][column] for column in by})
            read += rows
        assert len({part.folder for part in parts}) == len(parts)
        return list(flat_records(read_records(io.BytesIO(content), name))), read


def says_the_same(value: Any, other: Any) -> bool:
    """Whether a value in Parquet has all that the record's value says."""
    if other is None:
        return value in (None, "")
    if isinstance(value, str) and not isinstance(other, str):
        if isinstance(other, bool):
            return value.lower() == str(other).lower()
        if isinstance(other, dt.datetime):
            return dt.datetime.fromisoformat(value).replace(tzinfo=None) == other.replace(tzinfo=None)
        return value == other.isoformat() if isinstance(other, dt.date) else Decimal(value) == Decimal(repr(other))
    if isinstance(other, str) and not isinstance(value, str):
        return other == json.dumps(value)
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def check_landed(records: Table, read: Table) -> None:
    assert len(read) == len(records)
    for record, row in zip(records, read, strict=True):
        assert record.keys() <= row.keys()
        assert all(says_the_same(record.get(column), value) for column, value in row.items()), (record, row)


@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_landed_records_are_those_of_the_source(rows: list[list[str]]) -> None:
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [["a", "b", "n"], *rows]]
    check_landed(*landed("\n".join(lines).encode(), "a.csv"))


@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUES), max_size=6))
@settings(deadline=None, max_examples=60)
def test_landed_objects_are_those_of_the_source(records: Table) -> None:
    content = "\n".join(map(json.dumps, records)).encode() or b"\n"
    if any(records):
        check_landed(*landed(content, "a.ndjson"))


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=12), st.sampled_from([1, 300, 2**26]))
@settings(deadline=None, max_examples=40)
def test_partitions_have_each_record_once_in_their_order(rows: list[tuple[str, str]], gathered: int) -> None:
    """Whether they are gathered in memory or on the disk. No value is one that a column of text does not hold."""
    lines = [json.dumps({"n": n, "a": f"v{a}" if a else a, "b": f"v{b}" if b else b}) for n, (a, b) in enumerate(rows)]
    records, read = landed("\n".join(lines).encode(), "a.ndjson", ["a", "b"], gathered)
    assert sorted((row["n"], row["a"], row["b"]) for row in read if row["a"] and row["b"]) == [
        (row["n"], row["a"], row["b"]) for row in records if row["a"] and row["b"]
    ]
    assert sorted(row["n"] for row in read) == list(range(len(rows)))
    assert all(row["a"] != "" and row["b"] != "" for row in read)
    places: dict[tuple[Any, Any], list[int]] = {}
    for row in read:
        places.setdefault((row["a"], row["b"]), []).append(row["n"])
    assert all(numbers == sorted(numbers) for numbers in places.values())


@pytest.mark.parametrize(
    ("kind", "value"), [("int64", 7), ("bool", False), ("date32[day]", DAY), ("string", "é/"), ("string", None)]
)
def test_a_parquet_file_has_the_column_of_its_partition(kind: str, value: Any) -> None:
    stated = json.dumps({"a": [kind, None if value is None else str(value)]})
    file = io.BytesIO()
    pq.write_table(pa.table({"b": [1, 2]}).replace_schema_metadata({PARTITION: stated}), file)
    file.seek(0)
    assert list(read_records(file, "a.parquet")) == [{"b": 1, "a": value}, {"b": 2, "a": value}]
    # A table that has the column is believed.
    file = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({PARTITION: stated}), file)
    file.seek(0)
    assert list(read_records(file, "a.parquet")) == [{"a": 1}]


@pytest.mark.parametrize(
    "stated",
    [
        *["", "[]", "7", "[" * 100_000, '{"b": 7}', '{"b": ["int64", "x"]}', '{"b": ["struct<>", "x"]}'],
        *['{"b": ["int64", 7]}', '{"b": ["string"]}', '{"b": [["int64"], "x"]}', "\xff"],
    ],
)
def test_metadata_that_states_no_partition_is_damage(stated: str) -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({PARTITION: stated}), file)
    file.seek(0)
    with pytest.raises(RecordsUnreadable, match=r"'a\.parquet'"):
        list(read_records(file, "a.parquet"))


@pytest.mark.parametrize("kind", [pa.binary(), pa.binary(2), pa.large_binary()])
def test_bytes_stay_bytes(kind: Any, tmp_path: Path) -> None:
    rows = pa.table({"a": pa.array([b"\xff\x00", None, b"b'"], kind)})
    pq.write_table(rows, tmp_path / "a.parquet")
    source = RecordFile(tmp_path / "a.parquet", "a.parquet")
    types = choose_types([source.types()], {}, {})
    (tmp_path / "work").mkdir()
    [part] = write_parquet(source, ["a"], types, [], tmp_path / "work", lambda: None)
    landed = pq.read_table(part.path)
    assert landed.schema.field("a").type == pa.binary()
    assert landed.to_pylist() == rows.to_pylist()
    with source.path.open("rb") as file:
        [batch] = read_flat(file, source.name)
    assert batch.to_pylist() == rows.to_pylist()


def test_nanoseconds_of_a_timestamp_are_not_dropped() -> None:
    pandas = pytest.importorskip("pandas")
    exact, finer = pandas.Timestamp("2024-01-05 10:00:00.000001"), pandas.Timestamp("2024-01-05 10:00:00.000000001")
    for name, zone in (("timestamp", None), ("timestamptz", "UTC")):
        array = typed_array([exact.tz_localize(zone), None], name, str)
        assert array.to_pylist()[0].microsecond == 1
        with pytest.raises(Misfit):
            typed_array([None, finer.tz_localize(zone)], name, str)
