"""Reading the records of a file in any format: one at a time, as Arrow batches, or only counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, Unpack

from airflow_provider_sequentum.records.arrow import batches_of, text_batches
from airflow_provider_sequentum.records.excel import read_excel
from airflow_provider_sequentum.records.flat import flat_batch, flat_records
from airflow_provider_sequentum.records.formats import (
    BINARY,
    LARGEST_RECORD,
    TABLES,
    RecordsUnreadable,
    TextOptions,
    check_head,
    encoding_of,
    format_of,
)
from airflow_provider_sequentum.records.parquet import parquet_batches, read_parquet
from airflow_provider_sequentum.records.text import Text, read_csv, read_json, read_rows

LARGEST_COUNTED = 4 * 1024 * 1024
"""The maximum length of a record for counting, in characters: many files are counted at the same time."""


def read_records(
    file: IO[bytes], name: str, *, encoding: str | None = None, delimiter: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the records of a file as dictionaries, in constant memory.

    The values of a CSV file are strings. In the other formats, values have types.

    :param file: a binary file, open for reading at its start. For a workbook or a Parquet file, it must be seekable.
    :param name: the name of the file, whose suffix determines the format: ``csv``, ``tsv``, ``json``, ``ndjson``,
        ``jsonl``, ``xlsx`` (requires the extra ``excel``) or ``parquet`` (requires the extra ``arrow``).
    :param encoding: the encoding of a text file. Default: the one that the byte order mark indicates, else UTF-8.
    :param delimiter: the delimiter of a CSV file. Default: a comma, or a tab in ``.tsv`` files.
    :raises RecordsUnreadable: the file is not in the format of its suffix, or is damaged.
    :raises ImportError: the library for the format is not installed. The message names the extra that installs it.
    """
    return _read(file, name, encoding, delimiter, LARGEST_RECORD)


def count_records(file: IO[bytes], name: str) -> int | None:
    """Return the number of records that :func:`read_records` finds in a text file, which need not be seekable.

    :return: ``None`` if it refuses the file, or if a record is larger than :data:`LARGEST_COUNTED`.
    """
    try:
        return sum(1 for _ in _read(file, name, None, None, LARGEST_COUNTED))
    except RecordsUnreadable:
        return None


def read_arrow(
    file: IO[bytes], name: str, *, encoding: str | None = None, delimiter: str | None = None
) -> Iterator[Any]:
    """Yield the records of a file as ``pyarrow.RecordBatch``, all with the same schema. Requires the extra ``arrow``.

    The records and the parameters are those of :func:`read_records`. The file is read twice, because its types are only
    known once all of it has been read; see :mod:`airflow_provider_sequentum.records.arrow`. A Parquet file, which
    states its types, is read once.

    :raises RecordsUnreadable: as :func:`read_records`, before the first batch, except for a Parquet file.
    :raises ImportError: the library for the format, or pyarrow, is not installed.
    """
    kind = format_of(name)
    if kind == "parquet":
        check_head(name, kind, file.read(512), encoding)
        file.seek(0)
        yield from parquet_batches(file, name)
        return

    def read() -> Iterator[dict[str, Any]]:
        file.seek(0)
        return read_records(file, name, encoding=encoding, delimiter=delimiter)

    yield from batches_of(read, name, is_text=kind in TABLES)


def read_flat(file: IO[bytes], name: str, **options: Unpack[TextOptions]) -> Iterator[Any]:
    """Yield the records of a file as :func:`read_arrow` does, but with flat columns; see :mod:`~.records.flat`.

    The cells of a CSV file stay text, so it is read once.
    """
    kind = format_of(name)
    if kind in TABLES:
        text = _text(file, name, kind, options.get("encoding"), LARGEST_RECORD)
        yield from text_batches(read_rows(text, kind, options.get("delimiter")))
        return

    def read() -> Iterator[dict[str, Any]]:
        file.seek(0)
        return flat_records(read_records(file, name, **options))

    batches = read_arrow(file, name) if kind == "parquet" else batches_of(read, name, is_text=False)
    yield from map(flat_batch, batches)


def _read(
    file: IO[bytes], name: str, encoding: str | None, delimiter: str | None, largest_record: int
) -> Iterator[dict[str, Any]]:
    kind = format_of(name)
    if kind in BINARY:
        check_head(name, kind, file.read(512), encoding)
        file.seek(0)
        return read_parquet(file, name) if kind == "parquet" else read_excel(file, name)
    text = _text(file, name, kind, encoding, largest_record)
    return read_csv(text, kind, delimiter) if kind in TABLES else read_json(text)


def _text(file: IO[bytes], name: str, kind: str, encoding: str | None, largest_record: int) -> Text:
    head = file.read(512)
    check_head(name, kind, head, encoding)
    return Text(file, name, encoding or encoding_of(head), head, largest_record)
