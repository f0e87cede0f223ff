"""The exceptions that a task fails with.

All are an ``AirflowException``. Those that a retry cannot fix are an ``AirflowFailException`` as well, so that Airflow
does not retry them. ``docs/errors.md`` describes what to do about each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
)

E = TypeVar("E", bound=BaseException)


class SequentumException(AirflowException):
    """Base class of all exceptions of this provider.

    :param message: what happened, what happened to the run or session, and what to do next.
    :param agent_id: the agent that it is about, if known.
    :param run_id: the run that it is about, if known.
    """

    def __init__(self, message: str = "", *, agent_id: int | None = None, run_id: int | None = None) -> None:
        super().__init__(message)
        self.agent_id = agent_id
        self.run_id = run_id


class SequentumConnectionException(SequentumException, AirflowFailException):
    """The Airflow connection is wrong: its key, host, certificate or a field of its extra. Not retried."""


class SequentumConnectionNotFound(SequentumException):
    """Airflow cannot find the connection. Nothing was sent.

    Airflow reports the same error while its own API server or database is unavailable, and the two cases cannot be
    distinguished. So a retry can help.
    """


class SequentumRequestRefused(SequentumException, AirflowFailException):
    """The service refused the request, or the request could not be built. Not retried."""


class SequentumUnavailable(SequentumException):
    """There was no usable response: the service is unreachable, rate limited or faulty. A retry can help."""

    retry_after: float | None = None
    """Seconds that the service asked to wait; ``None`` if it did not say."""


class CreditsTooLow(SequentumException, AirflowFailException):
    """Fewer credits are left than ``min_credits``; nothing was started. Not retried, because a person has to pay."""


class CreditLimitReached(SequentumException, AirflowFailException):
    """The start would exceed the task's ``credit_limit``; nothing was started. Not retried."""


class AgentVersionChanged(SequentumException, AirflowFailException):
    """The agent, or the run that was started, has another version than the task expects. Not retried."""


class SequentumSkipped(SequentumException, AirflowSkipException):
    """The task is skipped: the service skipped the run, or a parameter says to skip the task in this case."""


class AgentRunException(SequentumException):
    """Base class of exceptions about an agent run.

    :param status: the name of the run's status, if known.
    """

    def __init__(self, message: str = "", *, status: str | None = None, **ids: int | None) -> None:
        super().__init__(message, **ids)
        self.status = status


class AgentRunUnsuccessful(AgentRunException):
    """The run failed: its status is Failure or, once it is archived, Failed."""


class AgentRunFailure(AgentRunUnsuccessful):
    """The run ended in Failure and is still in the active table. A retry of the task restarts it in place."""


class AgentRunFailed(AgentRunUnsuccessful):
    """The run failed and was archived (Failed), so it cannot be restarted. A retry of the task starts a new run."""


class SensedAgentRunFailure(AgentRunFailure, AirflowFailException):
    """``AgentRunFailure``, raised by a sensor: not retried, because another check does not restart the run."""


class SensedAgentRunFailed(AgentRunFailed, AirflowFailException):
    """``AgentRunFailed``, raised by a sensor: not retried, because the run cannot change any more."""


class AgentRunStopped(AgentRunException, AirflowFailException):
    """A person or another program stopped the run. Not retried; clearing the task starts a new run."""


class AgentRunTimeout(AgentRunException):
    """The run was still running when the task's ``timeout``, or three times the usual duration, had passed."""


class AgentRunOutcomeRejected(AgentRunException):
    """The run succeeded, but violates ``min_records``, ``max_errors`` or ``on_empty``. A retry starts a new run."""


class AgentRunStartAmbiguous(AgentRunException, AirflowFailException):
    """The response to a start was lost, and the run cannot be distinguished from others. Not retried.

    Before Airflow 3.3, also raised by a mapped task whose run may be running and would not be found by a retry.
    """


class AgentRunStillRunning(AgentRunException):
    """The run to be replaced could not be stopped, so no new one was started. A retry tries to stop it again."""


class RunFilesUnavailable(SequentumException):
    """Some files of a run could not be read or written. A retry continues where this attempt ended."""


class RunRecordsUnreadable(SequentumException, AirflowFailException):
    """A file of a run is damaged, or not of the type that its name says. Not retried: it would fail again."""


class RunRecordsRejected(SequentumException, AirflowFailException):
    """The records of a run broke a rule with ``on_breach="fail"``, or drifted. Not retried: they would fail again."""


class RunRecordsNotComparable(SequentumException, AirflowFailException):
    """The records of two runs have no usable key in common, or there are none. Nothing was published; not retried."""


class SpaceRunsFailed(SequentumException):
    """Some agents of a space were not started or did not succeed. A retry handles each like a single run.

    :param space_id: the space.
    """

    def __init__(self, message: str = "", *, space_id: int | None = None, **ids: int | None) -> None:
        super().__init__(message, **ids)
        self.space_id = space_id


class SpaceRunsEnded(SpaceRunsFailed, AirflowFailException):
    """Some runs did not succeed for reasons that a retry cannot fix, such as being stopped by a person. Not retried."""


