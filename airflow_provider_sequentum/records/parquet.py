"""Reading the records of Parquet files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from airflow_provider_sequentum.records.formats import LARGEST_RECORD, RecordsUnreadable, check_columns, library

PARTITION = b"sequentum.partition"
"""A key in the metadata of a Parquet file. Its value is a JSON object with the columns that are not stored in the file
because all of its records have the same value in them: their Arrow types and the values as text, or ``null``."""

_PARTITION_TYPES = ("string", "int64", "bool", "date32[day]")
_PURPOSE = "Reading .parquet"
_DAMAGE = (OSError, OverflowError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""The errors that a damaged Parquet file causes, besides those of Arrow."""
_LARGEST_COLUMN = 128 * 1024 * 1024
_SUSPICIOUS_RATIO = 100
_BATCH = 10_000


def read_parquet(file: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file with their types.

    :raises RecordsUnreadable: see :func:`parquet_batches`.
    """
    for batch in parquet_batches(file, name):
        yield from batch.to_pylist()


def parquet_batches(file: IO[bytes], name: str) -> Iterator[Any]:
    """Yield the rows of a Parquet file as ``pyarrow.RecordBatch``, several thousand at a time.

    For a file of a partition, the batches include the partition columns from its metadata; see :data:`PARTITION`.

    :raises RecordsUnreadable: the file is damaged, two columns have the same name, or Python has no type for a value,
        such as a time after the year 9999.
    """
    arrow = library("pyarrow", "arrow", _PURPOSE)
    rows = 0
    with _damage_of_parquet(name, lambda: rows):
        opened = _open_parquet(file)
        schema, constants = _full_schema(opened.schema_arrow, name)
        for batch in opened.iter_batches(batch_size=_rows_at_once(opened.metadata, name), use_threads=False):
            batch.validate(full=True)
            _check_python_values(batch, arrow)
            added = [arrow.repeat(constant, batch.num_rows) for constant in constants.values()]
            yield arrow.RecordBatch.from_arrays([*batch.columns, *added], schema=schema) if added else batch
            rows += batch.num_rows


def parquet_schema(file: IO[bytes], name: str) -> Any:
    """Return the schema of the batches of a Parquet file.

    :raises RecordsUnreadable: the file is damaged, or two columns have the same name.
    """
    with _damage_of_parquet(name, lambda: 0):
        return _full_schema(_open_parquet(file).schema_arrow, name)[0]


def partition_of(file: IO[bytes], name: str) -> dict[str, Any]:
    """Return the values of the partition columns of a Parquet file, by column. All of its rows have these values.

    :raises RecordsUnreadable: as :func:`parquet_schema`.
    """
    with _damage_of_parquet(name, lambda: 0):
        constants = _full_schema(_open_parquet(file).schema_arrow, name)[1]
        return {column: constant.as_py() for column, constant in constants.items()}


def stated_columns(schema: Any) -> dict[str, tuple[str, str | None]]:
    """Return the columns in the metadata of a schema; see :data:`PARTITION`."""
    stated = json.loads((schema.metadata or {}).get(PARTITION, b"{}"))
    return {column: (kind, text) for column, (kind, text) in stated.items()}


def _rows_at_once(metadata: Any, name: str) -> int:
    """Return the number of rows of a Parquet file to read at a time, so that they fit into memory.

    :raises RecordsUnreadable: a row is too large, or a column is compressed like a decompression bomb.
    """
    rows = _BATCH
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            ratio = column.total_uncompressed_size / max(column.total_compressed_size, 1)
            if column.total_uncompressed_size > _LARGEST_COLUMN and ratio > _SUSPICIOUS_RATIO:
                raise RecordsUnreadable(
                    f"{name!r} has a column of {column.total_uncompressed_size:,} bytes in row group {number}, "
                    f"compressed {ratio:.0f} to 1: too large to be read into memory."
                )
        row = group.total_byte_size / max(group.num_rows, 1)
        if row > LARGEST_RECORD:
            raise RecordsUnreadable(
                f"{name!r} has rows of {row:,.0f} bytes in row group {number}: too large to be read as single rows."
            )
        rows = min(rows, max(1, int(LARGEST_RECORD / max(row, 1))))
    return rows


def _open_parquet(file: IO[bytes]) -> Any:
    # Without pre_buffer=False, the whole file would be read into memory.
    return library("pyarrow.parquet", "arrow", _PURPOSE).ParquetFile(file, pre_buffer=False)


def _full_schema(schema: Any, name: str) -> tuple[Any, dict[str, Any]]:
    """Return a schema extended by the columns that only the metadata has, and the values of these columns."""
    arrow = library("pyarrow", "arrow", _PURPOSE)
    check_columns(schema.names, name)
    constants = {}
    for column, (kind, text) in stated_columns(schema).items():
        if kind not in _PARTITION_TYPES:
            raise RecordsUnreadable(f"{name!r} has a partition column {column!r:.100} of type {kind!r:.100}.")
        if column not in schema.names:
            constants[column] = arrow.scalar(text, arrow.string()).cast(kind)
            schema = schema.append(arrow.field(column, constants[column].type))
    return schema, constants


@contextmanager
def _damage_of_parquet(name: str, rows: Callable[[], int]) -> Iterator[None]:
    arrow = library("pyarrow", "arrow", _PURPOSE)
    try:
        yield
    except (*_DAMAGE, arrow.ArrowException) as error:
        if isinstance(error, RecordsUnreadable):
            raise
        raise RecordsUnreadable(f"{name!r} is not a valid Parquet file after row {rows():,}: {error}.") from None


def _check_python_values(batch: Any, arrow: Any) -> None:
    """Check that each value can be converted to Python, so that records and batches refuse the same files."""
    types = arrow.types
    for column in batch.columns:
        _check_times(column, arrow)
        if types.is_temporal(column.type) or types.is_nested(column.type) or types.is_dictionary(column.type):
            column.to_pylist()


def _check_times(values: Any, arrow: Any) -> None:
    """Refuse times with nanoseconds, even in lists and objects: Python would silently drop the nanoseconds."""
    types = arrow.types
    if types.is_time64(values.type) and values.type.unit == "ns":
        values.cast(arrow.time64("us"))
    elif types.is_struct(values.type):
        for inner in values.flatten():
            _check_times(inner, arrow)
    elif types.is_map(values.type):
        _check_times(values.keys, arrow)
        _check_times(values.items, arrow)
    elif types.is_nested(values.type) and hasattr(values, "flatten"):
        _check_times(values.flatten(), arrow)
    elif types.is_dictionary(values.type):
        _check_times(values.dictionary, arrow)
