from __future__ import annotations

import csv
import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.transfers.contents import BLOCK, Measuring, MeasuringBeside

CELLS = st.text(alphabet='a",\n é', max_size=4)
ROWS = st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=12)
CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=6)


def fed(name: str, content: bytes, cuts: list[int]) -> Measuring:
    measuring = Measuring(name)
    position, turn = 0, 0
    while position < len(content):
        step = cuts[turn % len(cuts)]
        measuring.write(content[position : position + step])
        position, turn = position + step, turn + 1
    return measuring


@given(ROWS, CUTS, st.sampled_from(["\n", "\r\n"]))
def test_csv_records_are_those_a_reader_finds(rows: list[list[str]], cuts: list[int], ending: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=ending).writerows(rows)
    content = text.getvalue().encode()
    expected = max(sum(1 for row in csv.reader(io.StringIO(text.getvalue(), newline="")) if row) - 1, 0)
    assert fed("a.csv", content, cuts).result().records == expected


@given(st.lists(st.sampled_from(["a,b", "", "1,2", '"x\n\ny",z', '"",']), max_size=12), CUTS, st.booleans())
def test_empty_lines_are_no_records(lines: list[str], cuts: list[int], ends_with_newline: bool) -> None:
    text = "\r\n".join(lines) + ("\r\n" if ends_with_newline else "")
    expected = max(sum(1 for row in csv.reader(io.StringIO(text, newline="")) if row) - 1, 0)
    assert fed("a.CSV", text.encode(), cuts).result().records == expected


@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers()), max_size=8), CUTS)
def test_ndjson_has_a_record_in_each_line(records: list[dict[str, int]], cuts: list[int]) -> None:
    content = "\n".join(json.dumps(record) for record in records).encode()
    assert fed("a.ndjson", content, cuts).result().records == len(records)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"[{}]"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16")),
        ("a.csv", b'a,b\n1,"never closed\n'),
        ("no suffix", b"a\n"),
    ],
)
def test_what_cannot_be_counted_is_not_guessed(name: str, content: bytes) -> None:
    assert fed(name, content, [3]).result().records is None


def test_size_and_checksum() -> None:
    content = bytes(range(256)) * 9
    measure = fed("a.bin", content, [100, 1]).result()
    assert (measure.size, measure.sha256) == (len(content), hashlib.sha256(content).hexdigest())


@given(st.lists(st.integers(1, 2 * BLOCK), max_size=5))
def test_measuring_beside_measures_the_same(sizes: list[int]) -> None:
    here = Measuring("a.csv")
    with ThreadPoolExecutor(2) as threads:
        beside = MeasuringBeside(Measuring("a.csv"), threads)
        for number, size in enumerate(sizes):
            data = (b'"a\n%d",b\n' % number * size)[:size]
            here.write(data)
            beside.write(data)
        assert beside.result() == here.result()


def test_what_breaks_beside_is_raised_to_the_copy() -> None:
    class Broken(Measuring):
        def write(self, data: bytes, /) -> None:
            raise MemoryError

    with ThreadPoolExecutor(1) as threads:
        beside = MeasuringBeside(Broken("a.csv"), threads)
        beside.write(bytes(BLOCK))
        with pytest.raises(MemoryError):
            beside.write(bytes(BLOCK))
