from __future__ import annotations

import io
import json
import re
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_sequentum.records import reading as reading_module
from airflow_provider_sequentum.records import text as text_module
from airflow_provider_sequentum.records.formats import RecordsUnreadable
from airflow_provider_sequentum.records.reading import count_records, read_arrow, read_flat, read_records
from airflow_provider_sequentum.records.text import Text
from airflow_provider_sequentum.sandbox.run_files import render

RECORDS = [
    {"sku": "A1", "name": 'a "b",\nc é', "price": 1.5, "count": 3, "gone": False},
    {"sku": "A2", "name": "", "price": 2.25, "count": 4, "gone": True},
]
NAMES = {"csv": "o.csv", "json": "o.json", "ndjson": "o.NDJSON", "xlsx": "o.xlsx", "parquet": "o.parquet"}


def read(name: str, content: bytes, **options: Any) -> list[dict[str, Any]]:
    return list(read_records(io.BytesIO(content), name, **options))


@pytest.mark.parametrize("kind", ["json", "ndjson", "parquet"])
def test_typed_formats_give_their_types(kind: Any) -> None:
    assert read(NAMES[kind], render(RECORDS, kind)) == RECORDS


def test_excel_gives_its_types() -> None:
    expected = [{**RECORDS[0], "gone": "false"}, {**RECORDS[1], "name": None, "gone": "true"}]
    assert read("o.xlsx", render(RECORDS, "xlsx")) == expected


def sheet(*rows: list[Any]) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(content := io.BytesIO())
    return content.getvalue()


def test_a_sheet_may_have_been_wider_and_longer_once() -> None:
    content = sheet(["sku", "price", None], ["A1", 1.5, None], [None, None, None], ["A2"])
    assert read("o.xlsx", content) == [{"sku": "A1", "price": 1.5}, {"sku": "A2", "price": None}]


def test_line_breaks_in_a_sheet() -> None:
    """Programs for Windows write CR LF into cells, and a workbook escapes the CR."""
    content = sheet(["sku", "na_x000D_\nme"], ["A1", "one_x000D_\ntwo"])
    assert read("o.xlsx", content) == [{"sku": "A1", "na\r\nme": "one\r\ntwo"}]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_table_with_another_delimiter_is_not_one_column(name: str, delimiter: str) -> None:
    """As spreadsheets write it where the comma separates decimals."""
    content = f'sku{delimiter}note\nA1{delimiter}"two\nlines"\n'.encode()
    if (name, delimiter) != ("a.tsv", "\t"):
        with pytest.raises(RecordsUnreadable, match=rf"'{name}' has only the column 'sku.*note'. Set its delimiter"):
            read(name, content)
        assert count_records(io.BytesIO(content), name) is None
        with pytest.raises(RecordsUnreadable, match="has only the column"):
            list(read_flat(io.BytesIO(content), name))
    assert read(name, content, delimiter=delimiter) == [{"sku": "A1", "note": "two\nlines"}]
    one = f"sku{delimiter}note\nA1\n".encode()
    assert read(name, one, delimiter=",") == [{f"sku{delimiter}note": "A1"}]
    assert read(name, b"sku\nA1;A2\n") == [{"sku": "A1;A2"}]


@pytest.mark.parametrize("result", ["", "<v/>", "<v></v>"])
@pytest.mark.parametrize("kind", ["", ' t="n"', ' t="b"'])
def test_a_formula_that_was_never_calculated_is_no_missing_value(kind: str, result: str) -> None:
    """Programs that write a workbook without Excel may leave out the results of its formulas."""
    book = sheet(["sku", "price"], ["A1", 1.5], ["A2", "=A3*2"])
    assert read("o.xlsx", with_cell(book, "B3", '<c r="B3"><f>A3*2</f><v>0</v></c>'))[1]["price"] == 0
    assert not read("o.xlsx", with_cell(book, "B3", '<c r="B3" t="str"><f>""</f><v></v></c>'))[1]["price"]
    with pytest.raises(RecordsUnreadable, match=r"'o\.xlsx' has a formula without its result in cell B3"):
        read("o.xlsx", with_cell(book, "B3", f'<c r="B3"{kind}><f>A3*2</f>{result}</c>'))


