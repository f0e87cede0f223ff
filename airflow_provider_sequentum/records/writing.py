"""Writing records to Parquet files with flat columns of given types, as one file or one file for each partition.

Partitions are in Hive-style folders ``column=value``. Their files do not contain the partition columns, because other
readers take them from the folders. So that a single file still has complete records, its metadata contains these
columns and their values, which :func:`~.parquet.parquet_batches` adds to the records.

Memory is bounded by the size of a row group and of the buffer for all partitions. The rest waits in a folder on disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from airflow_provider_sequentum.records.arrow import as_text, chunks, column_types
from airflow_provider_sequentum.records.columns import Misfit, arrow_type, type_of_parquet, typed_array
from airflow_provider_sequentum.records.flat import flat_records
from airflow_provider_sequentum.records.formats import TABLES, RecordsUnreadable, TextOptions, format_of, library
from airflow_provider_sequentum.records.parquet import PARTITION, parquet_schema, stated_columns
from airflow_provider_sequentum.records.reading import read_records

MAX_PARTITIONS = 1_000
"""The maximum number of partitions of one file."""

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""The folder of records whose value is missing or an empty string; readers of such folders do not distinguish them."""

PARTITION_TYPES = ("string", "integer", "boolean", "date")
"""The types of columns that can be partition columns: each value has only one text form."""

ROW_GROUP = 32 * 1024 * 1024
"""The approximate size of a row group in bytes."""

_MAX_FOLDER_LENGTH = 255
_GATHERED = 64 * 1024 * 1024
_PURPOSE = "Landing as Parquet"


@dataclass(frozen=True, slots=True)
class RecordFile:
    """A local file with records.

    :param path: the path of the file.
    :param name: the name of the file, whose suffix determines the format.
    :param options: for a text file.
    """

    path: Path
    name: str
    options: TextOptions = field(default_factory=TextOptions)

    def records(self, file: IO[bytes]) -> Iterator[dict[str, Any]]:
        """Yield the records, with flat columns."""
        return flat_records(read_records(file, self.name, **self.options))

    def types(self) -> dict[str, str | None]:
        """Return the type of the values of each column, in the form that :func:`~.columns.choose_types` takes.

        :raises RecordsUnreadable: the file is not in the format of its suffix, or is damaged.
        """
        kind = format_of(self.name)
        with self.path.open("rb") as file:
            if kind == "parquet":
                return {column.name: type_of_parquet(column.type) for column in parquet_schema(file, self.name)}
            return column_types(self.records(file), self.name, is_text=kind in TABLES)


@dataclass(frozen=True, slots=True)
class Part:
    """A Parquet file that was written.

    :param path: the path of the file.
    :param folder: the partition folder to which it belongs, with a trailing slash; empty without partitions.
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
    """Write the records of a file to Parquet files.

    :param columns: the columns of the file, in order.
    :param types: the types of all known columns. A file without records gets all of them.
    :param partition_by: the partition columns.
    :param work: an empty folder for this file.
    :param check: called after every few thousand records; raises an exception to abort.
    :raises RecordsUnreadable: a value is not valid for its column's type, a partition column is missing or has too many
        values, or the file is damaged.
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
            f"{name!r} has no column {missing[0]!r} to partition by; it has {list(columns)!r:.300}."
        )
    if by and len(by) == len(columns):
        raise RecordsUnreadable(f"{name!r} has only partition columns, so its files would be empty.")
    for column in by:
        if types[column] not in PARTITION_TYPES:
            raise RecordsUnreadable(
                f"{name!r} cannot be partitioned by {column!r} of type {types[column]}: a partition column must have "
                f"one of the types {', '.join(PARTITION_TYPES)}."
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
    groups = RowGroups(path, schema, ROW_GROUP)
    for batch in batches:
        groups.write(batch)
    return groups.end()


class RowGroups:
    """Writes batches to a Parquet file, in row groups of bounded size.

    :param file: the path of the file, or a file open for writing.
    :param schema: the schema of the batches. Columns in its metadata are not written; see :data:`~.parquet.PARTITION`.
    :param size: the size of a row group in bytes, approximately.
    :param options: of ``pyarrow.parquet.ParquetWriter``.
    """

    def __init__(self, file: Path | IO[bytes], schema: Any, size: int, **options: Any) -> None:
        parquet = library("pyarrow.parquet", "arrow", _PURPOSE)
        self._columns = [name for name in schema.names if name not in stated_columns(schema)]
        fields = [schema.field(name) for name in self._columns]
        self._schema = library("pyarrow", "arrow", _PURPOSE).schema(fields, metadata=schema.metadata)
        self._writer = parquet.ParquetWriter(file, self._schema, **options)
        self._size = size
        self._gathered: list[Any] = []
        self._weight = self._records = 0

    def write(self, batch: Any) -> None:
        """Write a batch."""
        self._gathered.append(batch.select(self._columns))
        self._weight += batch.nbytes
        self._records += batch.num_rows
        if self._weight > self._size:
            self._flush()

    def end(self) -> int:
        """Write the last row group, close the file and return its number of records."""
        self._flush()
        self._writer.close()
        return self._records

    def _flush(self) -> None:
        if self._gathered:
            arrow = library("pyarrow", "arrow", _PURPOSE)
            self._writer.write_table(arrow.Table.from_batches(self._gathered))
            self._gathered, self._weight = [], 0


# Partitions


def folder_of(values: Mapping[str, Any]) -> str:
    """Return the folder of a partition, with a trailing slash.

    In names and values, all characters except letters, digits and ``_.-~`` are percent-encoded, so that a value cannot
    lead out of the folder or have a special meaning for the storage.

    :param values: the values that all records of the partition have, by column.
    """
    return "".join(f"{quote(column, safe='')}={_segment(value)}/" for column, value in values.items())


def _segment(value: Any) -> str:
    if value is None:
        return NO_VALUE
    text = str(value).lower() if isinstance(value, bool) else str(value)
    # Escaped, because the same text unescaped stands for a missing value.
    return f"%5F{NO_VALUE[1:]}" if text == NO_VALUE else quote(text, safe="")


class _Partitions:
    """Records by partition. Those that exceed the memory are appended to a file for each, opened only for that."""

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
                "partitions. Choose a column with few values, such as a category or a day."
            )
        for column, value in zip(self._by, key, strict=True):
            if len(folder_of({column: value})) > _MAX_FOLDER_LENGTH:
                raise RecordsUnreadable(
                    f"{self._name!r} has {value!r:.60}... in {column!r:.100}: too long for a folder name."
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
    """Yield the batches of the Arrow streams in a file, which follow one another."""
    arrow = library("pyarrow", "arrow", _PURPOSE)
    with arrow.OSFile(str(path)) as file:
        while file.tell() < file.size():
            for batch in arrow.ipc.open_stream(file):
                yield batch.replace_schema_metadata(schema.metadata)
