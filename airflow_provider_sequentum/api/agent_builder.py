"""Agent Builder: a session builds an agent out of a prompt.

Two eras of the API share the paths. The older is a conversation: start, watch, follow up, finish. The newer
takes one prompt and ends by itself; it knows start, status and stop, and answers the rest with 404 or 405.
The models read both.

Based on https://docs.sequentum.com/agent-builder/sessions,
https://docs.sequentum.com/agent-builder/streaming-events and the pages below
https://docs.sequentum.com/api-reference/agent-builder.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, field_validator

from airflow_provider_sequentum.api.call import (
    LONGEST_SESSION_ID,
    QUEUE_READ_TIMEOUT,
    Answer,
    Call,
    Id,
    as_id,
    as_session_segment,
    only_given,
)
from airflow_provider_sequentum.api.errors import SequentumConfigurationError, UnexpectedAnswer
from airflow_provider_sequentum.api.parsing import (
    ApiId,
    ApiMessage,
    ApiModel,
    ApiText,
    ApiTime,
    ApiUrl,
    ApiWhole,
    Text,
    read_nothing,
    read_one,
)
from airflow_provider_sequentum.api.text import one_line

SessionMode = Literal["prompt", "url"]

BEFORE_FIRST_EVENT = -1
"""The cursor before any event was read."""

SHORTEST_PROMPT, LONGEST_PROMPT = 10, 5000
"""Characters a prompt must have after trimming."""

LONGEST_PAGE = 16 * 1024 * 1024
"""Bytes of events that are read at once. A screenshot can have ten million, and a session thousands of events."""

EVENTS_READ_TIMEOUT = 60.0
"""Seconds after which silence on a long poll counts as no news. How long the server holds one is not published."""


class SessionStarted(ApiModel):
    """The answer to a start: the session's opaque id."""

    session_id: Annotated[str, Text(LONGEST_SESSION_ID * 5)] = Field(min_length=1, max_length=LONGEST_SESSION_ID)

    @field_validator("session_id", mode="before")
    @classmethod
    def _refuse_what_was_changed(cls, session_id: Any) -> Any:
        # An id that was made safe would be another session's, or none's.
        if isinstance(session_id, str) and "\ufffd" in session_id:
            raise ValueError("a session id with control characters")
        if isinstance(session_id, str):
            as_session_segment(session_id)  # what cannot be asked for again is no id
        return session_id


class SessionStatus(ApiModel):
    """Where a session stands.

    ``status`` is ``processing``, ``ready``, ``completed``, ``error`` or ``cancelled``, in lower case. ``agent_id``
    is set once the agent exists; the older era calls it ``configId``. ``error`` is the server's text:
    log it, do not trust it.
    """

    status: str = ""
    phase: str | None = None
    last_event_index: int | None = None
    agent_id: ApiId | None = Field(default=None, validation_alias=AliasChoices("agentId", "configId"))
    agent_name: str | None = None
    error: ApiMessage | None = None


class SessionEvent(ApiModel):
    """Something that happened in a session. ``type`` says what, and which of the other fields are set.

    Types are documented at https://docs.sequentum.com/agent-builder/streaming-events; ignore unknown ones.
    ``completed`` and an ``error`` with ``is_recoverable`` false end the session. A ``config_id`` before
    ``completed`` is no proof that the agent was saved.
    """

    type: str = ""
    event_index: int | None = None
    timestamp: ApiTime | None = None
    session_id: str | None = None
    mode: str | None = None
    prompt: ApiText | None = None
    message: ApiText | None = None
    plan: Any = None
    step_number: int | None = None
    total_steps: int | None = None
    description: ApiText | None = None
    action_type: str | None = None
    success: bool | None = None
    is_recoverable: bool | None = None
    url: ApiUrl | None = None
    title: str | None = None
    config_id: int | None = None
    agent_name: str | None = None
    image_base64: Annotated[str, Text(LONGEST_PAGE)] | None = Field(default=None, repr=False)
    tool_name: str | None = None
    phase: str | None = None
    args: Any = None
    result: Any = None
    content: ApiText | None = None
    thinking_content: ApiText | None = None
    columns: Any = None
    rows: Any = None
    total_rows: int | None = None
    command_count: int | None = None


