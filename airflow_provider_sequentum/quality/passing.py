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
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import IO, Any, Unpack

from airflow_provider_sequentum.quality.engine import Table
from airflow_provider_sequentum.quality.history import Folder, StoredPath
from airflow_provider_sequentum.quality.judge import Removal, removed_rows
from airflow_provider_sequentum.records.excel import SheetWriter
from airflow_provider_sequentum.records.formats import (
    BINARY,
    TABLES,
    RecordsUnreadable,
    TextOptions,
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

_Writing = AbstractContextManager[Callable[[Any], object]]
"""Opens a file and returns the function that writes to it. The file appears when it is left without an error."""


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


def names_to_write(files: Sequence[StoredPath], removal: Removal, destination: Folder) -> list[tuple[str, str]]:
    """Return, for each file, the paths of what passes and of its quarantine below the destination.

    They are the name of the file, preceded by the folder of a partition.

    :raises RecordsUnreadable: two files would have the same path, a landed file would be overwritten, or values of a
        partition column would be removed.
    """
    names = []
    for file in files:
        values = _partition(file)
        if taken := sorted(values.keys() & {*removal.columns, *(test.column for test in removal.blanked)}):
            raise RecordsUnreadable(
                f"{file.name!r} cannot be written without values of {taken[0]!r}, because it is a partition column."
            )
        folder = folder_of(values)
        name = f"{folder}{file.name}" if str(file).endswith(f"/{folder}{file.name}") else file.name
        names.append((name, f"{QUARANTINE_FOLDER}{name}" if "/" in name else f"{QUARANTINE}{name}"))
    landed, written = {file.place for file in files}, set()
    for name in chain.from_iterable(names):
        if name in written:
            raise RecordsUnreadable(f"Two files would have the name {name!r} in the folder for what passed.")
        if destination.file(name).place in landed:
            raise RecordsUnreadable(f"{name!r} would overwrite a landed file. Choose another destination.")
        written.add(name)
    return names


def _partition(file: StoredPath) -> dict[str, Any]:
    if format_of(file.name) != "parquet":
        return {}
    with file.open("rb") as stream:
        return partition_of(stream, file.name)


def write_passed(
    table: Table,
    removal: Removal,
    files: Sequence[StoredPath],
    folder: Folder,
    **options: Unpack[TextOptions],
) -> Passed:
    """Write the files without what is removed. A file appears when it is complete.

    :param files: the files of the table, in its order.
    """
    names, removed = names_to_write(files, removal, folder), _Removed(table, removal)
    paths, quarantined, first = [], [], 0
    for file, (name, bad_name), source in zip(files, names, table.sources, strict=True):
        if not source.records and format_of(file.name) != "parquet":  # without records, its columns are not known
            paths.append(str(file))
            continue
        with ExitStack() as stack:
            stream = stack.enter_context(file.open("rb"))
            if format_of(file.name) == "parquet":
                good_schema, bad_schema = _schemas(parquet_schema(stream, file.name), removal.columns)
                pair = _Pair(
                    stack, _parquet_file(folder, name, good_schema), _parquet_file(folder, bad_name, bad_schema)
                )
                row = first
                for batch in parquet_batches(stream, file.name):
                    removals = [removed.of(row + place) for place in range(batch.num_rows)]
                    _add_batch(pair, batch, good_schema.names, removals)
                    row += batch.num_rows
            else:
                written_in = options.get("encoding") or _encoding_of(file.name, stream)
                text = written_in, options.get("delimiter")
                records = read_records(stream, file.name, **options)
                head = list(islice(records, 1))
                columns = [name for record in head for name in record]
                kept = [name for name in columns if name not in removal.columns]
                pair = _Pair(
                    stack,
                    _record_file(folder, name, kept, *text),
                    _record_file(folder, bad_name, [*columns, REASON], *text),
                )
                for row, record in enumerate(chain(head, records), first):
                    _add_record(pair, record, removal.columns, *removed.of(row))
        paths.append(folder.where(name))
        if pair.has_bad:
            quarantined.append(folder.where(bad_name))
        first += source.records
    return Passed(paths, quarantined, removed.records)


class _Removed:
    """What is removed of each record. It has to be asked about all records, in their order.

    :param records: the number of quarantined records so far.
    """

    def __init__(self, table: Table, removal: Removal) -> None:
        self._reasons, self._blanked = removal.reasons, removal.blanked
        self._rows = removed_rows(table, [*removal.reasons, *removal.blanked])
        self._next = next(self._rows, None)
        self.records = 0

    def of(self, row: int) -> tuple[str, list[str | None]]:
        """Return why a record is quarantined, empty if it passes, and the columns whose values are removed from it."""
        if self._next is None or self._next[0] != row:
            return "", []
        tests, self._next = self._next[1], next(self._rows, None)
        count = len(self._reasons)
        reason = "; ".join(self._reasons[test].reason for test in tests if test < count)
        self.records += bool(reason)
        return reason, [self._blanked[test - count].column for test in tests if test >= count]


class _Pair:
    """The functions that write to the file that passed and to the one in quarantine, which the first record opens."""

    def __init__(self, stack: ExitStack, good: _Writing, bad: _Writing) -> None:
        self.write = stack.enter_context(good)
        self._stack, self._bad = stack, bad
        self.has_bad = False

    @cached_property
    def write_bad(self) -> Callable[[Any], object]:
        self.has_bad = True
        return self._stack.enter_context(self._bad)


def _add_record(
    pair: _Pair, record: dict[str, Any], dropped: Collection[str], reason: str, blank: Collection[str | None]
) -> None:
    """Write a record.

    :param dropped: columns that are removed.
    :param reason: why the record is quarantined; empty if it passes.
    :param blank: the columns whose values are removed.
    """
    if reason:
        pair.write_bad({**record, REASON: reason})
        return
    gap = "" if all(isinstance(value, str) for value in record.values()) else None
    pair.write({name: gap if name in blank else value for name, value in record.items() if name not in dropped})


def _add_batch(
    pair: _Pair, batch: Any, kept: Sequence[str], removals: Sequence[tuple[str, Collection[str | None]]]
) -> None:
    """Write a batch of a Parquet file.

    :param removals: for each record, what :meth:`_Removed.of` returns.
    """
    arrow = library("pyarrow", "quality", "Checking records")

    def taken(column: Any, places: Sequence[int | None]) -> Any:
        return column.take(arrow.array(places, arrow.int64()))  # None gives a null, in columns of any type

    good = [(place, blank) for place, (reason, blank) in enumerate(removals) if not reason]
    pair.write(
        [taken(batch.column(name), [None if name in blank else place for place, blank in good]) for name in kept]
    )
    if bad := [(place, reason) for place, (reason, _) in enumerate(removals) if reason]:
        places = [place for place, _ in bad]
        pair.write_bad([*(taken(column, places) for column in batch.columns), [reason for _, reason in bad]])


def _schemas(schema: Any, dropped: Collection[str]) -> tuple[Any, Any]:
    """Return the schemas of the Parquet file that passed and of the one in quarantine."""
    arrow = library("pyarrow", "quality", "Checking records")
    fields = [field.with_nullable(True) for field in schema]
    kept = [field for field in fields if field.name not in dropped]
    reason = arrow.field(REASON, arrow.string())
    return arrow.schema(kept, metadata=schema.metadata), arrow.schema([*fields, reason], metadata=schema.metadata)


@contextmanager
def _whole(folder: Folder, name: str) -> Iterator[IO[bytes]]:
    """Yield a local file, which is copied into the folder when it is complete."""
    with folder.write(name) as stream, tempfile.TemporaryFile() as local:
        yield local
        local.seek(0)
        shutil.copyfileobj(local, stream)


@contextmanager
def _parquet_file(folder: Folder, name: str, schema: Any) -> Iterator[Callable[[Any], object]]:
    """Yield the function that writes columns to a Parquet file."""
    batch_of = library("pyarrow", "quality", "Checking records").RecordBatch.from_arrays
    with _whole(folder, name) as local:
        groups = RowGroups(local, schema, ROW_GROUP)
        yield lambda columns: groups.write(batch_of(columns, schema=schema))
        groups.end()


def _encoding_of(name: str, stream: IO[bytes]) -> str:
    """Return the encoding of a file, which the files that are made of it have as well."""
    start = b"" if format_of(name) in BINARY else stream.read(8)
    stream.seek(0)
    return encoding_of(start)


@contextmanager
def _record_file(
    folder: Folder, name: str, columns: list[str], encoding: str, delimiter: str | None
) -> Iterator[Callable[[Any], object]]:
    """Yield the function that writes a record to a workbook or text file, in the format of its name.

    Even without records, it is a file that the record reader accepts.
    """
    if format_of(name) == "xlsx":
        with _whole(folder, name) as local, SheetWriter(local, name) as sheet:
            sheet.start(columns)
            yield sheet.write
            sheet.end()
    else:
        with folder.write(name) as stream:
            text = _TextFile(stream, name, columns, encoding, delimiter)
            yield text.write
            text.end()


class _TextFile:
    """Writes records to a text file, in the format of its name."""

    def __init__(self, stream: Any, name: str, columns: list[str], encoding: str, delimiter: str | None) -> None:
        kind = format_of(name)
        self._stream = stream
        # What a cell contains was read in this encoding, but a reason may contain other characters.
        self._encoder = codecs.getincrementalencoder(encoding)("backslashreplace")
        self._is_ascii = not codecs.lookup(encoding).name.startswith("utf")  # escapes in JSON can stand for any text
        self._is_array = kind == "json"
        self._text = io.StringIO(newline="")
        self._records = 0
        self._table: Any = None
        if kind in TABLES:
            self._table = csv.DictWriter(self._text, columns, delimiter=delimiter or ("\t" if kind == "tsv" else ","))
            self._table.writeheader()

    def write(self, record: dict[str, Any]) -> None:
        if self._table is not None:
            self._table.writerow(record)
        else:
            self._text.write(("[" if not self._records else ",\n") if self._is_array else "")
            json.dump(record, self._text, ensure_ascii=self._is_ascii, default=str)
            self._text.write("" if self._is_array else "\n")
        self._records += 1
        if self._text.tell() > 1024 * 1024:
            self._flush()

    def end(self) -> None:
        if self._is_array:
            self._text.write("]\n" if self._records else "[]\n")
        elif self._table is None and not self._records:
            self._text.write("\n")
        self._flush(final=True)

    def _flush(self, *, final: bool = False) -> None:
        self._stream.write(self._encoder.encode(self._text.getvalue(), final))
        self._text.seek(0)
        self._text.truncate()
