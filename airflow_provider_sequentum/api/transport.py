"""Sending requests and receiving bodies with httpx, plus the features that it lacks.

These are errors about certificates and proxies that name the faulty field or variable, redirects that are left to the
caller, a log without the URLs and headers of our requests, bodies with a maximum decompressed size, and large reads for
large bodies.
"""

from __future__ import annotations

import io
import logging
import os
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.request import getproxies

import httpx

from airflow_provider_sequentum.api.errors import SequentumConfigurationError
from airflow_provider_sequentum.api.text import one_line

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.settings import ClientSettings

C = TypeVar("C", httpx.Client, httpx.AsyncClient)

MAX_RESPONSE_SIZE = 64 * 1024 * 1024
"""Maximum bytes, after decompression, of a response that is read as a whole."""
READ_SIZE = 1024 * 1024
"""Bytes."""
GZIP = frozenset({"gzip", "x-gzip"})
ZSTD = "zstd"

# Servers close idle connections after at least 5 s (uvicorn). A start must not use one that is being closed.
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=4.0)
_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
# Some S3 clients store the coding of their upload as that of the object. It does not describe the bytes.
_NO_CODING = frozenset({"", "identity", "aws-chunked"})
_GZIP_MAGIC = b"\x1f\x8b"
_LOGGERS = (
    "httpx",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
)
_is_quiet: ContextVar[bool] = ContextVar("sequentum_http_logs_are_quiet", default=False)


def new_client(
    settings: ClientSettings, transport: httpx.BaseTransport | None, *, for_storage: bool = False
) -> httpx.Client:
    """Return httpx's blocking client.

    :param settings: the settings of our client.
    :param transport: sends the requests instead of httpx's default transport.
    :param for_storage: whether it is for storage on another origin than that of the service.
    :raises SequentumConfigurationError: if certificates or proxies are invalid; the message states where they are
        configured.
    """
    hooks = {"response": [_take_location]}
    make = partial(httpx.Client, transport=transport, limits=_LIMITS, event_hooks=hooks)
    return _made(make, _verification(settings, for_storage=for_storage))


def new_async_client(settings: ClientSettings, transport: httpx.AsyncBaseTransport | None) -> httpx.AsyncClient:
    """Return httpx's asynchronous client; see :func:`new_client`."""

    async def take_location(response: httpx.Response) -> None:
        _take_location(response)

    hooks = {"response": [take_location]}
    make = partial(httpx.AsyncClient, transport=transport, limits=_LIMITS, event_hooks=hooks)
    return _made(make, _verification(settings, for_storage=False))


def location_of(response: httpx.Response) -> str | None:
    """Return where a response redirects to. Clients of this module remove it from the headers."""
    location: str | None = response.extensions.get("sequentum_location")
    return location


def address_error() -> SequentumConfigurationError:
    """Return the typed error for an address that no request can be sent to.

    The base URL and redirects were validated before, so it is that of a proxy.
    """
    names = _proxy_variables() or ["The base URL"]
    return SequentumConfigurationError(f"{' or '.join(names)} contains a host that is not valid. Nothing was sent.")


@contextmanager
def sending() -> Iterator[None]:
    """Drop log lines of httpx and httpcore in this thread or task during the block, and raise only errors of httpx.

    Their log lines contain complete URLs and headers, including signed URLs. Other users of httpx in the same process
    keep their log.
    """
    token = _is_quiet.set(True)
    try:
        yield
    except (UnicodeError, ImportError) as error:
        # For an invalid address, httpx does not catch these errors of the standard library and idna.
        raise httpx.InvalidURL(type(error).__name__) from None
    finally:
        _is_quiet.reset(token)