class EventPage(ApiModel):
    """Events after a cursor, oldest first, none twice. Ask for the next ones with ``last_event_index``.

    ``is_cut`` says that there were more of them than were read at once. A page that is cut and holds no event is one
    whose first event is longer than what is read at once.
    """

    events: list[SessionEvent] = Field(default_factory=list)
    last_event_index: int = BEFORE_FIRST_EVENT
    is_cut: bool = False

    @field_validator("events", mode="before")
    @classmethod
    def _leave_out_what_is_no_event(cls, events: Any) -> Any:
        return [event for event in events if isinstance(event, dict | SessionEvent)] if isinstance(events, list) else []


class Conversation(ApiModel):
    """The stored messages of a session whose agent was saved. ``message_history`` is JSON text."""

    session_id: str | None = None
    agent_id: ApiId | None = Field(default=None, validation_alias=AliasChoices("agentId", "configId"))
    status: str | None = None
    total_message_count: int | None = None
    last_user_prompt: ApiText | None = None
    message_history: ApiWhole | None = None
    summarized_context: ApiText | None = None
    updated: ApiTime | None = None


class FinishedSession(ApiModel):
    """The answer to a finish. If ``agent_id`` is ``None``, the session's status has it."""

    agent_id: ApiId | None = Field(default=None, validation_alias=AliasChoices("agentId", "configId", "id"))
    agent_name: str | None = None


def start(
    *,
    prompt: str | None = None,
    url: str | None = None,
    mode: SessionMode | None = None,
    space_id: Id | None = None,
) -> Call[SessionStarted]:
    """Start building an agent. Not safe to repeat: two requests make two sessions.

    :param prompt: what the agent is to do, 10 to 5000 characters.
    :param url: page to start at.
    :param mode: ``prompt`` or ``url``; by default ``prompt`` when there is one.
    :param space_id: space to save the agent into.
    :raises SequentumConfigurationError: when there is neither a prompt nor a URL, when the one that ``mode`` names is
        missing, or when the prompt's length is wrong.
    """
    text = prompt.strip() if prompt is not None else None
    address = (url or "").strip() or None
    if mode is None and text is None and address is None:
        raise SequentumConfigurationError("An Agent Builder session needs a prompt or a url.")
    chosen = mode or ("prompt" if text is not None else "url")
    if (chosen == "url" and address is None) or (chosen == "prompt" and text is None):
        raise SequentumConfigurationError(f"An Agent Builder session in {chosen} mode needs a {chosen}.")
    if text is not None and not SHORTEST_PROMPT <= len(text) <= LONGEST_PROMPT:
        raise SequentumConfigurationError(
            f"The prompt has {len(text)} characters; the Agent Builder takes {SHORTEST_PROMPT} to {LONGEST_PROMPT}."
        )
    space = None if space_id is None else as_id(space_id, "space_id")
    return Call(
        "start an Agent Builder session",
        "POST",
        "/agent-builder/start",
        read_one(SessionStarted),
        body=only_given(mode=chosen, prompt=text, url=address, spaceId=space),
        read_timeout=QUEUE_READ_TIMEOUT,
    )


def status(session_id: str) -> Call[SessionStatus]:
    """Look at a session. Cheap; the way to wait. After its end a session may be gone (404)."""
    return Call.get(
        f"read the status of Agent Builder session {session_id}",
        _path(session_id, "status"),
        lambda answer: _read_status(answer, session_id),
    )


