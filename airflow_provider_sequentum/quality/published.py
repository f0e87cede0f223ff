"""The pointer: a small JSON file that names what was published last and before that. It is moved as the last step.

If an attempt is killed after it has moved the pointer, Airflow repeats it. The pointer then names the files of this
run, so the repetition compares with the previous ones, as the first attempt did, and writes the same changes again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self, Unpack

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airflow_provider_sequentum.api.text import safe_text
from airflow_provider_sequentum.exceptions import RunFilesUnavailable
from airflow_provider_sequentum.quality.changes import Changes, Comparison, not_comparable
from airflow_provider_sequentum.quality.engine import LandedPath, Source, Table, Workspace
from airflow_provider_sequentum.records.formats import TextOptions

CHANGES = ("added", "changed", "removed")

MAX_COLUMNS = 100
"""Maximum number of changed columns in a summary, those with the most changes first."""

MAX_COLUMN_NAME = 200
"""Maximum length of a column's name in a summary, in bytes."""

MAX_EARLIER = 1_000
"""Maximum number of earlier publications that a pointer remembers."""


class PublishedFile(BaseModel):
    """A file whose records were published."""

    model_config = ConfigDict(frozen=True)

    path: str
    size: int
    sha256: str
    records: int


class Published(BaseModel):
    """The files of one run that was published.

    :param key: the columns by which the records were compared.
    :param changes: the numbers of records that were added, changed, removed and unchanged.
    """

    files: Annotated[list[PublishedFile], Field(min_length=1)]
    key: list[str] = []
    at: datetime | None = None
    changes: dict[str, int] = {}

    @property
    def paths(self) -> list[str]:
        """The paths of the files."""
        return [file.path for file in self.files]

    def is_checked(self, key: Sequence[str], table: Table) -> bool:
        """Whether the records are known to have a valid key.

        :param table: the records. Read with another delimiter, they have other columns than when they were published.
        """
        return self.key == list(key) and all(name in table.columns for name in key)


class Pointer(BaseModel):
    """What was published last, and before that.

    :param format: the version of the file format.
    :param earlier: the digests of what was published before the previous files, the oldest first.
    """

    format: Literal[1] = 1
    current: Published
    previous: Published | None = None
    earlier: list[str] = []

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Read a pointer.

        :raises RunRecordsNotComparable: it is not a pointer.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise not_comparable(
                "the pointer is damaged, or this version cannot read it. Restore it or, to start over, remove it"
            ) from error

    def to_json(self) -> bytes:
        """Return the pointer as the content of a file."""
        return (self.model_dump_json(indent=1) + "\n").encode()

    def base_of(self, files: Sequence[PublishedFile]) -> Published | None:
        """Return what the files are compared with: what was published before them.

        :raises RunRecordsNotComparable: other files have been published since these were, or these have overwritten the
            files that were published last.
        """
        if self.current.files == list(files):
            return self.previous
        if _digest(files) in self._before_current():
            raise not_comparable(
                "these files were published earlier, and others after them. To compare them again, restore the pointer "
                "of that time"
            )
        if not {file.path for file in files}.isdisjoint(self.current.paths):
            raise not_comparable(
                "these files have overwritten those that were published last, so there is nothing to compare with. Use "
                "a separate folder for each run. To start over, remove the pointer"
            )
        return self.current

    def moved(self, published: Published) -> Pointer:
        """Return the pointer after a publication, or after its repetition."""
        if published.files == self.current.files:
            return self.model_copy(update={"current": published})
        return Pointer(current=published, previous=self.current, earlier=self._before_current()[-MAX_EARLIER:])

    def _before_current(self) -> list[str]:
        return self.earlier if self.previous is None else [*self.earlier, _digest(self.previous.files)]


def _digest(files: Sequence[PublishedFile]) -> str:
    return hashlib.sha256("\n".join(f"{file.path} {file.sha256}" for file in files).encode()).hexdigest()[:16]


class PublishingPort(Protocol):
    """What the procedure needs from the storage. Paths have the form that the DAG author and the pointer use."""

    def now(self) -> datetime:
        """Return the current time."""

    def open(self, path: str) -> LandedPath:
        """Return a file with records.

        :raises ValueError: the path is refused.
        """

    def read_pointer(self) -> bytes | None:
        """Return the content of the pointer; ``None`` if it does not exist yet."""

    def write_pointer(self, content: bytes) -> None:
        """Replace the pointer atomically."""

    def write_changes(self, name: str, content: Path) -> str:
        """Copy a file into the folder for changes, where it appears when complete, and return its path."""


