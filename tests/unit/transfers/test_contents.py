from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.transfers.contents import BLOCK, Measuring, MeasuringBeside

CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=6)


def fed(name: str, content: bytes, cuts: list[int]) -> Measuring:
    measuring = Measuring(name)
    position, turn = 0, 0
    while position < len(content):
        step = cuts[turn % len(cuts)]
        measuring.write(content[position : position + step])
        position, turn = position + step, turn + 1
    return measuring


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
