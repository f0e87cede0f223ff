"""Reading and writing the records of Excel workbooks."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Iterator
from typing import IO, Any, Self

from airflow_provider_sequentum.records.formats import RecordsUnreadable, check_columns, library

LARGEST_SHEET = (1_048_576, 16_384)
"""The maximum number of rows and columns of a sheet, as in Excel."""

_LARGEST_PART = 128 * 1024 * 1024
_SUSPICIOUS_PART, _SUSPICIOUS_RATIO = 16 * 1024 * 1024, 100
_LARGEST_ROW = 16 * 1024 * 1024
_MAX_CELL_LENGTH = 32_767


def read_excel(file: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of the first sheet of a workbook, with the types of its cells. The first row has the column names.

    :raises RecordsUnreadable: the file is not a workbook, two columns have the same name, a row is longer than the
        first one, a formula has no result, or the uncompressed content is too large for the memory.
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
    from openpyxl.worksheet._reader import DATA_TAG, FORMULA_TAG, ROW_TAG
    from openpyxl.xml.functions import iterparse

    sheet_data, last = None, 0
    for event, element in iterparse(source, events=("start", "end")):
        if event == "start":
            if element.tag == DATA_TAG:
                sheet_data = element
        elif element.tag == ROW_TAG and sheet_data is not None:
            if element.find(f"*/{FORMULA_TAG}") is not None:
                _check_formulas(element, name)
            number, cells = parser.parse_row(element)
            sheet_data.clear()
            parser.row_dimensions.clear()
            source.start_row(number)
            if not last < number <= LARGEST_SHEET[0]:
                raise RecordsUnreadable(f"{name!r} has a row with the number {number} after row {last}.")
            last = number
            if values := _row_values(cells, number, name):
                yield number, values


def _check_formulas(row: Any, name: str) -> None:
    """Check that the formulas of a row have results. A missing one would be read as a missing value."""
    from openpyxl.worksheet._reader import FORMULA_TAG, VALUE_TAG

    for cell in row:
        is_text = cell.get("t") == "str"  # which may be empty
        if cell.find(FORMULA_TAG) is not None and not is_text and not cell.findtext(VALUE_TAG):
            raise RecordsUnreadable(
                f"{name!r} has a formula without its result in cell {cell.get('r')}. Let the agent export values, or "
                "save the workbook in Excel."
            )


def _row_values(cells: list[dict[str, Any]], row: int, name: str) -> list[Any]:
    values: list[Any] = []
    for cell in cells:
        column, value = cell["column"], cell["value"]
        if value is None:  # only has a format, as in a sheet that was once wider
            continue
        if isinstance(value, str):
            value = value.replace("_x000D_", "\r")  # how a workbook stores it, which openpyxl does not undo
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

    def start(self, columns: Iterable[str]) -> None:
        """Write the row with the column names.

        :raises RecordsUnreadable: a workbook cannot contain a name.
        """
        self._append(columns)

    def write(self, record: dict[str, Any]) -> None:
        """Write a record as a row.

        :raises RecordsUnreadable: a workbook cannot contain a value.
        """
        self._append(record.values())

    def end(self) -> None:
        """Write the workbook."""
        self._book.save(self._file)

    def _append(self, row: Iterable[Any]) -> None:
        try:
            cells = [self._cell(value) for value in row]
        except Exception as error:  # openpyxl has its own exception for a control character
            raise RecordsUnreadable(f"{self._name!r} cannot be written after row {self._rows}: {error}.") from error
        self._sheet.append(cells)
        self._rows += 1

    def _cell(self, value: Any) -> Any:
        from openpyxl.cell import WriteOnlyCell

        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"a workbook cannot contain {value}")
        if isinstance(value, str) and len(value) > _MAX_CELL_LENGTH:  # openpyxl would silently cut it off
            raise ValueError(f"a cell can contain at most {_MAX_CELL_LENGTH:,} characters")
        cell = WriteOnlyCell(self._sheet, value)
        if isinstance(value, str):
            cell.data_type = "s"  # otherwise, text that starts with an equals sign would be a formula
        elif type(value) in (int, float):
            cell._value = repr(value)  # noqa: SLF001  # openpyxl would round it to 16 digits
        return cell
