"""What the readers of all formats share: detecting the format of a file, and refusing files that cannot be read."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, TypedDict

from airflow_provider_sequentum.api.text import one_line

LARGEST_RECORD = 64 * 1024 * 1024
"""The maximum length of a record in a text file, in characters. A longer one counts as damage, to bound memory."""

FORMATS = ("csv", "tsv", "json", "ndjson", "xlsx", "parquet")

_FORMAT_OF_SUFFIX: Mapping[str, str] = {**{name: name for name in FORMATS}, "jsonl": "ndjson"}
_MARKS = {
    b"PAR1": "parquet",
    b"PK\x03\x04": "xlsx",
    b"\x1f\x8b": "gzip",
    b"\xd0\xcf\x11\xe0": "an old (.xls) or encrypted workbook",
    b"%PDF": "pdf",
    b"\x89PNG": "png",
}
BINARY = frozenset({"xlsx", "parquet"})
TABLES = frozenset({"csv", "tsv"})
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_MAX_REASON_LENGTH = 3_000
"""In bytes: an exception of the task that includes the reason is not cut off as a log line."""
_JSON_OBJECT = re.compile(rb'(\[\s*)?\{\s*("|\})')


class TextOptions(TypedDict, total=False):
    """What is not in the name of a text file.

    :param encoding: the encoding. Default: the one that the byte order mark indicates, else UTF-8.
    :param delimiter: the delimiter of a CSV file. Default: a comma, or a tab in ``.tsv`` files.
    """

    encoding: str | None
    delimiter: str | None


class RecordsUnreadable(ValueError):
    """A file is not in the format of its suffix, or is damaged. The message says where.

    :param message: what is wrong. It may quote the file, which can contain anything, so it is sanitized and shortened.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, _MAX_REASON_LENGTH))


def library(module: str, extra: str, purpose: str) -> Any:
    """Import a library that is an extra of this package.

    :raises ImportError: the library is not installed. The message names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs {module.partition('.')[0]}: pip install 'airflow-provider-sequentum[{extra}]'."
        ) from error


def format_of(name: str) -> str:
    """Return the format that the suffix of a file name stands for.

    :raises RecordsUnreadable: the suffix does not stand for a format that can be read.
    """
    suffix = name.rpartition(".")[2].lower()
    if suffix not in _FORMAT_OF_SUFFIX:
        raise RecordsUnreadable(f"{name!r} is not in a format that can be read: {', '.join(FORMATS)}.")
    return _FORMAT_OF_SUFFIX[suffix]


def encoding_of(head: bytes) -> str:
    """Return the encoding that the byte order mark of a text indicates; UTF-8 if there is none."""
    return next((code for mark, code in _BYTE_ORDER_MARKS.items() if head.startswith(mark)), "utf-8")


def check_head(name: str, kind: str, head: bytes, encoding: str | None) -> None:
    """Check that the first bytes of a file can be the start of a file in its format.

    :param kind: the format of the file.
    :param head: at least the first 16 bytes, if the file has that many.
    :param encoding: the encoding that the caller gave for a text file.
    :raises RecordsUnreadable: the file is empty or has another format.
    """
    if not head:
        raise RecordsUnreadable(f"{name!r} is empty: 0 bytes.")
    found = next((known for mark, known in _MARKS.items() if head.startswith(mark)), "text")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        found = "html or xml"
    elif kind in TABLES and _JSON_OBJECT.match(text):
        found = "json"  # read as a table, it would be one long header, without an error
    expected = kind if kind in BINARY else "text"
    if found != expected:
        raise RecordsUnreadable(f"{name!r} contains {found}, not {kind} as its name says.")
    if kind not in BINARY and encoding is None and encoding_of(head) != "utf-16" and b"\0" in head:
        raise RecordsUnreadable(
            f"{name!r} contains NUL bytes: it is not text, or it is UTF-16 without a byte order mark. In the latter "
            "case, set its encoding: 'utf-16-le' or 'utf-16-be'."
        )


def check_columns(columns: Sequence[str], name: str) -> None:
    """Check the column names in the first line or row of a table.

    :raises RecordsUnreadable: there are no columns, or two have the same name.
    """
    if len(set(columns)) != len(columns) or not columns:
        raise RecordsUnreadable(f"{name!r} must start with unique column names, but has {columns!r:.200}.")
