"""A stand-in for the Agent Builder that answers procedures, and a driver that can be killed at any step."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from airflow_provider_sequentum.lifecycle.procedure import Now, Procedure, Remember, Say, Send, Sleep

from airflow_provider_sequentum.api.call import Answer, Call
from airflow_provider_sequentum.api.errors import AnswerLost, Conflict, NotFound, SequentumError

T = TypeVar("T")

START = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


class Killed(Exception):
    """The worker died."""


@dataclass
class FakeSession:
    """A session of the fake service; it works for so many looks at its status before it is ready."""

    status: str = "processing"
    looks_left: int = 2
    events: list[dict[str, Any]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    agent_id: int | None = None
    error: str | None = None

    def tell(self, kind: str, **payload: Any) -> None:
        self.events.append({"type": kind, "eventIndex": len(self.events), **payload})


class FakeBuilder:
    """
    The service, in one of its eras.

    :param single_shot: the newer era: no events, no conversation, ``completed`` by itself.
    :param looks: how many looks at the status a turn takes.
    :param faults: for the n-th request, the error to answer with, and whether it takes effect all the same.
    :param broken: verbs that are always answered with an error and never take effect.
    :param counts_events: whether the status says how many events there are.
    """

    def __init__(
        self,
        *,
        single_shot: bool = False,
        looks: int = 2,
        faults: dict[int, tuple[Callable[[str], SequentumError], bool]] | None = None,
        broken: dict[str, Callable[[str], SequentumError]] | None = None,
        counts_events: bool = True,
    ) -> None:
        self.single_shot = single_shot
        self.looks = looks
        self.faults = faults or {}
        self.broken = broken or {}
        self.counts_events = counts_events
        self.sessions: dict[str, FakeSession] = {}
        self.agents: list[int] = []
        self.requests: list[str] = []

    def answer(self, call: Call[T]) -> T:
        number = len(self.requests)
        self.requests.append(f"{call.method} {call.path}")
        broken = self.broken.get(call.path.rpartition("/")[2])
        error, takes_effect = self.faults.get(number, (broken, broken is None))
        body = self._act(call) if takes_effect else None
        if error is not None:
            raise error(call.purpose)
        content = json.dumps(body).encode() if body is not None else b""
        is_cut = call.longest_answer is not None and len(content) > call.longest_answer
        return call.parse(Answer(200, {}, content[: call.longest_answer], is_cut))

    def _act(self, call: Call[Any]) -> Any:
        *_, name, verb = ["", "", *call.path.split("/")[2:]]
        if verb == "start":
            return self._start(call)
        session = self.sessions.get(name)
        if session is None or (self.single_shot and verb not in ("status", "stop")):
            raise not_found(call.purpose)
        return getattr(self, f"_{verb}")(session, call)

    def _start(self, call: Call[Any]) -> dict[str, Any]:
        name = f"s{len(self.sessions) + 1}"
        session = self.sessions[name] = FakeSession(looks_left=self.looks)
        if not self.single_shot:
            session.tell("session_started", sessionId=name, mode="prompt")
            session.tell("user_prompt", prompt="the prompt")
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
        if session.status in ("completed", "cancelled", "error"):
            raise conflict(call.purpose)
        session.status = "cancelled"
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
            raise conflict(call.purpose)


class Worker:
    """
    Carries out procedures against the fake service on a clock that costs no time.

    :param service: the service.
    :param record: what an earlier try left.
    """

    def __init__(self, service: FakeBuilder, record: dict[str, Any] | None = None) -> None:
        self.service = service
        self.record = record
        self.now = START
        self.said: list[str] = []
        self.warned: list[str] = []
        self.steps = 0

    def run(self, procedure: Procedure[T], kill_at: int | None = None) -> T:
        """Carry ``procedure`` out; die before its ``kill_at``-th step."""
        answer: Any = None
        error: SequentumError | None = None
        try:
            while True:
                step = procedure.throw(error) if error is not None else procedure.send(answer)
                if kill_at is not None and self.steps == kill_at:
                    _abandon(procedure)
                    raise Killed
                self.steps += 1
                answer, error = None, None
                try:
                    answer = self._carry_out(step)
                except SequentumError as failure:
                    error = failure
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def _carry_out(self, step: object) -> Any:
        match step:
            case Send(call):
                self.now += timedelta(seconds=0.1)
                return self.service.answer(call)
            case Sleep(seconds):
                self.now += timedelta(seconds=seconds)
            case Now():
                return self.now
            case Remember(record):
                self.record = json.loads(json.dumps(record))
            case Say(level, message):
                self.said.append(message)
                if level == logging.WARNING:
                    self.warned.append(message)
        return None


def _abandon(procedure: Generator[Any, Any, Any]) -> None:
    procedure.close()


def lost(purpose: str) -> SequentumError:
    return AnswerLost("the answer was lost", purpose=purpose, may_have_acted=True)


def not_found(purpose: str) -> SequentumError:
    return NotFound("not found", purpose=purpose, status_code=404)


def conflict(purpose: str) -> SequentumError:
    return Conflict("conflict", purpose=purpose, status_code=409)
