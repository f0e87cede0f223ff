"""Writing the files that passed, without what the contract removes, and the files with quarantined records and reasons.

Each file keeps its format, and its values are written as they were read: a text file keeps its encoding, a Parquet file
its types, lists and objects, a workbook the values of its first sheet.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from airflow_provider_sequentum.quality.engine import LandedPath, Table
from airflow_provider_sequentum.quality.history import Folder
from airflow_provider_sequentum.quality.judge import Removal, removed_rows
from airflow_provider_sequentum.records.excel import SheetWriter
from airflow_provider_sequentum.records.formats import (
    BINARY,
    TABLES,
    RecordsUnreadable,
    encoding_of,
    format_of,
    library,
)
from airflow_provider_sequentum.records.parquet import parquet_batches, parquet_schema, partition_of
from airflow_provider_sequentum.records.reading import read_records
from airflow_provider_sequentum.records.writing import ROW_GROUP, RowGroups, folder_of

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
    bad, blank = removed_rows(table, removal.reasons), removed_rows(table, removal.blanked)

    def reason_of(row: int) -> str:
        return "; ".join(removal.reasons[place].reason for place in bad.get(row, ()))

    def blank_in(row: int) -> list[str | None]:
        return [removal.blanked[place].column for place in blank.get(row, ())]

    paths, quarantined, first = [], [], 0
    for file, name, source in zip(files, names, table.sources, strict=True):
        bad_name = f"{QUARANTINE_FOLDER}{name}" if "/" in name else f"{QUARANTINE}{name}"
        if not source.records and format_of(file.name) != "parquet":  # without records, its columns are not known
            paths.append(str(file))
            continue
        with ExitStack() as stack:
            stream = stack.enter_context(file.open("rb"))
            pair: _RecordFiles | _ParquetFiles
            if format_of(file.name) == "parquet":
                schema, row = parquet_schema(stream, file.name), first
                pair = _ParquetFiles(stack, folder, name, bad_name, schema, removal.columns)
                for batch in parquet_batches(stream, file.name):
                    rows = range(row, row + batch.num_rows)
                    pair.add(batch, list(map(reason_of, rows)), list(map(blank_in, rows)))
                    row += batch.num_rows
            else:
                written_in = "utf-8"
                if format_of(file.name) not in BINARY:
                    written_in = encoding or encoding_of(stream.read(8))
                    stream.seek(0)
                pair = _RecordFiles(stack, folder, name, bad_name, written_in, delimiter, removal.columns)
                records = read_records(stream, file.name, encoding=encoding, delimiter=delimiter)
                for row, record in enumerate(records, first):
                    pair.add(record, reason_of(row), blank_in(row))
            pair.end()
        paths.append(folder.where(name))
        if pair.has_bad:
            quarantined.append(folder.where(bad_name))
        first += source.records
    return Passed(paths, quarantined, len(bad))


class _ParquetFiles:
    """Writes the batches of a Parquet file to the file that passed and to the quarantine, with their types.

    :param schema: the schema of the batches.
    :param dropped: columns that are removed.
    """

    def __init__(
        self, stack: ExitStack, folder: Folder, name: str, bad_name: str, schema: Any, dropped: frozenset[str]
    ) -> None:
        self._arrow = library("pyarrow", "quality", "Checking records")
        fields = [field.with_nullable(True) for field in schema]
        kept = [field for field in fields if field.name not in dropped]
        reason = self._arrow.field(REASON, self._arrow.string())
        good_schema = self._arrow.schema(kept, metadata=schema.metadata)
        bad_schema = self._arrow.schema([*fields, reason], metadata=schema.metadata)
        self._kept = good_schema.names
        self._good = _ParquetFile(_Whole(stack, folder, name), good_schema)
        self._bad: _ParquetFile | None = None
        self._open_bad: Callable[[], _ParquetFile] = lambda: _ParquetFile(_Whole(stack, folder, bad_name), bad_schema)

    @property
    def has_bad(self) -> bool:
        """Whether there is a file in the quarantine."""
        return self._bad is not None

    def add(self, batch: Any, reasons: Sequence[str], blank: Sequence[Collection[str | None]]) -> None:
        """Add a batch.

        :param reasons: for each record, why it is quarantined; empty if it passes.
        :param blank: for each record, the columns whose values are removed.
        """
        good = [place for place, reason in enumerate(reasons) if not reason]
        columns = []
        for column in self._kept:
            places = [None if column in blank[place] else place for place in good]
            columns.append(self._taken(batch.column(column), places))
        self._good.write(columns)
        if bad := [place for place, reason in enumerate(reasons) if reason]:
            self._bad = self._bad or self._open_bad()
            columns = [self._taken(column, bad) for column in batch.columns]
            self._bad.write([*columns, [reasons[place] for place in bad]])

    def end(self) -> None:
        """Finish the files."""
        self._good.end()
        if self._bad is not None:
            self._bad.end()

    def _taken(self, column: Any, places: Sequence[int | None]) -> Any:
        return column.take(self._arrow.array(places, self._arrow.int64()))  # None gives a null, in columns of any type


class _ParquetFile:
    """Writes columns to a Parquet file."""

    def __init__(self, file: _Whole, schema: Any) -> None:
        self._file, self._schema = file, schema
        self._groups = RowGroups(file.local, schema, ROW_GROUP)

    def write(self, columns: Sequence[Any]) -> None:
        arrow = library("pyarrow", "quality", "Checking records")
        self._groups.write(arrow.RecordBatch.from_arrays(columns, schema=self._schema))

    def end(self) -> None:
        self._groups.end()
        self._file.end()


class _Whole:
    """A file that is written locally, and copied into the folder when it is complete."""

    def __init__(self, stack: ExitStack, folder: Folder, name: str) -> None:
        self._stream = stack.enter_context(folder.write(name))
        self.local = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it

    def end(self) -> None:
        self.local.seek(0)
        shutil.copyfileobj(self.local, self._stream)


class _RecordFiles:
    """Writes the records of a file to the file that passed and to the quarantine, in the format of its name.

    :param dropped: columns that are removed.
    """

    def __init__(
        self,
        stack: ExitStack,
        folder: Folder,
        name: str,
        bad_name: str,
        encoding: str,
        delimiter: str | None,
        dropped: frozenset[str],
    ) -> None:
        def open_file(name: str) -> _SheetFile | _TextFile:
            if format_of(name) == "xlsx":
                return _SheetFile(stack, _Whole(stack, folder, name), name)
            return _TextFile(stack.enter_context(folder.write(name)), name, encoding, delimiter)

        self._dropped = dropped
        self._good = open_file(name)
        self._has_records = False
        self._bad: _SheetFile | _TextFile | None = None
        self._open_bad: Callable[[], _SheetFile | _TextFile] = lambda: open_file(bad_name)

    @property
    def has_bad(self) -> bool:
        """Whether there is a file in the quarantine."""
        return self._bad is not None

    def add(self, record: dict[str, Any], reason: str, blank: Collection[str | None]) -> None:
        """Add a record.

        :param reason: why it is quarantined; empty if it passes.
        :param blank: the columns whose values are removed.
        """
        if not self._has_records:
            self._has_records = True
            self._good.start([name for name in record if name not in self._dropped])
        if reason:
            if self._bad is None:
                self._bad = self._open_bad()
                self._bad.start([*record, REASON])
            self._bad.write({**record, REASON: reason})
            return
        gap = "" if all(isinstance(value, str) for value in record.values()) else None
        kept = {name: gap if name in blank else value for name, value in record.items() if name not in self._dropped}
        self._good.write(kept)

    def end(self) -> None:
        """Finish the files."""
        self._good.end()
        if self._bad is not None:
            self._bad.end()


class _SheetFile:
    """Writes records to a workbook."""

    def __init__(self, stack: ExitStack, file: _Whole, name: str) -> None:
        self._file = file
        self._sheet = stack.enter_context(SheetWriter(file.local, name))
        self.start, self.write = self._sheet.start, self._sheet.write

    def end(self) -> None:
        self._sheet.end()
        self._file.end()


class _TextFile:
    """Writes records to a text file, in the format of its name.

    Even without records, it is a file that the record reader accepts.
    """

    def __init__(self, stream: Any, name: str, encoding: str, delimiter: str | None) -> None:
        kind = format_of(name)
        self._stream = stream
        # What a cell contains was read in this encoding, but a reason may contain other characters.
        self._encoder = codecs.getincrementalencoder(encoding)("backslashreplace")
        self._is_ascii = not codecs.lookup(encoding).name.startswith("utf")  # escapes in JSON can stand for any text
        self._is_table, self._is_array = kind in TABLES, kind == "json"
        self._text = io.StringIO(newline="")
        self._delimiter = delimiter or ("\t" if kind == "tsv" else ",")
        self._writer: Any = None
        self._records = 0

    def start(self, columns: list[str]) -> None:
        if self._is_table:
            self._writer = csv.DictWriter(self._text, columns, delimiter=self._delimiter)
            self._writer.writeheader()

    def write(self, record: dict[str, Any]) -> None:
        if self._is_table:
            self._writer.writerow(record)
        else:
            self._text.write(("[" if not self._records else ",\n") if self._is_array else "")
            json.dump(record, self._text, ensure_ascii=self._is_ascii, default=str)
            self._text.write("" if self._is_array else "\n")
        self._records += 1
        if self._text.tell() > 1024 * 1024:
            self._flush()

    def end(self) -> None:
        if self._is_array:
            self._text.write("]" if self._records else "[]")
        if not self._is_table and (self._is_array or not self._records):
            self._text.write("\n")
        self._flush(final=True)

    def _flush(self, *, final: bool = False) -> None:
        self._stream.write(self._encoder.encode(self._text.getvalue(), final))
        self._text.seek(0)
        self._text.truncate()
