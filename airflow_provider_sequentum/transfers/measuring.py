"""Size, checksum and, for text formats, number of records of a file, determined while the file is streamed."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import NamedTuple, Self

from airflow_provider_sequentum.records.reading import count_records

_COUNTED = ("csv", "tsv", "json", "ndjson", "jsonl")


class Measure(NamedTuple):
    """Size, checksum and number of records of a file.

    :param size: the size in bytes.
    :param records: the number of records; ``None`` if they cannot be counted while the file is streamed.
    """

    size: int
    sha256: str
    records: int | None


class Measuring:
    """Measures the bytes that are written to it in a ``with`` block. The result is available after the block.

    The records are counted by the record reader, which runs in another thread at the other end of a pipe. A write
    blocks until there is room in the pipe, so memory use is bounded.

    :param name: the name of the file, whose suffix determines the format.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._digest = hashlib.sha256()
        self.size = 0
        self._ending = ExitStack()
        self._records: Future[int | None] | None = None

    def __enter__(self) -> Self:
        """Start to count the records, if the format allows it."""
        if self._name.lower().rpartition(".")[2] in _COUNTED:
            thread = self._ending.enter_context(ThreadPoolExecutor(1, thread_name_prefix="counting"))
            end_to_read, self._pipe = os.pipe()
            self._ending.callback(os.close, self._pipe)  # runs first, and lets the thread end
            self._records = thread.submit(_count, end_to_read, self._name)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop counting."""
        self._ending.close()

    def write(self, data: bytes, /) -> None:
        """Measure the next bytes."""
        self.size += len(data)
        self._digest.update(data)
        if self._records is not None and not self._records.done():
            rest = memoryview(data)
            with suppress(BrokenPipeError):  # the reader has rejected the file and stopped reading
                while rest:
                    rest = rest[os.write(self._pipe, rest) :]

    def result(self) -> Measure:
        """Return the measurements."""
        return Measure(self.size, self._digest.hexdigest(), self._records.result() if self._records else None)


def _count(end_to_read: int, name: str) -> int | None:
    with open(end_to_read, "rb") as file:  # closing it tells the writer to stop
        return count_records(file, name)
