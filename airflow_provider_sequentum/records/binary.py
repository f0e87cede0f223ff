"""Reading the records of Excel and Parquet files with their libraries."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Self

from airflow_provider_sequentum.records.formats import LARGEST_RECORD, RecordsUnreadable, check_columns, library

LARGEST_SHEET = (1_048_576, 16_384)
"""The maximum number of rows and columns of a sheet, as in Excel."""

PARTITION = b"sequentum.partition"
"""A key in the metadata of a Parquet file. Its value is a JSON object with the columns that are not stored in the file
because all of its records have the same value in them: their Arrow types and the values as text, or ``null``."""

_PARTITION_TYPES = ("string", "int64", "bool", "date32[day]")
_PARQUET = "Reading .parquet"
_DAMAGE = (OSError, OverflowError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""The errors that a damaged Parquet file causes, besides those of Arrow."""
_LARGEST_PART = 128 * 1024 * 1024
_SUSPICIOUS_PART, _SUSPICIOUS_RATIO = 16 * 1024 * 1024, 100
_LARGEST_ROW = 16 * 1024 * 1024
_BATCH = 10_000
_LONGEST_CELL = 32_767


def read_excel(file: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of the first sheet of a workbook, with the types of its cells. The first row has the column names.

    :raises RecordsUnreadable: the file is not a workbook, two columns have the same name, a row is longer than the
        first one, or the uncompressed content is too large for the memory.
    """
    library("openpyxl", "excel", "Reading .xlsx")
    row = 0
    try:
        columns: list[str] | None = None
        for row, cells in _sheet_rows(file, name):
            if columns is None:
                columns = ["" if cell is None else str(cell) for cell in cells]
                check_columns(columns, name)
            elif len(cells) > len(columns):
                raise RecordsUnreadable(f"{name!r} has {len(cells)} cells in row {row}, but {len(columns)} columns.")
            else:
                yield dict(zip(columns, [*cells, *[None] * (len(columns) - len(cells))], strict=True))
        if columns is None:
            check_columns([], name)
    except (RecordsUnreadable, GeneratorExit):
        raise
    except Exception as error:  # noqa: BLE001 - zipfile, the XML parser and openpyxl raise many kinds for a damaged file
        # Their messages quote the file at any length, and a cause would be logged in full.
        raise RecordsUnreadable(f"{name!r} is not a valid workbook after row {row}: {error}.") from None


def _sheet_rows(file: IO[bytes], name: str) -> Iterator[tuple[int, list[Any]]]:
    """Yield the rows of the first sheet that are not empty, with their numbers and without trailing empty cells."""
    # When openpyxl reads all rows, it trusts the "dimension" of the sheet, drops rows with a repeated number, and keeps
    # data of each row in memory. Its parser for a single row does none of this.
    from openpyxl.reader.excel import ExcelReader
    from openpyxl.styles.stylesheet import apply_stylesheet
    from openpyxl.worksheet._reader import WorkSheetParser

    reader = ExcelReader(file, read_only=True, data_only=True)
    with _Archive(file, name) as archive:
        reader.archive = archive
        reader.read_manifest()
        reader.read_strings()
        reader.read_workbook()
        apply_stylesheet(archive, reader.wb)
        parts = [relation.target for _, relation in reader.parser.find_sheets() if "chartsheet" not in relation.Type]
        if not parts:
            raise RecordsUnreadable(f"{name!r} has no worksheet.")
        with archive.open_sheet(parts[0]) as stream:
            source = _SheetSource(stream, name)
            parser = WorkSheetParser(
                source,
                reader.shared_strings,
                data_only=True,
                epoch=reader.wb.epoch,
                date_formats=reader.wb._date_formats,  # noqa: SLF001  # as openpyxl itself passes them
                timedelta_formats=reader.wb._timedelta_formats,  # noqa: SLF001
            )
            yield from _parsed_rows(parser, source, name)


class _Archive(zipfile.ZipFile):
    """The parts of a workbook. Sheets are read row by row; all other parts are read as a whole and have to be small."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        super().__init__(file)
        self._file_name = name

    def open(self, name: str | zipfile.ZipInfo, *args: Any, **options: Any) -> IO[bytes]:
        part = name if isinstance(name, zipfile.ZipInfo) else self.getinfo(name)
        ratio = part.file_size / max(part.compress_size, 1)
        is_bomb = part.file_size > _SUSPICIOUS_PART and ratio > _SUSPICIOUS_RATIO
        if part.file_size > _LARGEST_PART or is_bomb:
            raise RecordsUnreadable(
                f"{self._file_name!r} has a part {part.filename!r} of {part.file_size:,} bytes, compressed "
                f"{ratio:.0f} to 1: too large to be read into memory."
            )
        return super().open(part, *args, **options)

    def open_sheet(self, name: str) -> IO[bytes]:
        return super().open(name)


class _SheetSource:
    """The XML of a sheet, which is refused if a single row is too large for the memory."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream, self._name = stream, name
        self._since_row = self._row = 0

    def start_row(self, number: int) -> None:
        self._since_row, self._row = 0, number

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._since_row += len(data)
        if self._since_row > _LARGEST_ROW:
            raise RecordsUnreadable(
                f"{self._name!r} has more than {_LARGEST_ROW:,} bytes of XML in one row, after row {self._row}."
            )
        return data


def _parsed_rows(parser: Any, source: _SheetSource, name: str) -> Iterator[tuple[int, list[Any]]]:
    from openpyxl.worksheet._reader import DATA_TAG, ROW_TAG
    from openpyxl.xml.functions import iterparse

    sheet_data, last = None, 0
    for event, element in iterparse(source, events=("start", "end")):
        if event == "start":
            if element.tag == DATA_TAG:
                sheet_data = element
        elif element.tag == ROW_TAG and sheet_data is not None:
            number, cells = parser.parse_row(element)
            sheet_data.clear()
            parser.row_dimensions.clear()
            source.start_row(number)
            if not last < number <= LARGEST_SHEET[0]:
                raise RecordsUnreadable(f"{name!r} has a row with the number {number} after row {last}.")
            last = number
            if values := _row_values(cells, number, name):
                yield number, values


def _row_values(cells: list[dict[str, Any]], row: int, name: str) -> list[Any]:
    values: list[Any] = []
    for cell in cells:
        column, value = cell["column"], cell["value"]
        if value is None:  # only has a format, as in a sheet that was once wider
            continue
        if not len(values) < column <= LARGEST_SHEET[1]:
            raise RecordsUnreadable(f"{name!r} has a cell in column {column} after {len(values)} cells of row {row}.")
        values += [None] * (column - len(values) - 1)
        values.append(value)
    return values


class SheetWriter:
    """Writes records to the only sheet of a workbook, with the values that :func:`read_excel` reads.

    :param file: the file to which the complete workbook is written.
    :param name: the name of the file, for error messages.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._book = library("openpyxl", "excel", "Writing .xlsx").Workbook(write_only=True)
        self._sheet = self._book.create_sheet()
        self._file, self._name = file, name
        self._rows = 0

    def __enter__(self) -> Self:
        """Start the workbook, whose sheet is assembled in a temporary file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the temporary file, unless the workbook was written."""
        if not self._sheet.closed:
            self._sheet.close()
            self._sheet._writer.cleanup()  # noqa: SLF001  # as openpyxl itself does when it saves

    def write(self, record: dict[str, Any]) -> None:
        """Write a record as a row. The first record is preceded by a row with the column names.

        :raises RecordsUnreadable: a workbook cannot contain a value.
        """
        try:
            columns, values = ([self._cell(value) for value in row] for row in (record, record.values()))
        except Exception as error:  # openpyxl has its own exception for a control character
            raise RecordsUnreadable(f"{self._name!r} cannot be written after row {self._rows}: {error}.") from error
        if not self._rows:
            self._sheet.append(columns)
        self._sheet.append(values)
        self._rows += 1

    def end(self) -> None:
        """Write the workbook."""
        self._book.save(self._file)

    def _cell(self, value: Any) -> Any:
        from openpyxl.cell import WriteOnlyCell

        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"a workbook cannot contain {value}")
        if isinstance(value, str) and len(value) > _LONGEST_CELL:  # openpyxl would silently cut it off
            raise ValueError(f"a cell can contain at most {_LONGEST_CELL:,} characters")
        cell = WriteOnlyCell(self._sheet, value)
        if isinstance(value, str):
            cell.data_type = "s"  # otherwise, text that starts with an equals sign would be a formula
        elif type(value) in (int, float):
            cell._value = repr(value)  # noqa: SLF001  # openpyxl would round it to 16 digits
        return cell


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
    arrow = library("pyarrow", "arrow", _PARQUET)
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
            if column.total_uncompressed_size > _LARGEST_PART and ratio > _SUSPICIOUS_RATIO:
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
    return library("pyarrow.parquet", "arrow", _PARQUET).ParquetFile(file, pre_buffer=False)


def _full_schema(schema: Any, name: str) -> tuple[Any, dict[str, Any]]:
    """Return a schema extended by the columns that only the metadata has, and the values of these columns."""
    arrow = library("pyarrow", "arrow", _PARQUET)
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
    arrow = library("pyarrow", "arrow", _PARQUET)
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
