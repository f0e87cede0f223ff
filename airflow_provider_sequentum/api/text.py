"""Text of the service, made safe: the one edge that every value, log line, exception and file name passes.

What the service sends may hold anything: NUL, which no PostgreSQL stores, escape sequences and line breaks, which forge
log lines, halves of emoji, which no encoder takes, and megabytes of it. :class:`~.parsing.ApiModel` passes every string
through :func:`safe_text`, :class:`~.errors.SequentumError` every message through :func:`one_line`. Pure; standard
library only.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

LONGEST_LINE = 4_000
"""Bytes of an exception's text or a log line."""
LONGEST_NAME = 500
"""Bytes of a string for which its model states nothing else, such as a name."""
LONGEST_MESSAGE = 2_000
"""Bytes of a message, such as a run's."""
LONGEST_TEXT = 16_000
"""Bytes of a text of many lines, such as an Agent Builder event's."""
LONGEST_WHOLE = 1_000_000
"""Bytes of what is of use only as a whole, such as input parameters."""

_REPLACEMENT = "\ufffd"
_CUT = "\u2026"
_DEEPEST = 60
"""Levels of a JSON value. What reads it later recurses as well, and Python gives up at some 1,000 frames."""
_INT64 = range(-(2**63), 2**63)


def safe_text(text: str, limit: int, *, lines: bool = False) -> str:
    """Return a text that can be stored, printed and sent anywhere.

    Control and format characters (those that reverse the writing direction among them) and lone surrogates become
    U+FFFD; line breaks and other white space become spaces.

    :param text: the service's text.
    :param limit: bytes of UTF-8 after which it is cut; an ellipsis then stands at its end.
    :param lines: keep line feeds and tabs.
    """
    if len(text) <= limit and text.isprintable() and (text.isascii() or len(text) * 4 <= limit):
        return text
    # Cut first: of a text of 5 MB only the part that stays is worth looking at.
    head = text[: limit + 1]
    if lines:
        head = head.replace("\r\n", "\n")
    if not head.isprintable():
        kept = "\n\t" if lines else ""
        head = "".join(character if character in kept else _safe_character(character) for character in head)
    encoded = head.encode()
    if len(encoded) <= limit and len(text) <= limit:
        return head
    return encoded[: limit - len(_CUT.encode())].decode(errors="ignore") + _CUT


def one_line(text: str, limit: int = LONGEST_LINE) -> str:
    """Return a text as one line without surrounding or repeated spaces, for log lines and exceptions.

    :param text: any text.
    :param limit: bytes of UTF-8 after which it is cut.
    """
    # Runs of spaces are dropped from more than is kept, so that an indented text is not cut to its indentation.
    return safe_text(" ".join(safe_text(text, 4 * limit).split()), limit)


def safe_json(value: Any, limit: int = LONGEST_TEXT, *, lines: bool = True, depth: int = _DEEPEST) -> Any:
    """Return a JSON value of which every string is safe and every number can be stored.

    What neither PostgreSQL's JSON nor Airflow's messages can hold is replaced: NaN and infinities by ``None``, integers
    of more than 64 bits by their text.

    :param value: what a JSON parser gave.
    :param limit: bytes after which each of its strings is cut.
    :param lines: keep line feeds and tabs.
    :param depth: levels that are kept; what lies deeper becomes ``None``.
    """
    if isinstance(value, str):
        return safe_text(value, limit, lines=lines)
    if not isinstance(value, list | dict):
        if isinstance(value, int) and value not in _INT64:
            return safe_text(str(value), limit)
        return None if isinstance(value, float) and not math.isfinite(value) else value
    if not depth:
        return None
    if isinstance(value, list):
        return [safe_json(item, limit, lines=lines, depth=depth - 1) for item in value]
    return {
        safe_text(str(name), LONGEST_NAME): safe_json(item, limit, lines=lines, depth=depth - 1)
        for name, item in value.items()
    }


def _safe_character(character: str) -> str:
    if character.isspace():
        return " "
    # Cc, Cf and Cs: control, format, surrogate. Unassigned characters stay: Python may be older than an emoji.
    return _REPLACEMENT if unicodedata.category(character) in ("Cc", "Cf", "Cs") else character


# File names: one path segment that stays in its folder on every file system.

LONGEST_FILE_NAME = 255
"""Bytes of UTF-8 a name may have on common file systems."""

# Most tasks name no file, and re compiles a text on first use.
_RESERVED_CHARACTERS = r'[<>:"/\\|?*]'
_DEVICE_NAME = r"(?i)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)"
_LONGEST_SUFFIX = 32


def safe_file_name(name: str | None) -> str:
    """Return a name that cannot leave its folder, as close to the given one as possible.

    Of a path only the last part is kept. A usable ordinary name comes back unchanged. Where nothing is left of it,
    it is ``file``.

    :param name: the server's name.
    """
    last_part = re.split(r"[/\\]", (name or "").rstrip("/\\"))[-1]
    composed = unicodedata.normalize("NFC", last_part.encode("utf-8", errors="replace").decode("utf-8"))
    visible = "".join(character if _is_plain(character) else "_" for character in composed)
    # Windows drops trailing dots and spaces, which would make two names one.
    tidy = re.sub(_RESERVED_CHARACTERS, "_", visible).strip(" ").rstrip(". ")
    if not tidy.strip("._ "):
        return "file"
    if re.match(_DEVICE_NAME, tidy):
        tidy = f"_{tidy}"
    return _shortened(tidy, "")


def safe_file_names(names: Iterable[str | None]) -> list[str]:
    """Return a safe name for each name, in order, no two of which mean the same file.

    Names that differ in case only count as the same, because many file systems hold them so. Later ones get a
    number before their suffix: ``data.csv``, ``data (2).csv``.

    :param names: the server's names.
    """
    taken: set[str] = set()
    result = []
    for name in names:
        safe = _not_taken(safe_file_name(name), taken)
        taken.add(safe.casefold())
        result.append(safe)
    return result


def _is_plain(character: str) -> bool:
    # Category C: control and format characters, such as NUL or those that reverse the writing direction.
    return unicodedata.category(character)[0] != "C" and character not in "\u2028\u2029"


def _not_taken(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate.casefold() in taken:
        number += 1
        candidate = _shortened(name, f" ({number})")
    return candidate


def _shortened(name: str, addition: str) -> str:
    """Return the name with an addition before its suffix, the stem cut so that the whole fits."""
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix.encode()) > _LONGEST_SUFFIX:
        stem, dot, suffix = name, "", ""
    ending = f"{addition}{dot}{suffix}"
    room = LONGEST_FILE_NAME - len(ending.encode())
    if len(stem.encode()) > room:
        stem = stem.encode()[:room].decode(errors="ignore").rstrip(" .")
    return f"{stem}{ending}"
