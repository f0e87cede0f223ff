"""Which format a file has: by its name, checked against its first bytes."""

from __future__ import annotations

from collections.abc import Mapping

FORMATS = ("csv", "tsv", "json", "ndjson", "xlsx", "parquet")

_FORMAT_OF_SUFFIX: Mapping[str, str] = {**{name: name for name in FORMATS}, "jsonl": "ndjson"}
_MARKS = {
    b"PAR1": "parquet",
    b"PK\x03\x04": "xlsx",
    b"\x1f\x8b": "gzip",
    b"\xd0\xcf\x11\xe0": "xls",
    b"%PDF": "pdf",
    b"\x89PNG": "png",
}
_BINARY = frozenset({"xlsx", "parquet"})


class RecordsUnreadable(ValueError):
    """A file does not hold what its name says, or is damaged. The message says where."""


def format_of(name: str) -> str:
    """
    Return the format that a file's name says.

    :raises RecordsUnreadable: it says none that can be read.
    """
    suffix = name.rpartition(".")[2].lower()
    if suffix not in _FORMAT_OF_SUFFIX:
        raise RecordsUnreadable(f"{name!r} has no format that can be read: {', '.join(FORMATS)}.")
    return _FORMAT_OF_SUFFIX[suffix]


def check_beginning(name: str, kind: str, beginning: bytes) -> None:
    """
    Check that a file's first bytes can be the beginning of its format.

    :param kind: its format.
    :param beginning: at least the first 16 bytes, if there are so many.
    :raises RecordsUnreadable: they can't.
    """
    if not beginning:
        raise RecordsUnreadable(f"{name!r} is empty: 0 bytes.")
    found = next((known for mark, known in _MARKS.items() if beginning.startswith(mark)), "text")
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        found = "html or xml"
    expected = kind if kind in _BINARY else "text"
    if found != expected:
        raise RecordsUnreadable(f"{name!r} holds {found}, and not {kind} as its name says.")
