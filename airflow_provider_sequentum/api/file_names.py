"""Safe names for files whose names come from a server.

A safe name is one path segment that stays in its folder on every file system: no separators, no control or
reserved characters, no dot names, no names Windows keeps for devices, at most 255 bytes. Pure; standard
library only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

LONGEST_NAME = 255
"""Bytes of UTF-8 a name may have on common file systems."""

_RESERVED_CHARACTERS = re.compile(r'[<>:"/\\|?*]')
_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)", re.IGNORECASE)
_LONGEST_SUFFIX = 32


def safe_file_name(name: str | None, fallback: str = "file") -> str:
    """Return a name that cannot leave its folder, as close to the given one as possible.

    Of a path only the last part is kept. A usable ordinary name comes back unchanged.

    :param name: the server's name.
    :param fallback: what to use when nothing of it is left; has to be a safe name.
    """
    last_part = re.split(r"[/\\]", (name or "").rstrip("/\\"))[-1]
    composed = unicodedata.normalize("NFC", last_part.encode("utf-8", errors="replace").decode("utf-8"))
    visible = "".join(character if _is_plain(character) else "_" for character in composed)
    # Windows drops trailing dots and spaces, which would make two names one.
    tidy = _RESERVED_CHARACTERS.sub("_", visible).strip(" ").rstrip(". ")
    if not tidy.strip("._ "):
        return fallback
    if _DEVICE_NAME.match(tidy):
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
    room = LONGEST_NAME - len(ending.encode())
    if len(stem.encode()) > room:
        stem = stem.encode()[:room].decode(errors="ignore").rstrip(" .")
    return f"{stem}{ending}"
