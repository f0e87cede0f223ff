"""Reading the records of text files: CSV, NDJSON and JSON."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import IO, Any

from airflow_provider_sequentum.records.formats import LARGEST_RECORD, RecordsUnreadable, check_columns

DEEPEST = 100
"""The maximum nesting depth of lists and objects in a JSON record."""

_CHUNK, _LARGEST_CHUNK = 256 * 1024, 4 * 1024 * 1024
_VALUE_SIZE = 16
_OTHER_DELIMITERS = ";\t|"
_NO_JSON_WHITESPACE = re.compile(r"[^ \t\r\n]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_DECODER = json.JSONDecoder()


class Text:
    """The text of a file, decoded while it is read.

    :param head: the bytes that have already been read from the file.
    :param largest_record: the maximum length of a record, in characters.
    :raises RecordsUnreadable: the encoding does not exist or is not a text encoding.
    """

    def __init__(
        self, file: IO[bytes], name: str, encoding: str, head: bytes = b"", largest_record: int = LARGEST_RECORD
    ) -> None:
        self.name, self.largest_record = name, largest_record
        self._file, self._encoding, self._head = file, encoding, head
        self._bytes_read = 0
        self._is_start = True
        try:
            io.TextIOWrapper(io.BytesIO(), encoding)  # refuses a codec such as base64, which does not decode to text
            self._decoder = codecs.getincrementaldecoder(encoding)()
        except (LookupError, ValueError) as error:
            raise RecordsUnreadable(f"{name!r} cannot be read: {error}.") from error

    def read(self, size: int) -> str:
        """Return the text of the next bytes, usually ``size`` of them; an empty string at the end.

        :raises RecordsUnreadable: the bytes are not text in the encoding. The message gives the position.
        """
        while True:
            data, self._head = self._head or self._file.read(size), b""
            self._bytes_read += len(data)
            try:
                text = self._decoder.decode(data, final=not data)
                if not text.isascii():
                    text.encode()  # codecs such as utf-7 accept unpaired surrogates
            except UnicodeError as error:
                raise self._undecodable(error) from error
            if self._is_start and text:
                self._is_start = False
                # A codec such as utf-8, set by the caller, leaves the byte order mark in the text.
                text = text.removeprefix("\ufeff")
            if text or not data:  # a few bytes may only be the start of a character
                return text

    def _undecodable(self, error: UnicodeError) -> RecordsUnreadable:
        place, reason = "", str(error)
        if isinstance(error, UnicodeDecodeError):
            # The input of the decoder ends with the last byte that was read.
            place, reason = f" at byte {self._bytes_read - len(error.object) + error.start}", error.reason
        return RecordsUnreadable(
            f"{self.name!r} is not {self._encoding} text{place}: {reason}. Set its encoding, for example 'cp1252'."
        )


def _delimiter_of(kind: str, delimiter: str | None, name: str) -> str:
    """Return the delimiter of a table.

    :param kind: the format of the table.
    :param delimiter: the choice of the caller. Default: a tab in TSV files, else a comma.
    :raises RecordsUnreadable: it is not a valid delimiter.
    """
    chosen = delimiter or ("\t" if kind == "tsv" else ",")
    if len(chosen) != 1 or chosen in '"\r\n\0':
        raise RecordsUnreadable(
            f"{name!r} cannot be read: the delimiter must be one character, other than a quote or a line break, not "
            f"{chosen!r}."
        )
    return chosen


def read_csv(text: Text, kind: str, delimiter: str | None) -> Iterator[dict[str, Any]]:
    """Yield the records of a CSV file as dictionaries of strings. The parameters are those of :func:`read_rows`."""
    rows = read_rows(text, kind, delimiter)
    columns = next(rows)
    for cells in rows:
        yield dict(zip(columns, cells, strict=True))


def read_rows(text: Text, kind: str, delimiter: str | None) -> Iterator[list[str]]:
    """Yield the column names of a CSV file, from its first line that is not empty, then the cells of each record.

    :param kind: the format of the table.
    :param delimiter: the choice of the caller.
    :raises RecordsUnreadable: a line has more or fewer cells than there are columns, two columns have the same name,
        the file seems to have another delimiter, quotes do not match, a record is too large, or the bytes are not text
        in the encoding.
    """
    chosen = _delimiter_of(kind, delimiter, text.name)
    # The limit applies to the process. Its default of 128 KiB is too small for a cell with an HTML page.
    csv.field_size_limit(LARGEST_RECORD)
    lines = _Lines(text)
    rows = csv.reader(chain.from_iterable(lines.in_pieces()), delimiter=chosen, strict=True)
    try:
        columns = next(filter(None, rows), [])
        check_columns(columns, text.name)
        if not delimiter and len(columns) == 1 and any(other in columns[0] for other in _OTHER_DELIMITERS):
            raise RecordsUnreadable(
                f"{text.name!r} has only the column {columns[0]!r:.200}. Set its delimiter; if this really is one "
                f"column, set {chosen!r}."
            )
        number = len(columns)
        lines.record_start, lines.record_size = rows.line_num + 1, 0
        yield columns
        for cells in rows:
            lines.record_start, lines.record_size = rows.line_num + 1, 0
            if len(cells) == number:
                yield cells
            elif cells:
                raise RecordsUnreadable(
                    f"{text.name!r} has {len(cells)} cells in line {rows.line_num}, but {number} columns."
                )
    except csv.Error as error:
        raise RecordsUnreadable(
            f"{text.name!r} is not valid CSV at line {rows.line_num}: {error}; the record starts in line "
            f"{lines.record_start}."
        ) from error


class _Lines:
    """The lines of a text, which end with LF, CR LF or CR, and the line in which the current record starts."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self.record_start, self.record_size = 1, 0

    def in_pieces(self) -> Iterator[list[str]]:
        """Yield the lines in lists, which :mod:`csv` reads twice as fast as a generator of lines."""
        number, unfinished = 0, [""]
        while piece := self._text.read(_CHUNK):
            unfinished.append(piece)
            self._check(piece, unfinished, number)
            if "\n" in piece or "\r" in piece:
                *lines, last = _lines_of("".join(unfinished))
                unfinished = [last]  # even if it ends with CR: LF may follow
                number += len(lines)
                yield lines
        yield _lines_of("".join(unfinished))

    def _check(self, piece: str, unfinished: list[str], number: int) -> None:
        self.record_size += len(piece)
        if self.record_size > self._text.largest_record:
            raise RecordsUnreadable(
                f"{self._text.name!r} has a record of more than {self._text.largest_record:,} characters, which starts "
                f"in line {self.record_start}. Are its line breaks missing, or is a quote open?"
            )
        if "\0" in piece:  # a gap in a damaged file, which the csv module would accept as text
            number += len(_lines_of("".join(unfinished).partition("\0")[0] + "\0"))
            raise RecordsUnreadable(f"{self._text.name!r} has a NUL character in line {number}.")