@dataclass(frozen=True, slots=True)
class Publication:
    """The result of :func:`publish_changes`.

    :param compared_with: the files of the previous run; empty for the first one.
    :param files: the paths of the records, by the kind of change.
    """

    changes: Changes
    compared_with: list[str]
    files: dict[str, str]

    def summary(self) -> dict[str, Any]:
        """Return plain JSON values. Column names can be arbitrary text, so their length and number are limited."""
        most_changed = sorted(self.changes.changed_columns.items(), key=lambda item: (-item[1], item[0]))
        columns: dict[str, int] = {}
        for name, count in most_changed[:MAX_COLUMNS]:
            columns.setdefault(safe_text(name, MAX_COLUMN_NAME), count)
        return {
            **counts_of(self.changes),
            "changed_columns": columns,
            **({"more_changed_columns": more} if (more := len(most_changed) - len(columns)) else {}),
            "files": self.files,
            "compared_with": self.compared_with,
        }


def counts_of(changes: Changes) -> dict[str, int]:
    """Return the numbers of records by the kind of change."""
    return {
        "added": changes.added,
        "changed": changes.changed,
        "removed": changes.removed,
        "unchanged": changes.unchanged,
    }


def publish_changes(
    port: PublishingPort,
    open_workspace: Callable[[], AbstractContextManager[Workspace]],
    paths: Sequence[str],
    *,
    key: Sequence[str],
    ignored: Sequence[str],
    **options: Unpack[TextOptions],
) -> Publication:
    """Compare a run's files with those that were published last, write the changes, and move the pointer.

    :raises RunRecordsNotComparable: the records have no valid key, or do not match the pointer. Nothing was published.
    :raises RunFilesUnavailable: another run was published at the same time. A retry compares with it.
    """
    found = port.read_pointer()
    pointer = None if found is None else Pointer.parse(found)
    with open_workspace() as workspace:
        current = workspace.load(map(port.open, paths), **options)
        files = [_published(path, source) for path, source in zip(paths, current.sources, strict=True)]
        if not current.records:
            raise not_comparable(f"the files contain no records: {', '.join(paths)}")
        base = None if pointer is None else pointer.base_of(files)
        previous = None if base is None else _load(port, workspace, base, options)
        comparison = Comparison(workspace, current, previous, key, ignored)
        comparison.check_key(current, "the records of this run")
        if previous is not None and base is not None and not base.is_checked(key, previous):
            comparison.check_key(previous, "the records that were published last")
        changes = comparison.compare()
        written = {name: _write(port, comparison, name) for name in CHANGES}
    published = Published(files=files, key=list(key), at=port.now(), changes=counts_of(changes))
    if port.read_pointer() != found:
        raise RunFilesUnavailable(
            "Another task moved the pointer while this one compared the records. Nothing was published. A retry "
            "compares them with the files that were published in the meantime."
        )
    moved = Pointer(current=published) if pointer is None else pointer.moved(published)
    port.write_pointer(moved.to_json())
    return Publication(changes, base.paths if base else [], written)


def _load(port: PublishingPort, workspace: Workspace, base: Published, options: TextOptions) -> Table:
    try:
        files = [port.open(path) for path in base.paths]
    except ValueError as error:
        raise not_comparable(
            f"the pointer names a file that was published last and cannot be opened: {error}. Restore the pointer or, "
            "to start over, remove it"
        ) from error
    table = workspace.load(files, **options)
    for source, file in zip(table.sources, base.files, strict=True):
        if source.sha256 != file.sha256:
            raise not_comparable(
                f"{file.path} was published last, but has been replaced since: it has {source.size:,} bytes instead of "
                f"{file.size:,}. Restore it or, to start over, remove the pointer"
            )
    return table


def _write(port: PublishingPort, comparison: Comparison, name: str) -> str:
    table = comparison.previous if name == "removed" and comparison.previous else comparison.current
    target = comparison.workspace.folder / f"{name}.parquet"
    comparison.workspace.export(getattr(comparison, name), list(table.columns), target)
    path = port.write_changes(target.name, target)
    target.unlink()
    return path


def _published(path: str, source: Source) -> PublishedFile:
    return PublishedFile(path=path, size=source.size, sha256=source.sha256, records=source.records)
