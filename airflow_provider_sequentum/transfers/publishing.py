"""The storage port of the comparison of runs: the landed files, the folder for changes, and the pointer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_sequentum.transfers.destination import open_destination
from airflow_provider_sequentum.transfers.landing import LandingFolder, StoredFile

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath


@dataclass(frozen=True, slots=True)
class PublishingStorage:
    """The port of :func:`~airflow_provider_sequentum.quality.published.publish_changes`.

    :param pointer: the JSON file that names the files that were published last.
    :param changes: the folder for the files with changes.
    :param conn_id: the id of the storage connection, for paths that do not contain one.
    """

    pointer: ObjectStoragePath
    changes: ObjectStoragePath
    conn_id: str | None

    def now(self) -> datetime:
        """Return the current time."""
        return datetime.now(UTC)

    def open(self, path: str) -> StoredFile:
        """Return a file with records."""
        return StoredFile(open_destination(path, self.conn_id))

    def read_pointer(self) -> bytes | None:
        """Return the content of the pointer; ``None`` if it does not exist yet."""
        return StoredFile(self.pointer).read()

    def write_pointer(self, content: bytes) -> None:
        """Write the pointer, or replace it atomically."""
        StoredFile(self.pointer).replace(content)

    def write_changes(self, name: str, content: Path) -> str:
        """Write a file atomically to the folder for changes, and return its path."""
        folder = LandingFolder(self.changes)
        folder.make()
        return folder.upload(name, content)
