"""An Agent Builder session as a state machine: it takes observations and returns what to do next.

The service has two versions with the same paths, which only differ in their responses. In the older one, a session is a
conversation: it pauses as ``ready`` and ends when it is finished. In the newer one, a session builds an agent in a
single step: it has no events and no ``finish``, and becomes ``completed`` by itself. Both use the same state machine.

Based on https://docs.sequentum.com/agent-builder/sessions and
https://docs.sequentum.com/agent-builder/streaming-events.
"""

from datetime import datetime, timedelta
from enum import Enum
from typing import Self

from airflow_provider_sequentum.api.agent_builder import SessionEvent, SessionStatus
from airflow_provider_sequentum.api.text import one_line
from airflow_provider_sequentum.jobs.record import Stored

READY_TO_FINISH = "ready_to_finish"
"""A ``phase`` that one page of the documentation uses instead of the status ``ready``."""

TURN_GRACE = timedelta(seconds=30)
"""How long after a message the status ``ready`` may be outdated."""

SAVING_GRACE = timedelta(seconds=60)
"""How long a session without ``finish`` may take to save its agent after the draft."""

MAX_ERROR_LENGTH, MAX_NAME_LENGTH = 500, 200
"""Maximum bytes of UTF-8 of the service's texts: a record is written before and after each message."""

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
"""Events that only a working session emits: after a message, they prove that it was received."""


class SessionState(Enum):
    """The status of a session; ``unknown`` is any other status, ``gone`` means that there is no session."""

    PROCESSING = "processing"
    READY = "ready"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    GONE = "gone"

    @property
    def is_over(self) -> bool:
        """Whether the session accepts no more messages."""
        return self in (SessionState.COMPLETED, SessionState.ERROR, SessionState.CANCELLED, SessionState.GONE)


class Turn(Enum):
    """Whose turn it is in the conversation, as far as is known."""

    SENT = "sent"
    """A message was sent, but there is no sign yet that the builder received it."""

    WORKING = "working"
    """The builder is working on the message."""

    USER = "user"
    """The builder has responded."""


class Session(Stored):
    """The known state of a session. Each observation returns a new value.

    All times are those of Airflow's clock. Times of the service are converted when they are read.

    :param session_id: the session.
    :param state: its last known status.
    :param state_since: when that status was first observed.
    :param turn: whose turn it is.
    :param message_sent_at: when the last message, or the start, was sent by this task; ``None`` if never.
    :param cursor: index of the last processed event; -1 before the first.
    :param last_index: index of the last event that the service has reported, even if it could not be read.
    :param message_sent_after: ``last_index`` when the last message was sent: later events may be reactions to it.
    :param sent: number of follow-ups that the service has received.
    :param agent_id: the agent, as soon as the service reports that it exists.
    :param agent_name: its name.
    :param error: the error message of the service.
    :param has_events: whether the server has the endpoint; assumed until a response shows otherwise.
    :param has_finish: the same for ``finish``.
    :param started_at: when the session was started.
    :param command_count: number of commands of the agent.
    :param data_index: index of the last event with extracted data; the event itself is read when it is needed.
    :param message_index: index of the last event with a message or question of the builder.
    """

    session_id: str
    state: SessionState = SessionState.PROCESSING
    state_since: datetime | None = None
    turn: Turn = Turn.USER
    message_sent_at: datetime | None = None
    cursor: int = -1
    last_index: int = -1
    message_sent_after: int = -1
    sent: int = 0
    agent_id: int | None = None
    agent_name: str | None = None
    error: str | None = None
    has_events: bool = True
    has_finish: bool = True
    started_at: datetime | None = None
    command_count: int = 0
    data_index: int | None = None
    message_index: int | None = None

    @classmethod
    def started(cls, session_id: str, now: datetime) -> Self:
        """Return a session that was started at ``now``; its prompt is the first message."""
        return cls(session_id=session_id, turn=Turn.SENT, message_sent_at=now, state_since=now, started_at=now)

    @property
    def name(self) -> str:
        """The name of the session in log lines and errors."""
        return f"Agent Builder session {self.session_id}"

    def sending(self, now: datetime) -> Self:
        """Return the session before a message is sent."""
        last_index = max(self.cursor, self.last_index)
        return self.updated(turn=Turn.SENT, message_sent_at=now, message_sent_after=last_index)

    def acknowledged(self) -> Self:
        """Return the session after it has received a follow-up."""
        return self.updated(sent=self.sent + 1)

    def rejected(self) -> Self:
        """Return the session if it has not received the message, so that it is still the user's turn."""
        return self.updated(turn=Turn.USER, message_sent_at=None)

    def finished(self, agent_id: int | None, agent_name: str | None, now: datetime) -> Self:
        """Return the session after ``finish`` has ended it."""
        return self.entering(SessionState.COMPLETED, now).updated(
            agent_id=agent_id or self.agent_id,
            agent_name=_cut(agent_name, MAX_NAME_LENGTH) or self.agent_name,
        )

    def entering(self, state: SessionState, now: datetime) -> Self:
        """Return the session in ``state`` as of ``now``; ``state_since`` is kept if the state has not changed."""
        if state is self.state and self.state_since is not None:
            return self
        return self.updated(state=state, state_since=now)

    def observe_status(self, status: SessionStatus, now: datetime) -> Self:
        """Process the status of the session, read at ``now``."""
        known = self.updated(
            agent_id=status.agent_id or self.agent_id,
            agent_name=_cut(status.agent_name, MAX_NAME_LENGTH) or self.agent_name,
            error=_cut(status.error, MAX_ERROR_LENGTH) or self.error,
            last_index=self.last_index if status.last_event_index is None else status.last_event_index,
        )
        state = state_of(status)
        if self.state.is_over and not state.is_over:
            return known  # there was a terminal event, and the status is outdated
        if state not in (SessionState.READY, SessionState.UNKNOWN) and self.turn is Turn.SENT:
            known = known.updated(turn=Turn.WORKING)
        elif state is SessionState.READY and self.turn is Turn.WORKING:
            known = known.updated(turn=Turn.USER)
        return known.entering(state, now)

    def observe_event(self, event: SessionEvent, now: datetime, served_at: datetime | None = None) -> Self:
        """Process an event, unless it was processed before. Events of unknown types change nothing.

        :param now: the current time.
        :param served_at: the time of the response on the service's clock, which is also that of the event's time.
        """
        if event.event_index is None or event.event_index <= self.cursor:
            return self
        known = self._with_contents(event).updated(cursor=event.event_index)
        if self.started_at is None and served_at is not None and event.timestamp is not None:
            known = known.updated(started_at=now - max(served_at - event.timestamp, timedelta(0)))
        if event.type in REACTIONS and self.turn is Turn.SENT and event.event_index > self.message_sent_after:
            return known.updated(turn=Turn.WORKING)
        if event.type == "ready_for_interaction" and self.turn is Turn.WORKING:
            return known.updated(turn=Turn.USER)
        if event.type == "completed":
            return known.finished(event.config_id, event.agent_name, now)
        if event.type == "error" and event.is_recoverable is False:
            error = _cut(event.message, MAX_ERROR_LENGTH) or self.error
            return known.entering(SessionState.ERROR, now).updated(error=error)
        return known

    def _with_contents(self, event: SessionEvent) -> Self:
        match event.type:
            case "command_added":
                return self.updated(command_count=self.command_count + 1)
            case "completed" if event.command_count is not None:
                return self.updated(command_count=event.command_count)
            case "user_message" | "ready_for_interaction" if event.message:
                return self.updated(message_index=event.event_index)
            case "data_extracted":
                return self.updated(data_index=event.event_index)
        return self

    @property
    def completes_by_itself(self) -> bool:
        """Whether this is a single-shot server, where ``ready`` is just a step before ``completed``."""
        return not (self.has_events and self.has_finish)

    def must_wait(self, now: datetime) -> bool:
        """Whether the only thing to do at ``now`` is to poll again later."""
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
        was_sent_lately = self.message_sent_at is not None and now - self.message_sent_at < TURN_GRACE
        return self.turn is Turn.WORKING or (self.turn is Turn.SENT and was_sent_lately)

    def _in_state_for(self, now: datetime) -> timedelta:
        return now - self.state_since if self.state_since is not None else timedelta(0)


