"""What the end of a session means to its task: an agent, a failure that a retry can help, or one that it cannot."""

from __future__ import annotations

from airflow_provider_sequentum.exceptions import AgentBuilderEnded, AgentBuilderException, AgentBuilderFailed
from airflow_provider_sequentum.sessions.record import SessionConfig
from airflow_provider_sequentum.sessions.state import Action, Failed, Reason, Session


def failure_for(
    action: Action, session: Session, config: SessionConfig, last_message: str | None
) -> AgentBuilderException:
    """Return the exception of a session that gave no agent, chosen so that a retry happens when it can help.

    :param last_message: what the builder said last.
    """
    reason = action.reason if isinstance(action, Failed) else None
    if reason is Reason.LOST and (config.is_given or config.on_lost_session == "fail"):
        return session_lost(config, session.session_id)
    ended_as, message = _describe_failure(reason, session, config, last_message)
    if ended_as is None:
        return AgentBuilderFailed(message, session_id=session.session_id, agent_id=session.agent_id)
    return AgentBuilderEnded(message, reason=ended_as, session_id=session.session_id, agent_id=session.agent_id)


def _describe_failure(  # noqa: PLR0911 - one return per reason
    reason: Reason | None, session: Session, config: SessionConfig, last_message: str | None
) -> tuple[str | None, str]:
    """Return the reason of :class:`.AgentBuilderEnded`, or ``None`` where a retry can help, and the message."""
    start_over = f"Clear {task_to_clear(config)} to start over."
    match reason:
        case Reason.BUILD_FAILED:
            cause = (session.error or "the service gives no reason").rstrip(".")
            message = f"{session.name} ended in an error: {cause}. No agent was saved."
            if config.is_given:
                return "refused", f"{message} {start_over}"
            return None, f"{message} The next attempt starts a new session."
        case Reason.NO_AGENT:
            message = f"{session.name} is {session.state.value}, but the service names no agent."
            return None, f"{message} The next attempt looks again."
        case Reason.LOST:
            return None, f"The service no longer knows {session.name}. The next attempt starts a new one."
        case Reason.FOLLOWUPS_LEFT:
            left = f"{len(config.followups) - session.sent} of {len(config.followups)}"
            why = ": this server takes none, so put everything into the prompt" if session.completes_by_itself else ""
            message = f"{session.name} is finished, with agent {session.agent_id}; {left} follow-ups could not be sent"
            return "refused", f"{message}{why}."
        case Reason.UNANSWERED:
            message = f"{session.name} is ready and nothing is left to send (on_ready='fail'). It said: "
            return "unanswered", f"{message}{last_message or 'nothing'}"
    message = f"{session.name} was cancelled by a person or another program. No agent was saved."
    return "cancelled", f"{message} {start_over}"


def session_lost(config: SessionConfig, session_id: str) -> AgentBuilderEnded:
    """Return the exception of a session that the service does not know."""
    alternative = "" if config.is_given else ", or choose on_lost_session='start'"
    return AgentBuilderEnded(
        f"The service does not know Agent Builder session {session_id}: it was torn down, never existed, or belongs to "
        f"another key. No other session was started. Clear {task_to_clear(config)} to start over{alternative}.",
        reason="lost",
        session_id=session_id,
    )


def task_to_clear(config: SessionConfig) -> str:
    """Return which task a person has to clear for another session: clearing one does not change what it was given."""
    return "the task that session_id comes from" if config.is_given else "the task"
