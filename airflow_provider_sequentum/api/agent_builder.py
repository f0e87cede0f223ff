"""Agent Builder: a session builds an agent from a prompt.

Two versions of the API share the same paths. The older one is a conversation: start, watch, follow up, finish. The
newer one takes a single prompt and ends by itself; it only has start, status and stop, and responds to all other
requests with 404 or 405. The models read both.

Based on https://docs.sequentum.com/agent-builder/sessions,
https://docs.sequentum.com/agent-builder/streaming-events and the pages below
https://docs.sequentum.com/api-reference/agent-builder.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, field_validator

from airflow_provider_sequentum.api.call import (
    MAX_SESSION_ID_LENGTH,
    QUEUE_READ_TIMEOUT,
    Call,
    Id,
    Response,
    as_id,
    as_session_segment,
    only_given,
)
from airflow_provider_sequentum.api.errors import SequentumConfigurationError, UnexpectedResponse
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
"""The cursor before the first event."""

MIN_PROMPT_LENGTH, MAX_PROMPT_LENGTH = 10, 5000
"""Minimum and maximum number of characters of a prompt, after trimming."""

MAX_PAGE_SIZE = 16 * 1024 * 1024
"""Maximum bytes of events read at once. A screenshot can have ten million, and a session thousands of events."""

EVENTS_READ_TIMEOUT = 60.0
"""Seconds without data after which a long poll has no news. How long the server holds one is not published."""


class SessionStarted(ApiModel):
    """The response to a start: the opaque id of the session."""

    session_id: Annotated[str, Text(MAX_SESSION_ID_LENGTH * 5)] = Field(min_length=1, max_length=MAX_SESSION_ID_LENGTH)

    @field_validator("session_id", mode="before")
    @classmethod
    def _refuse_what_was_changed(cls, session_id: Any) -> Any:
        # An id with replaced characters would be that of another session, or of none.
        if isinstance(session_id, str) and "\ufffd" in session_id:
            raise ValueError("a session id with control characters")
        if isinstance(session_id, str):
            as_session_segment(session_id)  # an id must be usable in later requests
        return session_id


class SessionStatus(ApiModel):
    """The state of a session.

    ``status`` is ``processing``, ``ready``, ``completed``, ``error`` or ``cancelled``, in lower case. ``agent_id``
    is set once the agent exists; the older version of the API calls it ``configId``. ``error`` is a text of the
    server: log it, but do not trust it.
    """

    status: str = ""
    phase: str | None = None
    last_event_index: int | None = None
    agent_id: ApiId | None = Field(default=None, validation_alias=AliasChoices("agentId", "configId"))
    agent_name: str | None = None
    error: ApiMessage | None = None


class SessionEvent(ApiModel):
    """An event of a session. Its ``type`` determines which of the other fields are set.

    The types are documented at https://docs.sequentum.com/agent-builder/streaming-events; ignore unknown ones.
    ``completed`` and an ``error`` with ``is_recoverable`` false end the session. A ``config_id`` before
    ``completed`` does not prove that the agent was saved.
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
    image_base64: Annotated[str, Text(MAX_PAGE_SIZE)] | None = Field(default=None, repr=False)
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
    """Events after a cursor, oldest first, without duplicates. Request the next ones with ``last_event_index``.

    ``is_cut`` means that there are more events than were read at once. If a cut page has no event, its first event is
    longer than what is read at once.
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
    """The response to a finish. If ``agent_id`` is ``None``, read it from the session's status."""

    agent_id: ApiId | None = Field(default=None, validation_alias=AliasChoices("agentId", "configId", "id"))
    agent_name: str | None = None


