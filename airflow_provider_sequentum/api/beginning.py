"""Reading no more of an answer than is wanted."""

from __future__ import annotations

from collections.abc import Iterator


class Beginning:
    """The beginning of a body, up to a length; all of it, if there is none."""

    def __init__(self, longest: int | None) -> None:
        self._longest = longest
        self._chunks: list[bytes] = []
        self._length = 0

    def take(self, chunk: bytes) -> bool:
        """Take the next chunk and return whether the rest is to be left unread."""
        self._chunks.append(chunk)
        self._length += len(chunk)
        return self.is_cut

    @property
    def is_cut(self) -> bool:
        """Whether there may be more than was taken."""
        return self._longest is not None and self._length >= self._longest

    @property
    def content(self) -> bytes:
        """What was taken."""
        return b"".join(self._chunks)


def beginning_of(chunks: Iterator[bytes], longest: int | None) -> Beginning:
    """Return the beginning of a body, read chunk by chunk; the rest stays unread."""
    beginning = Beginning(longest)
    for chunk in chunks:
        if beginning.take(chunk):
            break
    return beginning
