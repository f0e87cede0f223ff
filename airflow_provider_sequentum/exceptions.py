"""What a task fails with.

Every failure is an ``AirflowException``; those that no retry can help are an ``AirflowFailException`` as well, so that
Airflow spends a retry exactly when it can help. ``docs/errors.md`` says of each what to do.
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
    """Any failure of this provider.

    :param message: what happened, what became of the run or session, and what to do next.
    :param agent_id: the agent that it is about, where one is known.
    :param run_id: the run that it is about, where one is known.
    """

    def __init__(self, message: str = "", *, agent_id: int | None = None, run_id: int | None = None) -> None:
        super().__init__(message)
        self.agent_id = agent_id
        self.run_id = run_id


class SequentumConnectionException(SequentumException, AirflowFailException):
    """The Airflow connection is wrong: key, host, certificate or a field of its extra. Not retried."""


class SequentumConnectionNotFound(SequentumException):
    """Airflow does not find the connection.

    Airflow reports the same while its own API server or database is unavailable, and the two cannot be distinguished.
    So a retry can help. Nothing was sent.
    """


class SequentumRequestRefused(SequentumException, AirflowFailException):
    """The service refused the request as it stands, or the request could not be built. Not retried."""


class SequentumUnavailable(SequentumException):
    """No usable answer: unreachable, rate limited or a fault of the server. A retry can help."""


class CreditsTooLow(SequentumException, AirflowFailException):
    """Fewer credits are left than the task's ``min_credits``; nothing was started. Not retried: a person has to pay."""


class CreditLimitReached(SequentumException, AirflowFailException):
    """With the start the task's ``credit_limit`` would be passed; nothing was started. Not retried."""


class AgentVersionChanged(SequentumException, AirflowFailException):
    """The agent, or the run that was started, has another version than the task expects. Not retried."""


class SequentumSkipped(SequentumException, AirflowSkipException):
    """The task is skipped: the service skipped the run, or the task was told to skip on this outcome."""


class AgentRunException(SequentumException):
    """Something about one agent run.

    :param status: the run's status by name, where it was read.
    """

    def __init__(self, message: str = "", *, status: str | None = None, **ids: int | None) -> None:
        super().__init__(message, **ids)
        self.status = status


class AgentRunUnsuccessful(AgentRunException):
    """The run ended badly: in Failure or, once it is archived, Failed."""


class AgentRunFailure(AgentRunUnsuccessful):
    """The run ended in Failure: still in the active table. A retry of the task restarts the same run in place."""


class AgentRunFailed(AgentRunUnsuccessful):
    """The run ended in Failure and was archived (Failed): nothing to restart. A retry of the task starts a new run."""


class SensedAgentRunFailure(AgentRunFailure, AirflowFailException):
    """``AgentRunFailure`` as a sensor raises it: not retried, because looking again does not restart the run."""


class SensedAgentRunFailed(AgentRunFailed, AirflowFailException):
    """``AgentRunFailed`` as a sensor raises it: not retried, because the run is over for good."""


class AgentRunStopped(AgentRunException, AirflowFailException):
    """A person or another program stopped the run. Not retried; clearing the task starts a new run."""


class AgentRunTimeout(AgentRunException):
    """The run was still running when the task's own ``timeout``, or three times its usual duration, passed."""


class AgentRunOutcomeRejected(AgentRunException):
    """The run succeeded but its records or errors break the task's policy. A retry starts a new run."""


class AgentRunStartAmbiguous(AgentRunException, AirflowFailException):
    """A start was sent, its answer was lost, and the run cannot be distinguished from others. Not retried."""


class AgentRunStillRunning(AgentRunException):
    """A run that a new one should replace could not be stopped, so none was started. A retry stops it again."""


class RunFilesUnavailable(SequentumException):
    """A run's files could not all be read, or written where they belong. A retry continues where this one ended."""


class RunRecordsUnreadable(SequentumException, AirflowFailException):
    """A file of a run does not hold what its name says, or is damaged. Not retried: it would be read the same again."""


class RunRecordsRejected(SequentumException, AirflowFailException):
    """A run's records broke a rule with ``on_breach="fail"``, or drifted. Not retried: they are judged the same."""


class RunRecordsNotComparable(SequentumException, AirflowFailException):
    """The records of two runs have no usable key in common, or there are none. Nothing was published; not retried."""


class SpaceRunsFailed(SequentumException):
    """Some agents of a space were not started or did not end well. A retry takes up each as it does a single run.

    :param space_id: the space.
    """

    def __init__(self, message: str = "", *, space_id: int | None = None, **ids: int | None) -> None:
        super().__init__(message, **ids)
        self.space_id = space_id


