"""Everything the client raises: each text on one line of at most 4 kB. Standard library only.

::

    SequentumError
     ├── SequentumConfigurationError    settings or arguments are unusable; nothing was sent (ValueError too)
     ├── SequentumTransportError        no usable answer came
     │    ├── ConnectionNotMade         nothing was sent: no connection came about, or the call's time passed before
     │    └── AnswerLost                the request was sent, its answer did not arrive
     │         └── AnswerTimedOut       the server stayed silent for too long
     ├── HttpStatusError                the server answered with an error status: ``status_code``
     ├── UnexpectedAnswer               a 2xx that is not what the endpoint answers, or about another id; a redirect
     │    └── RefusedByServer           a 2xx that says ``success: false``
     └── DownloadError                  a file could not be fetched from the storage the API points to
          └── StorageRefused            the storage answered with an error status, e.g. for an expired address

Every error says in its text what was being done, what happened, whether the server may have acted, and
what to do next. No error holds the API key or a signed URL.
"""

from __future__ import annotations

from airflow_provider_sequentum.api.text import one_line


class SequentumError(Exception):
    """Base of everything this client raises.

    :param message: the whole text.
    :param purpose: what was being done, as a verb phrase ("start agent 7").
    :param request: method and path of the request; empty when none was made.
    :param may_have_acted: whether the server may have carried out the request although it failed. If it
        is true for a start, check the agent's runs before starting again.
    """

    transient: bool = False
    """Whether the same request may well succeed a little later."""

    status_code: int | None = None
    """The HTTP status of the server's answer; ``None`` unless it was an error status."""

    def __init__(self, message: str, *, purpose: str = "", request: str = "", may_have_acted: bool = False) -> None:
        # The server's words, session ids and file names get in here from everywhere: all of them pass this line.
        super().__init__(one_line(message))
        self.purpose = one_line(purpose)
        self.request = one_line(request)
        self.may_have_acted = may_have_acted


class SequentumConfigurationError(SequentumError, ValueError):
    """Settings or arguments are unusable. Nothing was sent."""


class SequentumTransportError(SequentumError):
    """No usable answer came from the server."""

    transient = True


class ConnectionNotMade(SequentumTransportError):
    """Nothing was sent, so the server certainly did nothing: trying again is safe.

    No connection came about, or the time that the caller gave the call passed while it waited for the request budget.
    """


class AnswerLost(SequentumTransportError):
    """The request was sent and its answer did not arrive (time-out, connection reset).

    For a call that changes something, ``may_have_acted`` is true: find out before repeating it.
    """


class AnswerTimedOut(AnswerLost):
    """The request was sent and the server stayed silent for longer than the read time-out."""


class HttpStatusError(SequentumError):
    """The server answered with an error status.

    It is transient for 429, which says that the server did nothing with the request, and for 5xx. 401 and 404 may also
    mean a run, an agent or a session that the key may not see.

    :param status_code: HTTP status.
    :param title: short text of the server's error body, or the standard phrase of the status.
    :param detail: longer text of the server's error body, ``None`` when it has none. It comes from the
        server: do not trust it with more than being shown.
    :param retry_after: seconds the server asks to wait, ``None`` when it does not say.
    """

    def __init__(
        self,
        message: str,
        *,
        purpose: str = "",
        request: str = "",
        may_have_acted: bool = False,
        status_code: int = 0,
        title: str = "",
        detail: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, purpose=purpose, request=request, may_have_acted=may_have_acted)
        self.status_code: int = status_code
        self.transient = status_code == 429 or status_code >= 500
        self.title = title
        self.detail = detail
        self.retry_after = retry_after


class UnexpectedAnswer(SequentumError):
    """An answer that is not what the endpoint answers.

    A gateway's HTML page, truncated JSON, no id, another id than the one that was asked for, a redirect, or more bytes
    than any answer has.
    """


class RefusedByServer(UnexpectedAnswer):
    """A 2xx answer that says ``success: false``: the Agent Builder's way of refusing."""


class DownloadError(SequentumError):
    """A file could not be fetched from the storage the API points to. Its address, a secret, stays out of the text."""


class StorageRefused(DownloadError):
    """The storage answered with an error status, as it does for an expired address. A new address may help."""

    transient = True
