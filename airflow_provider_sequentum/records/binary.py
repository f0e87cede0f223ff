"""Records of Excel and Parquet files, through the libraries for them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import IO, Any

from airflow_provider_sequentum.records.formats import RecordsUnreadable, check_columns

_BATCH = 10_000


class LibraryMissing(ImportError):
    """The library that reads a format is not installed. The message names the extra that brings it."""


def library(module: str, extra: str, purpose: str) -> Any:
    """
    Import a library that is an extra of this package.

    :raises LibraryMissing: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise LibraryMissing(
            f"{purpose} needs {module.partition('.')[0]}: pip install 'airflow-provider-sequentum[{extra}]'."
        ) from error


def read_excel(file: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    """
    Yield the rows of a workbook's first sheet; its first row names the columns. Cells have the types Excel gave them.

    :raises RecordsUnreadable: it is no workbook, two columns have the same name, or a row is longer than the first.
    """
    openpyxl = library("openpyxl", "excel", "Reading .xlsx")
    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        yield from _rows(book.worksheets[0].iter_rows(values_only=True), name)
        book.close()
    except RecordsUnreadable:
        raise
    except Exception as error:  # whatever zipfile, the XML parser and openpyxl raise for a damaged workbook
        raise RecordsUnreadable(f"{name!r} is no valid workbook: {error}.") from error


def read_parquet(file: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    """
    Yield the rows of a Parquet file, with its types.

    :raises RecordsUnreadable: it is damaged.
    """
    for batch in parquet_batches(file, name):
        yield from batch.to_pylist()


def parquet_batches(file: IO[bytes], name: str) -> Iterator[Any]:
    """Yield a Parquet file's rows as ``pyarrow.RecordBatch``, some thousands at a time."""
    arrow, parquet = (library(module, "arrow", "Reading .parquet") for module in ("pyarrow", "pyarrow.parquet"))
    try:
        # Without pre_buffer=False the whole file ends up in memory.
        yield from parquet.ParquetFile(file, pre_buffer=False).iter_batches(batch_size=_BATCH)
    except (arrow.ArrowException, OSError) as error:
        raise RecordsUnreadable(f"{name!r} is no valid Parquet file: {error}.") from error


def _rows(rows: Iterator[tuple[Any, ...]], name: str) -> Iterator[dict[str, Any]]:
    columns = [str(cell) for cell in _filled(next(rows, ()))]
    check_columns(columns, name)
    for number, row in enumerate(rows, 2):
        cells = _filled(row)
        if not cells:
            continue
        if len(cells) > len(columns):
            raise RecordsUnreadable(f"{name!r} has {len(cells)} cells in row {number}, but {len(columns)} columns.")
        yield dict(zip(columns, [*cells, *[None] * (len(columns) - len(cells))], strict=True))


def _filled(row: tuple[Any, ...]) -> list[Any]:
    """Return a row without the empty cells at its end, which a sheet has where it was once wider."""
    cells = list(row)
    while cells and cells[-1] is None:
        cells.pop()
    return cells
