"""Records, Arrow's batches, the data frame and the manifest's count say the same of every file."""

from __future__ import annotations

import datetime as dt
import io
import json
import math
import zipfile
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_sequentum.records import parquet as parquet_module
from airflow_provider_sequentum.records.arrow import frame_of
from airflow_provider_sequentum.records.formats import RecordsUnreadable
from airflow_provider_sequentum.records.reading import read_arrow, read_records
from airflow_provider_sequentum.transfers.measuring import Measuring

Table = list[dict[str, Any]]


def outcome(read: Callable[[], Any]) -> tuple[Any, str | None]:
    """What reading a file gives, or the refusal. Any other error fails the test."""
    try:
        return read(), None
    except RecordsUnreadable as error:
        return None, str(error)


def is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def says_the_same(value: Any, other: Any, *, is_cell: bool) -> bool:
    """Whether a batch or a frame has all that the record's value says.

    :param is_cell: whether the record is one of a CSV file, whose values are all text.
    """
    if is_missing(other):
        return is_missing(value) or (is_cell and value == "")
    if isinstance(value, dict):
        other = json.loads(other) if isinstance(other, str) else other
        return all(says_the_same(value.get(key), other.get(key), is_cell=False) for key in {*value, *other})
    if isinstance(value, list):
        other = json.loads(other) if isinstance(other, str) else other
        pairs = zip(value, other, strict=True)
        return all(says_the_same(one, two, is_cell=False) for one, two in pairs)
    if isinstance(value, str) and not isinstance(other, str):
        return is_cell and cell_says(value, other)
    if isinstance(other, str) and not isinstance(value, str):
        written = json.dumps(value) if isinstance(value, (bool, int, float)) else str(value)
        return other == written
    return bool(value == other) and isinstance(value, bool) == (type(other).__name__ in ("bool", "bool_"))


def cell_says(cell: str, value: Any) -> bool:
    if type(value).__name__ in ("bool", "bool_"):
        return cell.lower() == str(value).lower()
    if isinstance(value, dt.datetime):
        return dt.datetime.fromisoformat(cell) == value
    if isinstance(value, dt.date):
        return value.isoformat() == cell
    if isinstance(value, float):
        return Decimal(cell) == Decimal(repr(float(value)))
    return str(value) == cell


def check_agreement(name: str, content: bytes, **options: Any) -> Table | str:
    """Check that all readers agree on a file, and return its records, or the refusal of each."""
    records, refusal = outcome(lambda: list(read_records(io.BytesIO(content), name, **options)))
    batches, other_refusal = outcome(lambda: list(read_arrow(io.BytesIO(content), name, **options)))
    assert refusal == other_refusal
    with Measuring(name) as measuring:
        measuring.write(content)
    is_counted = not options and not name.endswith(("xlsx", "parquet"))  # counted as it is read without options
    count = measuring.result().records
    if refusal is not None:
        assert name in refusal
        assert count is None or not is_counted
        return refusal
    assert count == len(records) or not is_counted
    assert len({batch.schema for batch in batches}) <= 1
    rows = [row for batch in batches for row in batch.to_pylist()]
    frame = frame_of(batches)
    framed = [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False, name=None)]
    if len(frame.columns) == 0:
        framed = [{} for _ in range(len(frame))]
    is_table = name.endswith(("csv", "tsv"))
    for found in (rows, framed):
        assert len(found) == len(records)
        for record, row in zip(records, found, strict=True):
            for key in {*record, *row}:
                value, other = record.get(key), row.get(key)
                assert says_the_same(value, other, is_cell=is_table), (key, value, other)
    return list(records)


