"""What an endpoint function returns: the description of one request, before anything is sent.

A :class:`Call` says what to ask for and how to read the answer. The drivers in
:mod:`airflow_provider_sequentum.api.client` send it. Standard library only, so that code which merely
passes calls around stays cheap to import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

API_PREFIX = "/api/v1"
"""Every documented resource lives under this path of the base URL."""

QUEUE_READ_TIMEOUT = 90.0
"""Seconds. When the key's limit is used up, the service may hold a request for the rest of a window (60 s) before it
acts. Giving up a start earlier would leave open whether there is a run."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """The server's answer to one request, free of any HTTP library.

    :param status_code: HTTP status.
    :param headers: response headers; names are looked up in lower case.
    :param content: the body, decompressed.
    :param is_cut: whether ``content`` is only the beginning of it, see ``Call.longest_answer``.
    """

    status_code: int
    headers: Mapping[str, str]
    content: bytes
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class FileUpload:
    """A body sent as ``multipart/form-data`` with one file.

    :param field_name: name of the form field.
    :param file_name: name the file gets on the server.
    :param content: the bytes.
    """

    field_name: str
    file_name: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request to the Sequentum Cloud API and the way to read its answer.

    :param purpose: what the request is for, as a verb phrase that error messages continue
        ("start agent 7").
    :param method: HTTP method, upper case.
    :param path: path below ``/api/v1``, beginning with a slash.
    :param parse: turns a 2xx answer into the value the caller gets. It raises ``ValueError`` for an
        answer which is not what the endpoint answers; the pipeline makes an ``UnexpectedAnswer`` of it.
    :param query: query parameters; only what the caller set.
    :param body: JSON body or a file upload; ``None`` sends no body.
    :param safe_to_repeat: whether sending the request twice has the same effect as sending it once.
        Calls that are not safe are repeated only when the server certainly did nothing with them.
    :param read_timeout: seconds of silence to bear at least, where the client's own time-out may be too short.
    :param when_silent: gives the value that a read time-out stands for. Only for long polls, where
        silence means that there is no news; everywhere else a read time-out is an error.
    :param longest_answer: bytes after which the rest of a longer answer is left unread; ``None`` reads all of it. For
        answers without a bound, of which the rest can be asked for again.
    """

    purpose: str
    method: str
    path: str
    parse: Callable[[Answer], T]
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Mapping[str, Any] | FileUpload | None = None
    safe_to_repeat: bool = False
    read_timeout: float | None = None
    when_silent: Callable[[], T] | None = None
    longest_answer: int | None = None

    @property
    def request(self) -> str:
        """The request as it is named in error messages: ``POST /api/v1/agent/7/start``."""
        return f"{self.method} {API_PREFIX}{self.path}"

    @property
    def changes_something(self) -> bool:
        """Whether the server may be in another state after the call."""
        return self.method != "GET"
