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

from airflow_provider_sequentum.transfers import record_count
from airflow_provider_sequentum.transfers.record_count import LARGE, CsvRecordCount, LineCount

CELLS = st.text(alphabet='a",\n é', max_size=4)
ROWS = st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=12)
CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=6)
BLOCKS = st.lists(st.text(alphabet='a\n\r"', max_size=12).map(str.encode), max_size=4)

# Every block counts as large, or none of these short ones does.
with_and_without_arrays = pytest.mark.parametrize("large", [1, LARGE])


@contextmanager
def large_from(size: int) -> Iterator[None]:
    with patch.object(record_count, "LARGE", size):
        yield


def fed(counter: CsvRecordCount | LineCount, content: bytes, cuts: list[int], large: int) -> int | None:
    position, turn = 0, 0
    with large_from(large):
        while position < len(content):
            step = cuts[turn % len(cuts)]
            counter.feed(content[position : position + step])
            position, turn = position + step, turn + 1
    return counter.count()


@with_and_without_arrays
@given(ROWS, CUTS, st.sampled_from(["\n", "\r\n"]))
def test_csv_records_are_those_a_reader_finds(large: int, rows: list[list[str]], cuts: list[int], ending: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=ending).writerows(rows)
    content = text.getvalue().encode()
    expected = max(sum(1 for row in csv.reader(io.StringIO(text.getvalue(), newline="")) if row) - 1, 0)
    assert fed(CsvRecordCount(), content, cuts, large) == expected


@with_and_without_arrays
@given(st.lists(st.sampled_from(["a,b", "", "1,2", '"x\n\ny",z', '"",']), max_size=12), CUTS, st.booleans())
def test_empty_lines_are_no_records(large: int, lines: list[str], cuts: list[int], ends_with_newline: bool) -> None:
    text = "\r\n".join(lines) + ("\r\n" if ends_with_newline else "")
    expected = max(sum(1 for row in csv.reader(io.StringIO(text, newline="")) if row) - 1, 0)
    assert fed(CsvRecordCount(), text.encode(), cuts, large) == expected


@with_and_without_arrays
@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers()), max_size=8), CUTS)
def test_ndjson_has_a_record_in_each_line(large: int, records: list[dict[str, int]], cuts: list[int]) -> None:
    content = "\n".join(json.dumps(record) for record in records).encode()
    assert fed(LineCount(), content, cuts, large) == len(records)


@given(BLOCKS, st.booleans())
def test_large_blocks_are_counted_like_small_ones(blocks: list[bytes], quoting: bool) -> None:
    with_arrays, without = LineCount(quoting=quoting), LineCount(quoting=quoting)
    for block in blocks:
        with large_from(1):
            with_arrays.feed(block)
        with large_from(LARGE):
            without.feed(block)
        assert (with_arrays.count(), with_arrays.is_quoted) == (without.count(), without.is_quoted)


def test_without_numpy_large_blocks_are_counted_too() -> None:
    content = b'name,price\n"a\nb",1\n' * LARGE
    expected = fed(CsvRecordCount(), content, [LARGE], LARGE)
    record_count.numpy.cache_clear()
    try:
        with patch.dict(sys.modules, {"numpy": None}):
            assert record_count.numpy() is None
            assert fed(CsvRecordCount(), content, [LARGE], LARGE) == expected == 2 * LARGE - 1
    finally:
        record_count.numpy.cache_clear()
