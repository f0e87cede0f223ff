"""Counting the records of a text file while its bytes pass by.

The count is what :func:`~airflow_provider_sequentum.records.reading.read_records` finds in the file, or ``None``: where
that would refuse the file, and where this count is not sure. A CSV file is counted in blocks of whole records, of which
each is checked to have as many cells as there are columns and its quotes only where a cell starts or ends. A large
block is looked at with NumPy where that is installed: it works without Python's interpreter lock, which the download
needs meanwhile, and takes the same time however many cells are quoted. Small blocks, and those of environments without
NumPy, are counted with the methods of ``bytes``, or by the reader's own parser where there are quotes.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from airflow_provider_sequentum.records.formats import RecordsUnreadable, check_beginning
from airflow_provider_sequentum.records.text import DEEPEST, NotDecodable, csv_columns, csv_rows, decode_json

LARGE = 64 * 1024
"""Bytes from which on a block is worth NumPy's import and calls."""

_HEAD = 64 * 1024
_LONGEST_WAIT = 4 * 1024 * 1024
_EMPTY = (b"", b"\r")
_LINE_FEED, _CARRIAGE_RETURN, _QUOTE = b'\n\r"'


class RecordCount(ABC):
    """Counts records in bytes that come in pieces. What cannot be counted for sure ends the count."""

    def __init__(self) -> None:
        self._rest = b""
        self._size = 0
        self._records: int | None = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._size += len(data)
        if self._records is None:
            return
        self._rest = self._rest + data if self._rest else data
        self._take(is_end=False)
        if len(self._rest) > _LONGEST_WAIT:
            self._records = None

    def count(self) -> int | None:
        """Return the number of records, after the last bytes; ``None`` where it is not sure."""
        if self._records is not None:
            self._take(is_end=True)
        return self._records if self._size else None

    def _take(self, *, is_end: bool) -> None:
        """Count the whole records among the bytes at hand, or say with ``None`` that they cannot be counted."""
        try:
            records, end = self._count_whole(self._rest, is_end=is_end)
        except (_Unsure, UnicodeError, csv.Error, RecordsUnreadable, json.JSONDecodeError, NotDecodable):
            self._records, self._rest = None, b""
        else:
            self._records = (self._records or 0) + records
            self._rest = self._rest[end:]

    @abstractmethod
    def _count_whole(self, data: bytes, *, is_end: bool) -> tuple[int, int]:
        """Return how many whole records are at the beginning of some bytes, and where the last of them ends."""


class NdjsonRecordCount(RecordCount):
    """Counts the records of an NDJSON file that has one in each line, by decoding them."""

    def _count_whole(self, data: bytes, *, is_end: bool) -> tuple[int, int]:
        is_start = self._size == len(data)
        start = len(codecs.BOM_UTF8) if is_start and data.startswith(codecs.BOM_UTF8) else 0
        end = len(data) if is_end else data.rfind(b"\n") + 1
        lines = [text for line in data[start:end].decode().split("\n") if (text := line.strip(" \t\r"))]
        # It takes half the time, and accepts nothing that the reader refuses but for the depth.
        from pydantic_core import from_json

        for text in lines:
            if not _is_record(text, from_json):
                raise _Unsure
        return len(lines), end


def _is_record(text: str, decode_quickly: Callable[[str], Any]) -> bool:
    if text.count("{") + text.count("[") <= DEEPEST:
        try:
            return isinstance(decode_quickly(text), dict)
        except ValueError:
            pass  # The quick decoder refuses some text that the strict one below accepts, and that one decides.
    value, end = decode_json(text, 0)
    return isinstance(value, dict) and end == len(text)


class CsvRecordCount(RecordCount):
    """Counts the records of a CSV file: all but the first, which names the columns.

    :param kind: ``csv`` or ``tsv``.
    """

    def __init__(self, kind: str = "csv") -> None:
        super().__init__()
        self._kind = kind
        self._delimiter = "\t" if kind == "tsv" else ","
        self._columns = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._records is not None and (b"\0" in data or not self._is_utf8(data)):
            self._records, self._rest = None, b""
        super().feed(data)

    def count(self) -> int | None:
        """Return the number of records, after the last bytes; ``None`` where it is not sure."""
        if self._records is not None and not self._is_utf8(b"", final=True):
            self._records = None
        return None if (records := super().count()) is None else records - 1

    def _is_utf8(self, data: bytes, *, final: bool = False) -> bool:
        if data.isascii() and not self._decoder.getstate()[0] and not final:
            return True
        try:
            self._decoder.decode(data, final)
        except UnicodeDecodeError:
            return False
        return True

    def _count_whole(self, data: bytes, *, is_end: bool) -> tuple[int, int]:
        start = 0
        if not self._columns:
            if len(data) < _HEAD and not is_end:
                return 0, 0
            check_beginning("the file", self._kind, data[:512], None)
            start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
            head = data[start:_HEAD].decode(errors="replace")
            # Where the head ends in the first record, too few columns are found, and that record has more.
            self._columns = len(csv_columns(csv_rows(io.StringIO(head, newline=""), self._delimiter), "the file"))
            data = data[start:]
        if len(data) >= LARGE and not is_end and (np := numpy()):
            records, end = _count_large(data, self._columns, ord(self._delimiter), np)
        else:
            records, end = self._count_small(data, is_end=is_end)
        return records, start + end

    def _count_small(self, data: bytes, *, is_end: bool) -> tuple[int, int]:
        end = len(data) if is_end else data.rfind(b"\n") + 1
        if b'"' in data or b"\r" in data.replace(b"\r\n", b""):
            while not is_end and data.count(b'"', 0, end) % 2:
                end = data.rfind(b"\n", 0, end - 1) + 1
            rows = csv_rows(io.StringIO(data[:end].decode(), newline=""), self._delimiter)
            lengths = [len(row) for row in rows if row]
        else:
            delimiter = self._delimiter.encode()
            lengths = [line.count(delimiter) + 1 for line in data[:end].split(b"\n") if line not in _EMPTY]
        if any(length != self._columns for length in lengths):
            raise _Unsure
        return len(lengths), end


