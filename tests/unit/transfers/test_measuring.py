from __future__ import annotations

import csv
import hashlib
import io
import threading
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_sequentum.records.formats import RecordsUnreadable
from airflow_provider_sequentum.records.reading import read_records
from airflow_provider_sequentum.transfers import measuring as measuring_module
from airflow_provider_sequentum.transfers.measuring import Measure, Measuring

CUTS = st.lists(st.integers(1, 90), min_size=1, max_size=6)
CELLS = st.text(alphabet='a",\n é', max_size=4)
ROWS = st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=12)
WILD = st.lists(
    st.sampled_from(["a", "b", ",", '"', "\n", "\r", "\r\n", "é", " ", '""', '",', ',"', "\ufeff", "a,b\n"])
)
JSON_PIECES = ['{"a":1}', "\n", "\r\n", "{}", " ", "[", "]", ",", '{"a":"\\ud83d"}', "NaN", '{"b":[{"c":null}]}', "x"]
MEBIBYTE = 1024 * 1024


def measured(name: str, content: bytes, cuts: list[int]) -> Measure:
    with Measuring(name) as measuring:
        position, turn = 0, 0
        while position < len(content):
            step = cuts[turn % len(cuts)]
            measuring.write(content[position : position + step])
            position, turn = position + step, turn + 1
    return measuring.result()


def found(name: str, content: bytes) -> int | None:
    """What the reader finds in a file; ``None`` where it refuses it."""
    try:
        return sum(1 for _ in read_records(io.BytesIO(content), name))
    except RecordsUnreadable:
        return None


@given(ROWS, CUTS, st.sampled_from(["\n", "\r\n"]), st.booleans())
@settings(deadline=None)
def test_what_a_csv_writer_writes_is_counted(
    rows: list[list[str]], cuts: list[int], ending: str, with_mark: bool
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=ending).writerows([["a", "é"], *rows])
    content = text.getvalue().encode("utf-8-sig" if with_mark else "utf-8")
    assert measured("a.csv", content, cuts).records == found("a.csv", content) == len(rows)


@given(WILD, CUTS)
@settings(deadline=None)
def test_what_is_counted_in_any_csv_file_is_what_the_reader_finds(pieces: list[str], cuts: list[int]) -> None:
    content = "".join(pieces).encode()
    assert measured("a.csv", content, cuts).records == found("a.csv", content)


@given(st.lists(st.sampled_from(JSON_PIECES)), CUTS, st.sampled_from(["a.ndjson", "a.JSONL", "a.json"]))
@settings(deadline=None)
def test_what_is_counted_in_any_json_file_is_what_the_reader_finds(
    pieces: list[str], cuts: list[int], name: str
) -> None:
    content = "".join(pieces).encode()
    assert measured(name, content, cuts).records == found(name, content)


@pytest.mark.parametrize(
    ("name", "content", "records"),
    [
        ("a.json", b"[{},{}]", 2),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), 1),
        ("a.csv", b'a;,\tb\n1\t"2\t\n"\n' * 2, None),
        ("a.tsv", b'a;,\tb\n1\t"2\t\n"\n' * 2, 3),
        ("a.csv", b'sku,size\nA,5" pipe\nB,6" pipe\nC,7mm', 3),
        ("a.csv", b"a,b\r1,2\r3,4", 2),
        ("a.csv", b'a,b\n1,"never closed\n', None),
        ("a.csv", b"a,b\n1,\xe9\n", None),
        ("a.csv", b"", None),
        ("a.csv", b"<html>\n<p>Bad gateway</p>\n", None),
        ("a.ndjson", b'{"a":\n1} {}\n', 2),
        ("a.ndjson", b'{"a":1}\n7\n', None),
        ("a.parquet", b"PAR1", None),
        ("no suffix", b"a\n", None),
    ],
)
@pytest.mark.parametrize("cut", [1, 1000])
def test_what_cannot_be_counted_is_not_guessed(name: str, content: bytes, records: int | None, cut: int) -> None:
    assert measured(name, content, [cut]).records == records


def test_size_and_checksum() -> None:
    content = bytes(range(256)) * 9
    measure = measured("a.bin", content, [100, 1])
    assert (measure.size, measure.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_file_that_the_reader_refuses_is_measured_to_its_end() -> None:
    content = b"a,b\n1,2,3\n" * 200_000
    measure = measured("a.csv", content, [64 * 1024])
    assert measure == Measure(len(content), hashlib.sha256(content).hexdigest(), None)


@pytest.mark.parametrize(("name", "start"), [("a.csv", b'a,b\n"'), ("a.json", b'{"a":"')])
def test_a_record_that_does_not_end_is_not_gathered(name: str, start: bytes) -> None:
    block = b"x" * MEBIBYTE
    tracemalloc.start()
    try:
        with Measuring(name) as measuring:
            measuring.write(start)
            for _ in range(200):
                measuring.write(block)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert measuring.result().records is None
    assert peak < 40 * MEBIBYTE


def test_what_breaks_the_count_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: object) -> int:
        raise MemoryError

    monkeypatch.setattr(measuring_module, "count_records", break_down)
    with Measuring("a.csv") as measuring:
        measuring.write(bytes(MEBIBYTE))
    with pytest.raises(MemoryError):
        measuring.result()


def test_a_copy_that_breaks_off_leaves_no_thread() -> None:
    def break_off() -> None:
        with Measuring("a.csv") as measuring:
            measuring.write(b"a,b\n1,")
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert threading.active_count() == before
