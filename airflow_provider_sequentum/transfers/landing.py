"""The names of files in their folder, and writing them so that each file is either complete or absent."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.text import safe_file_name, safe_file_names
from airflow_provider_sequentum.exceptions import RunFilesUnavailable
from airflow_provider_sequentum.runs.describe import counted, format_size
from airflow_provider_sequentum.transfers.destination import LOCAL, NOT_IN_A_DESTINATION, OBJECT_STORES, PERCENT_ESCAPE
from airflow_provider_sequentum.transfers.measuring import Measure, Measuring

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_sequentum.api.download import Destination

T = TypeVar("T")
R = TypeVar("R")

MANIFEST_NAME = "_sequentum_manifest.json"
CHECKED_FOLDER = "checked"
"""The default folder, next to landed files, for the files that a check of their records writes."""
CHANGES_FOLDER = "_changes"
"""The default folder, next to landed files, for the files that a comparison with the previous run writes."""
UNFINISHED_SUFFIX = ".unfinished"

SMALL = 4 * 1024 * 1024
"""The size in bytes up to which a file is buffered in memory and uploaded with one request."""

PROGRESS_INTERVAL = 10.0
"""Seconds between two log lines about the progress."""

_MEBIBYTE = 1024 * 1024
_PART = 8 * _MEBIBYTE
_MAX_PARTS = 9_000
_LARGEST_OBJECT = 5 * 1024**4


# Names


def landing_names(names: Sequence[str | None], taken: Sequence[str] = ()) -> list[str]:
    """Return a safe name for each name from the server.

    No safe name is that of an unfinished file, or is reserved for another purpose in the folder. It contains nothing
    that :func:`~.destination.check_destination` refuses, so the path of the file can be passed to an operator.

    :param taken: further names that are reserved.
    """
    # The suffix is only certain once the name is safe.
    safe = (NOT_IN_A_DESTINATION.sub("_", safe_file_name(name)) for name in names)
    harmless = [f"{name}_" if name.lower().endswith(UNFINISHED_SUFFIX) else name for name in safe]
    needed = (MANIFEST_NAME, CHECKED_FOLDER, CHANGES_FOLDER, *taken)
    return safe_file_names([*needed, *harmless])[len(needed) :]


def unfinished_name(name: str) -> str:
    """Return a unique name for a file while it is being written.

    Two attempts of a task may write the same file at the same time, because the worker of the first one may be alive
    but have lost contact with Airflow. The name of the file may be as long as the file system allows, so it is hashed
    instead of extended.
    """
    return f"{_mark(name)}-{secrets.token_hex(4)}{UNFINISHED_SUFFIX}"


def unfinished_of(names: Iterable[str], present: Iterable[str]) -> list[str]:
    """Return the files in ``present`` that a killed attempt left unfinished while it wrote one of ``names``."""
    marks = {_mark(_last(name)) for name in names}
    return [each for each in present if each.endswith(UNFINISHED_SUFFIX) and _last(each).partition("-")[0] in marks]


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _mark(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


# The folder


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a folder.

    :param sizes: the size of each file in bytes.
    :param replaceable: the names of files, links and devices, which a file of the same name replaces.
    :param folders: the names of folders, which a file cannot replace.
    """

    sizes: dict[str, int]
    replaceable: frozenset[str]
    folders: frozenset[str]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a storage. Errors of the storage are raised as ``RunFilesUnavailable``."""

    path: ObjectStoragePath

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The name of the file, whose suffix determines the format."""
        name: str = self.path.name
        return name

    @property
    def place(self) -> tuple[object, str]:
        """The place of the file, which is the same for each form of its address."""
        return _place(self.path)

    @contextmanager
    def open(self, mode: str) -> Iterator[IO[bytes]]:
        """Open the file for the duration of a ``with`` block."""
        with storage_errors(f"Could not read {self.path}"), self.path.open(mode) as stream:  # type: ignore[no-untyped-call]
            yield stream

    def read(self) -> bytes | None:
        """Return the content of a small file; ``None`` if it does not exist yet."""
        with storage_errors(f"Could not read {self.path}"):
            self.path.fs.invalidate_cache(self.path.parent.path)
            try:
                return self.path.read_bytes()
            except FileNotFoundError:
                return None

    def replace(self, content: bytes) -> None:
        """Write a small file, or replace it atomically. The folder is created if it does not exist."""
        folder = LandingFolder(self.path.parent)
        folder.make()
        with folder.write(self.name) as stream:
            stream.write(content)