def _cut(text: str | None, limit: int) -> str | None:
    return one_line(text, limit) if text else None


def state_of(status: SessionStatus) -> SessionState:
    """Return the state for a status of the service."""
    try:
        state = SessionState(status.status)
    except ValueError:
        state = SessionState.UNKNOWN
    if state is SessionState.GONE:
        return SessionState.UNKNOWN  # the service has no such status
    if (status.phase or "").lower() == READY_TO_FINISH and not state.is_over:
        return SessionState.READY
    return state


class Action(Enum):
    """What to do next about a session; from ``CANCELLED`` on, the reason why the task fails."""

    WAIT = "wait"  # poll again later
    FOLLOW_UP = "follow_up"  # send the next one
    FINISH = "finish"  # save the agent and end the session
    LEAVE = "leave"  # leave it ready, for another task or a person
    CANCEL = "cancel"  # end it without an agent
    DONE = "done"  # the agent exists
    CANCELLED = "cancelled"  # by a person or another program
    BUILD_FAILED = "build_failed"
    NO_AGENT = "no_agent"
    LOST = "lost"
    UNANSWERED = "unanswered"
    FOLLOWUPS_LEFT = "followups_left"


def next_action(session: Session, followups: int, on_ready: str, now: datetime) -> Action:  # noqa: PLR0911 - a table
    """Decide what to do next.

    :param followups: total number of follow-ups of the task.
    :param on_ready: what to do when the session is ready and nothing is left to send: ``finish``, ``leave``, ``fail``
        or ``cancel``.
    :param now: the current time.
    """
    if session.must_wait(now):
        return Action.WAIT
    match session.state:
        case SessionState.ERROR:
            return Action.BUILD_FAILED
        case SessionState.CANCELLED:
            return Action.CANCELLED
        # A single-shot server removes a session soon after its end, so one that is gone may have saved its agent.
        case SessionState.GONE if session.agent_id is None:
            return Action.LOST
        case SessionState.COMPLETED | SessionState.GONE if session.sent < followups:
            return Action.FOLLOWUPS_LEFT
        case SessionState.COMPLETED | SessionState.GONE:
            return Action.DONE if session.agent_id is not None else Action.NO_AGENT
    if session.sent < followups:
        return Action.FOLLOW_UP
    if on_ready == "finish" and session.has_finish:
        return Action.FINISH
    # A single-shot server may leave a session ready. That is its end, and no question to answer.
    if session.completes_by_itself and session.agent_id is not None:
        return Action.DONE
    when_ready = {"finish": Action.NO_AGENT, "leave": Action.LEAVE, "cancel": Action.CANCEL}
    return when_ready.get(on_ready, Action.UNANSWERED)