class _Unsure(Exception):
    """A file cannot be counted in passing."""


@cache
def numpy() -> ModuleType | None:
    """Return NumPy, imported when it is first needed, or ``None`` where it is not installed."""
    try:
        import numpy as np
    except ImportError:
        return None
    return np


def _count_large(data: bytes, columns: int, delimiter: int, np: ModuleType) -> tuple[int, int]:
    """Count the whole records at the beginning of some bytes, which is the start of a record.

    Each byte is a bit of a few sets: quotes, delimiters, line feeds. What is between quotes is the running parity of
    the quotes. Sets are held in words of 64 bits, so that an operation on one takes almost no time.
    """
    values = np.frombuffer(data, dtype=np.uint8)
    is_line_feed = values == _LINE_FEED
    ends = np.flatnonzero(is_line_feed)
    delimiters = _bits(values == delimiter, np)
    if b'"' in data or b"\r" in data:
        quotes, line_feeds = _bits(values == _QUOTE, np), _bits(is_line_feed, np)
        quoted = _running_parity(quotes, np)
        ends = ends[_at(ends, quoted, np) == 0]
        misplaced = _misplaced(quotes, quoted, delimiters, line_feeds, _bits(values == _CARRIAGE_RETURN, np), np)
        delimiters &= ~quoted
    else:
        misplaced = np.zeros_like(delimiters)
    if not len(ends):
        return 0, 0
    end = int(ends[-1]) + 1
    if misplaced.any() and np.unpackbits(misplaced.view(np.uint8), bitorder="little", count=end).any():
        raise _Unsure
    separators = _count_before(ends, delimiters, np)
    separators[1:] -= separators[:-1].copy()
    fits = separators == columns - 1
    if columns > 1 and fits.all():
        return len(ends), end
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts
    is_empty = (lengths == 0) | ((lengths == 1) & (values[starts] == _CARRIAGE_RETURN))
    if not (fits | is_empty).all():
        raise _Unsure
    return int(np.count_nonzero(~is_empty)), end


def _misplaced(quotes: Any, quoted: Any, delimiters: Any, line_feeds: Any, returns: Any, np: ModuleType) -> Any:
    """Return quotes that open where no cell starts or close where none ends, and carriage returns without a feed."""
    edges = delimiters | line_feeds | quotes
    return (
        (quotes & quoted & ~_after(edges, np))
        | (quotes & ~quoted & ~_before(edges | returns, np))
        | (returns & ~_before(line_feeds, np))
    )


def _bits(mask: Any, np: ModuleType) -> Any:
    words = np.zeros(len(mask) // 64 + 1, dtype="<u8")
    packed = np.packbits(mask, bitorder="little")
    words.view(np.uint8)[: len(packed)] = packed
    return words


def _at(positions: Any, bits: Any, np: ModuleType) -> Any:
    return (bits[positions >> 6] >> (positions & 63).astype(np.uint64)) & np.uint64(1)


def _running_parity(bits: Any, np: ModuleType) -> Any:
    """Return a set in which a byte is if an odd number of bytes up to it, itself included, are in the given one."""
    parity = bits
    for width in (1, 2, 4, 8, 16, 32):
        parity = parity ^ (parity << np.uint64(width))
    is_odd = np.bitwise_xor.accumulate(parity >> np.uint64(63))
    parity[1:] ^= np.uint64(0) - is_odd[:-1]
    return parity


def _after(bits: Any, np: ModuleType) -> Any:
    """Return the bytes after those of a set, and the first one, which comes after a line break."""
    shifted = bits << np.uint64(1)
    shifted[1:] |= bits[:-1] >> np.uint64(63)
    shifted[0] |= np.uint64(1)
    return shifted


def _before(bits: Any, np: ModuleType) -> Any:
    """Return the bytes before those of a set."""
    shifted = bits >> np.uint64(1)
    shifted[:-1] |= bits[1:] << np.uint64(63)
    return shifted


def _count_before(positions: Any, bits: Any, np: ModuleType) -> Any:
    """Return for each position how many bytes before it are in a set."""
    before_word = np.append(0, np.cumsum(_ones(bits, np), dtype=np.int64))
    word = positions >> 6
    is_before = (np.uint64(1) << (positions & 63).astype(np.uint64)) - np.uint64(1)
    return before_word[word] + _ones(bits[word] & is_before, np).astype(np.int64)


def _ones(words: Any, np: ModuleType) -> Any:
    """Return how many bits of each word are set."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(words)
    # The sum in each pair of bits, in groups of four, of eight, and in all.
    pairs = words - ((words >> np.uint64(1)) & np.uint64(0x5555555555555555))
    fours = (pairs & np.uint64(0x3333333333333333)) + ((pairs >> np.uint64(2)) & np.uint64(0x3333333333333333))
    eights = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (eights * np.uint64(0x0101010101010101)) >> np.uint64(56)