class AgentBuilderException(SequentumException):
    """Base class of exceptions about an Agent Builder session.

    :param session_id: the session, if known.
    """

    def __init__(self, message: str = "", *, session_id: str | None = None, **ids: int | None) -> None:
        super().__init__(message, **ids)
        self.session_id = session_id


class AgentBuilderFailed(AgentBuilderException):
    """The session ended without an agent. A retry of the task starts a new session."""


class AgentBuilderTimeout(AgentBuilderException):
    """The session was still active when the task's ``timeout`` expired."""


class AgentBuilderEnded(AgentBuilderException, AirflowFailException):
    """The task can no longer use the session. Not retried; clearing the task starts a new session.

    :param reason: ``cancelled`` (by a person), ``unanswered`` (the builder waits for an answer, and
        ``on_ready="fail"``), ``refused`` (it does not accept the task's follow-ups), ``ambiguous`` (the response to a
        start or follow-up was lost or, before Airflow 3.3, a session that a retry would not know may be running) or
        ``lost`` (the service does not know the session).
    """

    def __init__(
        self, message: str = "", *, reason: str = "", session_id: str | None = None, **ids: int | None
    ) -> None:
        super().__init__(message, session_id=session_id, **ids)
        self.reason = reason


LATE_START = "If the service is still processing the start, one may still appear: check Sequentum Cloud later."
"""The sentence after the statement that no job was found that a start without a response has created."""


def doubt_about(job: str, them: str = "it") -> str:
    """Return the sentence about a job that is not known to have ended. It is the same everywhere, so that it can be
    searched for.

    :param job: the start of the sentence.
    :param them: the pronoun for the job.
    """
    return f"{job} may be running and costing credits: check {them} in Sequentum Cloud."


def add_ids(error: BaseException, agent_id: int | None, run_id: int | None = None) -> None:
    """Add the ids of the run to an exception of this provider, unless it has them already."""
    if isinstance(error, SequentumException):
        error.agent_id = error.agent_id or agent_id
        error.run_id = error.run_id or run_id


@contextmanager
def about_run(agent_id: int | None, run_id: int | None = None) -> Iterator[None]:
    """Add the ids of the run to every exception of this provider that is raised inside."""
    try:
        yield
    except SequentumException as error:
        add_ids(error, agent_id, run_id)
        raise


def from_client(error: E, conn_id: str) -> E | SequentumException:
    """Return the exception with which a task fails because of an error of the API client; other errors unchanged.

    What a retry may fix (no response, a request limit, a fault of the server, a gateway's page) becomes
    :class:`SequentumUnavailable`; the rest is not retried. Whoever starts something never repeats a request that may
    have taken effect without looking first.

    :param conn_id: the Airflow connection, named in the message.
    """
    from airflow_provider_sequentum.api import errors

    # These are raised where the connection is not known. Exceptions about a run name the run instead.
    about_no_run = (SequentumUnavailable, SequentumRequestRefused, CreditsTooLow, CreditLimitReached, AgentBuilderEnded)
    if isinstance(error, about_no_run) and "(connection " not in str(error):
        error.args = (f"{error} (connection {conn_id!r})", *error.args[1:])
    if not isinstance(error, errors.SequentumError):
        return error
    # The frames of the client and of its retries do not help the reader of a task log; the message is complete.
    error.__traceback__ = None
    message = f"{error} (connection {conn_id!r})"
    if isinstance(error, errors.SequentumConfigurationError):
        return SequentumConnectionException(message)
    if error.status_code in (401, 403):
        return SequentumConnectionException(message)
    if isinstance(error, errors.RefusedByServer):
        return SequentumRequestRefused(message)
    if error.transient or isinstance(error, (errors.UnexpectedResponse, errors.DownloadError)):
        unavailable = SequentumUnavailable(message)
        unavailable.retry_after = getattr(error, "retry_after", None)
        return unavailable
    return SequentumRequestRefused(message)


@contextmanager
def client_errors_as_exceptions(conn_id: str) -> Iterator[None]:
    """Turn errors of the API client that are raised inside into the exceptions of a task."""
    from airflow_provider_sequentum.api.errors import SequentumError

    try:
        yield
    except SequentumError as error:
        raise from_client(error, conn_id) from error


@contextmanager
def value_errors_as_exceptions(fate: str) -> Iterator[None]:
    """Turn errors about parameters that are raised inside, as messages without a period, into those of a task.

    :param fate: the sentence on what became of the task's work, such as ``Nothing was sent.``.
    """
    try:
        yield
    except ValueError as error:
        raise SequentumRequestRefused(f"{error}. {fate}") from None


def exception_named(name: str | None, message: str, retry_after: float | None = None) -> SequentumException:
    """Return the exception that ended the wait of a trigger, for the task to raise.

    :param name: the name of its class. An unknown one is treated as one that a retry may fix.
    :param retry_after: seconds that the service asked to wait.
    """
    kinds = (
        SequentumConnectionException,
        SequentumConnectionNotFound,
        SequentumRequestRefused,
        SequentumUnavailable,
    )
    failure = next((kind for kind in kinds if kind.__name__ == name), SequentumUnavailable)(message)
    if isinstance(failure, SequentumUnavailable):
        failure.retry_after = retry_after
    return failure