def start(
    *,
    prompt: str | None = None,
    url: str | None = None,
    mode: SessionMode | None = None,
    space_id: Id | None = None,
) -> Call[SessionStarted]:
    """Start a session that builds an agent. Not safe to repeat: two requests start two sessions.

    :param prompt: what the agent should do, 10 to 5000 characters.
    :param url: the page to start at.
    :param mode: ``prompt`` or ``url``. Default: ``prompt`` if there is one.
    :param space_id: the space to save the agent in.
    :raises SequentumConfigurationError: if there is neither a prompt nor a URL, if the one that ``mode`` names is
        missing, or if the prompt is too short or too long.
    """
    text = prompt.strip() if prompt is not None else None
    address = (url or "").strip() or None
    if mode is None and text is None and address is None:
        raise SequentumConfigurationError("An Agent Builder session needs a prompt or a url.")
    chosen = mode or ("prompt" if text is not None else "url")
    if (chosen == "url" and address is None) or (chosen == "prompt" and text is None):
        raise SequentumConfigurationError(f"An Agent Builder session in {chosen} mode needs a {chosen}.")
    if text is not None and not MIN_PROMPT_LENGTH <= len(text) <= MAX_PROMPT_LENGTH:
        raise SequentumConfigurationError(
            f"The prompt must have {MIN_PROMPT_LENGTH} to {MAX_PROMPT_LENGTH} characters, not {len(text)}."
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
    """Read the state of a session. This is the cheap way to wait. After its end, a session may be gone (404)."""
    return Call.get(
        f"read the status of Agent Builder session {session_id}",
        _path(session_id, "status"),
        lambda response: _read_status(response, session_id),
    )


def events(
    session_id: str, last_event_index: int = BEFORE_FIRST_EVENT, longest_page: int = MAX_PAGE_SIZE
) -> Call[EventPage]:
    """Wait for events after a cursor. The server holds the request until there are some.

    A cancelled session sends no event, so read :func:`status` between the calls. If the server sends nothing for
    60 seconds, the call returns a page without events.

    :param last_event_index: ``last_event_index`` of the previous page; -1 requests all events.
    :param longest_page: maximum bytes to read at once. The next call returns the rest.
    """
    return Call(
        f"read the events of Agent Builder session {session_id}",
        "GET",
        _path(session_id, "events"),
        lambda response: _read_events(response, session_id, last_event_index),
        query={"lastEventIndex": last_event_index},
        safe_to_repeat=True,
        read_timeout=EVENTS_READ_TIMEOUT,
        when_silent=lambda: EventPage(last_event_index=last_event_index),
        max_response_size=longest_page,
    )


def conversation(session_id: str) -> Call[Conversation]:
    """Read the stored conversation of a session whose agent was saved."""
    return Call.get(
        f"read the conversation of Agent Builder session {session_id}",
        _path(session_id, "conversation"),
        read_one(Conversation, sessionId=session_id),
    )


def followup(session_id: str, message: str) -> Call[None]:
    """Send a message to a session that is ``ready``; it continues to build the agent."""
    return Call(
        f"send a follow-up to Agent Builder session {session_id}",
        "POST",
        _path(session_id, "followup"),
        read_nothing,
        body={"message": message},
        read_timeout=QUEUE_READ_TIMEOUT,
    )


def finish(session_id: str, agent_name: str | None = None) -> Call[FinishedSession]:
    """Save the agent and end the session. 409 means that the session was cancelled.

    :param agent_name: name of the agent. The server may require one.
    """
    return Call(
        f"finish Agent Builder session {session_id}",
        "POST",
        _path(session_id, "finish"),
        lambda response: _read_finished(response, session_id),
        body=only_given(agentName=agent_name),
        read_timeout=QUEUE_READ_TIMEOUT,
    )


def cancel(session_id: str) -> Call[None]:
    """End a session without an agent. A server with the newer version of the API only has :func:`stop`."""
    return _end("cancel", session_id)


def stop(session_id: str) -> Call[None]:
    """Interrupt a session. In the older version of the API it then becomes ``ready``; in the newer it is cancelled."""
    return _end("stop", session_id)


def _end(verb: str, session_id: str) -> Call[None]:
    purpose = f"{verb} Agent Builder session {session_id}"
    return Call(purpose, "POST", _path(session_id, verb), read_nothing, safe_to_repeat=True)


def _path(session_id: str, last: str) -> str:
    return f"/agent-builder/{as_session_segment(session_id)}/{last}"


def _read_status(response: Response, session_id: str) -> SessionStatus:
    status = read_one(SessionStatus, sessionId=session_id)(response)
    return status.model_copy(update={"status": status.status.strip().lower()})


def _read_events(response: Response, session_id: str, cursor: int) -> EventPage:
    page = read_one(EventPage, sessionId=session_id)(response)
    # In a cut response, the last event may be incomplete, and the index may be that of an event that is missing.
    events = page.events[:-1] if response.is_cut else page.events
    stated = cursor if response.is_cut else page.last_event_index
    new = {event.event_index: event for event in events if event.event_index is not None and event.event_index > cursor}
    in_order = [new[index] for index in sorted(new)]
    foreign = next((event.session_id for event in in_order if event.session_id not in (None, session_id)), None)
    if foreign is not None:
        raise UnexpectedResponse(f"its sessionId is {one_line(foreign, 100)}, but {session_id} was requested")
    # A response without news may have no index, or a smaller one: the cursor never goes back.
    return EventPage(events=in_order, last_event_index=max([cursor, stated, *new]), is_cut=response.is_cut)


def _read_finished(response: Response, session_id: str) -> FinishedSession:
    if not response.content.strip():
        return FinishedSession()
    return read_one(FinishedSession, sessionId=session_id)(response)
