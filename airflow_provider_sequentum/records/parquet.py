"""Records as Parquet files with flat columns of given types, in one file or in one for each partition.

Partitions lie as Hive has them, in folders ``column=value``, and their files lack these columns, because other readers
take them from the folders. So that a single file still holds its records, its metadata says what they are:
:func:`~.binary.parquet_batches` adds them again.

Memory is bounded by a row group and by what is gathered for all partitions; what is more waits in a folder on the disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from airflow_provider_sequentum.records.arrow import as_text, chunks, column_types
from airflow_provider_sequentum.records.binary import PARTITION, parquet_schema, stated_columns
from airflow_provider_sequentum.records.columns import Misfit, arrow_type, type_of_parquet, typed_array
from airflow_provider_sequentum.records.flat import flat_records
from airflow_provider_sequentum.records.formats import TABLES, RecordsUnreadable, format_of, library
from airflow_provider_sequentum.records.reading import read_records

MAX_PARTITIONS = 1_000
"""Partitions that one file may be divided into."""

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""The folder of records whose value is missing or an empty text, which no reader of such folders tells apart."""

PARTITION_TYPES = ("string", "integer", "boolean", "date")
"""Types of columns that folders can be named after: each value is written in one way."""

_LONGEST_FOLDER = 255
_ROW_GROUP = 32 * 1024 * 1024
_GATHERED = 64 * 1024 * 1024
_PURPOSE = "Landing as Parquet"


@dataclass(frozen=True, slots=True)
class RecordFile:
    """A file with records on this machine.

    :param path: where it is.
    :param name: what it is called; the suffix tells its format.
    :param encoding: of a text file. Default: by its byte order mark, else UTF-8.
    :param delimiter: of a CSV file. Default: a comma, a tab in ``.tsv``.
    """

    path: Path
    name: str
    encoding: str | None = None
    delimiter: str | None = None

    def records(self, file: IO[bytes]) -> Iterator[dict[str, Any]]:
        """Yield its records, flat."""
        return flat_records(read_records(file, self.name, encoding=self.encoding, delimiter=self.delimiter))

    def types(self) -> dict[str, str | None]:
        """Return the type that the values of each column have, as :func:`~.columns.choose_types` takes it.

        :raises RecordsUnreadable: the file does not hold what its name says, or is damaged.
        """
        kind = format_of(self.name)
        with self.path.open("rb") as file:
            if kind == "parquet":
                return {column.name: type_of_parquet(column.type) for column in parquet_schema(file, self.name)}
            return column_types(self.records(file), self.name, is_text=kind in TABLES)


@dataclass(frozen=True, slots=True)
class Part:
    """A Parquet file that was written.

    :param path: where it is.
    :param folder: the folder that it belongs into, with a slash at its end; empty without partitions.
    """

    path: Path
    folder: str
    records: int


def write_parquet(
    source: RecordFile,
    columns: Sequence[str],
    types: Mapping[str, str],
    partition_by: Sequence[str],
    work: Path,
    check: Callable[[], None],
) -> list[Part]:
    """Write a file's records as Parquet files.

    :param columns: those of the file, in order.
    :param types: of all columns that are known, which a file without records gets.
    :param partition_by: columns that divide the records into folders.
    :param work: an empty folder for this file.
    :param check: called after each few thousand records; raises to end the work.
    :raises RecordsUnreadable: a type does not hold a value, a column to divide by is missing or has too many values, or
        the file is damaged.
    """
    if not columns and partition_by:
        return []
    _check_partitions(source.name, columns, types, partition_by)
    with source.path.open("rb") as file:
        batches = _batches(source, file, columns or list(types), types, check)
        if partition_by:
            return _write_partitions(source.name, batches, partition_by, work, check)
        path = work / "all.parquet"
        schema = _schema(columns or list(types), types)
        return [Part(path, "", _write(path, schema, batches))] if len(schema) else []


