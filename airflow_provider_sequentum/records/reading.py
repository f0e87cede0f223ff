"""Records of a file of any of the formats: one at a time, or as Arrow's batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from airflow_provider_sequentum.records.arrow import batches_of
from airflow_provider_sequentum.records.binary import parquet_batches, read_excel, read_parquet
from airflow_provider_sequentum.records.formats import check_beginning, format_of
from airflow_provider_sequentum.records.text import delimiter_of, read_csv, read_json


def read_records(
    file: IO[bytes], name: str, *, encoding: str | None = None, delimiter: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield a file's records as dictionaries, in constant memory.

    A CSV file's values are strings; the other formats have types.

    :param file: open for reading bytes, at its beginning, able to seek.
    :param name: its name, whose suffix tells the format: ``csv``, ``tsv``, ``json``, ``ndjson``, ``jsonl``, ``xlsx``
        (needs the extra ``excel``) or ``parquet`` (needs ``arrow``).
    :param encoding: of a text file. Default: by its byte order mark, else UTF-8.
    :param delimiter: between the cells of a CSV file. Default: a comma, a tab in ``.tsv``.
    :raises RecordsUnreadable: the file does not hold what its name says, or is damaged.
    :raises LibraryMissing: the library for the format is not installed.
    """
    return _reader(_checked_format(file, name, encoding), file, name, encoding, delimiter)


def read_arrow(
    file: IO[bytes], name: str, *, encoding: str | None = None, delimiter: str | None = None
) -> Iterator[Any]:
    """Yield a file's records as ``pyarrow.RecordBatch``, all with the same schema. Needs the extra ``arrow``.

    Parameters are those of :func:`read_records`, which decides what the records are. The file is read twice: its types
    are known when all of it has been seen, see :mod:`airflow_provider_sequentum.records.arrow`.

    :raises RecordsUnreadable: as :func:`read_records`, before the first batch; only a Parquet file, which says its
        types at once, is read once.
    :raises LibraryMissing: the library for the format, or pyarrow, is not installed.
    """
    kind = _checked_format(file, name, encoding)
    if kind == "parquet":
        yield from parquet_batches(file, name)
        return

    def read() -> Iterator[dict[str, Any]]:
        file.seek(0)
        return _reader(kind, file, name, encoding, delimiter)

    yield from batches_of(read, name, is_text=kind in ("csv", "tsv"))


def _reader(
    kind: str, file: IO[bytes], name: str, encoding: str | None, delimiter: str | None
) -> Iterator[dict[str, Any]]:
    if kind == "parquet":
        return read_parquet(file, name)
    if kind == "xlsx":
        return read_excel(file, name)
    if kind in ("csv", "tsv"):
        return read_csv(file, name, encoding, delimiter_of(kind, delimiter, name))
    return read_json(file, name, encoding)


def _checked_format(file: IO[bytes], name: str, encoding: str | None) -> str:
    kind = format_of(name)
    check_beginning(name, kind, file.read(512), encoding)
    file.seek(0)
    return kind
