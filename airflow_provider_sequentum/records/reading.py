"""Records of a file of any of the formats: one at a time, counted, or as Arrow's batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from airflow_provider_sequentum.records.arrow import batches_of, text_batches
from airflow_provider_sequentum.records.binary import parquet_batches, read_excel, read_parquet
from airflow_provider_sequentum.records.flat import flat_batch, flat_records
from airflow_provider_sequentum.records.formats import (
    BINARY,
    LARGEST_RECORD,
    TABLES,
    RecordsUnreadable,
    check_head,
    encoding_of,
    format_of,
)
from airflow_provider_sequentum.records.text import Text, delimiter_of, read_csv, read_json, read_rows

LARGEST_COUNTED = 4 * 1024 * 1024
"""Characters that a record may have to be counted: many files are counted at the same time."""


def read_records(
    file: IO[bytes], name: str, *, encoding: str | None = None, delimiter: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield a file's records as dictionaries, in constant memory.

    A CSV file's values are strings; the other formats have types.

    :param file: open for reading bytes, at its start. A workbook or a Parquet file must be able to seek.
    :param name: its name, whose suffix tells the format: ``csv``, ``tsv``, ``json``, ``ndjson``, ``jsonl``, ``xlsx``
        (needs the extra ``excel``) or ``parquet`` (needs ``arrow``).
    :param encoding: of a text file. Default: by its byte order mark, else UTF-8.
    :param delimiter: between the cells of a CSV file. Default: a comma, a tab in ``.tsv``.
    :raises RecordsUnreadable: the file does not hold what its name says, or is damaged.
    :raises ImportError: the library for the format is not installed; the message names the extra that brings it.
    """
    return _read(file, name, encoding, delimiter, LARGEST_RECORD)


def count_records(file: IO[bytes], name: str) -> int | None:
    """Return how many records :func:`read_records` finds in a text file, which need not be able to seek.

    :return: ``None`` where it refuses the file, or where a record is larger than :data:`LARGEST_COUNTED`.
    """
    try:
        return sum(1 for _ in _read(file, name, None, None, LARGEST_COUNTED))
    except RecordsUnreadable:
        return None


def read_arrow(
    file: IO[bytes], name: str, *, encoding: str | None = None, delimiter: str | None = None
) -> Iterator[Any]:
    """Yield a file's records as ``pyarrow.RecordBatch``, all with the same schema. Needs the extra ``arrow``.

    Parameters are those of :func:`read_records`, which decides what the records are. The file is read twice: its types
    are known when all of it has been seen, see :mod:`airflow_provider_sequentum.records.arrow`.

    :raises RecordsUnreadable: as :func:`read_records`, before the first batch; only a Parquet file, which says its
        types at once, is read once.
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


def read_flat(
    file: IO[bytes],
    name: str,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    typed_cells: bool = True,
) -> Iterator[Any]:
    """Yield a file's records as :func:`read_arrow` does, with flat columns: see :mod:`~.records.flat`.

    :param typed_cells: whether the cells of a CSV file get types. Otherwise they stay text, and it is read once.
    """
    kind = format_of(name)
    if kind in TABLES and not typed_cells:
        text = _text(file, name, kind, encoding, LARGEST_RECORD)
        yield from text_batches(read_rows(text, delimiter_of(kind, delimiter, name)))
        return

    def read() -> Iterator[dict[str, Any]]:
        file.seek(0)
        return flat_records(read_records(file, name, encoding=encoding, delimiter=delimiter))

    if kind == "parquet":
        batches = read_arrow(file, name, encoding=encoding)
    else:
        batches = batches_of(read, name, is_text=kind in TABLES)
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
    return read_csv(text, delimiter_of(kind, delimiter, name)) if kind in TABLES else read_json(text)


def _text(file: IO[bytes], name: str, kind: str, encoding: str | None, largest_record: int) -> Text:
    head = file.read(512)
    check_head(name, kind, head, encoding)
    return Text(file, name, encoding or encoding_of(head), head, largest_record)
