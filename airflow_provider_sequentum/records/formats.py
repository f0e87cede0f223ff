"""What the readers of all formats have in common: which format a file has, what they refuse, and with which error."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from airflow_provider_sequentum.api.text import one_line

LARGEST_RECORD = 64 * 1024 * 1024
"""Characters that a record of a text file may have. What is longer is taken for damage, so that memory is bounded."""

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
_LONGEST_REASON = 3_000
"""Bytes: a task's exception that gives it as its reason is not cut as a line of the log."""
_JSON_OBJECT = re.compile(rb'(\[\s*)?\{\s*("|\})')


class RecordsUnreadable(ValueError):
    """A file does not hold what its name says, or is damaged. The message says where.

    :param message: what is wrong. It may quote the file, which can hold anything: it is made safe, and cut.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, _LONGEST_REASON))


def library(module: str, extra: str, purpose: str) -> Any:
    """Import a library that is an extra of this package.

    :raises ImportError: it is not installed; the message names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs {module.partition('.')[0]}: pip install 'airflow-provider-sequentum[{extra}]'."
        ) from error


def format_of(name: str) -> str:
    """Return the format that a file's name says.

    :raises RecordsUnreadable: it says none that can be read.
    """
    suffix = name.rpartition(".")[2].lower()
    if suffix not in _FORMAT_OF_SUFFIX:
        raise RecordsUnreadable(f"{name!r} has no format that can be read: {', '.join(FORMATS)}.")
    return _FORMAT_OF_SUFFIX[suffix]


def encoding_of(head: bytes) -> str:
    """Return the encoding that a text's byte order mark says; UTF-8 if it has none."""
    return next((code for mark, code in _BYTE_ORDER_MARKS.items() if head.startswith(mark)), "utf-8")


def check_head(name: str, kind: str, head: bytes, encoding: str | None) -> None:
    """Check that a file's first bytes can be the start of its format.

    :param kind: its format.
    :param head: at least the first 16 bytes, if there are so many.
    :param encoding: the encoding that a text was said to have.
    :raises RecordsUnreadable: they cannot.
    """
    if not head:
        raise RecordsUnreadable(f"{name!r} is empty: 0 bytes.")
    found = next((known for mark, known in _MARKS.items() if head.startswith(mark)), "text")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        found = "html or xml"
    elif kind in TABLES and _JSON_OBJECT.match(text):
        found = "json"  # as a table it would be one long header, without an error
    expected = kind if kind in BINARY else "text"
    if found != expected:
        raise RecordsUnreadable(f"{name!r} holds {found}, and not {kind} as its name says.")
    if kind not in BINARY and encoding is None and encoding_of(head) != "utf-16" and b"\0" in head:
        raise RecordsUnreadable(
            f"{name!r} holds NUL bytes: it is not text, or it is UTF-16 without a mark. For that, give its encoding: "
            "'utf-16-le' or 'utf-16-be'."
        )


def check_columns(columns: Sequence[str], name: str) -> None:
    """Check the first line or row of a table.

    :raises RecordsUnreadable: it does not name each column once.
    """
    if len(set(columns)) != len(columns) or not columns:
        raise RecordsUnreadable(f"{name!r} must name each column once at its head, but has {columns!r:.200}.")
