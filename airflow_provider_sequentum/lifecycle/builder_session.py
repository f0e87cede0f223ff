"""
An Agent Builder session as a state machine: it is fed what was observed and answers with what to do next.

The service has two eras under the same paths, told apart only by what it answers. In the older one a session is a
conversation: it pauses as ``ready`` and ends when somebody finishes it. In the newer one a session builds in a single
shot: it has no events and no ``finish``, and ``completed`` arrives by itself. Both feed the same machine.

Rests on https://docs.sequentum.com/agent-builder/sessions and
https://docs.sequentum.com/agent-builder/streaming-events.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING

from airflow_provider_sequentum.lifecycle.builder_findings import Findings

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agent_builder import SessionEvent, SessionStatus

READY_TO_FINISH = "ready_to_finish"
"""A ``phase`` that one page of the documentation has in place of the status ``ready``."""

TURN_GRACE = timedelta(seconds=30)
"""How long after a message a ``ready`` may still be the one from before the message."""

SAVING_GRACE = timedelta(seconds=60)
"""How long a session that can't be finished by us may take from its draft to a saved agent."""

UNKNOWN_GRACE = timedelta(seconds=60)
"""How long a session that was just started may be unknown to the service."""

REACTIONS = frozenset(
    {
        "user_prompt",
        "thinking",
        "extended_thinking",
        "llm_response",
        "tool_execution",
        "plan_generated",
        "step_started",
        "navigation_completed",
        "command_added",
        "data_extracted",
    }
)
"""Events that only a session at work emits: after a message they prove that it was taken."""


class SessionState(Enum):
    """The status of a session, and the two things that are no status: one we don't know, and no session at all."""

    PROCESSING = "processing"
    READY = "ready"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    GONE = "gone"

    @property
    def is_over(self) -> bool:
        """Whether the session takes no more messages."""
        return self in (SessionState.COMPLETED, SessionState.ERROR, SessionState.CANCELLED, SessionState.GONE)


class Turn(Enum):
    """Whose turn it is in the conversation, as far as was seen."""

    SAID = "said"
    """A message was sent; nothing shows yet that the builder took it."""

    WORKING = "working"
    """The builder was seen to work on the message."""

    OURS = "ours"
    """The builder has answered."""


class Reason(Enum):
    """Why a session can't give what the task asks of it."""

    BUILD_FAILED = "build_failed"
    NO_AGENT = "no_agent"
    LOST = "lost"
    UNANSWERED = "unanswered"
    FOLLOWUPS_LEFT = "followups_left"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuilderSession:
    """
    What is known about one session. Every observation returns a new value.

    :param session_id: the session.
    :param state: its status when it was last seen.
    :param turn: whose turn it is.
    :param said_at: when the last message, or the start, was sent by us; ``None`` if never.
    :param since: when ``state`` was first seen.
    :param cursor: index of the last event taken in; -1 before the first.
    :param last_index: index of the last event the service has told of, whether it could be read or not.
    :param said_after: what ``last_index`` was when the last message was sent: later events can be reactions to it.
    :param sent: number of follow-ups the service has taken.
    :param agent_id: the agent, as soon as the service says that it exists.
    :param agent_name: its name.
    :param error: the service's text of what went wrong.
    :param events_offered: whether the server has the endpoint; assumed until it answers otherwise.
    :param finish_offered: the same for ``finish``.
    :param started_at: when the session was started.
    :param findings: what the builder found and said.
    """

    session_id: str
    state: SessionState = SessionState.PROCESSING
    turn: Turn = Turn.OURS
    said_at: datetime | None = None
    since: datetime | None = None
    cursor: int = -1
    last_index: int = -1
    said_after: int = -1
    sent: int = 0
    agent_id: int | None = None
    agent_name: str | None = None
    error: str | None = None
    events_offered: bool = True
    finish_offered: bool = True
    started_at: datetime | None = None
    findings: Findings = field(default_factory=Findings)

    @classmethod
    def started(cls, session_id: str, now: datetime) -> BuilderSession:
        """Return a session that was started at ``now``; its prompt is the first message."""
        return cls(session_id=session_id, turn=Turn.SAID, said_at=now, since=now, started_at=now)

    def speaking(self, now: datetime) -> BuilderSession:
        """Return the session to which a message is about to be sent."""
        return replace(self, turn=Turn.SAID, said_at=now, said_after=max(self.cursor, self.last_index))

    def heard(self) -> BuilderSession:
        """Return the session that has taken a follow-up."""
        return replace(self, sent=self.sent + 1)

    def unheard(self) -> BuilderSession:
        """Return the session that has not taken the message, so that it is still our turn."""
        return replace(self, turn=Turn.OURS, said_at=None)

    def finished(self, agent_id: int | None, agent_name: str | None, now: datetime) -> BuilderSession:
        """Return the session that ``finish`` has ended."""
        return replace(
            self.entering(SessionState.COMPLETED, now),
            agent_id=agent_id or self.agent_id,
            agent_name=agent_name or self.agent_name,
        )

    def without_events(self) -> BuilderSession:
        """Return the session on a server that has no events."""
        return replace(self, events_offered=False)

    def without_finish(self) -> BuilderSession:
        """Return the session on a server that finishes sessions by itself."""
        return replace(self, finish_offered=False)

    def entering(self, state: SessionState, now: datetime) -> BuilderSession:
        """Return the session seen in ``state`` at ``now``; ``since`` stays if it was in it before."""
        return self if state is self.state else replace(self, state=state, since=now)

    def observe_status(self, status: SessionStatus, now: datetime) -> BuilderSession:
        """Take in the session's status as it was read at ``now``."""
        known = replace(
            self,
            agent_id=status.agent_id or self.agent_id,
            agent_name=status.agent_name or self.agent_name,
            error=status.error or self.error,
            last_index=self.last_index if status.last_event_index is None else status.last_event_index,
        )
        state = _state_of(status)
        if self.state.is_over and not state.is_over:
            return known  # A terminal event was seen; the status lags behind it.
        if state not in (SessionState.READY, SessionState.UNKNOWN) and self.turn is Turn.SAID:
            known = replace(known, turn=Turn.WORKING)
        elif state is SessionState.READY and self.turn is Turn.WORKING:
            known = replace(known, turn=Turn.OURS)
        return known.entering(state, now)

    def observe_event(self, event: SessionEvent, now: datetime) -> BuilderSession:
        """Take in an event, each only once. Types that are not known change nothing."""
        if event.event_index is None or event.event_index <= self.cursor:
            return self
        known = replace(
            self,
            cursor=event.event_index,
            findings=self.findings.with_event(event),
            started_at=self.started_at or event.timestamp,
        )
        if event.type in REACTIONS and self.turn is Turn.SAID and event.event_index > self.said_after:
            return replace(known, turn=Turn.WORKING)
        if event.type == "ready_for_interaction" and self.turn is Turn.WORKING:
            return replace(known, turn=Turn.OURS)
        if event.type == "completed":
            return known.finished(event.config_id, event.agent_name, now)
        if event.type == "error" and event.is_recoverable is False:
            return replace(known.entering(SessionState.ERROR, now), error=event.message or self.error)
        return known

    def observe_not_found(self, now: datetime) -> BuilderSession:
        """Take in that the service doesn't know the session: torn down, never there, or too young to be known."""
        if self.state.is_over or self.is_young(now):
            return self
        return self.entering(SessionState.GONE, now)

    def is_young(self, now: datetime) -> bool:
        """Whether the service may not yet know the session everywhere."""
        return (
            self.turn is Turn.SAID
            and self.cursor < 0
            and self.said_at is not None
            and now - self.said_at < UNKNOWN_GRACE
        )

    @property
    def completes_by_itself(self) -> bool:
        """Whether this is a single-shot server, to which ``ready`` is just a stage on the way to ``completed``."""
        return not (self.events_offered and self.finish_offered)

    def must_wait(self, now: datetime) -> bool:
        """Whether nothing can be done at ``now`` but to look again later."""
        match self.state:
            case SessionState.PROCESSING | SessionState.UNKNOWN:
                return True
            case SessionState.READY if self._turn_is_open(now):
                return True
            case SessionState.READY:
                return self.completes_by_itself and self._in_state_for(now) < SAVING_GRACE
            case SessionState.COMPLETED:
                return self.agent_id is None and self._in_state_for(now) < SAVING_GRACE
            case _:
                return False

    def _turn_is_open(self, now: datetime) -> bool:
        said_lately = self.said_at is not None and now - self.said_at < TURN_GRACE
        return self.turn is Turn.WORKING or (self.turn is Turn.SAID and said_lately)

    def _in_state_for(self, now: datetime) -> timedelta:
        return now - self.since if self.since is not None else timedelta(0)