def _lines_of(text: str) -> list[str]:
    return io.StringIO(text, newline="").readlines()


def read_json(text: Text) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON file: those in an array, or objects that follow one another as in NDJSON.

    JSON is read like :mod:`json` reads it: ``NaN`` is a number, and of two equal keys in an object, the last one is
    used. An unpaired surrogate, which databases cannot store, becomes U+FFFD.

    :raises RecordsUnreadable: the text is not valid JSON or contains values other than objects, or an object is too
        large (each value counts as a few additional characters) or nested deeper than :data:`DEEPEST`.
    """
    json_text = _Json(text)
    in_array = json_text.skip("[")
    expects_more = not (in_array and json_text.skip("]"))
    while expects_more and (in_array or json_text.has_more()):
        record = json_text.take_value()
        if not isinstance(record, dict):
            raise json_text.refusal(f"must contain objects, but has {record!r:.80}")
        yield record
        if in_array:
            expects_more = json_text.skip(",")
            if not expects_more and not json_text.skip("]"):
                raise json_text.refusal("is not valid JSON: ']' is missing")
    if json_text.has_more():
        raise json_text.refusal("has more text", ", where it should end")


class _Json:
    """The part of a JSON text that is in memory, and the position in it."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._buffer, self._position = "", 0
        self._characters_before, self._lines_before = 0, 0

    def refusal(self, reason: str, more: str = "", position: int | None = None) -> RecordsUnreadable:
        """Return the exception with the reason and the position."""
        at = self._position if position is None else position
        line = self._lines_before + self._buffer.count("\n", 0, at) + 1
        return RecordsUnreadable(
            f"{self._text.name!r} {reason} at character {self._characters_before + at} (line {line}){more}."
        )

    def has_more(self) -> bool:
        """Skip white space and return whether anything follows."""
        while True:
            if found := _NO_JSON_WHITESPACE.search(self._buffer, self._position):
                self._position = found.start()
                return True
            self._position = len(self._buffer)
            if not self._read(_CHUNK):
                return False

    def skip(self, character: str) -> bool:
        """Skip a character and return whether it was there."""
        found = self.has_more() and self._buffer[self._position] == character
        self._position += found
        return found

    def take_value(self) -> Any:
        """Return the value that starts here, and read more text until it is complete."""
        self.has_more()
        size = _CHUNK
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                invalid = self.refusal(f"is not valid JSON: {error.msg}", position=error.pos)
                # Doubling the size keeps the work linear. With more, later records would count as part of this one.
                if not _may_be_cut(error, len(self._buffer)) or not self._read(size):
                    raise invalid from error
                size = min(2 * size, _LARGEST_CHUNK)
                self._check_size()
            except RecursionError as error:
                raise self.refusal("is nested too deeply") from error
            except ValueError as error:  # Python does not convert a number of more than 4,300 digits
                raise self.refusal("has a number with too many digits") from error
            else:
                value = self._checked(value, end)
                self._position = end
                return value

    def _checked(self, value: Any, end: int) -> Any:
        """Check the nesting of a value and return it without unpaired surrogates."""

        def count(text: str) -> int:
            return self._buffer.count(text, self._position, end)

        # Checking each value costs more than decoding it. For most texts, counting shows that it is unnecessary.
        if count("[") + count("{") > DEEPEST and _depth(value) > DEEPEST:
            raise self.refusal("is nested too deeply")
        return _without_surrogates(value) if count("\\ud") or count("\\uD") else value

    def _check_size(self) -> None:
        """Refuse a record that would take too much memory: its values can take far more memory than its text."""
        structure = sum(self._buffer.count(character) for character in "[{,")
        if len(self._buffer) + structure * _VALUE_SIZE > self._text.largest_record:
            raise self.refusal(
                "has a record",
                f" that is too large to be read as one: more than {self._text.largest_record:,} characters, or fewer "
                "with very many values",
            )

    def _read(self, size: int) -> bool:
        more = self._text.read(size)
        self._lines_before += self._buffer.count("\n", 0, self._position)
        self._characters_before += self._position
        self._buffer, self._position = self._buffer[self._position :] + more, 0
        return bool(more)


def _may_be_cut(error: json.JSONDecodeError, length: int) -> bool:
    """Whether the error can be caused by the end of the text that has been read so far."""
    # A cut token is either a string, or no longer than a literal or an escaped surrogate pair.
    return error.msg.startswith("Unterminated string") or error.pos >= length - len(r"\ud83d\ude00")


def _depth(value: Any) -> int:
    """Return the nesting depth of lists and objects, without recursion."""
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
