"""The agent builder: all eight verbs of the stateful one, the three of the single-shot one."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from airflow_provider_sequentum.sandbox.problems import Problem
from airflow_provider_sequentum.sandbox.routes import TheEngine, TheSessions, errors
from airflow_provider_sequentum.sandbox.schemas import (
    BuilderEnvelope,
    BuilderStartBody,
    ConversationResponse,
    EventsResponse,
    FinishBody,
    FollowupBody,
    SessionEnvelope,
    SessionId,
    SessionStatusResponse,
    SingleShotStatusResponse,
)
from airflow_provider_sequentum.sandbox.service import service_of
from airflow_provider_sequentum.sandbox.session_service import RefusedByBuilder, SessionService

router = APIRouter(prefix="/agent-builder", tags=["agent builder"])
_DONE = BuilderEnvelope(success=True, error=None)


@router.post("/start", responses=errors(404))
async def start(body: BuilderStartBody, sessions: TheSessions) -> SessionEnvelope | SessionId:
    """Start a session."""
    try:
        session, _ = sessions.start(prompt=body.prompt, url=body.url, mode=body.mode, space_id=body.space_id)
    except RefusedByBuilder as refusal:
        return SessionEnvelope(success=False, session_id=None, error=str(refusal))
    if session.single_shot:
        return SessionId(session_id=session.id)
    return SessionEnvelope(success=True, session_id=session.id, error=None)


@router.get("/{session_id}/status", responses=errors(404))
async def status(session_id: str, sessions: TheSessions, engine: TheEngine) -> Any:
    """Where the session stands; cheap, without events."""
    session, now = sessions.session(session_id), engine.settle()
    state = session.status(now)
    error = session.error if state == "error" else None
    if session.single_shot:
        known = session.saved and state in ("ready", "completed")
        elapsed = ((session.ended(now) or now) - session.created).total_seconds()
        return SingleShotStatusResponse(
            status=state,
            agent_id=session.draft_id if known else None,
            agent_name=session.agent_name if known else None,
            error=error,
            agent_elapsed_seconds=round(elapsed, 1),
            browser_io_seconds=round(elapsed / 3, 1),
        )
    response = SessionStatusResponse(
        status=state,
        last_event_index=session.last_index(now),
        error=error,
        config_id=session.draft_id if session.saved else None,
        agent_name=session.agent_name if session.saved else None,
    )
    if engine.dialect.builder_phase and state == "ready":
        return JSONResponse(response.model_dump(by_alias=True) | {"phase": "ready_to_finish"})
    return response


@router.get("/{session_id}/events", responses=errors(404))
async def events(
    session_id: str,
    request: Request,
    sessions: TheSessions,
    engine: TheEngine,
    last_event_index: Annotated[int, Query(alias="lastEventIndex", ge=-1)] = -1,
) -> EventsResponse:
    """Events after an index; held until there is one, for a while."""
    _only_stateful(sessions)
    session, now = sessions.session(session_id), engine.settle()
    deadline = now.timestamp() + engine.settings.long_poll_seconds
    while not session.emitted(now, last_event_index) and session.ended(now) is None:
        if now.timestamp() >= deadline or service_of(request).closing.is_set() or await request.is_disconnected():
            break
        await engine.clock.nap()
        now = engine.settle()
    emitted = session.emitted(now, last_event_index)
    return EventsResponse(
        events=[session.wire_event(i, event, engine.dialect.time(event.due)) for i, event in emitted],
        last_event_index=emitted[-1][0] if emitted else last_event_index,
    )


@router.get("/{session_id}/conversation", responses=errors(404, 409))
async def conversation(session_id: str, sessions: TheSessions, engine: TheEngine) -> ConversationResponse:
    """What was said, once the agent has been saved."""
    _only_stateful(sessions)
    session, now = sessions.session(session_id), engine.settle()
    if not session.saved:
        raise Problem(409, "The conversation is available once the agent has been saved.")
    spoken = {
        "user_prompt": ("user", "prompt"),
        "user_message": ("assistant", "message"),
        "ready_for_interaction": ("assistant", "message"),
    }
    messages = [
        {"role": spoken[event.type][0], "content": event.payload[spoken[event.type][1]]}
        for _, event in session.emitted(now)
        if event.type in spoken
    ]
    return ConversationResponse(
        session_id=session.id,
        config_id=session.draft_id,
        status=session.status(now),
        total_message_count=len(messages),
        summarized_context=None,
        message_history=json.dumps(messages),
        last_user_prompt=session.messages[-1][1] if session.messages else session.prompt,
        updated=engine.dialect.time(session.ended(now) or now) or "",
    )


@router.post("/{session_id}/followup", responses=errors(404, 409))
async def followup(session_id: str, body: FollowupBody, sessions: TheSessions) -> BuilderEnvelope:
    """Answer the builder; it continues to build."""
    _only_stateful(sessions)
    try:
        sessions.followup(session_id, body.message)
    except RefusedByBuilder as refusal:
        return BuilderEnvelope(success=False, error=str(refusal))
    return _DONE


@router.post("/{session_id}/finish", responses=errors(404, 409))
async def finish(
    session_id: str, sessions: TheSessions, engine: TheEngine, body: FinishBody | None = None
) -> dict[str, bool | int | str | None]:
    """Save the agent and end the session."""
    _only_stateful(sessions)
    session = sessions.finish(session_id, body.agent_name if body else None)
    response: dict[str, bool | int | str | None] = {"success": True, "error": None}
    if engine.dialect.finish_id != "none":
        response[engine.dialect.finish_id] = session.draft_id
    return response


@router.post("/{session_id}/cancel", responses=errors(404, 409))
async def cancel(session_id: str, sessions: TheSessions) -> BuilderEnvelope:
    """End the session; nothing is saved."""
    _only_stateful(sessions)
    sessions.cancel(session_id)
    return _DONE


@router.post(
    "/{session_id}/stop",
    response_model=None,
    responses=errors(404) | {200: {"model": BuilderEnvelope}, 204: {"description": "Single-shot: stopped"}},
)
async def stop(session_id: str, sessions: TheSessions) -> Response:
    """Stateful: interrupt the present turn. Single-shot: end the session."""
    sessions.stop(session_id)
    if sessions.era == "single_shot":
        return Response(status_code=204)
    return JSONResponse(_DONE.model_dump(by_alias=True))


def _only_stateful(sessions: SessionService) -> None:
    if sessions.era == "single_shot":
        raise Problem(404, "The single-shot agent builder has no such endpoint.")
