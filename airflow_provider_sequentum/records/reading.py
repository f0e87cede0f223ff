"""Records of a file of any of the formats: one at a time, or as Arrow's batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import IO, Any

from airflow_provider_sequentum.records.binary import library, parquet_batches, read_excel, read_parquet
from airflow_provider_sequentum.records.formats import (
    RecordsUnreadable,
    check_beginning,
    check_columns,
    encoding_of,
    format_of,
)
from airflow_provider_sequentum.records.text import read_csv, read_json

_BATCH = 10_000


def read_records(
    file: IO[bytes], name: str, *, encoding: str | None = None, delimiter: str | None = None
) -> Iterator[dict[str, Any]]:
    """
    Yield a file's records as dictionaries, in constant memory.

    A CSV file's values are strings; the other formats have types.

    :param file: open for reading bytes, at its beginning, able to seek.
    :param name: its name, whose suffix tells the format: ``csv``, ``tsv``, ``json``, ``ndjson``, ``jsonl``, ``xlsx``
        (needs the extra ``excel``) or ``parquet`` (needs ``arrow``).
    :param encoding: of a text file. Default: by its byte order mark, else UTF-8.
    :param delimiter: between the cells of a CSV file. Default: a comma, a tab in ``.tsv``.
    :raises RecordsUnreadable: the file does not hold what its name says, or is damaged.
    :raises LibraryMissing: the library for the format is not installed.
    """
    kind = _checked_format(file, name, encoding)
    if kind == "parquet":
        return read_parquet(file, name)
    if kind == "xlsx":
        return read_excel(file, name)
    if kind in ("csv", "tsv"):
        return read_csv(file, name, encoding, delimiter or ("\t" if kind == "tsv" else ","))
    return read_json(file, name, encoding)


def read_arrow(
    file: IO[bytes], name: str, *, encoding: str | None = None, delimiter: str | None = None
) -> Iterator[Any]:
    """
    Yield a file's records as ``pyarrow.RecordBatch``. Needs the extra ``arrow``.

    Parameters are those of :func:`read_records`. The types of a CSV file are inferred from its first block, those of
    JSON and Excel from the first records.

    :raises RecordsUnreadable: as :func:`read_records`, or a later record does not fit the types inferred.
    """
    arrow = library("pyarrow", "arrow", "Reading into Arrow")
    kind = _checked_format(file, name, encoding)
    if kind == "parquet":
        yield from parquet_batches(file, name)
        return
    try:
        if kind in ("csv", "tsv"):
            yield from _csv_batches(file, name, encoding, delimiter or ("\t" if kind == "tsv" else ","))
        else:
            yield from _batches(arrow, read_records(file, name, encoding=encoding))
    except arrow.ArrowException as error:
        raise RecordsUnreadable(f"{name!r} can't be read into Arrow: {error}.") from error


def _csv_batches(file: IO[bytes], name: str, encoding: str | None, delimiter: str) -> Iterator[Any]:
    csv, types = (library(module, "arrow", "Reading into Arrow") for module in ("pyarrow.csv", "pyarrow.types"))
    chosen = encoding or encoding_of(file.read(4))
    file.seek(0)
    try:
        reader = csv.open_csv(
            file,
            # Arrow reads UTF-8 itself, its mark too; for others it goes through Python's codecs.
            read_options=csv.ReadOptions(encoding=chosen.replace("utf-8-sig", "utf-8")),
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        )
    except LookupError as error:
        raise RecordsUnreadable(f"{name!r} can't be read: {error}.") from error
    check_columns(reader.schema.names, name)
    # What is no UTF-8 becomes bytes without a word.
    if broken := [field.name for field in reader.schema if types.is_binary(field.type)]:
        raise RecordsUnreadable(f"{name!r} is no {chosen} text in the column {broken[0]!r}. Give its encoding.")
    yield from reader


def _batches(arrow: Any, records: Iterator[dict[str, Any]]) -> Iterator[Any]:
    schema = None
    while chunk := list(islice(records, _BATCH)):
        batch = arrow.RecordBatch.from_pylist(chunk, schema=schema)
        schema = batch.schema
        yield batch


def _checked_format(file: IO[bytes], name: str, encoding: str | None) -> str:
    kind = format_of(name)
    check_beginning(name, kind, file.read(512), encoding)
    file.seek(0)
    return kind