def _check_partitions(name: str, columns: Sequence[str], types: Mapping[str, str], by: Sequence[str]) -> None:
    if missing := [column for column in by if column not in columns]:
        raise RecordsUnreadable(
            f"{name!r} has no column {missing[0]!r} to divide it by; it has {list(columns)!r:.300}."
        )
    if by and len(by) == len(columns):
        raise RecordsUnreadable(f"{name!r} has no columns but those to divide it by, so its files would be empty.")
    for column in by:
        if types[column] not in PARTITION_TYPES:
            raise RecordsUnreadable(
                f"{name!r} cannot be divided by {column!r}, which is a {types[column]}: only by columns of type "
                f"{', '.join(PARTITION_TYPES)}."
            )


def _schema(columns: Sequence[str], types: Mapping[str, str]) -> Any:
    arrow = library("pyarrow", "arrow", _PURPOSE)
    return arrow.schema([(column, arrow_type(types[column])) for column in columns])


def _batches(
    source: RecordFile, file: IO[bytes], columns: Sequence[str], types: Mapping[str, str], check: Callable[[], None]
) -> Iterator[Any]:
    arrow = library("pyarrow", "arrow", _PURPOSE)
    schema, before = _schema(columns, types), 0
    for chunk in chunks(source.records(file), columns=len(columns)):
        check()
        arrays = []
        for column in columns:
            try:
                arrays.append(typed_array([record.get(column) for record in chunk], types[column], as_text))
            except Misfit as misfit:
                raise RecordsUnreadable(
                    f"{source.name!r} has {misfit} in record {before + misfit.place + 1:,}, but its column "
                    f"{column!r:.100} is of type {types[column]}."
                ) from misfit
        before += len(chunk)
        yield arrow.RecordBatch.from_arrays(arrays, schema=schema)


def _write(path: Path, schema: Any, batches: Iterable[Any]) -> int:
    groups = RowGroups(path, schema)
    for batch in batches:
        groups.write(batch)
    return groups.end()


class RowGroups:
    """Writes batches to a Parquet file, gathered in row groups of bounded size.

    :param file: its path, or the file itself, open for writing.
    :param schema: of the batches; what its metadata states is left out of the file, see :data:`~.binary.PARTITION`.
    """

    def __init__(self, file: Path | IO[bytes], schema: Any) -> None:
        parquet = library("pyarrow.parquet", "arrow", _PURPOSE)
        self._columns = [name for name in schema.names if name not in stated_columns(schema)]
        fields = [schema.field(name) for name in self._columns]
        self._schema = library("pyarrow", "arrow", _PURPOSE).schema(fields, metadata=schema.metadata)
        self._writer = parquet.ParquetWriter(file, self._schema)
        self._gathered: list[Any] = []
        self._weight = self._records = 0

    def write(self, batch: Any) -> None:
        """Write a batch."""
        self._gathered.append(batch.select(self._columns))
        self._weight += batch.nbytes
        self._records += batch.num_rows
        if self._weight > _ROW_GROUP:
            self._flush()

    def end(self) -> int:
        """Write what is gathered and end the file. Returns how many records it has."""
        self._flush()
        self._writer.close()
        return self._records

    def _flush(self) -> None:
        if self._gathered:
            arrow = library("pyarrow", "arrow", _PURPOSE)
            self._writer.write_table(arrow.Table.from_batches(self._gathered))
            self._gathered, self._weight = [], 0


def in_row_groups(batches: Iterable[Any], size: int) -> Iterator[Any]:
    """Yield batches as tables of about so many bytes, one for each row group of a Parquet file."""
    arrow = library("pyarrow", "arrow", _PURPOSE)
    gathered: list[Any] = []
    weight = 0
    for batch in batches:
        gathered.append(batch)
        weight += batch.nbytes
        if weight > size:
            yield arrow.Table.from_batches(gathered)
            gathered, weight = [], 0
    if gathered:
        yield arrow.Table.from_batches(gathered)


# Partitions


