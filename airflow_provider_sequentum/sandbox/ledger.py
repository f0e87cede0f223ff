"""Everything that was requested of the sandbox and everything that came of it, so that tests can count."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr, computed_field

EffectKind = Literal[
    "start",
    "stop",
    "kill",
    "restart",
    "delete",
    "schedule_fired",
    "session_start",
    "session_followup",
    "session_finish",
    "session_cancel",
    "session_stop",
]


class RequestEntry(BaseModel):
    """One request to the API or to storage, answered or not. Never holds a key, only the key's name."""

    model_config = ConfigDict(frozen=True)

    number: int
    """Requests are numbered as they arrive; the list is in the order of their responses."""
    at: datetime
    method: str
    path: str
    query: str
    key_name: str | None
    """Name of the API key it came with, or ``None`` without a known one."""
    status: int | None
    """HTTP status of the response, or ``None`` when the connection was cut before one."""
    fault: str | None = None
    user_agent: str | None = None
    held_seconds: float = 0.0
    """Real seconds spent in the rate limiter's queue."""


class Effect(BaseModel):
    """Something that a request, a schedule or the admin API brought about."""

    model_config = ConfigDict(frozen=True)

    kind: EffectKind
    at: datetime
    request: int | None = None
    """Number of the request that brought it about, whose entry says what was answered; ``None`` for a schedule and
    the admin API."""
    key_name: str | None = None
    """Name of the API key of that request."""
    agent_id: int | None = None
    run_id: int | None = None
    session_id: str | None = None
    input_parameters: str | None = None
    detail: dict[str, Any] | None = None


class Leak(BaseModel):
    """An ``Authorization`` header that reached storage. The header's value is not kept."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    path: str
    scheme: str
    known_key: bool


class ActualRun(BaseModel):
    """A run as it really is, whatever a client has seen of it."""

    model_config = ConfigDict(frozen=True)

    run_id: int
    agent_id: int
    status: str
    created: datetime
    started: datetime | None
    finished: datetime | None
    attempts: int
    data_count: int
    export_count: int | None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def going(self) -> bool:
        """Whether it has not ended: it works, or will once there is a slot for it."""
        return self.finished is None


class Ledger(BaseModel):
    """What a sandbox has recorded."""

    requests: list[RequestEntry] = []
    effects: list[Effect] = []
    leaks: list[Leak] = []
    received: int = 0
    """How many requests have arrived."""
    _actual_runs: Any = PrivateAttr(default=None)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    def next_number(self) -> int:
        """Number a request that has arrived. The API and storage are served by threads of their own."""
        with self._lock:
            self.received += 1
            return self.received

    def add_effect(self, kind: EffectKind, at: datetime, **details: Any) -> None:
        """Record an effect, of the request that is being served if there is one.

        :param details: further fields of :class:`Effect`.
        """
        request, key_name = _served.get()
        fields = {"request": request, "key_name": key_name} | details
        self.effects.append(Effect(kind=kind, at=at, **fields))

    def starts(self, agent_id: int | None = None) -> list[Effect]:
        """Runs that were started through the API (schedules do not count)."""
        return self.of_kind("start", agent_id)

    @property
    def stops(self) -> list[Effect]:
        """Graceful stops that took effect."""
        return self.of_kind("stop")

    @property
    def kills(self) -> list[Effect]:
        """Kill calls that took effect; ``detail["forced"]`` says whether the run was ended at once."""
        return self.of_kind("kill")

    @property
    def restarts(self) -> list[Effect]:
        """In-place restarts."""
        return self.of_kind("restart")

    @property
    def rate_limited(self) -> list[RequestEntry]:
        """Requests that the limiter refused with 429. A 429 made by a fault does not count."""
        return [entry for entry in self.requests if entry.status == 429 and entry.fault is None]

    def of_kind(self, kind: EffectKind, agent_id: int | None = None) -> list[Effect]:
        """All effects of a kind, for one agent when given."""
        return [e for e in self.effects if e.kind == kind and (agent_id is None or e.agent_id == agent_id)]

    def runs(self, agent_id: int | None = None) -> list[ActualRun]:
        """The runs as they really are now, oldest first, deleted ones included."""
        runs: list[ActualRun] = self._actual_runs(agent_id)
        return runs

    @property
    def going(self) -> list[ActualRun]:
        """The runs that have not ended."""
        return [run for run in self.runs() if run.going]

    def read_runs_from(self, actual_runs: Any) -> None:
        """Attach the engine's view of the runs; done once by the engine."""
        self._actual_runs = actual_runs


_served: ContextVar[tuple[int | None, str | None]] = ContextVar("served", default=(None, None))


@contextmanager
def serving(number: int, key_name: str | None) -> Iterator[None]:
    """Attribute the effects of this context to a request."""
    token = _served.set((number, key_name))
    try:
        yield
    finally:
        _served.reset(token)