DAY = dt.datetime.fromisoformat("2024-01-05")
CELLS = st.sampled_from(
    [
        "",
        "0",
        "-0",
        "00123",
        "7",
        "1.5",
        "1.50",
        "1e5",
        "1e999",
        "0.1234567890123456789",
        "12345678901234567890",
        "NaN",
        "9007199254740993",
        "true",
        "False",
        "2024-02-29",
        "2024-02-31",
        "0000-01-01",
        "2024-01-05 10:00:00",
        "null",
        "2024-01-05T10:00:00Z",
        "2024-01-05T10:00:00.123456789",
        "10:30",
        "x",
        "é",
        'a"b',
        "a,b",
        "a\nb",
        " 1",
        "\u2028",
    ]
)
HEADERS = st.lists(st.sampled_from(["a", "b", "c", "", "é", 'q"']), min_size=1, max_size=3)
PIECES = st.sampled_from(["a", "1", ",", ",", '"', "\n", "\n", "\r", "\r\n", "é", " ", '""', "\ufeff", "\0", "{", "\t"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, 2**53, 2**53 + 1, -(2**63), 2**63, 10**40, 0.5, 1e300, math.nan, math.inf])
    | st.sampled_from(["", "1", "é", "\ud83d", "\0", "2024-01-05"])
)
KEYS = st.sampled_from(["a", "b", "c", "", "\udc00"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
MOMENTS = st.datetimes(DAY, DAY.replace(year=9999)).map(lambda moment: moment.replace(microsecond=0))
SHEET_CELLS = (
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(-1e9, 1e9) | st.sampled_from(["a", "1", "é"])
) | (MOMENTS | st.just(45000) | st.times().map(lambda time: time.replace(microsecond=0)))


@given(HEADERS, st.lists(st.lists(CELLS, min_size=1, max_size=3), max_size=6), st.sampled_from(["utf-8", "utf-16"]))
@settings(deadline=None)
def test_tables(header: list[str], rows: list[list[str]], encoding: str) -> None:
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [header, *rows]]
    check_agreement("a.csv", "\n".join(quoted).encode(encoding))


@given(st.lists(PIECES, max_size=30), st.sampled_from(["a.csv", "a.tsv", "a.ndjson", "a.json"]), st.booleans())
@settings(deadline=None)
def test_any_text(pieces: list[str], name: str, has_header: bool) -> None:
    check_agreement(name, ("a,b\n" * has_header + "".join(pieces)).encode())


@given(st.binary(max_size=60), st.sampled_from(["", "utf-16", "cp1252", "utf-8"]))
@settings(deadline=None)
def test_any_bytes(content: bytes, encoding: str) -> None:
    check_agreement("a.csv", b"a\n" + content, encoding=encoding or None)
    check_agreement("a.ndjson", b'{"a":"' + content + b'"}', encoding=encoding or None)


@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=5), st.sampled_from(["a.json", "a.ndjson"]))
@settings(deadline=None)
def test_objects(records: Table, name: str) -> None:
    lines = [json.dumps(record) for record in records]
    content = "[" + ",".join(lines) + "]" if name == "a.json" else "\n".join(lines)
    check_agreement(name, content.encode())


def workbook(rows: list[list[Any]]) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(content := io.BytesIO())
    return content.getvalue()


@given(HEADERS, st.lists(st.lists(SHEET_CELLS, max_size=3), max_size=5))
@settings(deadline=None, max_examples=40)
def test_sheets(header: list[str], rows: list[list[Any]]) -> None:
    check_agreement("a.xlsx", workbook([header, *rows]))


ARROW_COLUMNS = st.sampled_from(
    [
        pa.array([1, None, 2**63 - 1], pa.int64()),
        pa.array([1, None, 2**64 - 1], pa.uint64()),
        pa.array([0, 253402300800, None], pa.timestamp("s")),
        pa.array([0, 253402300799, None], pa.timestamp("s", "UTC")),
        pa.array([0, 2**30, 1], pa.date32()),
        pa.array([2**60, 0, 1], pa.duration("us")),
        pa.array([1000, None, 2000], pa.time64("ns")),
        pa.array([1, None, 2000], pa.time64("ns")),
        pa.array([[1, None], None, [2**62]], pa.list_(pa.int64())),
        pa.array([{"x": 2**53 + 1}, {"x": None}, None]),
        pa.array(["a", None, ""]).dictionary_encode(),
        pa.array([b"\xff", None, b"a"]),
        pa.array([b"\xff", None, b"a"]).view(pa.string()),
        pa.array([Decimal("1.10"), None, Decimal("-7.00")]),
        pa.array([0.5, math.nan, None]),
    ]
)


@given(st.lists(ARROW_COLUMNS, min_size=1, max_size=3), st.booleans())
@settings(deadline=None)
def test_parquet(columns: list[Any], doubled: bool) -> None:
    names = ["a" if doubled else str(number) for number in range(len(columns))]
    pq.write_table(pa.Table.from_arrays(columns, names), content := io.BytesIO())
    check_agreement("a.parquet", content.getvalue())


LATE = b'{"sku":"A"}\n' * 10_000


