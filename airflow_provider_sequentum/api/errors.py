"""The exceptions of the client. Each message is one line of at most 4 kB. Standard library only.

::

    SequentumError
     ├── SequentumConfigurationError    settings or arguments are invalid; nothing was sent (also a ValueError)
     ├── ConnectionNotMade              nothing was sent: there was no connection, or the time was up before
     ├── ResponseLost                   the request was sent, but its response did not arrive
     ├── HttpStatusError                the server responded with an error status: ``status_code``
     ├── UnexpectedResponse             a 2xx response that does not match the endpoint or the id; a redirect
     │    └── RefusedByServer           a 2xx response with ``success: false``
     └── DownloadError                  a file could not be downloaded from the storage that the API redirects to

Each message states what was being done, what happened, whether the server may have processed the request, and what to
do next. No error contains the API key or a signed URL.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_sequentum.api.text import one_line


class SequentumError(Exception):
    """Base class of all exceptions of the client.

    :param message: the complete message.
    :param purpose: what was being done, as a verb phrase ("start agent 7").
    :param request: method and path of the request; empty if there was none.
    :param may_have_acted: whether the server may have processed the request although it failed. If it is true for a
        start, check the agent's runs before you start it again.
    """

    transient: bool = False
    """Whether the same request may succeed a little later."""

    status_code: int | None = None
    """The HTTP status of the response; ``None`` unless it was an error status."""

    def __init__(self, message: str, *, purpose: str = "", request: str = "", may_have_acted: bool = False) -> None:
        # Messages contain texts of the server, session ids and file names. All of them are made safe here.
        super().__init__(one_line(message))
        self.purpose = one_line(purpose)
        self.request = one_line(request)
        self.may_have_acted = may_have_acted


class SequentumConfigurationError(SequentumError, ValueError):
    """Settings or arguments are invalid. Nothing was sent."""


class ConnectionNotMade(SequentumError):
    """Nothing was sent, so the server certainly did nothing, and it is safe to try again.

    There was no connection, or the time that the caller allowed passed while the call waited for the request budget.
    """

    transient = True


class ResponseLost(SequentumError):
    """The request was sent, but its response did not arrive (read timeout, connection reset, damaged body).

    For a call that changes something, ``may_have_acted`` is true: check what happened before you repeat it.
    """

    transient = True


class HttpStatusError(SequentumError):
    """The server responded with an error status.

    It is transient for 429, which means that the server did not process the request, and for 5xx. 401 and 404 may also
    mean that the key has no access to the run, agent or session.

    :param of_the_call: ``purpose``, ``request`` and ``may_have_acted``.
    :param status_code: HTTP status.
    :param title: short text of the server's error body, or the standard phrase of the status.
    :param detail: longer text of the server's error body, ``None`` if there is none. It is a text of the server: show
        it, but do not trust it.
    :param retry_after: seconds that the server asks to wait, ``None`` if it does not state them.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int = 0,
        title: str = "",
        detail: str | None = None,
        retry_after: float | None = None,
        **of_the_call: Any,
    ) -> None:
        super().__init__(message, **of_the_call)
        self.status_code: int = status_code
        self.transient = status_code == 429 or status_code >= 500
        self.title = title
        self.detail = detail
        self.retry_after = retry_after


class UnexpectedResponse(SequentumError):
    """A response that does not match the endpoint.

    It is an HTML page of a gateway, truncated JSON, a redirect or too long, or its id is missing or not the requested
    one.
    """


class RefusedByServer(UnexpectedResponse):
    """A 2xx response with ``success: false``, which is how the Agent Builder refuses a request."""


class DownloadError(SequentumError):
    """A file could not be downloaded from the storage. The message does not contain its address, which is a secret.

    It is transient if the storage responded with an error status, as it does for an expired address.
    """