@contextmanager
def wide_reads(response: httpx.Response) -> Iterator[None]:
    """Read the body of a streamed response in pieces of up to 1 MiB during the block.

    httpcore reads 64 KiB from the socket at a time, and its overhead for each piece is larger than the cost of moving
    the data. It can process larger pieces, but has no setting for them. The ``network_stream`` extension is the stream
    that it reads from, so it is enough to make that one read more. Framing and length checks are still done by httpx.
    """
    stream: Any = response.extensions.get("network_stream")
    if stream is None:
        # A transport without a socket, such as a mock, has no stream.
        yield
        return
    # The connection returns to the pool as soon as the body has been read, so another thread may replace the method
    # again before this block ends: always wrap the method of the class, and accept that the replaced one is gone.
    read = partial(type(stream).read, stream)

    def read_more(max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes = read(max(max_bytes, READ_SIZE), timeout)
        return data

    stream.read = read_more
    try:
        yield
    finally:
        vars(stream).pop("read", None)


class BoundedBody:
    """The first part of a body, decompressed, up to a maximum size.

    :param response: the response; its body has not been read.
    :param longest: the maximum number of bytes.
    """

    def __init__(self, response: httpx.Response, longest: int) -> None:
        self._longest = longest
        self._pieces: list[bytes] = []
        self._length = 0
        codings = codings_of(response)
        if len(codings) > 1 or not set(codings) <= GZIP | {"deflate"}:
            # Each layer may expand a thousandfold, and only one of gzip was requested.
            raise httpx.DecodingError("a content coding that was not requested")
        self._inflater = Inflater() if codings else None

    def take(self, data: bytes) -> bool:
        """Add the next piece as received from the network; return whether to stop reading."""
        for piece in self._inflater.pieces(data) if self._inflater else (data,):
            self._pieces.append(piece)
            self._length += len(piece)
            if self.is_full:
                return True
        return False

    @property
    def is_full(self) -> bool:
        """Whether the body may be longer than the part that was added."""
        return self._length >= self._longest

    @property
    def content(self) -> bytes:
        """The bytes that were added."""
        return b"".join(self._pieces)


class Inflater:
    """Decompresses gzip and zlib in pieces, so that no input expands to more than one piece at a time."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(32 + zlib.MAX_WBITS)
        self._between = b""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Decompress further data and yield it in pieces of up to 1 MiB.

        :raises httpx.DecodingError: if it is damaged.
        """
        piece = b""
        while data or len(piece) == READ_SIZE:
            if self._member.eof:
                # A gzip file may have several members. Anything else after a member is padding.
                self._between += data
                if len(self._between) < len(_GZIP_MAGIC) or not self._between.startswith(_GZIP_MAGIC):
                    return
                data, self._between, self._member = self._between, b"", zlib.decompressobj(32 + zlib.MAX_WBITS)
            try:
                piece = self._member.decompress(data, READ_SIZE)
            except zlib.error as error:
                raise httpx.DecodingError(str(error)) from None
            if piece:
                yield piece
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail

    @property
    def is_complete(self) -> bool:
        """Whether the end of the compressed data was reached."""
        return self._member.eof


def codings_of(response: httpx.Response) -> list[str]:
    """Return the content codings of a body that is not yet decompressed, in the order in which they were applied."""
    if response.is_stream_consumed:
        return []  # a transport that has already read the body has also decompressed it
    stated = response.headers.get("content-encoding", "").lower().split(",")
    return [coding for coding in map(str.strip, stated) if coding not in _NO_CODING]


def raw_pieces(response: httpx.Response) -> Iterator[bytes]:
    """Yield a body as received from the network."""
    return response.iter_bytes() if response.is_stream_consumed else response.iter_raw()


def async_raw_pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield a body as received from the network."""
    return response.aiter_bytes() if response.is_stream_consumed else response.aiter_raw()


def read_at_most(response: httpx.Response, longest: int) -> BoundedBody:
    """Return the first part of a body; the rest is not read."""
    body = BoundedBody(response, longest)
    for data in raw_pieces(response):
        if body.take(data):
            break
    return body


def decompressed(pieces: Iterator[bytes], coding: str) -> Iterator[bytes]:
    """Decompress pieces of a body.

    :param pieces: the body as received from the network.
    :param coding: ``gzip``, ``x-gzip`` or ``zstd``.
    :raises httpx.DecodingError: if the body is damaged or ends early.
    :raises ImportError: if the library for ``zstd`` is missing.
    """
    if coding == ZSTD:
        yield from _zstd_decompressed(pieces)
        return
    inflater = Inflater()
    for data in pieces:
        yield from inflater.pieces(data)
    if not inflater.is_complete:
        raise httpx.DecodingError("the compressed data ends early")


class _Pieces(io.RawIOBase):
    """A file that reads from pieces, for a library that requires a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        taken, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


def _zstd_decompressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    import pyarrow as pa

    with pa.CompressedInputStream(pa.PythonFile(_Pieces(pieces), mode="r"), ZSTD) as stream:
        while True:
            try:
                data: bytes = stream.read(READ_SIZE)
            except (OSError, pa.ArrowException) as error:
                raise httpx.DecodingError(one_line(str(error), 200)) from None
            if not data:
                return
            yield data


def _take_location(response: httpx.Response) -> None:
    # httpx reads this header even if it does not follow it, and raises InvalidURL, which is not an HTTPError, for an
    # address such as "javascript:x". addresses.redirect_target decides whether to follow it.
    location = response.headers.pop("location", None)
    if location is not None:
        response.extensions["sequentum_location"] = location


def _made(make: Callable[..., C], verify: ssl.SSLContext | bool) -> C:
    try:
        return make(verify=verify)
    except (ImportError, ValueError, TypeError, httpx.InvalidURL) as error:
        failure = _proxy_error(error)
    # Raised here, so that its context does not contain the proxy's password.
    raise failure


def _verification(settings: ClientSettings, *, for_storage: bool) -> ssl.SSLContext | bool:
    own = settings.verify
    if not for_storage and settings.origin.startswith("http:"):
        # Loading the certificates of the authorities is slow. This context trusts none of them, if it is ever used.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if own is False:
        return False
    if own is True:
        return _public_authorities()
    try:
        context = _public_authorities() if for_storage else ssl.create_default_context(cafile=own)
        context.load_verify_locations(cafile=own)
    except (OSError, ValueError) as error:
        raise SequentumConfigurationError(
            f"The certificates in {own} (verify; in a connection: ca_bundle) cannot be read: {error}. "
            "It must be the path of a PEM file. Nothing was sent."
        ) from None
    return context


def _public_authorities() -> ssl.SSLContext:
    file, folder = (os.environ.get(name) for name in _CERTIFICATE_VARIABLES[:2])
    # OpenSSL accepts a folder that does not exist, and then trusts no authority.
    if folder and not file and not Path(folder).is_dir():
        raise SequentumConfigurationError(
            "The environment variable SSL_CERT_DIR is not the path of a folder. Nothing was sent."
        )
    try:
        return httpx.create_ssl_context()
    except (OSError, ValueError) as error:
        names = " or ".join(name for name in _CERTIFICATE_VARIABLES if os.environ.get(name)) or "certifi"
        raise SequentumConfigurationError(
            f"The certificates of the public authorities cannot be read (see {names}): {error}. Nothing was sent."
        ) from None


def _proxy_error(error: Exception) -> SequentumConfigurationError:
    # The message does not contain the address of the proxy, which may include a password.
    reason = (
        "a SOCKS proxy needs the package socksio" if isinstance(error, ImportError) else "it is not a valid address"
    )
    faulty = [name for name in _proxy_variables() if not _is_usable_proxy(name)] or ["NO_PROXY"]
    return SequentumConfigurationError(
        f"The proxy configuration {' and '.join(faulty)} cannot be used: {reason}. Nothing was sent."
    )


def _proxy_variables() -> list[str]:
    names = (f"{scheme}_proxy" for scheme in ("http", "https", "all") if getproxies().get(scheme))
    return [name if name in os.environ else name.upper() for name in names]


def _is_usable_proxy(name: str) -> bool:
    address = getproxies()[name.lower().removesuffix("_proxy")]
    try:
        httpx.HTTPTransport(verify=False, proxy=address if "://" in address else f"http://{address}").close()
    except (ImportError, ValueError, TypeError, httpx.InvalidURL):
        return False
    return True


def _drop_while_quiet(_record: logging.LogRecord) -> bool:
    return not _is_quiet.get()


for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(_drop_while_quiet)
