"""A session of the agent builder: a line of events and status changes, each due at a moment.

Like a run, a session needs nothing in the background: what has happened by now is what was due by now.
"""

from __future__ import annotations

import base64
import struct
import zlib
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel

from airflow_provider_sequentum.sandbox.builder_scripts import ScriptEvent, ScriptName, Turn

SessionState = Literal["processing", "ready", "completed", "error", "cancelled"]
ENDED: frozenset[SessionState] = frozenset({"completed", "error", "cancelled"})
# Events that carry the id and name of the draft.
_NAMES_DRAFT = frozenset({"navigation_completed", "ready_for_interaction", "completed"})

# Bytes of a PNG chunk besides its data.
_CHUNK_OVERHEAD = 12


class SessionEvent(BaseModel):
    """An event that is, or will be, in the session's line."""

    due: datetime
    type: str
    payload: dict[str, Any] = {}
    screenshot_bytes: int = 0


class Session(BaseModel):
    """A session and all its messages, past and future."""

    id: str
    created: datetime
    mode: Literal["prompt", "url"]
    prompt: str | None
    url: str
    space_id: int
    script: ScriptName
    data_set: str
    draft_id: int
    agent_name: str
    single_shot: bool
    events: list[SessionEvent] = []
    states: list[tuple[datetime, SessionState]] = []
    messages: list[tuple[datetime, str]] = []
    error: str | None = None
    saves_at: datetime | None = None
    """Single-shot: when the builder saves its draft."""
    saved: bool = False

    @property
    def followups(self) -> int:
        """How many follow-up messages were sent."""
        return len(self.messages)

    def status(self, now: datetime) -> SessionState:
        """The session's status at ``now``."""
        reached = [state for due, state in self.states if due <= now]
        return reached[-1] if reached else "processing"

    def ended(self, now: datetime) -> datetime | None:
        """When the session ended, or ``None`` when it has not."""
        return next((due for due, state in self.states if state in ENDED and due <= now), None)

    def emitted(self, now: datetime, after: int = -1) -> list[tuple[int, SessionEvent]]:
        """Events due by ``now`` with an index above ``after``."""
        first = max(0, after + 1)
        return [(i, event) for i, event in enumerate(self.events[first:], first) if event.due <= now]

    def last_index(self, now: datetime) -> int:
        """Index of the last event due by ``now``; -1 before the first."""
        return sum(event.due <= now for event in self.events) - 1

    def say(self, now: datetime, kind: str, **payload: Any) -> None:
        """Add an event that happens now."""
        self.events.append(SessionEvent(due=now, type=kind, payload=payload))

    def play(self, turn: Turn, now: datetime, seconds: float) -> datetime:
        """Start a turn now; returns when it will be over."""
        length = seconds * turn.length
        self.states.append((now, "processing"))
        for number, event in enumerate(turn.events, 1):
            due = now + timedelta(seconds=length * number / len(turn.events))
            self.events.append(_session_event(event, due))
        end = now + timedelta(seconds=length)
        self.states.append((end, turn.ends))
        self.error = turn.error
        return end

    def cut(self, now: datetime) -> None:
        """Forget what would have happened after ``now``."""
        self.events = [event for event in self.events if event.due <= now]
        self.states = [(due, state) for due, state in self.states if due <= now]

    def wire_event(self, index: int, event: SessionEvent, timestamp: str | None) -> dict[str, Any]:
        """An event as the service writes it."""
        wire: dict[str, Any] = {"type": event.type, "timestamp": timestamp, "eventIndex": index} | event.payload
        if event.type in _NAMES_DRAFT:
            wire |= {"configId": self.draft_id, "agentName": self.agent_name}
        if event.screenshot_bytes:
            wire["imageBase64"] = screenshot(event.screenshot_bytes)
        return wire


def _session_event(event: ScriptEvent, due: datetime) -> SessionEvent:
    return SessionEvent(due=due, type=event.type, payload=event.payload, screenshot_bytes=event.screenshot_bytes)


def screenshot(size: int) -> str:
    """A PNG of one white pixel in base64, padded with a private chunk to at least ``size`` bytes."""
    parts = [
        b"\x89PNG\r\n\x1a\n",
        _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        _chunk(b"IDAT", zlib.compress(b"\x00\xff")),
    ]
    end = _chunk(b"IEND", b"")
    missing = size - sum(map(len, parts)) - len(end)
    if missing > 0:
        parts.append(_chunk(b"saNd", bytes(max(0, missing - _CHUNK_OVERHEAD))))
    return base64.b64encode(b"".join([*parts, end])).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
