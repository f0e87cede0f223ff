"""The storage as the comparison of runs sees it: landed files, a folder for changes, and the pointer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_sequentum.transfers.landing import LandingFolder, StoredFile, open_destination, storage_errors

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath


@dataclass(frozen=True, slots=True)
class PublishingStorage:
    """The port of :func:`~airflow_provider_sequentum.quality.published.publish_changes`.

    :param changes: the folder for the files with changes.
    :param conn_id: the connection of the storage, for paths that do not name one.
    """

    pointer: ObjectStoragePath
    changes: ObjectStoragePath
    conn_id: str | None

    def now(self) -> datetime:
        """Return the time."""
        return datetime.now(UTC)

    def open(self, path: str) -> StoredFile:
        """Return a file with records."""
        return StoredFile(open_destination(path, self.conn_id))

    def read_pointer(self) -> bytes | None:
        """Return the pointer's bytes; ``None`` if there is none yet."""
        with storage_errors(f"Could not read {self.pointer}"):
            self.pointer.fs.invalidate_cache(self.pointer.parent.path)
            try:
                return self.pointer.read_bytes()
            except FileNotFoundError:
                return None

    def write_pointer(self, content: bytes) -> None:
        """Put a pointer in place of the one there is, as a whole."""
        folder = LandingFolder(self.pointer.parent)
        folder.make()
        with folder.write(self.pointer.name) as stream:
            stream.write(content)

    def write_changes(self, name: str, content: Path) -> str:
        """Put a file into the folder for changes, as a whole, and return its path."""
        folder = LandingFolder(self.changes)
        folder.make()
        return folder.upload(name, content)
