"""Writing the files that passed, without what the contract removes, and the files with quarantined records and reasons.

Each file keeps its format, and its values are written as they were read: a Parquet file keeps its types, lists and
objects, a workbook the values of its first sheet.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from airflow_provider_sequentum.quality.engine import LandedPath, Table
from airflow_provider_sequentum.quality.history import Folder
from airflow_provider_sequentum.quality.judge import Removal, removed_rows
from airflow_provider_sequentum.records.binary import SheetWriter, parquet_batches, parquet_schema, partition_of
from airflow_provider_sequentum.records.formats import TABLES, RecordsUnreadable, format_of, library
from airflow_provider_sequentum.records.parquet import RowGroups, folder_of
from airflow_provider_sequentum.records.reading import read_records

REASON = "_quarantine_reason"
"""The column with the reason why a record was quarantined."""

QUARANTINE = "quarantine_"
"""The prefix of the names of files with such records."""

QUARANTINE_FOLDER = "_quarantine/"
"""The folder for such files if the files that passed are partitions. Readers of partitioned tables ignore it."""


@dataclass(frozen=True)
class Passed:
    """What was written.

    :param paths: files that passed, one for each landed file, with the same name.
    :param quarantined: files with the quarantined records.
    :param records: the number of quarantined records.
    """

    paths: list[str]
    quarantined: list[str]
    records: int


def names_to_write(files: Sequence[LandedPath], removal: Removal) -> list[str]:
    """Return the paths of the files below the destination: their names, preceded by the folder of a partition.

    :raises RecordsUnreadable: two files would have the same path, or values of a partition column would be removed.
    """
    names = []
    for file in files:
        values = _partition(file)
        if taken := sorted(values.keys() & {*removal.columns, *(test.column for test in removal.blanked)}):
            raise RecordsUnreadable(
                f"{file.name!r} cannot be written without values of {taken[0]!r}, because it is a partition column."
            )
        folder = folder_of(values)
        names.append(f"{folder}{file.name}" if str(file).endswith(f"/{folder}{file.name}") else file.name)
    if len(set(names)) < len(names):
        raise RecordsUnreadable("Two files have the same name, so what passed cannot be written to one folder.")
    return names


def _partition(file: LandedPath) -> dict[str, Any]:
    if format_of(file.name) != "parquet":
        return {}
    with file.open("rb") as stream:
        return partition_of(stream, file.name)


def write_passed(
    table: Table,
    removal: Removal,
    files: Sequence[LandedPath],
    folder: Folder,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Passed:
    """Write the files without what is removed. A file appears when it is complete.

    :param files: the files of the table, in its order.
    """
    names = names_to_write(files, removal)
    out = _Out(removed_rows(table, removal.reasons), [test.reason for test in removal.reasons])
    blank = _Out(removed_rows(table, removal.blanked), [test.column or "" for test in removal.blanked])
    sorting = _Sorting(removal.columns, out, blank)
    paths, quarantined, records = [], [], 0
    for file, name in zip(files, names, strict=True):
        bad_name = f"{QUARANTINE_FOLDER}{name}" if "/" in name else f"{QUARANTINE}{name}"
        with ExitStack() as stack:
            stream = stack.enter_context(file.open("rb"))
            if format_of(file.name) == "parquet":
                schema = parquet_schema(stream, file.name)
                files_of_two = _ParquetFiles(stack, folder, name, bad_name, schema, removal.columns)
                bad = sorting.batches(parquet_batches(stream, file.name), files_of_two)
            else:
                read = read_records(stream, file.name, encoding=encoding, delimiter=delimiter)
                bad = sorting.records(read, _RecordFiles(stack, folder, name, bad_name, delimiter))
        paths.append(folder.where(name))
        if bad:
            quarantined.append(folder.where(bad_name))
        records += bad
    return Passed(paths, quarantined, records)


class _Out:
    """The result of a query about the records, consumed while they are read in the same order."""

    def __init__(self, rows: Iterator[tuple[int, list[int]]], names: Sequence[str]) -> None:
        # DuckDB has one result at a time per connection, so the first one is fetched before the second query.
        self._rows = iter(list(rows))
        self._names = names
        self._next = next(self._rows, None)

    def at(self, number: int) -> list[str]:
        if self._next is None or self._next[0] != number:
            return []
        places = self._next[1]
        self._next = next(self._rows, None)
        return [self._names[place] for place in places]


class _Sorting:
    """Writes records to the file that passed, or to the quarantine with the reason; numbers them across all files.

    :param dropped: columns that are removed.
    """

    def __init__(self, dropped: frozenset[str], out: _Out, blank: _Out) -> None:
        self._dropped, self._out, self._blank = dropped, out, blank
        self._number = 0

    def records(self, records: Iterator[dict[str, Any]], files: _RecordFiles) -> int:
        """Sort the records of a file. Return the number of quarantined records."""
        bad = 0
        for record in records:
            reasons, empty = self._next()
            if reasons:
                bad += 1
                files.bad({**record, REASON: "; ".join(reasons)})
            else:
                files.good(_reduced(record, self._dropped, empty))
        files.end()
        return bad

    def batches(self, batches: Iterator[Any], files: _ParquetFiles) -> int:
        """Sort the records of a Parquet file, like :meth:`records`."""
        bad = 0
        for batch in batches:
            found = [self._next() for _ in range(batch.num_rows)]
            reasons = ["; ".join(each) for each, _ in found]
            bad += sum(map(bool, reasons))
            files.add(batch, reasons, [empty for _, empty in found])
        files.end()
        return bad

    def _next(self) -> tuple[list[str], list[str]]:
        found = self._out.at(self._number), self._blank.at(self._number)
        self._number += 1
        return found


def _reduced(record: dict[str, Any], dropped: frozenset[str], empty: Sequence[str]) -> dict[str, Any]:
    gap = "" if all(isinstance(value, str) for value in record.values()) else None
    return {name: gap if name in empty else value for name, value in record.items() if name not in dropped}


class _ParquetFiles:
    """Writes the batches of a Parquet file to the file that passed and to the quarantine, with their types.

    :param schema: the schema of the batches.
    :param dropped: columns that are removed.
    """

    def __init__(
        self, stack: ExitStack, folder: Folder, name: str, bad_name: str, schema: Any, dropped: frozenset[str]
    ) -> None:
        arrow = library("pyarrow", "quality", "Checking records")
        fields = [field.with_nullable(True) for field in schema]
        kept = [field for field in fields if field.name not in dropped]
        self._good_schema = arrow.schema(kept, metadata=schema.metadata)
        self._bad_schema = arrow.schema([*fields, arrow.field(REASON, arrow.string())], metadata=schema.metadata)
        self._stack, self._folder, self._bad_name = stack, folder, bad_name
        self._good_file = _Whole(stack, folder, name)
        self._good = RowGroups(self._good_file.local, self._good_schema)
        self._bad_file: _Whole | None = None
        self._bad: RowGroups | None = None

    def add(self, batch: Any, reasons: Sequence[str], empty: Sequence[Sequence[str]]) -> None:
        """Add a batch.

        :param reasons: for each record, why it is quarantined; empty if it passes.
        :param empty: for each record, the columns whose values are removed.
        """
        good = [place for place, reason in enumerate(reasons) if not reason]
        columns = []
        for column in self._good_schema.names:
            places = [None if column in empty[place] else place for place in good]
            columns.append(self._taken(batch.column(column), places))
        self._good.write(self._batch(columns, self._good_schema))
        if len(good) < len(reasons):
            bad = [place for place, reason in enumerate(reasons) if reason]
            if self._bad is None:
                self._bad_file = _Whole(self._stack, self._folder, self._bad_name)
                self._bad = RowGroups(self._bad_file.local, self._bad_schema)
            columns = [self._taken(column, bad) for column in batch.columns]
            self._bad.write(self._batch([*columns, [reasons[place] for place in bad]], self._bad_schema))

    def end(self) -> None:
        """Finish the files."""
        self._good.end()
        self._good_file.end()
        if self._bad is not None and self._bad_file is not None:
            self._bad.end()
            self._bad_file.end()

    def _taken(self, column: Any, places: Sequence[int | None]) -> Any:
        arrow = library("pyarrow", "quality", "Checking records")
        return column.take(arrow.array(places, arrow.int64()))  # None gives a null, in columns of any type

    def _batch(self, columns: Sequence[Any], schema: Any) -> Any:
        return library("pyarrow", "quality", "Checking records").RecordBatch.from_arrays(columns, schema=schema)


class _Whole:
    """A file that is written locally, and copied into the folder when it is complete."""

    def __init__(self, stack: ExitStack, folder: Folder, name: str) -> None:
        self._stream = stack.enter_context(folder.write(name))
        self.local = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it

    def end(self) -> None:
        self.local.seek(0)
        shutil.copyfileobj(self.local, self._stream)


class _Writer(Protocol):
    """Writes records to one file."""

    def write(self, record: dict[str, Any]) -> None: ...

    def end(self) -> None: ...


class _RecordFiles:
    """Writes records to the file that passed and to the quarantine, in the format of its name."""

    def __init__(self, stack: ExitStack, folder: Folder, name: str, bad_name: str, delimiter: str | None) -> None:
        def open_file(name: str) -> _Writer:
            if format_of(name) == "xlsx":
                return _SheetFile(stack, _Whole(stack, folder, name), name)
            return _TextFile(stack.enter_context(folder.write(name)), name, delimiter)

        self._open, self._bad_name = open_file, bad_name
        self._good = open_file(name)
        self._bad: _Writer | None = None

    def good(self, record: dict[str, Any]) -> None:
        self._good.write(record)

    def bad(self, record: dict[str, Any]) -> None:
        self._bad = self._bad or self._open(self._bad_name)
        self._bad.write(record)

    def end(self) -> None:
        self._good.end()
        if self._bad:
            self._bad.end()


class _SheetFile:
    """Writes records to a workbook."""

    def __init__(self, stack: ExitStack, file: _Whole, name: str) -> None:
        self._file = file
        self._sheet = stack.enter_context(SheetWriter(file.local, name))

    def write(self, record: dict[str, Any]) -> None:
        self._sheet.write(record)

    def end(self) -> None:
        self._sheet.end()
        self._file.end()


class _TextFile:
    """Writes records to a text file, in the format of its name."""

    def __init__(self, stream: Any, name: str, delimiter: str | None) -> None:
        kind = format_of(name)
        self._stream = stream
        self._is_table, self._is_array = kind in TABLES, kind == "json"
        self._text = io.StringIO(newline="")
        self._delimiter = delimiter or ("\t" if kind == "tsv" else ",")
        self._writer: Any = None
        self._records = 0

    def write(self, record: dict[str, Any]) -> None:
        if self._is_table:
            if self._writer is None:
                self._writer = csv.DictWriter(self._text, list(record), delimiter=self._delimiter)
                self._writer.writeheader()
            self._writer.writerow(record)
        else:
            self._text.write(("[" if not self._records else ",\n") if self._is_array else "")
            json.dump(record, self._text, ensure_ascii=False, default=str)
            self._text.write("" if self._is_array else "\n")
        self._records += 1
        if self._text.tell() > 1024 * 1024:
            self._flush()

    def end(self) -> None:
        if self._is_array:
            self._text.write("]\n" if self._records else "[]\n")
        self._flush()

    def _flush(self) -> None:
        self._stream.write(self._text.getvalue().encode())
        self._text.seek(0)
        self._text.truncate()
