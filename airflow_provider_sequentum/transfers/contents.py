"""What can be told of a file while its bytes pass by: size, checksum and, for text formats, the number of records."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial

from airflow_provider_sequentum.transfers.record_count import CsvRecordCount, NdjsonRecordCount, RecordCount

BLOCK = 256 * 1024
"""Bytes that are gathered before a thread measures them: with less, time goes into passing them on; with more, they
fall out of the processor's cache."""


@dataclass(frozen=True, slots=True)
class Measure:
    """
    What a file holds.

    :param size: bytes.
    :param records: ``None`` where they can't be counted in passing.
    """

    size: int
    sha256: str
    records: int | None


_COUNTERS: dict[str, Callable[[], RecordCount]] = {
    "csv": partial(CsvRecordCount, "csv"),
    "tsv": partial(CsvRecordCount, "tsv"),
    "ndjson": NdjsonRecordCount,
    "jsonl": NdjsonRecordCount,
}


class Measuring:
    """
    Measures bytes on their way; a ``write`` target like a file.

    :param name: the file's name, which tells its format.
    """

    def __init__(self, name: str) -> None:
        counter = _COUNTERS.get(name.rpartition(".")[2].lower())
        self._counter = counter() if counter else None
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes, /) -> None:
        """Take the next bytes."""
        self.size += len(data)
        self._digest.update(data)
        if self._counter is not None:
            self._counter.feed(data)

    def result(self) -> Measure:
        """Return what was measured so far."""
        return Measure(self.size, self._digest.hexdigest(), self._counter.count() if self._counter else None)


class MeasuringBeside:
    """
    Measures in another thread while the next bytes come in; a ``write`` target like a file.

    One block is measured while the next is gathered, so that no more than two are in memory. A file that is smaller
    than a block is measured where it is.

    :param measuring: what measures.
    :param threads: where it measures.
    """

    def __init__(self, measuring: Measuring, threads: Executor) -> None:
        self._measuring, self._threads = measuring, threads
        self._gathered: list[bytes] = []
        self._length = 0
        self._block: Future[None] | None = None

    def write(self, data: bytes, /) -> None:
        """Take the next bytes."""
        self._gathered.append(data)
        self._length += len(data)
        if self._length >= BLOCK:
            block = b"".join(self._gathered)
            self._gathered, self._length = [], 0
            self._wait_for_block()
            self._block = self._threads.submit(self._measuring.write, block)

    def result(self) -> Measure:
        """Return what was measured of all bytes."""
        self._wait_for_block()
        self._measuring.write(b"".join(self._gathered))
        return self._measuring.result()

    def _wait_for_block(self) -> None:
        if self._block is not None:
            self._block.result()