def _state_of(status: SessionStatus) -> SessionState:
    try:
        state = SessionState(status.status)
    except ValueError:
        state = SessionState.UNKNOWN
    if state is SessionState.GONE:
        return SessionState.UNKNOWN  # Ours, no status of the service.
    if (status.phase or "").lower() == READY_TO_FINISH and not state.is_over:
        return SessionState.READY
    return state


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again later."""


@dataclass(frozen=True, slots=True)
class FollowUp:
    """Send the follow-up with this index."""

    index: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Save the agent and end the session."""


@dataclass(frozen=True, slots=True)
class AskPerson:
    """Leave the session ready: what it says next is for somebody else to decide."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """End the session without an agent."""


@dataclass(frozen=True, slots=True)
class Done:
    """The agent exists."""

    agent_id: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody has cancelled the session."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The session can't give what the task asks of it."""

    reason: Reason


Action = Wait | FollowUp | Finish | AskPerson | Cancel | Done | Cancelled | Failed


def next_action(session: BuilderSession, followups: int, on_ready: str, now: datetime) -> Action:
    """
    Decide what to do next.

    :param followups: how many follow-ups the task has to send in all.
    :param on_ready: what to do when the session is ready and nothing is left to say: ``finish``, ``leave``, ``fail`` or
        ``cancel``.
    :param now: the time.
    """
    if session.must_wait(now):
        return Wait()
    match session.state:
        case SessionState.ERROR:
            return Failed(Reason.BUILD_FAILED)
        case SessionState.CANCELLED:
            return Cancelled()
        case SessionState.COMPLETED | SessionState.GONE:
            return _when_it_has_ended(session, followups)
    if session.sent < followups:
        return FollowUp(session.sent)
    return _when_nothing_is_left_to_say(session, on_ready)


def _when_it_has_ended(session: BuilderSession, followups: int) -> Action:
    """A single-shot server tears a session down soon after its end, so one that is gone may have given its agent."""
    if session.state is SessionState.GONE and session.agent_id is None:
        return Failed(Reason.LOST)
    if session.sent < followups:
        return Failed(Reason.FOLLOWUPS_LEFT)
    return Done(session.agent_id) if session.agent_id is not None else Failed(Reason.NO_AGENT)


def _when_nothing_is_left_to_say(session: BuilderSession, on_ready: str) -> Action:
    match on_ready:
        case "finish" if session.finish_offered:
            return Finish()
        case "finish" if session.agent_id is not None:
            return Done(session.agent_id)
        case "finish":
            return Failed(Reason.NO_AGENT)
        case "leave":
            return AskPerson()
        case "cancel":
            return Cancel()
        case _:
            return Failed(Reason.UNANSWERED)