def with_cell(book: bytes, place: str, cell: str) -> bytes:
    """Return a workbook with another XML element for a cell."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(book)) as source, zipfile.ZipFile(made, "w") as target:
        for name in source.namelist():
            target.writestr(name, re.sub(f'<c r="{place}".*?</c>', cell, source.read(name).decode()))
    return made.getvalue()


def test_a_row_of_a_sheet_that_has_more_cells_than_columns_is_said() -> None:
    with pytest.raises(RecordsUnreadable, match=r"'o\.xlsx' has 3 cells in row 2, but 2 columns"):
        read("o.xlsx", sheet(["sku", "price"], ["A1", 1.5, "?"]))


def test_csv_gives_strings() -> None:
    assert read("o.csv", render(RECORDS, "csv")) == [
        {"sku": "A1", "name": 'a "b",\nc é', "price": "1.5", "count": "3", "gone": "false"},
        {"sku": "A2", "name": "", "price": "2.25", "count": "4", "gone": "true"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.csv", b"\xef\xbb\xbfa,b\n1,\xc3\xa9\n", {}),
        ("a.csv", "a,b\n1,é\n".encode("utf-16"), {}),
        ("a.csv", "a;b\r\n1;é\r\n".encode("cp1252"), {"encoding": "cp1252", "delimiter": ";"}),
        ("a.tsv", "a\tb\n1\té".encode(), {}),
        ("a.csv", "a,b\n\n1,é\n\n".encode(), {}),
        ("a.json", ' [ {"a":"1", "b":"é"} ] \n'.encode("utf-8-sig"), {}),
        ("a.json", '{"a":"1","b":"é"}'.encode(), {}),
        ("a.jsonl", '\n{"a":"1","b":"é"}\n\n'.encode(), {}),
        ("a.csv", "a,b\n1,é\n".encode("utf-8-sig"), {"encoding": "utf-8"}),
        ("a.csv", '"a","b"\n1,é\n'.encode("utf-8-sig"), {"encoding": "UTF8"}),
        ("a.json", '[{"a":"1","b":"é"}]'.encode("utf-8-sig"), {"encoding": "utf-8"}),
        ("a.csv", "\ufeffa,b\n1,é\n".encode("utf-16-le"), {"encoding": "utf-16-le"}),
    ],
)
def test_encodings_delimiters_and_white_space(name: str, content: bytes, options: dict[str, Any]) -> None:
    assert read(name, content, **options) == [{"a": "1", "b": "é"}]


def test_a_cell_may_be_a_whole_page() -> None:
    page = "<p>" * 100_000
    assert read("a.csv", f"html\n{page}\n".encode()) == [{"html": page}]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "0 bytes"),
        ("a.parquet", b"", "0 bytes"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "3 cells in line 3, but 2 columns"),
        ("a.csv", b"a,b\n1\n", "1 cells in line 2"),
        ("a.csv", b"a,a\n1,2\n", "unique column names"),
        ("a.csv", b'a,b\n1,"2\n', "not valid CSV at line"),
        ("a.csv", b'a,b\n1,"2"3\n', "not valid CSV at line 2"),
        ("a.csv", b"a,b\n1,\xe9\n", "not utf-8 text"),
        ("a.csv", b"PAR1....PAR1", "contains parquet, not csv"),
        ("a.csv", b"PK\x03\x04....", "contains xlsx"),
        ("a.csv", b"\x1f\x8b....", "contains gzip"),
        ("a.csv", b'[{"a": 1}]', "contains json, not csv"),
        ("a.csv", b'{"a": 1, "b": 2}\n{"a": 3, "b": 4}\n', "contains json, not csv"),
        ("a.tsv", b"[\n {}\n]", "contains json, not tsv"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        ("a.csv", b"\xff\xd8\xff\xe0\0\x10JFIF\0", "it is not text"),
        ("a.csv", b"a,b\n" + b"1,2\n" * 200 + b"\0" * 50 + b"\n", "NUL character in line 202"),
        ("a.csv", b"  <!DOCTYPE html><p>Bad gateway", "contains html"),
        ("a.parquet", b"a,b\n1,2\n", "contains text, not parquet"),
        ("a.parquet", b"PAR1 and then nothing", "not a valid Parquet"),
        ("a.xlsx", b"a,b\n", "contains text, not xlsx"),
        ("a.json", b"a,b\n1,2\n", "not valid JSON"),
        ("a.xlsx", b"PK\x03\x04 and then nothing", "not a valid workbook"),
        ("a.pdf", b"%PDF", "not in a format that can be read"),
        ("a", b"a", "not in a format that can be read"),
        ("a.json", b"[{}, 7]", "must contain objects, but has 7"),
        ("a.json", b'"text"', "must contain objects"),
        ("a.json", b"[{}", "']' is missing at character 3"),
        ("a.json", b"[{} {}]", "']' is missing at character 4"),
        ("a.json", b"[{},]", "not valid JSON"),
        ("a.json", b"[", "not valid JSON"),
        ("a.json", b"[{}] {}", "has more text at character 5"),
        ("a.json", b'{"a": ', "not valid JSON"),
        ("a.ndjson", b"{}\n{nonsense}\n", "not valid JSON: Expecting property name"),
        ("a.json", b"[\xff]", "not utf-8 text"),
        ("a.json", b'{"a":' * 100_000, "nested too deeply|not valid JSON"),
    ],
)
def test_what_is_wrong_is_said(name: str, content: bytes, says: str) -> None:
    with pytest.raises(RecordsUnreadable, match=says):
        read(name, content)


def test_an_unknown_encoding_is_said() -> None:
    with pytest.raises(RecordsUnreadable, match="unknown encoding"):
        read("a.csv", b"a\n1\n", encoding="latin-x")


@given(
    st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=9) | st.integers() | st.none()), max_size=6),
    st.integers(1, 9),
    st.sampled_from([None, 1]),
    st.booleans(),
)
@settings(deadline=None)
def test_json_is_read_in_pieces_of_any_size(
    records: list[dict[str, Any]], chunk: int, indent: int | None, in_lines: bool
) -> None:
    lines = "\n".join(json.dumps(record, indent=indent) for record in records)
    content = lines if in_lines else json.dumps(records, indent=indent)
    before, text_module._CHUNK = text_module._CHUNK, chunk
    try:
        found = list(text_module.read_json(Text(io.BytesIO(content.encode()), "a.json", "utf-8")))
    finally:
        text_module._CHUNK = before
    assert found == records


class Counted(io.BytesIO):
    """Says how far it was read."""

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0, "read as a whole"
        return super().read(size)

    read1 = read


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.ndjson"])
def test_records_come_before_the_file_is_read_to_its_end(name: str) -> None:
    record = {"a": "x" * 100}
    lines = {"a.csv": ["a", *[record["a"]] * 100_000], "a.json": ["[", *[json.dumps(record) + ","] * 100_000]}
    content = "\n".join(lines.get(name, [json.dumps(record)] * 100_000)).encode()
    file = Counted(content)
    assert next(read_records(file, name)) == record
    assert file.tell() < len(content) / 4


@pytest.mark.parametrize("read_file", [read_records, read_arrow])
def test_a_parquet_file_is_not_held_in_memory(read_file: Callable[..., Iterator[Any]], tmp_path: Path) -> None:
    group = pa.table({"a": [f"{number:0500d}" for number in range(4000)]})
    with pq.ParquetWriter(tmp_path / "a.parquet", group.schema, compression="none", use_dictionary=False) as writer:
        for _ in range(20):
            writer.write_table(group)
    # What pyarrow reads from a Python file is Python's memory.
    tracemalloc.start()
    try:
        with (tmp_path / "a.parquet").open("rb") as file:
            for _ in read_file(file, "a.parquet"):
                pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (tmp_path / "a.parquet").stat().st_size / 4


def test_the_callers_file_stays_open() -> None:
    for name, content in (("a.csv", b"a\n1\n"), ("a.json", b"[{}]")):
        file = io.BytesIO(content)
        list(read_records(file, name))
        next(read_records(io.BytesIO(content), name))
        assert not file.closed


@pytest.mark.parametrize("kind", ["csv", "json", "ndjson", "xlsx", "parquet"])
def test_arrow_batches_have_types(kind: Any) -> None:
    [batch] = read_arrow(io.BytesIO(render(RECORDS, kind)), NAMES[kind])
    assert batch.num_rows == 2
    assert batch.column("count").to_pylist() == [3, 4]
    assert batch.column("price").to_pylist() == [1.5, 2.25]


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("a,b\n1,é\n".encode(), {}),
        ("a,b\n1,é\n".encode("utf-8-sig"), {}),
        ("a,b\n1,é\n".encode("utf-16"), {}),
        ("a,b\n1,é\n".encode("utf-16-be"), {"encoding": "utf-16-be"}),
        ("a;b\n1;é\n".encode("cp1252"), {"encoding": "cp1252", "delimiter": ";"}),
    ],
)
def test_arrow_reads_the_encodings_that_records_have(content: bytes, options: dict[str, Any]) -> None:
    [batch] = read_arrow(io.BytesIO(content), "a.csv", **options)
    assert batch.to_pylist() == [{"a": 1, "b": "é"}]


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (b"a,b\n1,\xe9\n", {}, "not utf-8 text at byte 6"),
        (b"a,a\n1,2\n", {}, "unique column names"),
        (b"a,b\n1,2\n", {"encoding": "latin-x"}, "unknown encoding"),
        (b'[{"a": 1}]', {}, "contains json"),
    ],
)
def test_arrow_refuses_what_records_refuse(content: bytes, options: dict[str, Any], says: str) -> None:
    with pytest.raises(RecordsUnreadable, match=says):
        list(read_arrow(io.BytesIO(content), "a.csv", **options))


def test_batches_are_bounded_by_size_too() -> None:
    content = b"a\n" + (b"x" * 1_000_000 + b"\n") * 40
    sizes = [batch.num_rows for batch in read_arrow(io.BytesIO(content), "a.csv")]
    assert sum(sizes) == 40
    assert max(sizes) <= 17


class Endless(io.RawIOBase):
    """A file of many gigabytes without an end of its first record, of which no more is read than is allowed."""

    def __init__(self, start: bytes, more: bytes) -> None:
        self._start, self._more, self.position = start, more, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, position: int, whence: int = 0) -> int:
        self.position = position
        return position

    def tell(self) -> int:
        return self.position

    def readinto(self, target: Any) -> int:
        size, start = len(target), self._start[self.position :]
        turn = max(self.position - len(self._start), 0) % len(self._more)
        target[:] = (start + self._more[turn:] + self._more * (size // len(self._more) + 1))[:size]
        self.position += size
        assert self.position < 20_000_000, "read on and on"
        return size


@pytest.mark.parametrize(
    ("name", "start", "more", "says"),
    [
        ("a.csv", b"a,b\n", b"x," * 4096, "starts in line 2"),
        ("a.csv", b'a,b\n1,"', b"x" * 8191 + b"\n", "starts in line 2"),
        ("a.csv", b"", b"x," * 4096, "starts in line 1"),
        ("a.json", b'{"data":[', b'{"a":1},' * 1024, "at character 0 .line 1. that is too large"),
        ("a.ndjson", b'{}\n{"data":"', b"x" * 8192, "at character 3 .line 2. that is too large"),
        ("a.json", b"[[", b"[]," * 4096, "too large"),
    ],
)
def test_a_record_without_an_end_takes_bounded_memory(
    name: str, start: bytes, more: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_module, "LARGEST_RECORD", 4 * 1024 * 1024)
    for read_file in (read_records, read_arrow):
        tracemalloc.start()
        try:
            with pytest.raises(RecordsUnreadable, match=says):
                list(read_file(io.BufferedReader(Endless(start, more)), name))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 40 * 1024 * 1024


def test_a_large_record_is_read_whatever_follows_it() -> None:
    page = "x" * 9_000_000
    content = f'{{"page":"{page}"}}\n'.encode() + b'{"a":1}\n' * 500_000
    records = read_records(io.BytesIO(content), "a.ndjson")
    assert next(records) == {"page": page}
    assert sum(1 for _ in records) == 500_000


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("a.xlsx", "openpyxl", "excel"), ("a.parquet", "pyarrow", "arrow")]
)
def test_a_missing_library_is_named_with_its_extra(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    content = b"PK\x03\x04" if extra == "excel" else b"PAR1"
    with pytest.raises(ImportError, match=rf"airflow-provider-sequentum\[{extra}\]"):
        read(name, content)
