"""
What a task fails with.

Every failure is an ``AirflowException``; those that no retry can mend are an ``AirflowFailException`` as well, so that
Airflow spends a retry exactly when it can help::

    SequentumException
     ├ SequentumConnectionException  !   the connection is wrong: key, host, certificate
     ├ SequentumConnectionNotFound       Airflow does not find the connection, or can't look it up just now
     ├ SequentumRequestRefused       !   the service refused the request as it stands
     ├ SequentumUnavailable              no answer, rate limited, or a fault of the server
     ├ CreditsTooLow                 !   fewer credits are left than min_credits; nothing was started
     ├ AgentRunException                 something about one run (``agent_id``, ``run_id``, ``status``)
     │  ├ AgentRunFailure                ended in Failure; the next try restarts it in place
     │  ├ AgentRunFailed                 ended in Failure and was archived; the next try starts a new run
     │  ├ AgentRunStopped            !   somebody stopped it
     │  ├ AgentRunTimeout                our own deadline passed
     │  ├ AgentRunOutcomeRejected        ended well, delivered too little; the next try starts a new run
     │  ├ AgentRunStartAmbiguous     !   a start whose answer was lost and that can't be told from others
     │  ├ AgentRunStillGoing             the run to be replaced could not be stopped; the next try stops it again
     │  ├ AgentRunRestartRefused     !   retry_mode="restart", and there is nothing left to restart
     │  ├ SensedAgentRunFailure      !   AgentRunFailure, as a sensor raises it
     │  └ SensedAgentRunFailed       !   AgentRunFailed, as a sensor raises it
     ├ RunFilesUnavailable               a run's files could not all be had or written; the next try goes on
     ├ RunRecordsUnreadable          !   a run's file does not hold what its name says
     ├ AgentRunSkipped                   the service skipped the run: an ``AirflowSkipException``
     ├ SpaceRunsException                something about the runs of a space (``space_id``)
     │  ├ SpaceRunsFailed                some did not end well; the next try goes on with each as with a single one
     │  └ SpaceRunsEnded             !   some did not end well, in ways that no retry mends
     ├ AgentBuilderException             something about one session (``session_id``, ``agent_id``)
     │  ├ AgentBuilderFailed             the session ended without an agent; the next try begins a new one
     │  ├ AgentBuilderTimeout            our own deadline passed
     │  ├ AgentBuilderCancelled      !   somebody cancelled the session
     │  ├ AgentBuilderUnanswered     !   the builder waits for an answer, and on_ready="fail"
     │  ├ AgentBuilderRefused        !   the session can't take what the task has to say
     │  ├ AgentBuilderAmbiguous      !   a start or a follow-up whose answer was lost
     │  └ AgentBuilderSessionLost    !   the service doesn't know the session
     └ AgentBuilderSkipped               on_ready="cancel": an ``AirflowSkipException``

``!`` marks what is not retried.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSkipException


class SequentumException(AirflowException):
    """Any failure of this provider."""


class SequentumConnectionException(SequentumException, AirflowFailException):
    """The Airflow connection is wrong: key, host, certificate or a field of its extra. Not retried."""


class SequentumConnectionNotFound(SequentumException):
    """
    Airflow does not find the connection.

    It says so as well while its own API server or database is away, and nobody can tell which it is. So a retry can
    help, and nothing was sent.
    """


class SequentumRequestRefused(SequentumException, AirflowFailException):
    """The service refused the request as it stands, or the request could not be built. Not retried."""


class SequentumUnavailable(SequentumException):
    """No usable answer: unreachable, rate limited or a fault of the server. A retry can help."""


class CreditsTooLow(SequentumException, AirflowFailException):
    """Fewer credits are left than the task's ``min_credits``; nothing was started. Not retried: a person has to pay."""


class AgentRunException(SequentumException):
    """
    Something about one agent run.

    :param message: what happened, what became of the run and what to do next.
    :param agent_id: the agent.
    :param run_id: the run, where one is known.
    :param status: the run's status by name, where it was read.
    """

    def __init__(
        self, message: str = "", *, agent_id: int | None = None, run_id: int | None = None, status: str | None = None
    ) -> None:
        super().__init__(message)
        self.agent_id = agent_id
        self.run_id = run_id
        self.status = status