@dataclass(frozen=True)
class LandingFolder:
    """The folder that files land in.

    Errors of the storage are raised as :class:`~airflow_provider_sequentum.exceptions.RunFilesUnavailable`.

    :param path: the destination.
    """

    path: ObjectStoragePath

    def make(self) -> None:
        """Create the folder if it does not exist and the storage has folders."""
        if self.path.protocol not in OBJECT_STORES:
            with storage_errors(f"Could not create {self.path}"):
                self.path.mkdir(parents=True, exist_ok=True)

    def contents(self) -> Contents:
        """Return the contents of the folder, which is created if it does not exist."""
        self.make()
        with storage_errors(f"Could not list {self.path}"):
            self.path.fs.invalidate_cache(self.path.path)
            try:
                entries = self.path.fs.ls(self.path.path, detail=True)
            except FileNotFoundError:  # the error of an object store for a folder without files
                entries = []
        named = [(entry["name"].rpartition("/")[2], entry) for entry in entries]
        return Contents(
            {name: entry["size"] for name, entry in named if entry["type"] == "file"},
            frozenset(name for name, entry in named if entry["type"] != "directory"),
            # In an object store, a folder is only a prefix of keys, so a file can have the same name.
            frozenset(name for name, entry in named if entry["type"] == "directory")
            if self.path.protocol not in OBJECT_STORES
            else frozenset(),
        )

    def sizes_below(self) -> dict[str, int]:
        """Return the size in bytes of each file in the folder and its subfolders, by path relative to the folder."""
        root = self.path.path.rstrip("/")
        with storage_errors(f"Could not list {self.path}"):
            self.path.fs.invalidate_cache()
            try:
                found = self.path.fs.find(self.path.path, detail=True)
            except FileNotFoundError:
                found = {}
        return {path[len(root) :].strip("/"): entry["size"] for path, entry in found.items()}

    def where(self, name: str) -> str:
        """Return the path of a file in the folder, so that it can be passed to an operator.

        A local path with a percent escape, such as that of a partition, has no ``file://`` prefix, because
        :func:`~.destination.open_destination` would refuse it.
        """
        path = self.path / name
        is_plain = "/" in name or PERCENT_ESCAPE.search(name)
        return path.path if path.protocol in LOCAL and is_plain else str(path)

    def name_here(self, path: ObjectStoragePath) -> str | None:
        """Return the name of the file that a path names in this folder; ``None`` if the path is in another folder."""
        return path.name if _place(path.parent) == _place(self.path) else None

    def file(self, name: str) -> StoredFile:
        """Return a file in the folder."""
        return StoredFile(self.path / name)

    def read(self, name: str) -> bytes:
        """Return the content of a small file."""
        with storage_errors(f"Could not read {self.path / name}"):
            return (self.path / name).read_bytes()

    def measure(self, name: str) -> Measure:
        """Read a file and measure it."""
        with (
            self.file(name).open("rb") as stream,
            Measuring(name) as measuring,
        ):
            shutil.copyfileobj(stream, measuring, _MEBIBYTE)
        return measuring.result()

    @contextmanager
    def write(self, name: str, expected_size: int | None = None) -> Iterator[Destination]:
        """Open a file for writing, as :func:`landing` does. Unfinished copies from killed attempts are removed.

        :param name: the name of the file or, if it is in a subfolder, its relative path.
        """
        target = self.path / name
        if "/" in name:
            LandingFolder(target.parent).make()
        with storage_errors(f"Could not write {target}"):
            if target.protocol in LOCAL:
                _remove_unfinished(Path(target.path))
            with landing(target, expected_size) as stream:
                yield stream

    def upload(self, name: str, file: Path, progress: Progress | None = None) -> str:
        """Copy a local file into the folder or a subfolder, and return its new path.

        :param progress: stops the copy if it is to be abandoned.
        """
        with self.write(name, file.stat().st_size) as stream, file.open("rb") as source:
            while data := source.read(_MEBIBYTE):
                if progress is not None:
                    progress.sleep(0)
                stream.write(data)
        return self.where(name)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        with storage_errors(f"Could not remove {self.path / name}"):
            remove_file(self.path / name)


def _place(path: ObjectStoragePath) -> tuple[object, str]:
    return path.protocol in LOCAL or path.protocol, path.path


def remove_file(path: ObjectStoragePath) -> None:
    """Remove a file, if it exists.

    ``unlink`` is not safe: some file systems treat brackets in a name as a pattern, and remove every file that matches.
    """
    with suppress(FileNotFoundError):
        path.fs.rm_file(path.path)


NOTHING_REMOVED = (
    "No incomplete file has been left under its final name, and this attempt has removed nothing from the service. A "
    "retry continues where it ended."
)
"""What became of the files after an error of a transfer."""