def folder_of(values: Mapping[str, Any]) -> str:
    """Return the folder of a partition, with a slash at its end.

    Of names and values only letters, digits and ``_.-~`` stay as they are; any other character is a percent escape, so
    that none can leave the folder or mean something to a storage.

    :param values: by column, what all records of the partition have there.
    """
    return "".join(f"{quote(column, safe='')}={_segment(value)}/" for column, value in values.items())


def _segment(value: Any) -> str:
    if value is None:
        return NO_VALUE
    text = str(value).lower() if isinstance(value, bool) else str(value)
    # The text that stands for no value is escaped where it is one.
    return f"%5F{NO_VALUE[1:]}" if text == NO_VALUE else quote(text, safe="")


class _Partitions:
    """Records by partition. What does not fit into memory is appended to one file for each, open only for that."""

    def __init__(self, name: str, by: Sequence[str], work: Path) -> None:
        self._name, self._by, self._work = name, by, work
        self._gathered: dict[tuple[Any, ...], list[Any]] = {}
        self._weight = 0
        self.paths: dict[tuple[Any, ...], Path] = {}

    def add(self, batch: Any) -> None:
        places: dict[tuple[Any, ...], list[int]] = {}
        for place, key in enumerate(zip(*(batch.column(column).to_pylist() for column in self._by), strict=True)):
            places.setdefault(tuple(None if value == "" else value for value in key), []).append(place)
        rest = batch.drop_columns(list(self._by))
        for key, rows in places.items():
            self._path(key)
            self._gathered.setdefault(key, []).append(rest.take(rows))
        self._weight += rest.nbytes
        if self._weight > _GATHERED:
            self.flush()

    def flush(self) -> None:
        arrow = library("pyarrow", "arrow", _PURPOSE)
        for key, batches in self._gathered.items():
            with self.paths[key].open("ab") as file, arrow.ipc.new_stream(file, batches[0].schema) as stream:
                stream.write_table(arrow.Table.from_batches(batches).combine_chunks())
        self._gathered, self._weight = {}, 0

    def _path(self, key: tuple[Any, ...]) -> None:
        if key in self.paths:
            return
        if len(self.paths) == MAX_PARTITIONS:
            raise RecordsUnreadable(
                f"{self._name!r} has more than {MAX_PARTITIONS:,} different values in {', '.join(self._by)}: too many "
                "to divide it by. Choose a column with few values, such as a category or a day."
            )
        for column, value in zip(self._by, key, strict=True):
            if len(folder_of({column: value})) > _LONGEST_FOLDER:
                raise RecordsUnreadable(
                    f"{self._name!r} has {value!r:.60}... in {column!r:.100}: too long for the name of a folder."
                )
        self.paths[key] = self._work / f"{len(self.paths)}.arrow"


def _write_partitions(
    name: str, batches: Iterable[Any], by: Sequence[str], work: Path, check: Callable[[], None]
) -> list[Part]:
    arrow = library("pyarrow", "arrow", _PURPOSE)
    partitions = _Partitions(name, by, work)
    types: dict[str, str] = {}
    for batch in batches:
        types = types or {column: str(batch.schema.field(column).type) for column in by}
        partitions.add(batch)
    partitions.flush()
    parts = []
    for key, gathered in partitions.paths.items():
        check()
        values = dict(zip(by, key, strict=True))
        path = gathered.with_suffix(".parquet")
        with arrow.OSFile(str(gathered)) as file:
            first = arrow.ipc.open_stream(file).schema
        stated = {column: [types[column], None if value is None else str(value)] for column, value in values.items()}
        schema = first.with_metadata({PARTITION: json.dumps(stated)})
        parts.append(Part(path, folder_of(values), _write(path, schema, _appended(gathered, schema))))
        gathered.unlink()
    return parts


def _appended(path: Path, schema: Any) -> Iterator[Any]:
    """Yield the batches of Arrow's streams that stand one after the other in a file."""
    arrow = library("pyarrow", "arrow", _PURPOSE)
    with arrow.OSFile(str(path)) as file:
        while file.tell() < file.size():
            for batch in arrow.ipc.open_stream(file):
                yield batch.replace_schema_metadata(schema.metadata)