class AgentRunFailure(AgentRunException):
    """The run ended in Failure: still in the active table. A retry of the task restarts the same run in place."""


class AgentRunFailed(AgentRunException):
    """The run ended in Failure and was archived (Failed): nothing to restart. A retry of the task starts a new run."""


class AgentRunStopped(AgentRunException, AirflowFailException):
    """Somebody stopped the run. Not retried; clearing the task starts a new run."""


class AgentRunTimeout(AgentRunException):
    """The run was still going when the task's own ``timeout`` passed."""


class AgentRunOutcomeRejected(AgentRunException):
    """The run ended well but its records or errors break the task's outcome policy. A retry starts a new run."""


class AgentRunStartAmbiguous(AgentRunException, AirflowFailException):
    """A start was sent, its answer was lost, and several runs could be it. Not retried: a person has to look."""


class AgentRunStillGoing(AgentRunException):
    """A run that a new one should replace could not be stopped, so none was started. A retry stops it again."""


class AgentRunRestartRefused(AgentRunException, AirflowFailException):
    """``retry_mode="restart"`` was asked for and the run can't be restarted. Not retried."""


class SensedAgentRunFailure(AgentRunFailure, AirflowFailException):
    """``AgentRunFailure`` as a sensor raises it: not retried, because looking again doesn't restart the run."""


class SensedAgentRunFailed(AgentRunFailed, AirflowFailException):
    """``AgentRunFailed`` as a sensor raises it: not retried, because the run is over for good."""


class RunFilesUnavailable(SequentumException):
    """A run's files could not all be had, or written where they belong. The next try goes on where this one ended."""


class RunRecordsUnreadable(SequentumException, AirflowFailException):
    """A file of a run does not hold what its name says, or is damaged. Not retried: it would be read the same again."""


class AgentRunSkipped(SequentumException, AirflowSkipException):
    """The service skipped the run, for example because the agent is archived. The task is skipped."""


class SpaceRunsException(SequentumException):
    """
    Something about the runs of a space's agents.

    :param message: what became of each run that did not end well.
    :param space_id: the space.
    """

    def __init__(self, message: str = "", *, space_id: int | None = None) -> None:
        super().__init__(message)
        self.space_id = space_id


class SpaceRunsFailed(SpaceRunsException):
    """Some agents were not started or did not end well. A retry of the task goes on with each as with a single run."""


class SpaceRunsEnded(SpaceRunsException, AirflowFailException):
    """Some runs did not end well, in ways that no retry mends: stopped by somebody, refused. Not retried."""


class AgentBuilderException(SequentumException):
    """
    Something about one Agent Builder session.

    :param message: what happened, what became of the session and what to do next.
    :param session_id: the session, where one is known.
    :param agent_id: the agent, where one is known to exist.
    """

    def __init__(self, message: str = "", *, session_id: str | None = None, agent_id: int | None = None) -> None:
        super().__init__(message)
        self.session_id = session_id
        self.agent_id = agent_id


class AgentBuilderFailed(AgentBuilderException):
    """The session ended without an agent. A retry of the task begins a new session."""


class AgentBuilderTimeout(AgentBuilderException):
    """The session was still going when the task's own ``timeout`` passed."""


class AgentBuilderCancelled(AgentBuilderException, AirflowFailException):
    """Somebody cancelled the session. Not retried; clearing the task begins a new one."""


class AgentBuilderUnanswered(AgentBuilderException, AirflowFailException):
    """The session is ready, nothing is left to say, and ``on_ready="fail"`` was asked for. Not retried."""


class AgentBuilderRefused(AgentBuilderException, AirflowFailException):
    """The session can't take what the task has to say: it is over, or the service refuses the request. Not retried."""


class AgentBuilderAmbiguous(AgentBuilderException, AirflowFailException):
    """A start or a follow-up was sent, its answer was lost, and nothing tells what became of it. Not retried."""


class AgentBuilderSessionLost(AgentBuilderException, AirflowFailException):
    """The service doesn't know the session. Not retried, unless a new one may be started (``on_lost_session``)."""


class AgentBuilderSkipped(SequentumException, AirflowSkipException):
    """The session was cancelled because ``on_ready="cancel"`` was asked for. The task is skipped."""
