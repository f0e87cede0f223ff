"""The stored profiles of an agent's runs, and which of them a run is compared with.

A folder has one file ``run-42.json`` for each run, so that a retry replaces its own file. For the latest runs there is
also ``run-42.parquet`` with the records that the next run is compared with: all of them or, if there are many, a sample
chosen by the hash of the key.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from airflow_provider_sequentum.quality.engine import ROW, LandedPath, Table
from airflow_provider_sequentum.quality.profile import GOOD, Profile, key_of

COMPARED_RECORDS = 50_000
"""Approximate number of a run's records that are kept for the comparison with the next run."""

LAST_RUNS = 30
"""Maximum number of earlier runs that are shown in a report, and of good ones that a run is compared with."""

_KEPT_RECORDS = 3
_NAME = re.compile(r"run-([1-9]\d{0,18})\.(json|parquet)")


class StoredPath(LandedPath, Protocol):
    """A file in a storage, such as :class:`~airflow_provider_sequentum.transfers.landing.StoredFile`."""

    @property
    def place(self) -> object:
        """The place of the file, which is the same for each form of its address."""


class Folder(Protocol):
    """A folder in a storage, such as :class:`~airflow_provider_sequentum.transfers.landing.LandingFolder`."""

    @property
    def path(self) -> Any:
        """The path of the folder."""

    def contents(self) -> Any:
        """Return the contents of the folder. ``sizes`` has the names of its files."""

    def where(self, name: str) -> str:
        """Return the path of a file in the folder, so that it can be passed to an operator."""

    def file(self, name: str) -> StoredPath:
        """Return a file in the folder."""

    def read(self, name: str) -> bytes:
        """Return the content of a small file."""

    def write(self, name: str, expected_size: int | None = None) -> Any:
        """Open a file for writing. It appears when it is complete."""

    def upload(self, name: str, file: Path) -> str:
        """Copy a local file to the folder and return its path."""

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""


@dataclass
class History:
    """The profiles of an agent's runs.

    :param folder: the folder in which they are stored.
    :param earlier: the profiles of the last runs before this one, and of the last good ones, the oldest first.
    :param own: the profile from an earlier check of this run.
    """

    folder: Folder
    earlier: list[Profile]
    own: Profile | None
    _records: list[int]

    def learnt(self, most: int) -> list[Profile]:
        """Return the profiles of the last good runs, the oldest first."""
        return [each for each in self.earlier if _is_good(each)][-most:]

    def records_before(self, table: Table, run_id: int, good: Sequence[Profile]) -> tuple[Table, int] | None:
        """Return the stored records of the last good run, and its id."""
        runs = {each.run_id for each in good}
        known = [each for each in self._records if each < run_id and each in runs]
        if not known:
            return None
        file = self.folder.file(f"run-{known[-1]}.parquet")
        return table.workspace.load([file]).as_text(), known[-1]

    def save(self, profile: Profile, table: Table) -> None:
        """Write a run's records, if they have a key, and its profile.

        The profile is written last, so that a run with a profile is complete.
        """
        if profile.key and all(each in table.columns for each in profile.key):
            self._save_records(profile, table)
        with self.folder.write(f"run-{profile.run_id}.json") as stream:
            stream.write(profile.to_json())
        before = [each for each in self._records if each < profile.run_id]
        good = {each.run_id for each in self.learnt(LAST_RUNS)}
        # The next run may be compared with any of the last ones: a person may accept one that failed.
        kept = {*before[-_KEPT_RECORDS:], *[each for each in before if each in good][-1:]}
        for old in before:
            if old not in kept:
                self.folder.remove(f"run-{old}.parquet")

    def _save_records(self, profile: Profile, table: Table) -> None:
        key, file = key_of(table, profile.key), table.workspace.folder / "records.parquet"
        every = -(-table.records // COMPARED_RECORDS)
        cells = ", ".join(column.sql for column in table.columns.values())
        table.workspace.export(
            f"SELECT {cells} FROM {table.sql} "  # noqa: S608  # names of our own
            f"WHERE {key} IS NOT NULL AND md5_number_lower({key}) % {every} = 0 ORDER BY {ROW}",
            table.names,
            file,
        )
        self.folder.upload(f"run-{profile.run_id}.parquet", file)
        file.unlink()


def read_history(folder: Folder, agent_id: int, run_id: int) -> History:
    """Read the profiles of an agent's runs before this one, however many of them failed since the last good ones.

    :raises ValueError: a profile belongs to another agent, or is damaged.
    """
    names = [match for name in folder.contents().sizes if (match := _NAME.fullmatch(name))]
    runs = sorted(int(match[1]) for match in names if match[2] == "json")
    earlier: list[Profile] = []
    good = 0
    for place, run in enumerate(run for run in reversed(runs) if run < run_id):
        if good == LAST_RUNS:
            break
        found = _read(folder, agent_id, run)
        good += _is_good(found)
        if place < LAST_RUNS or _is_good(found):
            earlier.insert(0, found)
    own = _read(folder, agent_id, run_id) if run_id in runs else None
    return History(folder, earlier, own, sorted(int(match[1]) for match in names if match[2] == "parquet"))


def _is_good(profile: Profile) -> bool:
    return profile.verdict in GOOD and profile.records > 0


def _read(folder: Folder, agent_id: int, run_id: int) -> Profile:
    name = f"run-{run_id}.json"
    found = Profile.parse(folder.read(name))
    if found is None:
        raise ValueError(f"{folder.path / name} is damaged or is not a profile. Remove it; the other runs are enough")
    if found.agent_id != agent_id:
        raise ValueError(
            f"{folder.path / name} belongs to agent {found.agent_id}, not {agent_id}. Use one folder for each agent"
        )
    return found
