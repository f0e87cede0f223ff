"""Making texts of the service safe: all values, log lines, exceptions and file names pass through this module.

Texts of the service may contain anything: NUL, which PostgreSQL cannot store; escape sequences and line breaks, which
forge log lines; lone surrogates, which cannot be encoded; and megabytes of data. :class:`~.parsing.ApiModel` passes
each string to :func:`safe_text`, and :class:`~.errors.SequentumError` each message to :func:`one_line`. Pure; standard
library only.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

MAX_LINE_LENGTH = 4_000
"""Maximum bytes of the message of an exception, or of a log line."""
MAX_NAME_LENGTH = 500
"""Maximum bytes of a string whose field has no annotation, such as a name."""
MAX_MESSAGE_LENGTH = 2_000
"""Maximum bytes of a message, such as that of a run."""
MAX_TEXT_LENGTH = 16_000
"""Maximum bytes of a text of many lines, such as that of an Agent Builder event."""
MAX_WHOLE_LENGTH = 1_000_000
"""Maximum bytes of a text that is only useful as a whole, such as input parameters."""

_REPLACEMENT = "\ufffd"
_CUT = "\u2026"
_DEEPEST = 60
"""Maximum depth of a JSON value. Its readers are recursive as well, and Python has a limit of about 1,000 frames."""
_INT64 = range(-(2**63), 2**63)


def safe_text(text: str, limit: int, *, lines: bool = False) -> str:
    """Return a text that can be stored, printed and sent anywhere.

    Control and format characters (including those that reverse the writing direction) and lone surrogates are replaced
    by U+FFFD, line breaks and other white space by spaces.

    :param text: a text of the service.
    :param limit: maximum bytes of UTF-8; a longer text is cut and ends with an ellipsis.
    :param lines: keep line feeds and tabs.
    """
    if len(text) <= limit and text.isprintable() and (text.isascii() or len(text) * 4 <= limit):
        return text
    # Cut first, so that only the part to keep of a text of 5 MB is processed.
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


def one_line(text: str, limit: int = MAX_LINE_LENGTH) -> str:
    """Return a text as one line without surrounding or repeated spaces, for log lines and exceptions.

    :param text: any text.
    :param limit: maximum bytes of UTF-8; a longer text is cut.
    """
    # Repeated spaces are removed before the text is cut, so that not only the indentation is left of an indented text.
    return safe_text(" ".join(safe_text(text, 4 * limit).split()), limit)


def safe_json(value: Any, limit: int = MAX_TEXT_LENGTH, *, lines: bool = True, depth: int = _DEEPEST) -> Any:
    """Return a JSON value in which all strings are safe and all numbers can be stored.

    Values that PostgreSQL's JSON or Airflow's messages cannot contain are replaced: NaN and infinities by ``None``,
    integers of more than 64 bits by their text.

    :param value: the output of a JSON parser.
    :param limit: maximum bytes of each string; longer ones are cut.
    :param lines: keep line feeds and tabs.
    :param depth: number of levels to keep; deeper ones are replaced by ``None``.
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
        safe_text(str(name), MAX_NAME_LENGTH): safe_json(item, limit, lines=lines, depth=depth - 1)
        for name, item in value.items()
    }


def _safe_character(character: str) -> str:
    if character.isspace():
        return " "
    # Cc, Cf and Cs: control, format, surrogate. Unassigned characters are kept: an emoji may be newer than Python.
    return _REPLACEMENT if unicodedata.category(character) in ("Cc", "Cf", "Cs") else character


# File names: a single path segment that stays in its folder on every file system.

MAX_FILE_NAME_LENGTH = 255
"""Maximum bytes of UTF-8 of a name on common file systems."""

# Most tasks do not use file names, and re compiles a text on first use.
_RESERVED_CHARACTERS = r'[<>:"/\\|?*]'
_DEVICE_NAME = r"(?i)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)"
_MAX_SUFFIX_LENGTH = 32


def safe_file_name(name: str | None) -> str:
    """Return a name that cannot leave its folder, as similar to the given one as possible.

    Only the last part of a path is kept. A valid ordinary name is returned unchanged. If nothing is left of a name, it
    is replaced by ``file``.

    :param name: the name from the server.
    """
    last_part = re.split(r"[/\\]", (name or "").rstrip("/\\"))[-1]
    composed = unicodedata.normalize("NFC", last_part.encode("utf-8", errors="replace").decode("utf-8"))
    visible = "".join(character if _is_plain(character) else "_" for character in composed)
    # Windows removes trailing dots and spaces, which would make different names equal.
    tidy = re.sub(_RESERVED_CHARACTERS, "_", visible).strip(" ").rstrip(". ")
    if not tidy.strip("._ "):
        return "file"
    if re.match(_DEVICE_NAME, tidy):
        tidy = f"_{tidy}"
    return _shortened(tidy, "")


def safe_file_names(names: Iterable[str | None]) -> list[str]:
    """Return a safe name for each name, in the same order, so that each is a different file.

    Names that only differ in case count as equal, because they are on many file systems. Later ones get a number before
    their suffix: ``data.csv``, ``data (2).csv``.

    :param names: the names from the server.
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
    """Return the name with an addition before its suffix. The stem is cut if the name would be too long."""
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix.encode()) > _MAX_SUFFIX_LENGTH:
        stem, dot, suffix = name, "", ""
    ending = f"{addition}{dot}{suffix}"
    room = MAX_FILE_NAME_LENGTH - len(ending.encode())
    if len(stem.encode()) > room:
        stem = stem.encode()[:room].decode(errors="ignore").rstrip(" .")
    return f"{stem}{ending}"