@pytest.mark.parametrize(
    ("name", "content", "last"),
    [
        ("a.ndjson", b'{"sku":"A"}\n{"sku":"B","price":9.5}', {"sku": "B", "price": 9.5}),
        ("a.ndjson", LATE + b'{"sku":"B","price":9.5}', {"sku": "B", "price": 9.5}),
        ("a.json", b'[{"a":{"x":1}},{"a":{"y":2}}]', {"a": {"x": None, "y": 2}}),
        ("a.ndjson", b'{"a":[1]}\n' * 10_000 + b'{"a":[1.5,"x"]}', {"a": ["1.5", "x"]}),
        ("a.ndjson", b'{"a":1}\n' * 10_000 + b'{"a":"x"}', {"a": "x"}),
        ("a.ndjson", b'{"a":1}\n{"a":18446744073709551616}', {"a": "18446744073709551616"}),
        ("a.ndjson", b'{"a":9007199254740993}\n{"a":0.5}', {"a": "0.5"}),
        ("a.ndjson", b'{"a":null}\n' * 10_000 + b'{"a":true}', {"a": True}),
        ("a.ndjson", b'{"a":"\\ud83d"}', {"a": "\ufffd"}),
        ("a.ndjson", b"{}\n{}", {}),
        ("a.csv", b"sku\n1\n00123\n", {"sku": "00123"}),
        ("a.csv", b"id\n1\n12345678901234567890\n", {"id": "12345678901234567890"}),
        ("a.csv", b"id\n1\n1790000000000000001\n", {"id": 1790000000000000001}),
        ("a.csv", b"id\n1\n9223372036854775808\n", {"id": "9223372036854775808"}),
        ("a.csv", b"a\n" + b"1\n" * 10_000 + b"x\n", {"a": "x"}),
        ("a.csv", b"a\n1\n\nNA\n", {"a": "NA"}),
        ("a.csv", b'a,b\n1,\n"",2\n', {"a": None, "b": 2}),
        ("a.csv", b"day\n2024-02-29\n2024-02-31\n", {"day": "2024-02-31"}),
        ("a.csv", b"a,b\r1,x\r2,y\r", {"a": 2, "b": "y"}),
        ("a.csv", b'\n\nsku,size\nA,5" pipe\nB,6" pipe\nC,7mm', {"sku": "C", "size": "7mm"}),
        ("a.xlsx", workbook([["a"], [DAY], [45000]]), {"a": "45000"}),
        ("a.xlsx", workbook([["a"], [45000], [DAY]]), {"a": "2024-01-05 00:00:00"}),
        ("a.xlsx", workbook([["a", None, "b"], [1, 2, "x"], ["x", None, 3]]), {"a": "x", "": None, "b": "3"}),
    ],
)
def test_no_value_is_lost_in_batches(name: str, content: bytes, last: dict[str, Any]) -> None:
    assert isinstance(check_agreement(name, content), list)
    *_, batch = read_arrow(io.BytesIO(content), name)
    assert batch.to_pylist()[-1] == last


def test_large_integers_with_gaps_are_not_rounded_in_a_frame() -> None:
    content = b'{"a":9007199254740993}\n{"b":1}\n'
    frame = frame_of(read_arrow(io.BytesIO(content), "a.ndjson"))
    assert frame["a"][0] == 9007199254740993
    files = [b'{"a":9007199254740993}\n', b'{"b":1}\n']
    frame = frame_of(batch for file in files for batch in read_arrow(io.BytesIO(file), "a.ndjson"))
    assert frame["a"][0] == 9007199254740993


@pytest.mark.parametrize(
    ("files", "values", "kind"),
    [
        # Codes of one kind: those of the first file look like numbers, which would equal none of the others.
        (["a,b\n10115,x\n", "a,b\n01067,x\n10115,y\n"], ["10115", "01067", "10115"], "text"),
        # A file without values in a column says nothing about its type.
        (["a,b\n,x\n", "a,b\n1.5,x\n"], [None, 1.5], "number"),
        (["a,b\n1,x\n", "a,b\n,x\n"], [1, None], "number"),
        (["a,b\n,x\n", "a,b\ntrue,x\n"], [None, True], "any"),
        (["a,b\n,x\n", "a,b\n,x\n"], ["", ""], "text"),
        (["a,b\n1,x\n", "b,a\nx,2.5\n"], [1, 2.5], "number"),
        (["a,b\n9007199254740993,x\n", "a,b\n0.5,x\n"], ["9007199254740993", "0.5"], "text"),
        (["a,b\n2024-01-05,x\n", "a,b\nnone,x\n"], ["2024-01-05", "none"], "text"),
        (["a,b\n1,x\n", "b\nx\n", "a,b\nn/a,x\n"], ["1", None, "n/a"], "text"),
    ],
)
def test_a_column_of_a_frame_has_one_type_whatever_the_files(files: list[str], values: list[Any], kind: str) -> None:
    batches = (batch for text in files for batch in read_arrow(io.BytesIO(text.encode()), "a.csv"))
    column = frame_of(batches)["a"]
    assert [None if pd.isna(value) else value for value in column] == values
    is_of_kind = {"text": pd.api.types.is_string_dtype, "number": pd.api.types.is_numeric_dtype}
    assert kind == "any" or is_of_kind[kind](column.dropna())