def events(
    session_id: str, last_event_index: int = BEFORE_FIRST_EVENT, longest_page: int = LONGEST_PAGE
) -> Call[EventPage]:
    """Wait for events after a cursor. The server holds the request until there are some.

    A cancelled session sends no event, so read :func:`status` between the calls. When the server stays
    silent for 60 seconds, the call gives a page without events.

    :param last_event_index: the last page's ``last_event_index``; -1 gives all events.
    :param longest_page: bytes that are read at once. The rest comes with the next call.
    """
    return Call(
        f"read the events of Agent Builder session {session_id}",
        "GET",
        _path(session_id, "events"),
        lambda answer: _read_events(answer, session_id, last_event_index),
        query={"lastEventIndex": last_event_index},
        safe_to_repeat=True,
        read_timeout=EVENTS_READ_TIMEOUT,
        when_silent=lambda: EventPage(last_event_index=last_event_index),
        longest_answer=longest_page,
    )


def conversation(session_id: str) -> Call[Conversation]:
    """Read the stored conversation of a session whose agent was saved."""
    return Call.get(
        f"read the conversation of Agent Builder session {session_id}",
        _path(session_id, "conversation"),
        read_one(Conversation, sessionId=session_id),
    )


def followup(session_id: str, message: str) -> Call[None]:
    """Send a message to a session that is ``ready``; it goes on building."""
    return Call(
        f"send a follow-up to Agent Builder session {session_id}",
        "POST",
        _path(session_id, "followup"),
        read_nothing,
        body={"message": message},
        read_timeout=QUEUE_READ_TIMEOUT,
    )


def finish(session_id: str, agent_name: str | None = None) -> Call[FinishedSession]:
    """Save the agent and end the session. 409 says that the session was cancelled.

    :param agent_name: name of the agent. The server may require it.
    """
    return Call(
        f"finish Agent Builder session {session_id}",
        "POST",
        _path(session_id, "finish"),
        lambda answer: _read_finished(answer, session_id),
        body=only_given(agentName=agent_name),
        read_timeout=QUEUE_READ_TIMEOUT,
    )


def cancel(session_id: str) -> Call[None]:
    """End a session without an agent. A server of the newer era has only :func:`stop`."""
    return _end("cancel", session_id)


def stop(session_id: str) -> Call[None]:
    """Interrupt a session. In the older era it lives on and becomes ``ready``; in the newer it is cancelled."""
    return _end("stop", session_id)


def _end(verb: str, session_id: str) -> Call[None]:
    purpose = f"{verb} Agent Builder session {session_id}"
    return Call(purpose, "POST", _path(session_id, verb), read_nothing, safe_to_repeat=True)


def _path(session_id: str, last: str) -> str:
    return f"/agent-builder/{as_session_segment(session_id)}/{last}"


def _read_status(answer: Answer, session_id: str) -> SessionStatus:
    status = read_one(SessionStatus, sessionId=session_id)(answer)
    return status.model_copy(update={"status": status.status.strip().lower()})


def _read_events(answer: Answer, session_id: str, cursor: int) -> EventPage:
    page = read_one(EventPage, sessionId=session_id)(answer)
    # Of an answer that was cut the last event may be incomplete, and the index may speak of events that are missing.
    events = page.events[:-1] if answer.is_cut else page.events
    stated = cursor if answer.is_cut else page.last_event_index
    new = {event.event_index: event for event in events if event.event_index is not None and event.event_index > cursor}
    in_order = [new[index] for index in sorted(new)]
    foreign = next((event.session_id for event in in_order if event.session_id not in (None, session_id)), None)
    if foreign is not None:
        raise UnexpectedAnswer(f"its sessionId is {one_line(foreign, 100)}, but {session_id} was asked for")
    # An answer without news may carry no index, or a smaller one: the cursor never goes back.
    return EventPage(events=in_order, last_event_index=max([cursor, stated, *new]), is_cut=answer.is_cut)


def _read_finished(answer: Answer, session_id: str) -> FinishedSession:
    if not answer.content.strip():
        return FinishedSession()
    return read_one(FinishedSession, sessionId=session_id)(answer)
