from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.records.formats import RecordsUnreadable
from airflow_provider_sequentum.records.reading import read_records
from airflow_provider_sequentum.transfers import record_count
from airflow_provider_sequentum.transfers.record_count import (
    LARGE,
    CsvRecordCount,
    NdjsonRecordCount,
    RecordCount,
)

CELLS = st.text(alphabet='a",\n é', max_size=4)
ROWS = st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=12)
CUTS = st.lists(st.integers(1, 90), min_size=1, max_size=6)
WILD = st.lists(
    st.sampled_from(["a", "b", ",", '"', "\n", "\r", "\r\n", "é", " ", '""', '",', ',"', "\ufeff", "a,b\n"])
)
JSON_PIECES = [
    '{"a":1}',
    "\n",
    "\r\n",
    "{}",
    " ",
    "[",
    "]",
    ",",
    '{"a":"\\ud83d"}',
    "NaN",
    '{"b":[{"c":null}]}',
    "x",
    '"',
]

# Every block counts as large, or none of these short ones does.
with_and_without_arrays = pytest.mark.parametrize("large", [1, LARGE])


@contextmanager
def large_from(size: int) -> Iterator[None]:
    with patch.object(record_count, "LARGE", size), patch.object(record_count, "_HEAD", 16):
        yield


def fed(counter: RecordCount, content: bytes, cuts: list[int], large: int) -> int | None:
    position, turn = 0, 0
    with large_from(large):
        while position < len(content):
            step = cuts[turn % len(cuts)]
            counter.feed(content[position : position + step])
            position, turn = position + step, turn + 1
        return counter.count()


def found(content: bytes, name: str) -> int | None:
    """What the reader finds in a file; ``None`` where it refuses it."""
    try:
        return sum(1 for _ in read_records(io.BytesIO(content), name))
    except RecordsUnreadable:
        return None


@with_and_without_arrays
@given(ROWS, CUTS, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_a_csv_writer_writes_is_counted(
    large: int, rows: list[list[str]], cuts: list[int], ending: str, with_mark: bool
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=ending).writerows([["a", "é"], *rows])
    content = text.getvalue().encode("utf-8-sig" if with_mark else "utf-8")
    assert fed(CsvRecordCount(), content, cuts, large) == found(content, "a.csv") == len(rows)


@with_and_without_arrays
@given(WILD, CUTS)
def test_what_is_counted_in_any_csv_file_is_what_the_reader_finds(
    large: int, pieces: list[str], cuts: list[int]
) -> None:
    content = "".join(pieces).encode()
    assert fed(CsvRecordCount(), content, cuts, large) in (None, found(content, "a.csv"))


@given(st.lists(st.sampled_from(JSON_PIECES)), CUTS)
def test_what_is_counted_in_any_ndjson_file_is_what_the_reader_finds(pieces: list[str], cuts: list[int]) -> None:
    content = "".join(pieces).encode()
    assert fed(NdjsonRecordCount(), content, cuts, LARGE) in (None, found(content, "a.ndjson"))


@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text()), min_size=1, max_size=8), CUTS)
def test_ndjson_with_a_record_in_each_line_is_counted(records: list[dict[str, int]], cuts: list[int]) -> None:
    content = "\n".join(json.dumps(record) for record in records).encode()
    assert fed(NdjsonRecordCount(), content, cuts, LARGE) == found(content, "a.ndjson") == len(records)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@with_and_without_arrays
def test_each_format_has_its_delimiter(large: int, name: str) -> None:
    content = b'a;,\tb\n1\t"2\t\n"\n' * 2
    assert fed(CsvRecordCount(name[2:]), content, [9], large) == (3 if name == "a.tsv" else None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b'sku,size\nA,5" pipe\nB,6" pipe\nC,7mm',
        b'a,b\n1,"never closed\n',
        b'a,b\n1,"2"3\n',
        b'a,b\n1, "2\n3"\n',
        b"a,b\n1\n",
        b"a,b\n1,2,3\n1\n",
        b"a,a\n1,2\n",
        b"a,b\n1,\xe9\n",
        b"a,b\n1,\xc3",
        b"a,b\n1,x\ry\n",
        b"a,b\n1,\0\n",
        "a,b\n1,2\n".encode("utf-16"),
        b"[{},{}]\n",
        b"<html>\n<p>Bad gateway</p>\n",
        b"\x1f\x8b\n",
    ],
)
@pytest.mark.parametrize("cut", [1, 1000])
@with_and_without_arrays
def test_a_csv_file_that_the_reader_may_see_otherwise_is_not_counted(large: int, cut: int, content: bytes) -> None:
    assert fed(CsvRecordCount(), content, [cut], large) in (None, found(content, "a.csv"))
    assert fed(CsvRecordCount(), content * 40, [cut], large) in (None, found(content * 40, "a.csv"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{nonsense}\n",
        b'{"a":1}\n7\n',
        b'{"a":\n1}\n',
        b"{} {}\n",
        b"[{},{}]\n",
        b"[{}\n,{}]\n",
        b'{"a":"\xe9"}\n',
        b"{" * 200,
        b'{"a":' + b"[" * 150 + b"]" * 150 + b"}\n",
        b'{"a":' + b"9" * 5000 + b"}\n",
    ],
)
def test_an_ndjson_file_that_is_not_a_record_a_line_is_not_counted(content: bytes) -> None:
    assert fed(NdjsonRecordCount(), content, [1000], LARGE) is None


def test_a_record_that_does_not_end_is_not_waited_for() -> None:
    counter = CsvRecordCount()
    block = b'a,b\n"' + b"x" * LARGE
    for _ in range(200):
        counter.feed(block)
        assert len(counter._rest) <= 5 * 1024 * 1024
    assert counter.count() is None


@given(WILD)
def test_large_blocks_are_counted_like_small_ones(pieces: list[str]) -> None:
    content = b"a,b\n" + "".join(pieces).encode() + b"\n"
    large, small = (fed(CsvRecordCount(), content, [len(content)], size) for size in (1, LARGE))
    assert large in (None, small)


def test_without_numpy_large_blocks_are_counted_too() -> None:
    content = b'name,price\n"a\nb",1\n' * LARGE
    record_count.numpy.cache_clear()
    try:
        with patch.dict(sys.modules, {"numpy": None}):
            assert record_count.numpy() is None
            assert fed(CsvRecordCount(), content, [LARGE], LARGE) == 2 * LARGE - 1
    finally:
        record_count.numpy.cache_clear()


def test_numpy_decides_only_where_it_is_worth_its_calls() -> None:
    content = b'name,price\n"a\nb",1\n\n' * LARGE
    with patch.object(record_count, "_count_large", wraps=record_count._count_large) as large:
        assert fed(CsvRecordCount(), content, [LARGE], LARGE) == 2 * LARGE - 1
    assert large.call_count == pytest.approx(len(content) / LARGE, abs=2)