def test_objects_of_several_files_in_one_frame() -> None:
    files = [b'{"a":{"b":1}}\n', b'{"a":{"b":"x"}}\n', b'{"a":null}\n']
    frame = frame_of(batch for file in files for batch in read_arrow(io.BytesIO(file), "a.ndjson"))
    assert list(frame["a"])[:2] == ['{"b": 1}', '{"b": "x"}']


SHEET = "xl/worksheets/sheet1.xml"


def altered(content: bytes, alter: Callable[[str], str], part: str = SHEET) -> bytes:
    """A workbook with one part changed."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, alter(data.decode()) if name == part else data)
    return target.getvalue()


PRICES = workbook([["sku", "price"], ["A", 1], ["B", 2], ["C", 3]])


@pytest.mark.parametrize("dimension", ['<dimension ref="A1"/>', '<dimension ref="A1:XFD1048576"/>', ""])
def test_what_a_sheet_says_of_its_size_is_not_believed(dimension: str) -> None:
    content = altered(PRICES, lambda xml: xml.replace('<dimension ref="A1:B4"/>', dimension))
    assert len(check_agreement("a.xlsx", content)) == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('<row r="3"', '<row r="2"'), "number 2 after row 2"),
        (('<row r="4"', '<row r="999999999999"'), "number 999999999999 after row 3"),
        (('r="B3"', 'r="ZZZ3"'), "column 18278"),
        (('r="B3"', 'r="A3"'), "column 1 after 1 cells of row 3"),
        (("</sheetData>", ""), "not a valid workbook after row 4"),
        (("<v>3</v>", f"<v>{'9' * 5000}</v>"), "not a valid workbook after row 3"),
    ],
)
def test_a_damaged_sheet_is_refused_with_its_place(change: tuple[str, str], says: str) -> None:
    content = altered(PRICES, lambda xml: xml.replace(*change))
    assert says in str(check_agreement("a.xlsx", content))


def test_a_workbook_that_unpacks_to_too_much_is_refused() -> None:
    styles = "xl/styles.xml"
    junk = f"<junk v='{'x' * 190}'/>" * 105_000
    content = altered(PRICES, lambda xml: xml.replace("</styleSheet>", junk + "</styleSheet>"), styles)
    assert f"a part {styles!r}" in str(check_agreement("a.xlsx", content))
    content = altered(PRICES, lambda xml: xml.replace('<row r="3"', junk + '<row r="3"'))
    assert "bytes of XML in one row, after row 2" in str(check_agreement("a.xlsx", content))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b'a,b\n1,"2\n3,4\n', "the record starts in line 2"),
        ("a.csv", b'a,b\n1,2\n3,"4"5\n', "at line 3"),
        ("a.csv", b"a,b\n1,2\n1,\xe9\n", "not utf-8 text at byte 10: invalid continuation byte"),
        ("a.csv", b"a,b\n" + b"1,2\n" * 9000 + b"1,\xc3", "at byte 36006: unexpected end of data"),
        ("a.csv", "a,b\n1,é\n".encode("utf-16")[:-1], "not utf-16 text at byte 16: truncated data"),
        ("a.csv", b"a,b\n1,2,3\n", "3 cells in line 2"),
        ("a.csv", b"a,b,a\n1,2,3\n", "unique column names"),
        ("a.csv", b"\n\n", "unique column names"),
        ("a.json", b'[{"a":1},\n{"a":' + b"9" * 5000 + b"}]", "too many digits at character 10 (line 2)"),
        ("a.json", b'[{"a":1},\r\n{"a":01}]', "at character 17 (line 2)"),
        ("a.ndjson", b"{}\n" + b'{"a":' * 101 + b"1" + b"}" * 101, "nested too deeply at character 3 (line 2)"),
        ("a.ndjson", b'{}\n{"a":"\xe9"}', "not utf-8 text at byte 9"),
        ("a.ndjson", b'{"a":1}\n{"a":"never closed', "Unterminated string starting at at character 13 (line 2)"),
        ("a.xlsx", b"\xd0\xcf\x11\xe0" + bytes(600), "an old (.xls) or encrypted workbook"),
        ("a.xlsx", PRICES[: len(PRICES) // 2], "not a valid workbook"),
    ],
)
def test_each_reader_refuses_with_the_same_place(name: str, content: bytes, says: str) -> None:
    assert says in str(check_agreement(name, content))


@pytest.mark.parametrize("delimiter", [";;", '"', "\n"])
def test_a_delimiter_that_is_none_is_refused(delimiter: str) -> None:
    assert "the delimiter must be one character" in str(check_agreement("a.csv", b"a\n1\n", delimiter=delimiter))


@pytest.mark.parametrize("encoding", ["latin-x", "base64", "a\0b"])
def test_an_encoding_that_is_none_is_refused(encoding: str) -> None:
    assert "cannot be read" in str(check_agreement("a.csv", b"a\n1\n", encoding=encoding))


def test_too_many_keys_for_columns_are_refused_before_they_fill_the_memory() -> None:
    content = "".join(f'{{"{number}":1}}\n' for number in range(120_000)).encode()
    with pytest.raises(RecordsUnreadable, match="more than 100,000 different keys"):
        list(read_arrow(io.BytesIO(content), "a.ndjson"))


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("utf-7", b"+2D0-"), ("unicode_escape", b"\\ud83d"), ("raw_unicode_escape", b"\\ud83d\\ude00")],
)
def test_halves_of_surrogate_pairs_that_a_codec_lets_through_are_refused(encoding: str, text: bytes) -> None:
    for name, content in (("a.csv", b"a\n" + text), ("a.csv", text + b"\n1"), ("a.ndjson", b'{"a":"' + text + b'"}')):
        assert f"not {encoding} text" in str(check_agreement(name, content, encoding=encoding))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([{"t": 1}], pa.struct([("t", pa.time64("ns"))])),
        pa.array([[1000, 1]], pa.list_(pa.time64("ns"))),
        pa.array([[("k", 1)]], pa.map_(pa.string(), pa.time64("ns"))),
        pa.array([1], pa.time64("ns")).dictionary_encode(),
    ],
)
def test_nanoseconds_of_a_time_are_not_dropped_in_lists_and_objects(column: Any) -> None:
    pq.write_table(pa.Table.from_arrays([column], ["a"]), content := io.BytesIO())
    assert "would lose data" in str(check_agreement("a.parquet", content.getvalue()))


LONG = "z\u202e\n" * 70_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xlsx", altered(PRICES, lambda xml: xml.replace("<v>3</v>", f"<v>{'z' * 200_000}</v>"))),
        ("a.xlsx", altered(PRICES, lambda xml: xml.replace('r="B3"', f'r="{"Q" * 200_000}3"'))),
        ("a.csv", f'"{LONG}","{LONG}"\n1,2\n'.encode()),
        ("a.ndjson", b'["' + b"x" * 200_000 + b'"]'),
        (f"{LONG}.csv", b""),
    ],
)
def test_a_refusal_is_one_line_of_bounded_length_whatever_the_file_holds(name: str, content: bytes) -> None:
    with pytest.raises(RecordsUnreadable) as refusal:
        list(read_records(io.BytesIO(content), name))
    for error in (refusal.value, refusal.value.__cause__):
        assert len(str(error)) <= 3_000
        assert str(error).isprintable()


def test_parquet_that_unpacks_to_too_much_is_refused_and_large_rows_come_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parquet_module, "LARGEST_RECORD", 10_000)
    monkeypatch.setattr(parquet_module, "_LARGEST_COLUMN", 100_000)

    def written(cells: list[str], compression: str) -> bytes:
        table = pa.Table.from_arrays([pa.array(cells)], ["a"])
        pq.write_table(table, content := io.BytesIO(), use_dictionary=False, compression=compression)
        return content.getvalue()

    assert "rows of 10," in str(check_agreement("a.parquet", written(["x" * 10_000], "none")))
    assert "a column of 180," in str(check_agreement("a.parquet", written(["x" * 9_000] * 20, "zstd")))
    large = written(["x" * 3_000] * 7, "none")
    sizes = [batch.num_rows for batch in read_arrow(io.BytesIO(large), "a.parquet")]
    assert (sum(sizes), max(sizes) <= 3) == (7, True)
