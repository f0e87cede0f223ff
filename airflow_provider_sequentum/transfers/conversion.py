"""Conversion of files with records to Parquet, before any of them is published."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.files import DELIVERED, EXTRACTED
from airflow_provider_sequentum.exceptions import (
    RunFilesUnavailable,
    RunRecordsUnreadable,
    SequentumRequestRefused,
)
from airflow_provider_sequentum.records.columns import choose_types
from airflow_provider_sequentum.records.formats import RecordsUnreadable, TextOptions, format_of, library
from airflow_provider_sequentum.records.writing import RecordFile, write_parquet
from airflow_provider_sequentum.runs.describe import comma_list
from airflow_provider_sequentum.transfers.manifest import LandedFile, Manifest
from airflow_provider_sequentum.transfers.measuring import Measure

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_provider_sequentum.api.files import RunFile
    from airflow_provider_sequentum.transfers.column_types import TypesFile
    from airflow_provider_sequentum.transfers.manifest import Form


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file of the run that was downloaded to the worker's temporary folder.

    :param entry: its manifest entry, based on the service's list. ``name`` is its name in the destination.
    :param path: its path in the temporary folder.
    :param measure: its measured size and checksum.
    """

    entry: LandedFile
    path: Path
    measure: Measure


@dataclass(frozen=True, slots=True)
class Converted:
    """The result of a conversion.

    :param files: the files to publish, by name, with their paths in the temporary folder. The path is ``None`` for a
        file that an earlier attempt has already published.
    :param without_records: files of the run that have no records and so were not converted to a file.
    :param before: the column types from earlier runs.
    :param types: the column types of this run.
    """

    files: Mapping[str, tuple[LandedFile, Path | None]] = field(default_factory=dict)
    without_records: Sequence[LandedFile] = ()
    before: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)

    def entries_of(self, file_id: int) -> list[LandedFile]:
        """Return the entries of the files that one file of the run was converted to."""
        return [entry for entry, _ in self.files.values() if entry.file_id == file_id]


@dataclass(frozen=True, slots=True)
class Conversion:
    """How files with records are converted.

    :param form: the target format and its options.
    :param types_file: stores the column types from run to run.
    """

    form: Form
    types_file: TypesFile

    def check_installed(self, names: Sequence[str]) -> None:
        """Check that the libraries for these files are installed.

        :raises SequentumRequestRefused: a library is missing.
        """
        try:
            library("pyarrow", "arrow", "Landing as Parquet")
            if any(format_of(name) == "xlsx" for name in names):
                library("openpyxl", "excel", "Converting .xlsx")
        except ImportError as error:
            raise SequentumRequestRefused(f"{error} Nothing was copied.") from error

    def convert(
        self, agent_id: int, run_id: int, files: Sequence[Fetched], work: Path, check: Callable[[], None], log: Logger
    ) -> Converted:
        """Convert files that belong to one table, so that a column has the same type in all of them.

        :param work: a temporary folder.
        :param check: called repeatedly; raises an exception to abort the conversion.
        :raises RunRecordsUnreadable: a file is damaged, a value is not valid for its column's type, or a file cannot be
            partitioned.
        :raises RunFilesUnavailable: the temporary folder is full.
        """
        before = self.types_file.read(agent_id, run_id)
        declared = self.form.record_schema
        filled = [file for file in files if file.measure.size]
        published: dict[str, tuple[LandedFile, Path | None]] = {}
        empty = [file for file in files if not file.measure.size]
        try:
            found = [self._source(file).types() for file in filled]
            chosen = choose_types(found, declared, before)
            types = {**before, **declared, **chosen}
            _log_types(log, found, chosen, {**before, **declared}, self.types_file)
            for number, (file, columns) in enumerate(zip(filled, found, strict=True)):
                folder = work / f"converted-{number}"
                folder.mkdir()
                by = self.form.partition_by
                parts = write_parquet(self._source(file), list(columns), types, by, folder, check)
                file.path.unlink()
                for part in parts:
                    name = f"{part.folder}{file.entry.name}"
                    published[name] = _entry(file, name, _measured(part.path), part.records), part.path
                if not parts:
                    empty.append(file)
        except RecordsUnreadable as error:
            raise RunRecordsUnreadable(
                f"The records of run {run_id} of agent {agent_id} cannot be landed as Parquet. {error} "
                f"Column types are those that record_schema declares and those of earlier runs in "
                f"{self.types_file.path}. To change the type of a column, declare it. Nothing was published."
            ) from error
        except OSError as error:
            raise RunFilesUnavailable(
                f"The temporary folder {work} cannot hold the records of run {run_id}: {error}. Nothing was published."
            ) from error
        if empty:
            names = comma_list(repr(source_name(file.entry)) for file in empty)
            log.warning("Not landed, because there are no records in it: %s", names)
        without_records = [_entry(file, file.entry.name, None, 0) for file in empty]
        return Converted(published, without_records, before, chosen)

    def _source(self, file: Fetched) -> RecordFile:
        options: TextOptions = {"encoding": self.form.encoding, "delimiter": self.form.delimiter}
        return RecordFile(file.path, source_name(file.entry), options)


def is_converted(file: RunFile) -> bool:
    """Whether a file has records and so is converted. Logs, images and text files are landed unchanged."""
    if file.kind not in (DELIVERED, EXTRACTED):
        return False
    try:
        format_of(file.name or "")
    except RecordsUnreadable:
        return False
    return True


def converted_name(name: str) -> str:
    """Return the name of a file after conversion."""
    return f"{name.rpartition('.')[0]}.parquet"


def source_name(entry: LandedFile) -> str:
    """Return the name of a file on the service, without its folder."""
    return PurePosixPath((entry.original_name or entry.name).replace("\\", "/")).name


def is_kept(previous: Manifest | None, wanted: Sequence[LandedFile], form: Form) -> bool:
    """Whether an earlier attempt has already published these files of the run in the same form.

    :param previous: the manifest that an earlier attempt for the same run left in the folder.
    """
    if previous is None or not previous.is_complete or previous.form != form:
        return False
    known = [file for file in previous.files if file.source_sha256] + previous.without_records
    return {_identity(file) for file in known} == {_identity(file) for file in wanted}


def _identity(file: LandedFile) -> tuple[object, ...]:
    return file.file_id, file.original_name, file.listed_size, file.created


def _entry(file: Fetched, name: str, measure: Measure | None, records: int) -> LandedFile:
    changes = {
        "name": name,
        "size": measure and measure.size,
        "sha256": measure and measure.sha256,
        "records": records,
        "source_size": file.measure.size,
        "source_sha256": file.measure.sha256,
    }
    return file.entry.model_copy(update=changes)


def _measured(path: Path) -> Measure:
    with path.open("rb") as stream:
        return Measure(path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest(), None)


def _log_types(
    log: Logger,
    found: Sequence[Mapping[str, str | None]],
    types: Mapping[str, str],
    known: Mapping[str, str],
    types_file: TypesFile,
) -> None:
    columns = {column for each in found for column in each}
    if added := sorted(columns - known.keys()):
        shown = comma_list(f"{column!r:.100} {types[column]}" for column in added)
        log.info("Inferred column types, to be kept in %s: %s", types_file.path, shown)
    if empty := [column for column in added if all(each.get(column) is None for each in found)]:
        log.warning(
            "Without values yet, and therefore text from now on unless record_schema declares another type: column %s",
            comma_list(f"{column!r:.100}" for column in empty),
        )
