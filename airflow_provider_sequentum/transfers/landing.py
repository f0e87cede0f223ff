"""Writing a file so that a reader sees the whole of it or nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_sequentum.transfers.names import unfinished_name

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

LOCAL = frozenset({"", "file", "local"})
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"})
"""Where folders are names only: to "make" one could create a bucket whose name was misspelt."""

SMALL = 4 * 1024 * 1024
"""Bytes up to which a file is gathered in memory and uploaded by one request."""

_PART = 8 * 1024 * 1024
_MOST_PARTS = 9_000


class Writable(Protocol):
    """Something that takes bytes."""

    def write(self, data: bytes, /) -> object:
        """Take all of the data."""


@contextmanager
def landing(target: ObjectStoragePath, expected_size: int | None = None) -> Iterator[Writable]:
    """
    Open ``target`` for writing; it appears when the block ends well, and not at all if the block raises.

    Object stores show an upload when it is completed. A local file is written under another name beside its own,
    because fsspec's own transactions pass through the folder for temporary files, which may be on another disk.

    :param expected_size: about how large the file is going to be, if that is known.
    """
    if target.protocol in LOCAL:
        with _local(target) as stream:
            yield stream
        return
    upload = _Upload(target, part_size(expected_size))
    try:
        yield upload
        upload.complete()
    except BaseException:
        upload.discard()
        raise


def part_size(expected_size: int | None) -> int:
    """Return how many bytes to gather for one part: few, to spare memory, but S3 takes no more than 10,000 parts."""
    return max(_PART, -(-(expected_size or 0) // _MOST_PARTS))


@contextmanager
def _local(target: ObjectStoragePath) -> Iterator[Writable]:
    unfinished = target.with_name(unfinished_name(target.name))
    try:
        with unfinished.open("wb") as stream:  # type: ignore[no-untyped-call]
            yield stream
        target.fs.mv(unfinished.path, target.path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


class _Upload:
    """One request for a small file; for a larger one an upload in parts, which shows when it is completed."""

    def __init__(self, target: ObjectStoragePath, part: int) -> None:
        self._fs, self._path, self._part = target.fs, target.path, part
        self._gathered = io.BytesIO()
        self._stream: Any = None

    def write(self, data: bytes, /) -> object:
        if self._stream is None and self._gathered.tell() + len(data) > SMALL:
            self._stream = self._fs.open(self._path, "wb", block_size=self._part, autocommit=False)
            self._stream.write(self._gathered.getvalue())
            self._gathered = io.BytesIO()
        return (self._gathered if self._stream is None else self._stream).write(data)

    def complete(self) -> None:
        if self._stream is None:
            self._fs.pipe_file(self._path, self._gathered.getvalue())
        else:
            self._stream.close()
            self._stream.commit()

    def discard(self) -> None:
        if self._stream is not None:
            self._stream.discard()
            # Azure's stream knows no discard: left open, it would complete the upload when it is garbage-collected.
            self._stream.closed = True
