"""A model of the Agent Builder in memory: it answers workers and triggers, on a clock that costs no time."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar

import pytest
from airflow.providers.common.compat.sdk import BaseOperator, TaskDeferred

from airflow_provider_sequentum.airflow_compat.deferral import DEFERRAL_FAILED
from airflow_provider_sequentum.api import ClientSettings
from airflow_provider_sequentum.api.call import Call, Reply, Response
from airflow_provider_sequentum.hooks.connection import SequentumConnection
from airflow_provider_sequentum.jobs import stop
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.sessions import wait
from tests.support.airflow import FakeTask, use_fakes
from tests.support.service import Clock, ErrorOf, conflict, not_found
from tests.support.worker import Worker

T = TypeVar("T")

OVER = ("completed", "cancelled", "error")

PROMPT = "Pull the prices from https://shop.example"

both_modes = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


def build(**fields: Any) -> AgentBuilderOperator:
    """Return an operator that starts a session with a prompt, unless something else is to be built from."""
    start = {} if {"url", "session_id", "prompt"} & set(fields) else {"prompt": PROMPT}
    return AgentBuilderOperator(**{"task_id": "build", "deferrable": False, **start, **fields})


@dataclass
class FakeSession:
    """A session of the fake service; it works for so many looks at its status before it is ready."""

    status: str = "processing"
    looks_left: int = 2
    events: list[dict[str, Any]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    agent_id: int | None = None
    error: str | None = None
    is_torn_down: bool = False
    """Whether the service knows it no more."""

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    def tell(self, kind: str, **payload: Any) -> None:
        self.events.append({"type": kind, "eventIndex": len(self.events), **payload})


class FakeBuilder:
    """The service, in one of its eras.

    :param clock: its time.
    :param single_shot: the newer era: no events, no conversation, ``completed`` by itself.
    :param looks: how many looks at the status a turn takes.
    :param counts_events: whether the status says how many events there are.
    :param on_start: is told the name of each session that a task starts.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        single_shot: bool = False,
        looks: int = 2,
        counts_events: bool = True,
        on_start: Callable[[str], None] | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.single_shot = single_shot
        self.looks = looks
        self.counts_events = counts_events
        self.on_start = on_start
        self.faults: dict[str, list[tuple[ErrorOf, bool] | None]] = defaultdict(list)
        """What the next calls of a verb meet: an error, and whether the call takes effect all the same."""
        self.faults_at: dict[int, tuple[ErrorOf, bool]] = {}
        """The same for the n-th request."""
        self.broken: dict[str, ErrorOf] = {}
        """Verbs that are always answered with an error and never take effect."""
        self.skew = timedelta(0)
        """By how much the service's clock is ahead of the worker's."""
        self.tells_time = True
        self.ignores_cancel = False
        self.sessions: dict[str, FakeSession] = {}
        self.agents: list[int] = []
        self.requests: list[str] = []

    @property
    def now(self) -> datetime:
        """The time by the service's clock."""
        return self.clock.now + self.skew

    def exchange(self, call: Call[T]) -> Reply[T]:
        """Answer a call, with the service's time in whole seconds as ``Date`` has it."""
        value = self.answer(call)
        return Reply(value, self.now.replace(microsecond=0) if self.tells_time else None)

    def answer(self, call: Call[T]) -> T:
        number, verb = len(self.requests), call.path.rpartition("/")[2]
        self.requests.append(f"{call.method} {call.path}")
        self.clock.sleep(0.1)
        fault = self.faults[verb].pop(0) if self.faults[verb] else self.faults_at.get(number)
        if fault is None and verb in self.broken:
            fault = (self.broken[verb], False)
        body = self._act(call) if fault is None or fault[1] else None
        if fault is not None:
            raise fault[0](call)
        content = json.dumps(body).encode() if body is not None else b""
        is_cut = call.max_response_size is not None and len(content) > call.max_response_size
        return call.parse(Response(200, {}, content[: call.max_response_size], is_cut))

    def task(self, retries: int = 0, *, durable: bool = True) -> BuildTask:
        """Return a task on the same clock; with ``durable``, on Airflow 3.3."""
        return BuildTask(self.clock, retries, has_state_store=durable)

    def count(self, verb: str) -> int:
        """Return how many requests of a verb were sent."""
        return sum(request.endswith(f"/{verb}") for request in self.requests)

    def going(self) -> set[str]:
        """Return the sessions that have not ended."""
        return {name for name, session in self.sessions.items() if not session.is_over}

    def begin(self, name: str | None = None, **fields: Any) -> FakeSession:
        """Start a session, as another task or a person does."""
        session = FakeSession(**{"looks_left": self.looks, **fields})
        name = name or f"s{len(self.sessions) + 1}"
        self.sessions[name] = session
        if not self.single_shot:
            session.tell("session_started", sessionId=name, mode="prompt", timestamp=self.now.isoformat())
            session.tell("user_prompt", prompt="the prompt")
        return session

    def _act(self, call: Call[Any]) -> Any:
        *_, name, verb = ["", "", *call.path.split("/")[2:]]
        if verb == "start":
            return self._start(call)
        session = self.sessions.get(name)
        if session is None or session.is_torn_down or (self.single_shot and verb not in ("status", "stop")):
            raise not_found(call)
        return getattr(self, f"_{verb}")(session, call)

    def _start(self, call: Call[Any]) -> dict[str, Any]:
        name = f"s{len(self.sessions) + 1}"
        if self.on_start is not None:
            self.on_start(name)
        self.begin(name)
        return {"sessionId": name}

    def _status(self, session: FakeSession, call: Call[Any]) -> dict[str, Any]:
        if session.status == "processing":
            session.looks_left -= 1
            if session.looks_left <= 0:
                session.status = "ready"
                session.looks_left = self.looks
                if self.single_shot:
                    session.agent_id = self._save(session)
                else:
                    session.tell("thinking", message="Done with that.")
                    session.tell("ready_for_interaction", message="What next?")
        elif session.status == "ready" and self.single_shot:
            session.looks_left -= 1
            if session.looks_left <= 0:
                session.status = "completed"
        answer: dict[str, Any] = {"status": session.status, "error": session.error}
        if self.single_shot:
            return answer | {"agentId": session.agent_id}
        configuration = session.agent_id if session.status == "completed" else None
        count = {"lastEventIndex": len(session.events) - 1} if self.counts_events else {}
        return answer | count | {"configId": configuration}

    def _events(self, session: FakeSession, call: Call[Any]) -> dict[str, Any]:
        after = int(call.query["lastEventIndex"])
        return {"events": session.events[after + 1 :], "lastEventIndex": len(session.events) - 1}

    def _followup(self, session: FakeSession, call: Call[Any]) -> dict[str, Any]:
        self._must_be_ready(session, call)
        assert isinstance(call.body, dict)
        session.messages.append(call.body["message"])
        session.tell("user_prompt", prompt=call.body["message"])
        session.status, session.looks_left = "processing", self.looks
        return {"success": True, "error": None}

    def _finish(self, session: FakeSession, call: Call[Any]) -> dict[str, Any]:
        self._must_be_ready(session, call)
        session.agent_id = self._save(session)
        session.status = "completed"
        session.tell("completed", configId=session.agent_id, commandCount=3)
        return {"agentId": session.agent_id}

    def _cancel(self, session: FakeSession, call: Call[Any]) -> dict[str, Any]:
        if session.is_over:
            raise conflict(call)
        session.status = session.status if self.ignores_cancel else "cancelled"
        return {"success": True}

    def _stop(self, session: FakeSession, call: Call[Any]) -> None:
        if self.single_shot and session.status in ("processing", "ready"):
            session.status = "cancelled"

    def _save(self, session: FakeSession) -> int:
        self.agents.append(700 + len(self.agents))
        return self.agents[-1]

    @staticmethod
    def _must_be_ready(session: FakeSession, call: Call[Any]) -> None:
        if session.status != "ready":
            raise conflict(call)