@contextmanager
def storage_errors(what: str, fate: str = NOTHING_REMOVED) -> Iterator[None]:
    """Raise errors of the operating system and of the object store as ``RunFilesUnavailable``.

    The errors of object stores are not ``OSError``, so every error that is not our own counts as theirs.

    :param what: what could not be done, as the start of the message, such as ``Could not read s3://...``.
    :param fate: what became of the task's work, as whole sentences.
    """
    try:
        yield
    except (AirflowException, SequentumError, CancelledError):
        raise
    except Exception as error:
        raise RunFilesUnavailable(f"{what}: {str(error) or repr(error)}. {fate}") from error


# One file


@contextmanager
def landing(target: ObjectStoragePath, expected_size: int | None = None) -> Iterator[Destination]:
    """Open ``target`` for writing. It appears when the block ends without an error, and not at all otherwise.

    Object stores show an upload once it is complete. A local file is written under another name in the same folder,
    because fsspec's own transactions use the folder for temporary files, which may be on another disk.

    :param expected_size: the approximate size of the file in bytes, if known.
    """
    if target.protocol in LOCAL:
        with _local(Path(target.path)) as stream:
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
    """Return the size of one part in bytes: small, to save memory, although S3 allows no more than 10,000 parts."""
    size = min(expected_size or 0, _LARGEST_OBJECT)  # a part is buffered in memory, whatever size the service lists
    return max(_PART, -(-size // _MAX_PARTS))


@contextmanager
def _local(target: Path) -> Iterator[Destination]:
    unfinished = target.with_name(unfinished_name(target.name))
    try:
        with unfinished.open("xb") as stream:
            yield stream
        # A move would put the file into a folder of that name, or into the target of a link of that name. A rename
        # replaces a link, and raises an error if there is a folder.
        os.replace(unfinished, target)  # noqa: PTH105 - tests interrupt it here
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _remove_unfinished(target: Path) -> None:
    """Remove unfinished copies of a file from killed attempts. If one is still being written, that attempt fails."""
    for name in unfinished_of([target.name], [path.name for path in target.parent.iterdir()]):
        target.with_name(name).unlink(missing_ok=True)


class _Upload:
    """An upload with one request for a small file, or in parts for a larger one. It appears once it is complete."""

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
            # Azure's stream cannot discard. If left open, it would complete the upload when it is garbage-collected.
            self._stream.closed = True


# Many files at once


class Progress:
    """The progress that copies report, and the signal that stops them.

    It is created before the copies start, so that an early stop is not lost.
    """

    def __init__(self) -> None:
        self._files = self._size = 0
        self._done = 0
        self._bytes = 0
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def expect(self, files: int, size: int) -> None:
        """Start counting, or add to the expected totals.

        :param files: the number of files to copy.
        :param size: their total size in bytes, as far as it is known.
        """
        if not self._files:
            self._started = time.monotonic()
        self._files += files
        self._size += size

    def stop(self) -> None:
        """Stop every copy at its next step. Safe to call from a signal handler."""
        self._stop.set()

    def sleep(self, seconds: float) -> None:
        """Sleep.

        :raises CancelledError: the copies have to stop, because another one failed or the task was killed.
        """
        if self._stop.wait(seconds):
            raise CancelledError

    def moved(self, size: int) -> None:
        """Add to the number of copied bytes.

        :raises CancelledError: as :meth:`sleep`.
        """
        if self._stop.is_set():
            raise CancelledError
        with self._lock:
            self._bytes += size

    def finished(self) -> None:
        """Count a file as complete."""
        with self._lock:
            self._done += 1

    def __str__(self) -> str:
        passed = max(time.monotonic() - self._started, 1e-9)
        return (
            f"{self._done} of {counted(self._files, 'file')}, {format_size(self._bytes)} of {format_size(self._size)}, "
            f"{format_size(self._bytes / passed)}/s"
        )


def copy_all(
    items: Sequence[T], copy: Callable[[T], R], workers: int, progress: Progress, report: Callable[[Progress], Any]
) -> list[R]:
    """Copy all items, several at a time, and return the results in order.

    If a copy fails, no further copies start, those in progress are abandoned, and the error is raised. The same happens
    if the calling thread is interrupted, for example because the task times out.

    :param copy: copies one item and reports to ``progress``.
    :param workers: the number of copies at a time.
    :param report: called every :data:`PROGRESS_INTERVAL` seconds.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="run-files") as pool:
        futures = [pool.submit(copy, item) for item in items]
        try:
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=PROGRESS_INTERVAL, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if waiting:
                    report(progress)
        except BaseException:
            progress.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]
