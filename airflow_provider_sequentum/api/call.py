"""What an endpoint function returns: the description of one request, before anything is sent.

A :class:`Call` says what to ask for and how to read the answer. The clients in
:mod:`airflow_provider_sequentum.api.client` send it. The functions below it check the arguments of endpoint functions
and put them into the API's form. Standard library only, so that code that merely passes calls around stays cheap to
import.
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
"""Every documented resource lives under this path of the base URL."""

QUEUE_READ_TIMEOUT = 90.0
"""Seconds. When the key's limit is used up, the service may hold a request for the rest of a window (60 s) before it
acts. Giving up a start earlier would leave open whether there is a run."""

LONGEST_SESSION_ID = 256
"""Characters of an Agent Builder session's id, as in Sequentum's own client."""

T = TypeVar("T")
E = TypeVar("E", bound=SequentumError)

Id = int | str
"""An id: the API's integer, or its text as templates render it."""
Day = date | str
"""A date or a time, or its ISO 8601 text."""


class Answer(NamedTuple):
    """The server's answer to one request, free of any HTTP library.

    :param status_code: HTTP status.
    :param headers: response headers; names are looked up in lower case.
    :param content: the body, decompressed.
    :param is_cut: whether ``content`` is only the first part of it, see ``Call.longest_answer``.
    """

    status_code: int
    headers: Mapping[str, str]
    content: bytes
    is_cut: bool = False

    @property
    def first_byte(self) -> bytes:
        """The first byte after white space and a byte order mark: what the body seems to be."""
        return self.content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]

    @property
    def is_html(self) -> bool:
        """Whether it is a page, such as a gateway's or a login's."""
        return "html" in self.headers.get("content-type", "") or self.first_byte == b"<"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request to the Sequentum Cloud API and the way to read its answer.

    :param purpose: what the request is for, as a verb phrase that error messages continue
        ("start agent 7").
    :param method: HTTP method, upper case.
    :param path: path below ``/api/v1``, with a leading slash.
    :param parse: turns a 2xx answer into the value the caller gets. It raises ``ValueError``, ``UnexpectedAnswer`` or
        ``RefusedByServer`` with a reason; the pipeline adds what the call was.
    :param query: query parameters; only what the caller set.
    :param body: JSON body.
    :param files: body as ``multipart/form-data``: name and content of the file in each form field.
    :param safe_to_repeat: whether sending the request twice has the same effect as sending it once.
        Calls that are not safe are repeated only when the server certainly did nothing with them.
    :param read_timeout: seconds of silence to allow at least, where the client's own time-out may be too short.
    :param when_silent: gives the value that a read time-out stands for. Only for long polls, where
        silence means that there is no news; everywhere else a read time-out is an error.
    :param longest_answer: bytes after which the rest of a longer answer is left unread, for answers of which the rest
        can be asked for again. ``None``: an answer that is longer than
        :data:`~airflow_provider_sequentum.api.transport.LONGEST_ANSWER` is an error.
    :param is_of_stop: whether it is a part of stopping what costs credits. Such a call waits only for the limit of the
        key, and neither for what this process allows itself nor for the end of a pause after a refusal.
    """

    purpose: str
    method: str
    path: str
    parse: Callable[[Answer], T]
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    files: Mapping[str, tuple[str, bytes]] | None = field(default=None, repr=False)
    safe_to_repeat: bool = False
    read_timeout: float | None = None
    when_silent: Callable[[], T] | None = None
    longest_answer: int | None = None
    is_of_stop: bool = False

    @classmethod
    def get(cls, purpose: str, path: str, parse: Callable[[Answer], T], **query: date | str | int | None) -> Call[T]:
        """Return a call that only reads, and therefore is safe to repeat. Parameters that are ``None`` are not sent."""
        return cls(purpose, "GET", path, parse, query=only_given(**query), safe_to_repeat=True)

    @property
    def request(self) -> str:
        """The request as it is named in error messages: ``POST /api/v1/agent/7/start``."""
        return f"{self.method} {API_PREFIX}{self.path}"

    @property
    def changes_something(self) -> bool:
        """Whether the server may be in another state after the call."""
        return self.method != "GET"

    def error(self, kind: type[E], reason: str, *, may_have_acted: bool = False, advice: str = "", **fields: Any) -> E:
        """Return an error of this call.

        :param kind: what the caller can catch.
        :param reason: what happened.
        :param may_have_acted: whether the server may have carried out the request.
        :param advice: what to do next.
        :param fields: further fields of the error.
        """
        fate = "The server did nothing with it." if self.changes_something else ""
        if may_have_acted:
            fate = "The server may have acted on it: check before repeating it."
        elif issubclass(kind, ConnectionNotMade):
            fate = "Nothing was sent."
        sentences = (f"Could not {self.purpose} ({self.request}): {reason.rstrip('.')}.", fate, advice)
        text = " ".join(filter(None, sentences))
        return kind(text, purpose=self.purpose, request=self.request, may_have_acted=may_have_acted, **fields)


class Reply(NamedTuple, Generic[T]):
    """The value of a call together with the service's own time.

    :param value: what the call's answer holds.
    :param served_at: the answer's ``Date`` header, as an aware UTC time of whole seconds; ``None`` when it is absent or
        unreadable, and when there was no answer (a long poll without news). Compare times of the service with it,
        never with the clock of this machine.
    """

    value: T
    served_at: datetime | None = None


def as_id(value: Id, name: str) -> int:
    """Return an id as the integer it is.

    :raises SequentumConfigurationError: when it is not a whole number above 0.
    """
    text = str(value).strip()
    # int() takes other digits, signs and underscores as well, and gets slow with thousands of digits.
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal()) or len(text) > 19 or int(text) == 0:
        raise SequentumConfigurationError(f"{name} must be a whole number above 0, not {text[:40]!r}.")
    return int(text)


def as_session_segment(session_id: str) -> str:
    """Return a session id as one segment of a path, whatever characters it has.

    :raises SequentumConfigurationError: when it is empty, over-long or a dot segment.
    """
    if not session_id.strip() or len(session_id) > LONGEST_SESSION_ID or session_id in (".", ".."):
        raise SequentumConfigurationError(f"{session_id[:40]!r} is not a session id of the Agent Builder.")
    try:
        return quote(session_id, safe="")
    except UnicodeEncodeError:
        raise SequentumConfigurationError(f"{session_id[:40]!r} is not a session id of the Agent Builder.") from None


def as_json_text(parameters: Mapping[str, Any] | str | None) -> str | None:
    """Return input parameters as the JSON text the API takes. A string is passed on as it is.

    :raises SequentumConfigurationError: when a value has no JSON form.
    """
    if parameters is None or isinstance(parameters, str):
        return parameters
    try:
        return json.dumps(parameters, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SequentumConfigurationError(f"input_parameters cannot be written as JSON: {error}") from None


def as_time_text(value: Day) -> str:
    """Return a date or a time as ISO 8601 text, times in UTC. A time without a zone is taken as UTC."""
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return aware.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return value.isoformat() if isinstance(value, date) else value


def only_given(**values: Any) -> dict[str, Any]:
    """Return the values that are not ``None``, times as text: what the caller did not set is not sent."""
    given = {name: value for name, value in values.items() if value is not None}
    return {name: as_time_text(value) if isinstance(value, date) else value for name, value in given.items()}
