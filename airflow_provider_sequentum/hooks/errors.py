"""What an error of the API client means to a task: retry or not, and what the person reading it has to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow_provider_sequentum.api import errors
from airflow_provider_sequentum.exceptions import (
    SequentumConnectionException,
    SequentumConnectionNotFound,
    SequentumException,
    SequentumRequestRefused,
    SequentumUnavailable,
)

_KINDS = {
    kind.__name__: kind
    for kind in (
        SequentumConnectionException,
        SequentumConnectionNotFound,
        SequentumRequestRefused,
        SequentumUnavailable,
    )
}
_CONNECTION_IS_WRONG = (errors.SequentumConfigurationError, errors.Unauthorized, errors.Forbidden)


def as_airflow_exception(error: errors.SequentumError, conn_id: str) -> SequentumException:
    """
    Return the exception a task fails with because of ``error``.

    What a retry may mend (no answer, a limit, a fault of the server, a gateway's page) becomes
    :class:`SequentumUnavailable`; the rest fails at once. An answer that may have hidden an action is never retried
    blindly by the callers that start something: they look first.

    :param conn_id: the Airflow connection, named in the message.
    """
    message = f"{error} (connection {conn_id!r})"
    if isinstance(error, _CONNECTION_IS_WRONG):
        return SequentumConnectionException(message)
    if isinstance(error, errors.RefusedByServer):
        return SequentumRequestRefused(message)
    if error.transient or isinstance(error, (errors.UnexpectedAnswer, errors.DownloadError)):
        return SequentumUnavailable(message)
    return SequentumRequestRefused(message)


@contextmanager
def errors_as_airflow_exceptions(conn_id: str) -> Iterator[None]:
    """Turn every ``SequentumError`` raised inside into the exception a task fails with."""
    try:
        yield
    except errors.SequentumError as error:
        raise as_airflow_exception(error, conn_id) from error


def exception_named(name: object, message: object) -> SequentumException:
    """
    Return the exception that a trigger met, for the task to fail with.

    :param name: the name of its class; one that isn't known is taken for one that a retry may mend.
    :param message: its words.
    """
    return _KINDS.get(str(name), SequentumUnavailable)(str(message))
