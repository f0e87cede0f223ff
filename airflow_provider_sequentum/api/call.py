"""The return value of endpoint functions: the description of one request, before anything is sent.

A :class:`Call` describes what to request and how to read the response. The clients in
:mod:`airflow_provider_sequentum.api.client` send it. The functions below it validate the arguments of endpoint
functions and convert them to the format of the API. Standard library only, so that code that only passes calls around
is cheap to import.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

from airflow_provider_sequentum.api.errors import ConnectionNotMade, SequentumConfigurationError, SequentumError

API_PREFIX = "/api/v1"
"""The path below the base URL that contains all documented resources."""

QUEUE_READ_TIMEOUT = 90.0
"""Seconds. If the key's limit is used up, the service may queue a request for the rest of a window (60 s). If the
client gave up earlier on a start, it would be unknown whether there is a run."""

MAX_SESSION_ID_LENGTH = 256
"""Maximum length of an Agent Builder session id, as in Sequentum's own client."""

T = TypeVar("T")
E = TypeVar("E", bound=SequentumError)

Id = int | str
"""An id: an integer, or its text as rendered by a template."""
Day = date | str
"""A date or a time, or its text in ISO 8601 format."""


class Response(NamedTuple):
    """The server's response to a request, independent of any HTTP library.

    :param status_code: HTTP status.
    :param headers: response headers; look up their names in lower case.
    :param content: the body, decompressed.
    :param is_cut: whether ``content`` is only the first part of the body, see ``Call.max_response_size``.
    """

    status_code: int
    headers: Mapping[str, str]
    content: bytes
    is_cut: bool = False

    @property
    def first_byte(self) -> bytes:
        """The first byte after white space and a byte order mark, which shows the type of the body."""
        return self.content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]

    @property
    def is_html(self) -> bool:
        """Whether it is an HTML page, such as that of a gateway or a login."""
        return "html" in self.headers.get("content-type", "") or self.first_byte == b"<"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request to the Sequentum Cloud API, and how to read its response.

    :param purpose: what the request is for, as a verb phrase for error messages ("start agent 7").
    :param method: HTTP method, in upper case.
    :param path: path below ``/api/v1``, with a leading slash.
    :param parse: converts a 2xx response to the value that the caller gets. It raises ``ValueError``,
        ``UnexpectedResponse`` or ``RefusedByServer`` with a reason; the pipeline adds the description of the call.
    :param query: query parameters, only those that the caller set.
    :param body: JSON body.
    :param files: body as ``multipart/form-data``: name and content of the file in each form field.
    :param safe_to_repeat: whether sending the request twice has the same effect as sending it once.
        Calls that are not safe are only repeated if the server certainly did not process them.
    :param read_timeout: minimum number of seconds without data to allow, if the client's own timeout may be too short.
    :param when_silent: returns the value to use after a read timeout. Only for long polls, where a timeout means that
        there is no news; for all other calls a read timeout is an error.
    :param max_response_size: maximum number of bytes to read, for responses whose rest can be requested again.
        ``None``: a response that is longer than
        :data:`~airflow_provider_sequentum.api.transport.MAX_RESPONSE_SIZE` is an error.
    :param is_of_stop: whether it belongs to stopping something that costs credits. Such a call only waits for the limit
        of the key, not for the lower limit of this process or for the end of a pause after a refusal. The time that the
        caller allows for it does not include this wait. While a request to stop waits, no other call is sent.
    """

    purpose: str
    method: str
    path: str
    parse: Callable[[Response], T]
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    files: Mapping[str, tuple[str, bytes]] | None = field(default=None, repr=False)
    safe_to_repeat: bool = False
    read_timeout: float | None = None
    when_silent: Callable[[], T] | None = None
    max_response_size: int | None = None
    is_of_stop: bool = False

    @classmethod
    def get(cls, purpose: str, path: str, parse: Callable[[Response], T], **query: date | str | int | None) -> Call[T]:
        """Return a call that only reads, so it is safe to repeat. Parameters that are ``None`` are not sent."""
        return cls(purpose, "GET", path, parse, query=only_given(**query), safe_to_repeat=True)

    @property
    def request(self) -> str:
        """The request as shown in error messages: ``POST /api/v1/agent/7/start``."""
        return f"{self.method} {API_PREFIX}{self.path}"

    @property
    def changes_something(self) -> bool:
        """Whether the call may change something on the server."""
        return self.method != "GET"

    def error(self, kind: type[E], reason: str, *, may_have_acted: bool = False, advice: str = "", **fields: Any) -> E:
        """Return an error of this call.

        :param kind: the class of the error.
        :param reason: what happened.
        :param may_have_acted: whether the server may have processed the request.
        :param advice: what to do next.
        :param fields: further attributes of the error.
        """
        fate = "The server did not process it." if self.changes_something else ""
        if may_have_acted:
            fate = "The server may have acted on it: check before repeating it."
        elif issubclass(kind, ConnectionNotMade):
            fate = "Nothing was sent."
        sentences = (f"Could not {self.purpose} ({self.request}): {reason.rstrip('.')}.", fate, advice)
        text = " ".join(filter(None, sentences))
        return kind(text, purpose=self.purpose, request=self.request, may_have_acted=may_have_acted, **fields)


class Reply(NamedTuple, Generic[T]):
    """The value of a call together with the time of the service.

    :param value: the value in the response.
    :param served_at: the ``Date`` header of the response, as an aware UTC time in whole seconds; ``None`` if it is
        absent or unreadable, and if there was no response (a long poll without news). Compare times of the service
        with it, never with the clock of this machine.
    """

    value: T
    served_at: datetime | None = None


def as_id(value: Id, name: str) -> int:
    """Return an id as an integer.

    :raises SequentumConfigurationError: if it is not a whole number above 0.
    """
    if type(value) is int and 0 < value < 10**19:
        return value
    text = str(value).strip()
    # int() also accepts non-ASCII digits, signs and underscores, and is slow for thousands of digits.
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal()) or len(text) > 19 or int(text) == 0:
        raise SequentumConfigurationError(f"{name} must be a whole number above 0, not {text[:40]!r}.")
    return int(text)


def as_session_segment(session_id: str) -> str:
    """Return a session id as one segment of a path, with any characters quoted.

    :raises SequentumConfigurationError: if it is empty, too long or a dot segment.
    """
    if not session_id.strip() or len(session_id) > MAX_SESSION_ID_LENGTH or session_id in (".", ".."):
        raise SequentumConfigurationError(f"{session_id[:40]!r} is not a session id of the Agent Builder.")
    try:
        return quote(session_id, safe="")
    except UnicodeEncodeError:
        raise SequentumConfigurationError(f"{session_id[:40]!r} is not a session id of the Agent Builder.") from None


def as_json_text(parameters: Mapping[str, Any] | str | None) -> str | None:
    """Return input parameters as the JSON text that the API expects. A string is returned unchanged.

    :raises SequentumConfigurationError: if a value cannot be converted to JSON.
    """
    if parameters is None or isinstance(parameters, str):
        return parameters
    try:
        return json.dumps(parameters, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SequentumConfigurationError(f"input_parameters cannot be written as JSON: {error}") from None


def as_time_text(value: Day) -> str:
    """Return a date or a time as ISO 8601 text, times in UTC. A time without a time zone counts as UTC."""
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return aware.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return value.isoformat() if isinstance(value, date) else value


def only_given(**values: Any) -> dict[str, Any]:
    """Return the values that are not ``None``, with times as text. Values that the caller did not set are not sent."""
    return {
        name: as_time_text(value) if isinstance(value, date) else value
        for name, value in values.items()
        if value is not None
    }
