"""Records of text files: CSV, NDJSON and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from airflow_provider_sequentum.records.formats import RecordsUnreadable, check_columns, encoding_of

LARGEST_RECORD = 64 * 1024 * 1024
"""Characters one record, or one cell of a CSV file, may have; what is longer is taken for damage."""

_CHUNK = 256 * 1024
_WHITESPACE = " \t\r\n"


def read_csv(file: IO[bytes], name: str, encoding: str | None, delimiter: str) -> Iterator[dict[str, Any]]:
    """
    Yield the records of a CSV file as dictionaries of strings; the first line names the columns.

    :raises RecordsUnreadable: a line has more or fewer cells than there are columns, two columns have the same name,
        quotes don't fit, or the bytes are no text of the encoding.
    """
    # The limit is the process's, and its default of 128 KiB is less than a cell with a page of HTML.
    csv.field_size_limit(LARGEST_RECORD)
    with _opened(file, name, encoding, newline="") as text:
        yield from _csv_records(csv.reader(text, delimiter=delimiter, strict=True), name)


def _csv_records(reader: Any, name: str) -> Iterator[dict[str, Any]]:
    try:
        columns: list[str] = next(reader, [])
        check_columns(columns, name)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(columns):
                raise RecordsUnreadable(
                    f"{name!r} has {len(cells)} cells in line {reader.line_num}, but {len(columns)} columns."
                )
            yield dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        raise RecordsUnreadable(f"{name!r} is no valid CSV at line {reader.line_num}: {error}.") from error


def read_json(file: IO[bytes], name: str, encoding: str | None) -> Iterator[dict[str, Any]]:
    """
    Yield the objects of a JSON file: those of an array, or one after the other as NDJSON has them.

    :raises RecordsUnreadable: it is no valid JSON, or holds something else than objects.
    """
    with _opened(file, name, encoding) as text:
        yield from _json_records(_Json(text, name), name)


def _json_records(text: _Json, name: str) -> Iterator[dict[str, Any]]:
    in_array = text.skip("[")
    expects_more = not (in_array and text.skip("]"))
    while expects_more and (in_array or text.has_more()):
        record = text.take_value()
        if not isinstance(record, dict):
            raise RecordsUnreadable(f"{name!r} must hold objects, but has {record!r:.80} {text.place()}.")
        yield record
        if in_array:
            expects_more = text.skip(",")
            if not expects_more:
                text.expect("]")
    if text.has_more():
        raise RecordsUnreadable(f"{name!r} has more {text.place()}, where it should end.")


class _Json:
    """The part of a JSON text that is in memory, and where one is in it."""

    def __init__(self, file: IO[str], name: str) -> None:
        self._file, self._name = file, name
        self._buffer, self._position, self._before = "", 0, 0
        self._decoder = json.JSONDecoder()

    def place(self) -> str:
        return f"at character {self._before + self._position}"

    def has_more(self) -> bool:
        """Skip white space and return whether anything follows."""
        while True:
            while self._position < len(self._buffer):
                if self._buffer[self._position] not in _WHITESPACE:
                    return True
                self._position += 1
            if not self._read(_CHUNK):
                return False

    def skip(self, character: str) -> bool:
        """Skip a character and return whether it was there."""
        found = self.has_more() and self._buffer[self._position] == character
        self._position += found
        return found

    def expect(self, character: str) -> None:
        if not self.skip(character):
            raise RecordsUnreadable(f"{self._name!r} is no valid JSON: {character!r} is missing {self.place()}.")

    def take_value(self) -> Any:
        """Return the value that begins here, reading on until it is whole."""
        self.has_more()
        size = _CHUNK
        while True:
            try:
                value, self._position = self._decoder.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                # The rest of the value may just not be here yet. Twice as much each time keeps the work linear.
                if len(self._buffer) - self._position > LARGEST_RECORD or not self._read(size):
                    raise RecordsUnreadable(
                        f"{self._name!r} is no valid JSON: {error.msg} at character {self._before + error.pos}."
                    ) from error
                size *= 2
            except RecursionError as error:
                raise RecordsUnreadable(f"{self._name!r} is nested too deeply {self.place()}.") from error
            else:
                return value

    def _read(self, size: int) -> bool:
        more = self._file.read(size)
        self._buffer = self._buffer[self._position :] + more
        self._before, self._position = self._before + self._position, 0
        return bool(more)


class _Strict(io.TextIOWrapper):
    """Text whose bytes are checked; what is no text says where."""

    def __init__(self, file: IO[bytes], name: str, encoding: str, newline: str | None) -> None:
        super().__init__(file, encoding=encoding, newline=newline)
        self._said_name, self._lines = name, 0

    def read(self, size: int | None = -1, /) -> str:
        try:
            return super().read(size)
        except UnicodeError as error:
            raise self._no_text(error) from error

    def __next__(self) -> str:  # type: ignore[override]  # typeshed inherits that of bytes
        try:
            line = super().__next__()
        except UnicodeError as error:
            raise self._no_text(error) from error
        self._lines += 1
        if "\0" in line:  # a hole in a damaged file; the csv module would take it for text
            raise RecordsUnreadable(f"{self._said_name!r} has a NUL character in line {self._lines}.")
        return line

    def _no_text(self, error: UnicodeError) -> RecordsUnreadable:
        return RecordsUnreadable(
            f"{self._said_name!r} is no {self.encoding} text: {error}. Give its encoding, for example 'cp1252'."
        )


@contextmanager
def _opened(file: IO[bytes], name: str, encoding: str | None, newline: str | None = None) -> Iterator[IO[str]]:
    if encoding is None:
        encoding = encoding_of(file.read(4))
        file.seek(0)
    try:
        text = _Strict(file, name, encoding, newline)
    except LookupError as error:
        raise RecordsUnreadable(f"{name!r} can't be read: {error}.") from error
    try:
        yield text
    finally:
        text.detach()  # else the caller's file would be closed when this wrapper is garbage-collected
