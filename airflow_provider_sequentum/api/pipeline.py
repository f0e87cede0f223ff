"""Converting a call to a request, and a response to a value or a typed error. Pure: nothing is sent here."""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from airflow_provider_sequentum import __version__
from airflow_provider_sequentum.api.call import API_PREFIX, Call, Reply, Response
from airflow_provider_sequentum.api.errors import (
    ConnectionNotMade,
    HttpStatusError,
    RefusedByServer,
    ResponseLost,
    SequentumError,
    UnexpectedResponse,
)
from airflow_provider_sequentum.api.parsing import parse_time, read_json
from airflow_provider_sequentum.api.settings import ClientSettings
from airflow_provider_sequentum.api.text import MAX_NAME_LENGTH, one_line
from airflow_provider_sequentum.api.transport import MAX_RESPONSE_SIZE, BoundedBody, address_error

T = TypeVar("T")

MAX_RETRY_AFTER = 86_400.0
"""Seconds. See :func:`parse_retry_after`."""

USER_AGENT = f"airflow-provider-sequentum/{__version__} httpx/{httpx.__version__} python/{platform.python_version()}"

_MIN_SCRUBBED_KEY_LENGTH = 8
_ADVICE: Mapping[int, str] = {
    400: "Correct what the service objects to, then try again.",
    401: "Check the API key: it may be wrong, expired or revoked, or have no access.",
    403: "Ask an administrator to give the key's user access.",
    404: "Check the ids. The service also responds with 404 if the key has no access.",
    405: "This server does not offer the endpoint.",
    409: "Check its current state before you try again.",
    422: "Correct what the service objects to, then try again.",
    429: "Send fewer requests with this key, or ask Sequentum's support for a higher limit.",
}
_ADVICE_ON_FAULTS = "Such errors are often temporary; try again later."
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""What OpenSSL says when the first bytes of a server are not TLS."""
_NOT_MADE = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)


class Pipeline:
    """Builds the requests of a client and reads their responses."""

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self._root = f"{settings.base_url}{API_PREFIX}"
        self._headers = {
            "Authorization": f"ApiKey {settings.api_key}",
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "User-Agent": f"{settings.user_agent} {USER_AGENT}" if settings.user_agent else USER_AGENT,
        }
        key = settings.api_key
        self._secret = key.encode() if len(key) >= _MIN_SCRUBBED_KEY_LENGTH else None

    def timeouts(self, call: Call[Any], within: float = math.inf) -> dict[str, float | None]:
        """Return the timeouts for the request of a call. Waiting for a free connection of the own pool has none.

        :param within: seconds that are left for it. A call that is not safe to repeat keeps its read timeout anyway:
            otherwise it would be unknown what the request did.
        """
        read = max(self.settings.read_timeout, call.read_timeout or 0.0)
        if call.safe_to_repeat:
            read = min(read, within)
        connect = min(self.settings.connect_timeout, within)
        return httpx.Timeout(connect=connect, read=read, write=read, pool=None).as_dict()

    def build(
        self, call: Call[Any], headers: Mapping[str, str] | None = None, within: float = math.inf
    ) -> httpx.Request:
        """Return the request of a call.

        :param headers: further headers, such as ``Range``.
        :param within: seconds that are left for it.
        """
        return httpx.Request(
            call.method,
            self._root + call.path,
            params=call.query or None,
            headers={**self._headers, **(headers or {})},
            extensions={"timeout": self.timeouts(call, within)},
            json=call.body,
            files=call.files,
        )

    def reply(self, call: Call[T], response: httpx.Response, body: BoundedBody) -> Reply[T]:
        """Return the value of a response's body with the time at which it was sent.

        :raises SequentumError: as :func:`read_response`, and ``UnexpectedResponse`` if the body is too long.
        """
        if body.is_full and call.max_response_size is None and 200 <= response.status_code < 300:
            raise _unexpected(call, f"the response has more than {MAX_RESPONSE_SIZE // 1024**2} MiB")
        value = read_response(call, self.response_of(response, body.content, is_cut=body.is_full))
        return Reply(value, parse_date(response.headers.get("date")))

    def response_of(self, response: httpx.Response, content: bytes, *, is_cut: bool = False) -> Response:
        """Return a response as a :class:`Response`, without the key, which the server may echo."""
        content = _as_utf8(content)
        if self._secret is not None and any(part in content for part in (self._secret, b"\\", b"\0")):
            content = self._secret_in_json.sub(b"***", content)
        return Response(response.status_code, response.headers, content, is_cut)

    @cached_property
    def _secret_in_json(self) -> re.Pattern[bytes]:
        """The key in all spellings of JSON. It is rarely needed, and compiling it takes more than a millisecond."""
        return re.compile(rb"\x00*".join(map(_in_json, self.settings.api_key)))

    def transport_error(
        self, call: Call[Any], error: httpx.HTTPError | httpx.InvalidURL, *, is_redirected: bool = False
    ) -> SequentumError:
        """Return the typed error of a request without a usable response.

        :param is_redirected: whether the request was sent to an address that the service named, which is not shown.
        """
        if isinstance(error, httpx.InvalidURL):
            return address_error()
        if isinstance(error, _NOT_MADE):
            reason = one_line(str(error), MAX_NAME_LENGTH) or "it was not made in time"
            advice = "Check the base URL, the network and the certificates."
            if any(word in reason for word in _NO_TLS):
                advice += " The server may speak plain HTTP; if it should, begin the base URL with http://."
            server = "the server that the service redirected to" if is_redirected else self.settings.base_url
            return call.error(ConnectionNotMade, f"there is no connection to {server} ({reason})", advice=advice)
        # The text of other errors may quote what was sent or received, so only their type is shown.
        silent = isinstance(error, httpx.ReadTimeout)
        damaged = isinstance(error, httpx.DecodingError)
        reason = "no response in time" if silent else "the body is damaged" if damaged else "the connection was lost"
        return call.error(
            ResponseLost,
            f"{reason} ({type(error).__name__})",
            may_have_acted=call.changes_something,
            advice="Try again later.",
        )


def read_response(call: Call[T], response: Response) -> T:
    """Return the value of a response.

    :raises HttpStatusError: for an error status.
    :raises RefusedByServer: for a 2xx response with ``success: false``.
    :raises UnexpectedResponse: for a 2xx response that does not match the endpoint, and for a redirect.
    """
    if not 200 <= response.status_code < 300:
        raise error_of_status(call, response)
    failure: SequentumError
    try:
        return call.parse(response)
    except RefusedByServer as refusal:
        failure = call.error(RefusedByServer, f"the server refused: {one_line(str(refusal), MAX_NAME_LENGTH)}")
    except (ValueError, RecursionError, UnexpectedResponse) as error:
        reason = f"the response ({response.status_code}) is not valid for this endpoint: {_reason(response, error)}"
        failure = _unexpected(call, reason)
    # Raised here, so that its context does not bring the content of the response into a log.
    raise failure


def error_of_status(call: Call[Any], response: Response) -> SequentumError:
    """Return the typed error of a response that is not a 2xx."""
    status = response.status_code
    if status < 400:
        return _unexpected(call, f"{status} is not a status that this endpoint responds with. Check the base URL")
    title, detail = _error_texts(response)
    return call.error(
        HttpStatusError,
        f"{status} {title}" + (f": {detail}" if detail and detail != title else ""),
        may_have_acted=status >= 500 and call.changes_something,
        advice=_ADVICE_ON_FAULTS if status >= 500 else _ADVICE.get(status, ""),
        status_code=status,
        title=title,
        detail=detail,
        retry_after=retry_after_of(response.headers),
    )


def retry_after_of(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the headers of a response ask to wait; ``None`` if they do not.

    An HTTP date is measured from the ``Date`` of the response, because both are from the service's clock.
    """
    return parse_retry_after(headers.get("retry-after"), parse_date(headers.get("date")) or datetime.now(UTC))


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return how many seconds a ``Retry-After`` header asks to wait. It may contain seconds or an HTTP date.

    The maximum is a day, because very large numbers cannot be added to a date.

    :return: seconds; ``None`` if the header is absent or unreadable.
    """
    try:
        seconds = float(value or "")
    except ValueError:
        when = parse_date(value)
        if when is None:
            return None
        seconds = (when - now).total_seconds()
    return min(max(0.0, seconds), MAX_RETRY_AFTER) if math.isfinite(seconds) else None


def parse_date(value: str | None) -> datetime | None:
    """Return an HTTP date as an aware UTC time; ``None`` if it is absent, unreadable or out of range.

    ISO 8601 is accepted, too; a time without a time zone is UTC.
    """
    text = (value or "").strip()
    with suppress(ValueError, TypeError, OverflowError):
        return parse_time(parsedate_to_datetime(text))
    with suppress(ValueError):
        return parse_time(text)
    return None


def _as_utf8(content: bytes) -> bytes:
    """Return a text in UTF-8. In UTF-16 or UTF-32, neither the key nor an HTML page would be recognized."""
    encoding = json.detect_encoding(content)
    if encoding.startswith("utf-8"):
        return content
    return content.decode(encoding, errors="replace").encode(errors="replace")


def _in_json(character: str) -> bytes:
    """Return a pattern for an ASCII character in all spellings that JSON allows."""
    return rf"(?:\\?{re.escape(character)}|\\u00(?i:{ord(character):02x}))".encode()


def _unexpected(call: Call[Any], reason: str) -> UnexpectedResponse:
    return call.error(UnexpectedResponse, reason, may_have_acted=call.changes_something)


def _reason(response: Response, error: Exception) -> str:
    if response.is_html:
        return "it is an HTML page, perhaps that of a gateway or a login. Check the base URL"
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        return one_line(f"{place}: {first['msg']}" if place else first["msg"], MAX_NAME_LENGTH)
    return one_line(str(error), MAX_NAME_LENGTH)


def _error_texts(response: Response) -> tuple[str, str | None]:
    """Return title and detail of an error body: RFC 7807, both legacy formats, that of the Agent Builder, or text."""
    try:
        phrase = HTTPStatus(response.status_code).phrase
    except ValueError:
        phrase = "error"
    if not response.content.strip():
        return phrase, None
    if response.is_html:
        return phrase, "the response is an HTML page, perhaps that of a gateway. Check the base URL"
    try:
        data = read_json(response.content)
    except ValueError:
        text = response.content[: 4 * MAX_NAME_LENGTH].decode("utf-8", errors="replace")
        return phrase, one_line(text, MAX_NAME_LENGTH) or None
    if not isinstance(data, dict):
        return phrase, one_line(data if isinstance(data, str) else json.dumps(data), MAX_NAME_LENGTH) or None
    title = _first_text(data, "title", "statusDescription") or phrase
    return title, _first_text(data, "message", "detail", "error", "errorCode")


def _first_text(data: dict[str, Any], *names: str) -> str | None:
    texts = (one_line(data[name], MAX_NAME_LENGTH) for name in names if isinstance(data.get(name), str))
    return next(filter(None, texts), None)
