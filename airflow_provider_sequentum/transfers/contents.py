"""What is found out about a file while its bytes pass by: size, checksum and, for text formats, number of records."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import NamedTuple, Self

from airflow_provider_sequentum.records.reading import count_records

_COUNTED = ("csv", "tsv", "json", "ndjson", "jsonl")


class Measure(NamedTuple):
    """What a file holds.

    :param size: bytes.
    :param records: ``None`` where they cannot be counted in passing.
    """

    size: int
    sha256: str
    records: int | None


class Measuring:
    """Measures the bytes that are written to it, in a ``with`` block; the result is there after it.

    Records are counted by the reader of records, in another thread at the other end of a pipe. A write waits until the
    reader has room for it, so that memory is bounded.

    :param name: the file's name, which tells its format.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._digest = hashlib.sha256()
        self.size = 0
        self._ending = ExitStack()
        self._records: Future[int | None] | None = None

    def __enter__(self) -> Self:
        """Start the count, if the format can be counted."""
        if self._name.lower().rpartition(".")[2] in _COUNTED:
            thread = self._ending.enter_context(ThreadPoolExecutor(1, thread_name_prefix="counting"))
            end_to_read, self._pipe = os.pipe()
            self._ending.callback(os.close, self._pipe)  # runs first, and lets the thread end
            self._records = thread.submit(_count, end_to_read, self._name)
        return self

    def __exit__(self, *_: object) -> None:
        """End the count."""
        self._ending.close()

    def write(self, data: bytes, /) -> None:
        """Take the next bytes."""
        self.size += len(data)
        self._digest.update(data)
        if self._records is not None and not self._records.done():
            rest = memoryview(data)
            with suppress(BrokenPipeError):  # the reader refuses the file, and reads no further
                while rest:
                    rest = rest[os.write(self._pipe, rest) :]

    def result(self) -> Measure:
        """Return what was measured."""
        return Measure(self.size, self._digest.hexdigest(), self._records.result() if self._records else None)


def _count(end_to_read: int, name: str) -> int | None:
    with open(end_to_read, "rb") as file:  # closed, it tells the writer that no more is wanted
        return count_records(file, name)
