"""Lets httpx read large bodies in large pieces.

httpcore asks the socket for 64 KiB at a time, and what it does per piece then costs more than moving the data. It
takes larger pieces just as well, but has no setting for them. The response's ``network_stream`` extension is the very
stream it reads from, so asking that one for more is enough; framing and length checks stay with httpx.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

READ_SIZE = 1024 * 1024
"""Bytes."""


@contextmanager
def wide_reads(response: httpx.Response) -> Iterator[None]:
    """Read the body of a streamed response in pieces of up to 1 MiB until the block ends."""
    stream: Any = response.extensions.get("network_stream")
    if stream is None:
        # A transport without a socket, such as a mock, has nothing to widen.
        yield
        return
    # The connection goes back to the pool as soon as the body has been read, so another thread may widen it again
    # before this block ends: always start from the stream's own method, and bear that the widened one is gone.
    read = partial(type(stream).read, stream)

    def read_more(max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes = read(max(max_bytes, READ_SIZE), timeout)
        return data

    stream.read = read_more
    try:
        yield
    finally:
        vars(stream).pop("read", None)