class SpaceRunsEnded(SpaceRunsFailed, AirflowFailException):
    """Some runs did not end well, in ways that no retry helps: stopped by a person, refused. Not retried."""


class AgentBuilderException(SequentumException):
    """Something about one Agent Builder session.

    :param session_id: the session, where one is known.
    """

    def __init__(self, message: str = "", *, session_id: str | None = None, **ids: int | None) -> None:
        super().__init__(message, **ids)
        self.session_id = session_id


class AgentBuilderFailed(AgentBuilderException):
    """The session ended without an agent. A retry of the task starts a new session."""


class AgentBuilderTimeout(AgentBuilderException):
    """The session was still going when the task's own ``timeout`` passed."""


class AgentBuilderEnded(AgentBuilderException, AirflowFailException):
    """The task can no longer use the session. Not retried; clearing the task starts a new session.

    :param reason: ``cancelled`` (by a person), ``unanswered`` (the builder waits for an answer, and
        ``on_ready="fail"``), ``refused`` (it cannot take what the task has to say), ``ambiguous`` (a start or a
        follow-up whose answer was lost) or ``lost`` (the service does not know it).
    """

    def __init__(
        self, message: str = "", *, reason: str = "", session_id: str | None = None, **ids: int | None
    ) -> None:
        super().__init__(message, session_id=session_id, **ids)
        self.reason = reason


def doubt_about(job: str, them: str = "it") -> str:
    """Return the sentence for a job that is not known to have ended. It is the same everywhere: people search for it.

    :param job: how the sentence starts.
    :param them: how it goes on to call the job.
    """
    return f"{job} may be running and costing credits: look at {them} in Sequentum Cloud."


def add_ids(error: BaseException, agent_id: int | None, run_id: int | None = None) -> None:
    """Let a failure of this provider carry the ids of the run that it is about, unless it does already."""
    if isinstance(error, SequentumException):
        error.agent_id = error.agent_id or agent_id
        error.run_id = error.run_id or run_id


@contextmanager
def about_run(agent_id: int | None, run_id: int | None = None) -> Iterator[None]:
    """Let every failure of this provider that is raised inside carry the ids of the run that it is about."""
    try:
        yield
    except SequentumException as error:
        add_ids(error, agent_id, run_id)
        raise


def from_client(error: E, conn_id: str) -> E | SequentumException:
    """Return the exception a task fails with because of an error of the API client; any other error as it is.

    What a retry may help (no answer, a limit, a fault of the server, a gateway's page) becomes
    :class:`SequentumUnavailable`; the rest fails at once. An answer that may hide an action is never retried blindly by
    the callers that start something: they look first.

    :param conn_id: the Airflow connection, named in the message.
    """
    from airflow_provider_sequentum.api import errors

    # Procedures raise these, and they do not know the connection. What is about a run names the run instead.
    about_no_run = (SequentumUnavailable, SequentumRequestRefused, CreditsTooLow, CreditLimitReached, AgentBuilderEnded)
    if isinstance(error, about_no_run) and "(connection " not in str(error):
        error.args = (f"{error} (connection {conn_id!r})", *error.args[1:])
    if not isinstance(error, errors.SequentumError):
        return error
    # The frames of the client and of its retries say nothing to the reader of a task's log; the message says it all.
    error.__traceback__ = None
    message = f"{error} (connection {conn_id!r})"
    if isinstance(error, errors.SequentumConfigurationError):
        return SequentumConnectionException(message)
    if error.status_code in (401, 403):
        return SequentumConnectionException(message)
    if isinstance(error, errors.RefusedByServer):
        return SequentumRequestRefused(message)
    if error.transient or isinstance(error, (errors.UnexpectedAnswer, errors.DownloadError)):
        return SequentumUnavailable(message)
    return SequentumRequestRefused(message)


@contextmanager
def client_errors_as_exceptions(conn_id: str) -> Iterator[None]:
    """Turn every error of the API client that is raised inside into the exception a task fails with."""
    from airflow_provider_sequentum.api.errors import SequentumError

    try:
        yield
    except SequentumError as error:
        raise from_client(error, conn_id) from error


def exception_named(name: str | None, message: str) -> SequentumException:
    """Return the exception that a trigger met, for the task to fail with.

    :param name: the name of its class; an unknown one is treated as one that a retry may help.
    """
    kinds = (
        SequentumConnectionException,
        SequentumConnectionNotFound,
        SequentumRequestRefused,
        SequentumUnavailable,
    )
    return next((kind for kind in kinds if kind.__name__ == name), SequentumUnavailable)(message)