class BuilderClient:
    """The client of a triggerer."""

    def __init__(self, worker: Worker, settings: ClientSettings | None = None) -> None:
        self.worker = worker
        self.settings = settings or ClientSettings(api_key="sk")
        self.is_open = False

    async def __aenter__(self) -> Self:
        self.is_open = True
        return self

    async def __aexit__(self, *error: object) -> None:
        self.is_open = False

    async def exchange(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> Reply[T]:
        return self.worker.exchange(call, budget_share=budget_share, within=within)

    async def send(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> T:
        return (await self.exchange(call, budget_share=budget_share, within=within)).value


def use_builder(monkeypatch: pytest.MonkeyPatch, worker: Worker) -> list[BuilderClient]:
    """Let operators and triggers talk to the fake Agent Builder, on its clock; return the clients of triggers."""
    clients: list[BuilderClient] = []

    async def aget_client(hook: SequentumConnection) -> BuilderClient:
        clients.append(BuilderClient(worker))
        return clients[-1]

    async def aget_settings(hook: SequentumConnection) -> ClientSettings:
        return clients[-1].settings

    async def asleep(seconds: float) -> None:
        worker.service.clock.sleep(max(seconds, 0.0))

    use_fakes(monkeypatch, worker)
    monkeypatch.setattr(SequentumConnection, "aget_client", aget_client)
    monkeypatch.setattr(SequentumConnection, "aget_settings", aget_settings)
    monkeypatch.setattr(
        SequentumConnection, "session_link", lambda hook, session_id: f"https://cloud.example/{session_id}"
    )
    monkeypatch.setattr(wait, "_now", worker.now)
    monkeypatch.setattr(stop, "steady_clock", lambda: worker.now)
    for module in (wait, stop):
        monkeypatch.setattr(module.asyncio, "sleep", asleep)
    monkeypatch.setattr("airflow_provider_sequentum.airflow_compat.trigger_life.MIN_TRIGGER_LIFETIME", 0.0)
    return clients


def first_event(trigger: Any) -> dict[str, Any]:
    """Run a trigger as a triggerer does, from its serialized form; it has to end right after its only event."""
    path, arguments = trigger.serialize()
    rebuilt = type(trigger)(**json.loads(json.dumps(arguments)))
    assert rebuilt.serialize() == (path, arguments)

    async def collected() -> list[Any]:
        return [event.payload async for event in rebuilt.run()]

    [payload] = asyncio.run(collected())
    return json.loads(json.dumps(payload))  # type: ignore[no-any-return]


@dataclass
class BuildTask(FakeTask):
    """A task that builds an agent, through its attempts and deferrals."""

    deferrals: int = 0

    @property
    def xcoms(self) -> dict[str, Any]:
        """What the attempt has pushed."""
        return {key: json.loads(text) for (_, _, key), text in self.ti.xcoms.items()}

    def run(self, operator: BaseOperator) -> Any:
        """Run one attempt to its end; each piece of it gets a new operator, as on a new worker."""
        try:
            return operator.execute(self.context)
        except TaskDeferred as deferral:
            pending = deferral
        while True:
            self.deferrals += 1
            try:
                return self._resume(again(operator), pending)
            except TaskDeferred as deferral:
                pending = deferral

    def _resume(self, operator: BaseOperator, deferral: TaskDeferred) -> Any:
        try:
            event = first_event(deferral.trigger)
        except Exception:  # noqa: BLE001 - whatever breaks a trigger, Airflow resumes the task with this
            return operator.resume_execution(DEFERRAL_FAILED, {"error": "Trigger failure"}, self.context)
        except BaseException:  # noqa: BLE001 - the triggerer died, and another one takes the trigger over
            event = first_event(deferral.trigger)
        return self.resume(operator, deferral, event)

    def resume(self, operator: BaseOperator, deferral: TaskDeferred, event: object) -> Any:
        """Resume after a deferral, with what has gone through Airflow's database."""
        kwargs = json.loads(json.dumps({**(deferral.kwargs or {}), "event": event}))
        return operator.resume_execution(deferral.method_name, kwargs, self.context)


def again(operator: Any) -> Any:
    """Return the operator as another process builds it from the same DAG."""
    names = [*operator.template_fields, "task_id", "retries", "execution_timeout"]
    return type(operator)(**{name: getattr(operator, name) for name in names})
