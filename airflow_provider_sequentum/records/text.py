"""Records of text files: CSV, NDJSON and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from airflow_provider_sequentum.records.formats import LARGEST_RECORD, RecordsUnreadable, check_columns, encoding_of

DEEPEST = 100
"""Levels to which the lists and objects of a JSON record may be nested."""

_CHUNK, _LARGEST_CHUNK = 256 * 1024, 4 * 1024 * 1024
_VALUE_SIZE = 16
_JSON_WHITESPACE = " \t\r\n"
_SURROGATES = re.compile("[\ud800-\udfff]")
_DECODER = json.JSONDecoder()


def delimiter_of(kind: str, delimiter: str | None, name: str) -> str:
    """Return what separates the cells of a table.

    :param kind: its format.
    :param delimiter: what the caller chose. Default: a tab in TSV files, else a comma.
    :raises RecordsUnreadable: no cell can be separated by it.
    """
    chosen = delimiter or ("\t" if kind == "tsv" else ",")
    if len(chosen) != 1 or chosen in '"\r\n\0':
        raise RecordsUnreadable(
            f"{name!r} cannot be read: the delimiter is one character, no quote and no line break, but not {chosen!r}."
        )
    return chosen


def read_csv(file: IO[bytes], name: str, encoding: str | None, delimiter: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a CSV file as dictionaries of strings; the first line that is not empty names the columns.

    :raises RecordsUnreadable: a line has more or fewer cells than there are columns, two columns have the same name,
        quotes do not fit, a record is larger than :data:`LARGEST_RECORD`, or the bytes are no text of the encoding.
    """
    with _open_text(file, name, encoding) as text:
        lines = _Lines(text, name)
        rows = csv_rows(lines, delimiter)
        try:
            columns = csv_columns(rows, name)
            lines.start_record()
            for cells in rows:
                if cells and len(cells) != len(columns):
                    raise RecordsUnreadable(
                        f"{name!r} has {len(cells)} cells in line {lines.number}, but {len(columns)} columns."
                    )
                lines.start_record()
                if cells:
                    yield dict(zip(columns, cells, strict=True))
        except csv.Error as error:
            raise RecordsUnreadable(
                f"{name!r} is no valid CSV at line {lines.number}: {error}; the record starts in line {lines.start}."
            ) from error


