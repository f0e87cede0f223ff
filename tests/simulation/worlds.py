"""Worlds: a task in an Airflow, its runs at a service, and everything that can happen to them, drawn from a seed.

The model of Airflow and of the people who click is the one of the state machines (``tests/support/life.py``), with the
real operators on the worker, and the real triggers and the real watcher in the triggerer. Here nothing is judged:
a world only writes its history down.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from airflow.providers.common.compat.sdk import BaseOperator, TaskDeferred

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import HttpStatusError, SequentumError
from airflow_provider_sequentum.api.run_status import RunStatus
from tests.simulation.history import Entry
from tests.simulation.triggerer import Triggerer
from tests.support import service as fakes
from tests.support.airflow import use_fakes
from tests.support.life import LifeAmongStrangers
from tests.support.service import FakeRun, FakeService, Plan
from tests.support.worker import Killed
from tests.unit.runs.test_life import Runs
from tests.unit.spaces.test_life import Spaces

T = TypeVar("T")

Action = tuple[str, dict[str, Any]]
Draw = Callable[[random.Random], dict[str, Any]]

ENDS = (RunStatus.SUCCESS, RunStatus.COMPLETED, RunStatus.FAILURE, RunStatus.FAILURE, RunStatus.STOPPED)
LOSSES = (fakes.answer_lost, fakes.server_error, fakes.not_reached, fakes.rate_limited)
WAITING = ("scheduled", "up_for_retry")


def _death(draw: random.Random) -> int | None:
    return draw.choice((None, None, draw.randrange(13)))


def _plan(draw: random.Random) -> Plan:
    return Plan(draw.choice(ENDS), seconds=draw.choice((0, 20, 200, 1500)))


ACTIONS: dict[str, tuple[int, Sequence[str] | None, Draw]] = {
    "a_try_runs": (8, WAITING, lambda draw: {"death": _death(draw), "calls_on_kill": draw.random() < 0.5}),
    "the_trigger_fires": (8, ("deferred",), lambda draw: {"death": _death(draw), "calls_on_kill": draw.random() < 0.5}),
    "an_attempt_meets_an_error_that_no_one_foresaw": (
        1,
        WAITING,
        lambda draw: {"step": draw.randrange(13), "error": draw.choice((RuntimeError, KeyboardInterrupt))},
    ),
    "the_trigger_moves": (1, ("deferred",), lambda draw: {}),
    "the_deferral_breaks": (
        1,
        ("deferred",),
        lambda draw: {"death": _death(draw), "error": draw.choice(("Trigger timeout", "Trigger failure"))},
    ),
    "a_person_marks_the_deferred_task": (1, ("deferred",), lambda draw: {}),
    "clear": (2, None, lambda draw: {"wipes_store": draw.random() < 0.4}),
    "the_inputs_change": (1, WAITING, lambda draw: {}),
    "time_passes": (2, None, lambda draw: {"seconds": draw.choice((1, 30, 61, 600))}),
    "an_answer_will_be_lost": (
        5,
        None,
        lambda draw: {
            "number": draw.randrange(99),
            "error": draw.choice(LOSSES),
            "took_effect": draw.random() < 0.5,
        },
    ),
    "the_status_is_refused": (1, None, lambda draw: {"refused": draw.randint(1, 60)}),
    "plan_the_next_attempt": (3, None, lambda draw: {"plan": _plan(draw)}),
    "failures_are_archived": (1, None, lambda draw: {}),
    "somebody_restarts_a_failure": (1, None, lambda draw: {}),
    "a_stranger_starts_a_run": (1, None, lambda draw: {"seconds": draw.choice((20, 2000))}),
}
"""Each action with its weight, the states of the task in which it can happen (``None``: all), and its arguments."""

SCRIPT_LENGTH = 20


class RecordingService(FakeService):
    """A fake service that writes down what reaches it."""

    write: Callable[..., Entry]
    asks: str = "task"

    def answer(self, call: Call[T]) -> T:
        self.written: Entry = {}
        try:
            return super().answer(call)
        except SequentumError:
            if self.written.get("status") == 200:
                self.written["lost"] = True
            raise

    def _act(self, verb: str, call: Call[Any]) -> Any:
        self.settle()  # the history's time of a run's end is that of its record
        known = set(self.runs)
        fields = {"path": call.path, "body": call.body, "by": self.asks, "clock": self.skew.total_seconds()}
        try:
            answer = super()._act(verb, call)
        except HttpStatusError as refusal:
            self.written = self.write("request", status=refusal.status_code, answer=None, lost=False, **fields)
            raise
        if verb == "run-all":
            started = [{"runId": number, "agentId": self.runs[number].agent_id} for number in self.runs.keys() - known]
            answer_told = {"started": sorted(started, key=lambda one: one["runId"]), "told": answer}
        else:
            answer_told = answer
        self.written = self.write("request", status=200, answer=answer_told, lost=False, **fields)
        return answer


class _World(LifeAmongStrangers):
    """What all worlds have in common.

    :param seed: what everything is drawn from.
    """

    service: RecordingService
    triggerer: Triggerer | None = None

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.draw = random.Random(seed)  # noqa: S311 - a simulation has to be repeatable
        self.history: list[Entry] = []
        self.script: list[Action] = []
        draw = self.draw
        parameters = {
            "deferrable": draw.random() < 0.6,
            "on_clear": draw.choice(("rerun", "join")),
            "retry_mode": draw.choice(("restart_or_new", "restart", "new")),
            "restarts": draw.randrange(3),
        }
        self.has_state_store = draw.random() < 0.75
        lag = draw.choice((0, 20, 45))
        skew = draw.choice((0, -86400, -45, 45, 86400))
        self.is_among_strangers = draw.random() < 0.3
        self.service = self.new_service(restart_lag=lag)
        self.service.skew = timedelta(seconds=skew)
        self.service.write = self.write
        self.arguments = {**parameters, "timeout": 3000, "poll_interval": 60, "restart_delay": 30}
        self.begin_task(has_state_store=self.has_state_store)
        self.began = self.service.clock.monotonic()
        use_fakes(self.monkeypatch, self.worker)
        self.triggerer = Triggerer(self.worker, self.monkeypatch)
        self.write("task", began=self.began, has_state_store=self.has_state_store, seed=seed, **parameters)

    def write(self, what: str, **fields: Any) -> Entry:
        """Write an entry of the history."""
        at = round(self.service.clock.monotonic() - getattr(self, "began", self.service.clock.monotonic()), 3)
        entry = {"at": at, "what": what, **fields}
        self.history.append(entry)
        return entry

    # How it goes

    def play(self) -> list[Entry]:
        """Let things happen as they are drawn; return the history."""
        names = list(ACTIONS)
        weights = [weight for weight, _, _ in ACTIONS.values()]
        for _ in range(SCRIPT_LENGTH):
            [name] = self.draw.choices(names, weights)
            action = (name, ACTIONS[name][2](self.draw))
            if self.can(name):
                self.script.append(action)
                self.do(action)
        return self.end()

    def replay(self, script: Sequence[Action]) -> list[Entry]:
        """Let the same things happen, or some of them; return the history."""
        for action in script:
            if self.can(action[0]):
                self.do(action)
        return self.end()

    def can(self, name: str) -> bool:
        """Return whether something can happen now."""
        states = ACTIONS[name][1]
        if name == "a_stranger_starts_a_run" and not self.is_among_strangers:
            return False
        return states is None or self.state in states

    def do(self, action: Action) -> None:
        """Let something happen."""
        name, arguments = action
        getattr(self, name)(**arguments)

    def end(self) -> list[Entry]:
        """Let the task come to its end without further trouble, and take a census of its runs."""
        try:
            self.service.faults.clear()
            self.run_until_over()
            if self.state == "failed":  # a worker died in the last attempt; a person clears the task
                self.clear()
                self.run_until_over()
            self.service.clock.sleep(120)
            self.service.asks = "census"
            for run in list(self.service.runs.values()):
                self.service.answer(runs.status(run.agent_id, run.id))
        finally:
            self.close()
        return self.history

    def close(self) -> None:
        """Take the fakes away."""
        self.monkeypatch.undo()
        if self.triggerer is not None:
            self.triggerer.close()

    # What is written down

    def segment(self, operator: BaseOperator, work: Any, death: int | None, **how: Any) -> None:
        def watched() -> Any:
            try:
                result = work()
            except TaskDeferred:
                self.write("ended", how="deferred", said=" ".join(self.worker.warned))
                raise
            except Killed:
                self.write("ended", how="died", said=" ".join(self.worker.warned))
                raise
            except BaseException as error:
                texts = [str(error), *getattr(error, "__notes__", []), *self.worker.warned]
                self.write("ended", how="raised", error=type(error).__name__, said=" ".join(texts))
                raise
            self.write("ended", how="returned", result=result, said=" ".join(self.worker.warned))
            return result

        resumed = self.state == "deferred"
        self.write("attempt", number=self.task.ti.try_number, resumed=resumed, inputs=json.dumps(self.inputs))
        super().segment(operator, watched, death, **how)
        self.write("state", state=self.state)

    def clear(self, *, wipes_store: bool = False) -> None:
        if self.state == "scheduled":
            return
        self.write("person", does="clear")
        if wipes_store and self.state != "deferred":
            self.write("person", does="wipe")
        self.worker.warned.clear()
        super().clear(wipes_store=wipes_store)
        self.write("state", state=self.state, said=" ".join(self.worker.warned))

    def a_person_marks_the_deferred_task(self) -> None:
        self.write("person", does="mark")
        super().a_person_marks_the_deferred_task()
        self.write("state", state=self.state, said=" ".join(self.worker.warned))

    def failures_are_archived(self) -> None:
        self.service.settle()
        for run in self.service.runs.values():
            if run.status is RunStatus.FAILURE:
                self.write("person", does="archive", run_id=run.id)
        super().failures_are_archived()

    def somebody_restarts_a_failure(self) -> None:
        before = {number: run.restarts for number, run in self.service.runs.items()}
        super().somebody_restarts_a_failure()
        for number, run in self.service.runs.items():
            if run.restarts != before[number]:
                path = f"/agent/{run.agent_id}/run/{number}/restart"
                self.write("request", path=path, body=None, by="person", status=200, answer=None, clock=0.0, lost=False)

    # What the triggerer does

    def event(self) -> dict[str, Any]:
        assert self.deferral is not None
        assert self.triggerer is not None
        return self.triggerer.fire(self.deferral.trigger)

    def the_trigger_moves(self) -> None:
        assert self.deferral is not None
        assert self.triggerer is not None
        self.triggerer.kill(self.deferral.trigger, "deferred")

    def stop_as_the_trigger_does(self, state: str) -> None:
        assert self.deferral is not None
        assert self.triggerer is not None
        self.triggerer.kill(self.deferral.trigger, state)

    # Nothing is judged here

    def check_start(self, run: FakeRun) -> None:
        pass

    def check_success(self, result: Any) -> None:
        pass

    def check_nothing_is_left(self, ending: BaseException | None = None) -> None:
        pass


class RunWorld(_World, Runs):
    """A task that runs one agent."""

    def new_service(self, **options: Any) -> RecordingService:
        return RecordingService(fakes.Clock(), **options)


class SpaceWorld(_World, Spaces):
    """A task that runs all agents of a space."""

    def new_service(self, **options: Any) -> RecordingService:
        return RecordingService(fakes.Clock(), agents={7: "Prices", 8: "Stock"}, **options)


WORLDS: tuple[type[_World], ...] = (RunWorld, SpaceWorld)


def world_of(seed: int) -> _World:
    """Return the world of a seed."""
    return WORLDS[seed % len(WORLDS)](seed)
