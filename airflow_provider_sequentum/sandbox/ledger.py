"""Everything that was asked of the sandbox and everything that came of it, so that tests can count."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr

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
    at: datetime
    method: str
    path: str
    query: str
    key_name: str | None
    """Name of the API key it came with, or ``None`` without a known one."""
    status: int | None
    """HTTP status of the answer, or ``None`` when the connection was cut before one."""
    fault: str | None = None
    user_agent: str | None = None
    held_seconds: float = 0.0
    """Real seconds spent in the rate limiter's queue."""


class Effect(BaseModel):
    """Something a request (or a schedule) brought about."""

    model_config = ConfigDict(frozen=True)

    kind: EffectKind
    at: datetime
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


class RunTruth(BaseModel):
    """The true course of a run, whatever a client has seen of it."""

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


class Ledger(BaseModel):
    """The account of a sandbox."""

    requests: list[RequestEntry] = []
    effects: list[Effect] = []
    leaks: list[Leak] = []
    _truth: Any = PrivateAttr(default=None)

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

    def runs(self, agent_id: int | None = None) -> list[RunTruth]:
        """The runs as they truly are now, oldest first, with their true finish times."""
        truth: list[RunTruth] = self._truth(agent_id)
        return truth

    def observe_with(self, truth: Any) -> None:
        """Attach the engine's view of the runs; done once by the engine."""
        self._truth = truth
