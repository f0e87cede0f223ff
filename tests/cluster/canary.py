"""
Looking for a key where it must not be.

A canary is a key made for one storm, so that every place it is found in is a place it got to by itself. It is looked
for in the forms it could have been written in: as it is, in Base64, in hexadecimal, compressed, and encrypted with
Airflow's own key.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Peel = Callable[[bytes], Iterator[bytes]]


@dataclass(frozen=True)
class Sighting:
    """
    A place in which a needle was found.

    :param needle: which one.
    :param place: a file, or a table and its column.
    """

    needle: str
    place: str


def forms(secret: str) -> list[bytes]:
    """Return what to look for: the secret, and the part of its encodings that does not depend on what stands around."""
    raw = secret.encode()
    return [raw, raw.hex().encode(), *(_inside_base64(raw, offset) for offset in range(3))]


def _inside_base64(raw: bytes, offset: int) -> bytes:
    encoded = base64.b64encode(b"\0" * offset + raw)
    # The first characters hold bits of what stands before, the last ones of what stands after.
    first = -(-offset * 8 // 6)
    last = (offset + len(raw)) * 8 // 6
    return encoded[first:last]


class Search:
    """
    A search for several needles.

    :param needles: secrets by the name they are reported under.
    :param fernet_key: the key Airflow encrypts with.
    """

    def __init__(self, needles: Mapping[str, str], fernet_key: str | None = None) -> None:
        self._needles = {name: forms(secret) for name, secret in needles.items()}
        self._peels: list[Peel] = [_inflate]
        if fernet_key is not None:
            self._peels.append(_decrypting(fernet_key))

    def in_bytes(self, content: bytes, place: str) -> list[Sighting]:
        """Look through some bytes, and through what they are the wrapping of."""
        layers = [content, *(inner for peel in self._peels for inner in peel(content))]
        return [
            Sighting(name, place)
            for name, variants in self._needles.items()
            if any(form in layer for form in variants for layer in layers)
        ]

    def in_files(self, folder: Path) -> list[Sighting]:
        """Look through every file below a folder, and through the names of the files."""
        found = []
        for path in sorted(folder.rglob("*")):
            place = str(path.relative_to(folder))
            found += self.in_bytes(place.encode(), f"the name of file {place}")
            if path.is_file():
                found += self.in_bytes(path.read_bytes(), f"file {place}")
        return found

    def in_rows(self, table: str, rows: Iterable[Mapping[str, Any]]) -> list[Sighting]:
        """Look through the rows of a table; each column in which something is found is reported once."""
        found: dict[Sighting, None] = {}
        for row in rows:
            for column, value in row.items():
                for sighting in self.in_bytes(_as_bytes(value), f"column {table}.{column}"):
                    found[sighting] = None
        return list(found)


def _as_bytes(value: Any) -> bytes:
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else str(value).encode()


def _inflate(content: bytes) -> Iterator[bytes]:
    """What is compressed, uncompressed."""
    try:
        yield zlib.decompress(content)
    except zlib.error:
        return


def _decrypting(fernet_key: str) -> Peel:
    from cryptography.fernet import Fernet, InvalidToken

    fernet = Fernet(fernet_key)

    def decrypt(content: bytes) -> Iterator[bytes]:
        """What Airflow encrypted, decrypted."""
        if not content.startswith(b"gAAAA"):
            return
        try:
            yield fernet.decrypt(content)
        except InvalidToken:
            return

    return decrypt