def csv_rows(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """Return the rows of a CSV text, where an empty line is an empty row; quotes that do not fit are errors."""
    # The limit is the process's, and its default of 128 KiB is less than a cell with a page of HTML.
    csv.field_size_limit(LARGEST_RECORD)
    return csv.reader(lines, delimiter=delimiter, strict=True)


def csv_columns(rows: Iterator[list[str]], name: str) -> list[str]:
    """Take the first row that is not empty, which names the columns.

    :raises RecordsUnreadable: there is none, or it names a column twice.
    """
    columns = next(filter(None, rows), [])
    check_columns(columns, name)
    return columns


class _Lines:
    """The lines of a text as :mod:`csv` takes them, and where among them the current record starts.

    A line ends with LF, CR LF or CR.
    """

    def __init__(self, text: IO[str], name: str) -> None:
        self._text, self._name = text, name
        self._record_size = 0
        self.number = 0
        self.start = 1

    def start_record(self) -> None:
        self._record_size, self.start = 0, self.number + 1

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(LARGEST_RECORD + 1 - self._record_size)
        if not line:
            raise StopIteration
        self.number += 1
        self._record_size += len(line)
        if self._record_size > LARGEST_RECORD:
            raise RecordsUnreadable(
                f"{self._name!r} has a record of more than {LARGEST_RECORD:,} characters, which starts in line "
                f"{self.start}. Are its line breaks missing, or is a quote open?"
            )
        if "\0" in line:  # a hole in a damaged file; the csv module would take it for text
            raise RecordsUnreadable(f"{self._name!r} has a NUL character in line {self.number}.")
        return line


def read_json(file: IO[bytes], name: str, encoding: str | None) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON file: those of an array, or one after the other as NDJSON has them.

    JSON is read as :mod:`json` reads it: ``NaN`` is a number, and of two equal keys in an object the last one counts.
    Half of a surrogate pair, which no database stores, becomes U+FFFD.

    :raises RecordsUnreadable: it is no valid JSON, holds something else than objects, or an object that is larger
        than :data:`LARGEST_RECORD` (each value counted as some characters more) or nested deeper than :data:`DEEPEST`.
    """
    with _open_text(file, name, encoding) as text:
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
    """The part of a JSON text that is in memory, and the position in it."""

    def __init__(self, file: IO[str], name: str) -> None:
        self._file, self._name = file, name
        self._buffer, self._position = "", 0
        self._characters_before, self._lines_before = 0, 0

    def place(self, position: int | None = None) -> str:
        at = self._position if position is None else position
        line = self._lines_before + self._buffer.count("\n", 0, at) + 1
        return f"at character {self._characters_before + at} (line {line})"

    def has_more(self) -> bool:
        """Skip white space and return whether anything follows."""
        while True:
            while self._position < len(self._buffer):
                if self._buffer[self._position] not in _JSON_WHITESPACE:
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
        """Return the value that starts here, reading on until it is whole."""
        self.has_more()
        size = _CHUNK
        while True:
            try:
                value, end = decode_json(self._buffer, self._position)
            except json.JSONDecodeError as error:
                invalid = RecordsUnreadable(f"{self._name!r} is no valid JSON: {error.msg} {self.place(error.pos)}.")
                if not _may_be_cut(error, len(self._buffer)):
                    raise invalid from error
                # Twice as much each time keeps the work linear; more would count later records as part of this one.
                if not self._read(size):
                    raise invalid from error
                size = min(2 * size, _LARGEST_CHUNK)
                self._check_size()
            except NotDecodable as error:
                raise RecordsUnreadable(f"{self._name!r} {error} {self.place()}.") from error
            else:
                self._position = end
                return value

    def _check_size(self) -> None:
        """Refuse a record that would take too much memory, of which its values can take far more than its text."""
        structure = sum(self._buffer.count(character) for character in "[{,")
        if len(self._buffer) + structure * _VALUE_SIZE > LARGEST_RECORD:
            raise RecordsUnreadable(
                f"{self._name!r} has a record {self.place()} that is too large to be read as one: more than "
                f"{LARGEST_RECORD:,} characters, or fewer with very many values."
            )

    def _read(self, size: int) -> bool:
        more = self._file.read(size)
        self._lines_before += self._buffer.count("\n", 0, self._position)
        self._characters_before += self._position
        self._buffer, self._position = self._buffer[self._position :] + more, 0
        return bool(more)


class NotDecodable(Exception):
    """A JSON value is well-formed and cannot be read all the same. The message says why."""


def decode_json(text: str, position: int) -> tuple[Any, int]:
    """Return the JSON value at a position of a text, and where it ends.

    :raises json.JSONDecodeError: there is no whole value.
    :raises NotDecodable: it is nested too deeply, or has a number of thousands of digits.
    """
    try:
        value, end = _DECODER.raw_decode(text, position)
    except RecursionError as error:
        raise NotDecodable("is nested too deeply") from error
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # Python converts no number of more than 4,300 digits
        raise NotDecodable("has a number with too many digits") from error
    # To look at each value costs more than to decode it; most texts show that it is not necessary.
    if text.count("[", position, end) + text.count("{", position, end) > DEEPEST and _depth(value) > DEEPEST:
        raise NotDecodable("is nested too deeply")
    if text.find("\\ud", position, end) >= 0 or text.find("\\uD", position, end) >= 0:
        value = _without_surrogates(value)
    return value, end


def _may_be_cut(error: json.JSONDecodeError, length: int) -> bool:
    """Whether a text that was decoded up to its end can be the beginning of a valid one."""
    # What is cut off in the middle is a string, or else no longer than a literal or an escaped pair of surrogates.
    return error.msg.startswith("Unterminated string") or error.pos >= length - len(r"\ud83d\ude00")


def _depth(value: Any) -> int:
    """Return to how many levels lists and objects are nested, without recursion."""
    depth, level = 0, [value]
    while level := [inner for inner in level if isinstance(inner, (dict, list))]:
        depth += 1
        if depth > DEEPEST:
            break
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return depth


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, list):
        return [_without_surrogates(inner) for inner in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(inner) for key, inner in value.items()}
    return value


class _CheckedText(io.TextIOWrapper):
    """A text that says where its bytes are none of its encoding."""

    def __init__(self, file: IO[bytes], name: str, encoding: str) -> None:
        super().__init__(file, encoding=encoding, newline="")
        self._file, self._file_name = file, name

    def read(self, size: int | None = -1, /) -> str:
        try:
            return super().read(size)
        except UnicodeError as error:
            raise self._undecodable(error) from error

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # typeshed inherits that of bytes
        try:
            return super().readline(size)
        except UnicodeError as error:
            raise self._undecodable(error) from error

    def _undecodable(self, error: UnicodeError) -> RecordsUnreadable:
        place = ""
        if isinstance(error, UnicodeDecodeError):
            # The decoder has been given all that was read of the file, and what it speaks of are the last bytes.
            place = f" at byte {self._file.tell() - len(error.object) + error.start}"
        reason = error.reason if isinstance(error, UnicodeDecodeError) else error
        return RecordsUnreadable(
            f"{self._file_name!r} is no {self.encoding} text{place}: {reason}. Give its encoding, for example 'cp1252'."
        )


@contextmanager
def _open_text(file: IO[bytes], name: str, encoding: str | None) -> Iterator[IO[str]]:
    if encoding is None:
        encoding = encoding_of(file.read(4))
        file.seek(0)
    try:
        text = _CheckedText(file, name, encoding)
    except (LookupError, ValueError) as error:
        raise RecordsUnreadable(f"{name!r} cannot be read: {error}.") from error
    try:
        yield text
    finally:
        text.detach()  # else the caller's file would be closed when this wrapper is garbage-collected
