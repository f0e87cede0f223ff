"""What a task says of a session: why it failed, as an exception, and what came out of it, as a summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from airflow_provider_sequentum.exceptions import (
    AgentBuilderAmbiguous,
    AgentBuilderCancelled,
    AgentBuilderException,
    AgentBuilderFailed,
    AgentBuilderRefused,
    AgentBuilderSessionLost,
    AgentBuilderUnanswered,
)
from airflow_provider_sequentum.lifecycle.builder_findings import one_line
from airflow_provider_sequentum.lifecycle.builder_open import SessionLost, SessionPolicy, StartAmbiguous
from airflow_provider_sequentum.lifecycle.builder_request import SessionRequest
from airflow_provider_sequentum.lifecycle.builder_session import Action, BuilderSession, Failed, Reason
from airflow_provider_sequentum.lifecycle.builder_speak import MessageAmbiguous, RefusedInSession, SingleShotServer

_START_AMBIGUOUS = """\
A session may have been started and is not known: {cause}
Sessions can't be listed, so it can't be found, and none was started again. Look in Sequentum Cloud, then clear the task
to start a session; or choose on_ambiguous_start='start'."""

_SESSION_LOST = """\
The service does not know Agent Builder session {cause}: it was torn down, never existed, or belongs to another key.
No other session was started. Clear {begun_in} to begin anew{alternative}."""

_SINGLE_SHOT = """\
This server builds an agent from one prompt and takes no follow-ups: {cause}
Put everything into the prompt. {fate}"""

_MESSAGE_AMBIGUOUS = """\
A follow-up was sent to session {cause} and its answer was lost. Nothing tells whether it was taken, so
it was not sent again. {fate}"""

_REFUSED = """\
{cause}
The agent is not saved. {fate} Correct this, then clear {begun_in}."""

CAUSES: Mapping[type[Exception], tuple[type[AgentBuilderException], str]] = {
    StartAmbiguous: (AgentBuilderAmbiguous, _START_AMBIGUOUS),
    SessionLost: (AgentBuilderSessionLost, _SESSION_LOST),
    SingleShotServer: (AgentBuilderRefused, _SINGLE_SHOT),
    MessageAmbiguous: (AgentBuilderAmbiguous, _MESSAGE_AMBIGUOUS),
    RefusedInSession: (AgentBuilderRefused, _REFUSED),
}
"""What a procedure gives up with, the exception it becomes, and the message, for :func:`complete`."""


def complete(message: str, cause: object, request: SessionRequest, policy: SessionPolicy) -> str:
    """Return the message with the cause, what becomes of the session, and what a person can do then."""
    is_own = request.session_id is None
    return message.format(
        cause=cause,
        fate=fate_of(policy),
        begun_in=_begun_in(request),
        alternative="; or choose on_lost_session='start'" if is_own else "",
    )


def fate_of(policy: SessionPolicy) -> str:
    """Return what becomes of a session whose task fails for good."""
    if policy.keep_session:
        return "The session is left as it is (keep_session)."
    return "The session is being cancelled."


def _begun_in(request: SessionRequest) -> str:
    """Return which task a person has to clear for another session: clearing one doesn't change what it was given."""
    return "the task" if request.session_id is None else "the task that session_id comes from"


def exception_for(
    action: Action, session: BuilderSession, request: SessionRequest, policy: SessionPolicy
) -> AgentBuilderException:
    """Return the exception of a session that gave no agent, chosen so that a retry happens when it can help."""
    is_own = request.session_id is None
    name = f"Agent Builder session {session.session_id}"
    anew = f"Clear {_begun_in(request)} to begin anew"
    kind: type[AgentBuilderException]
    match action.reason if isinstance(action, Failed) else None:
        case Reason.BUILD_FAILED:
            kind = AgentBuilderFailed if is_own else AgentBuilderRefused
            cause = one_line(session.error).rstrip(".") or "the service gives no reason"
            step = "The next try begins a new session." if is_own else f"{anew}."
            message = f"{name} ended in an error: {cause}. No agent was saved. {step}"
        case Reason.NO_AGENT:
            kind = AgentBuilderFailed
            message = f"{name} is {session.state.value}, but the service names no agent. The next try looks again."
        case Reason.LOST if is_own and policy.on_lost_session == "start":
            kind = AgentBuilderFailed
            message = f"The service no longer knows {name}. The next try begins a new one."
        case Reason.LOST:
            kind = AgentBuilderSessionLost
            message = complete(_SESSION_LOST, session.session_id, request, policy)
        case Reason.FOLLOWUPS_LEFT:
            kind = AgentBuilderRefused
            left = f"{len(request.followups) - session.sent} of {len(request.followups)}"
            why = ": this server takes none, so put everything into the prompt" if session.completes_by_itself else ""
            message = f"{name} is finished, with agent {session.agent_id}; {left} follow-ups could not be sent{why}."
        case Reason.UNANSWERED:
            kind = AgentBuilderUnanswered
            said = one_line(session.findings.last_message) or "nothing"
            fate = fate_of(policy)
            message = f"{name} is ready and nothing is left to say to it (on_ready='fail'). It said: {said}\n{fate}"
        case _:
            kind = AgentBuilderCancelled
            message = f"{name} was cancelled by somebody. No agent was saved. {anew}."
    return kind(message, session_id=session.session_id, agent_id=session.agent_id)


def summarize(session: BuilderSession, now: datetime) -> dict[str, Any]:
    """Return what downstream tasks may want to know of the session, as plain values of bounded size."""
    until = session.since if session.state.is_over and session.since is not None else now
    elapsed = round((until - session.started_at).total_seconds(), 1) if session.started_at is not None else None
    return {
        "session_id": session.session_id,
        "status": session.state.value,
        "agent_id": session.agent_id,
        "agent_name": session.agent_name,
        "followups_sent": session.sent,
        "elapsed_seconds": elapsed,
        **asdict(session.findings),
    }
