"""A world of mapped tasks that run one agent at the same time, each of which has to keep to its own runs."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.hooks.connection import SequentumConnection
from airflow_provider_sequentum.hooks.port import AttemptPort
from airflow_provider_sequentum.jobs.siblings import Claim
from tests.simulation.history import Entry
from tests.simulation.stage import Stage
from tests.simulation.triggerer import SETTINGS, Triggerer
from tests.simulation.worlds import (
    ENDS,
    LOSSES,
    RUN_ACTIONS,
    WAITING,
    Actions,
    RecordingService,
    Script,
    SimulatedWorker,
    World,
    drawn_death,
    use_test_mode,
)
from tests.support import service as fakes
from tests.support.airflow import FakeTask, use_fakes
from tests.support.life import OVER, RETRIES
from tests.support.service import Plan
from tests.support.worker import LOG_LINES
from tests.unit.runs.test_life import Runs

MAX_SIBLINGS = 3
"""Siblings."""

AROUND_STARTS = (None, "start", "start", "status", "status", "runs")
"""The requests before which workers die that start their runs and are retried."""


def _each(draw: random.Random) -> dict[str, Any]:
    deaths = [(drawn_death(draw), draw.random() < 0.3, draw.choice((1.0, 3.0, 8.0))) for _ in range(MAX_SIBLINGS)]
    return {"deaths": deaths, "delays": [draw.choice((0.0, 0.0, 2.0, 12.0, 40.0)) for _ in range(MAX_SIBLINGS)]}


def _which(draw: random.Random) -> int:
    return draw.randrange(MAX_SIBLINGS)


ACTIONS: Actions = {
    "the_tries_run": (8, WAITING, _each),
    "a_trigger_fires": (8, ("deferred",), lambda draw: {"which": _which(draw), "death": drawn_death(draw)}),
    "answers_to_starts_will_be_lost": (
        6,
        None,
        lambda draw: {
            "losses": [
                draw.choice((None, (draw.choice(LOSSES), draw.random() < 0.6))) for _ in range(draw.randint(1, 4))
            ]
        },
    ),
    "a_deferral_breaks": (1, ("deferred",), lambda draw: {"which": _which(draw)}),
    "a_person_marks_one": (2, ("deferred",), lambda draw: {"which": _which(draw)}),
    "a_person_clears_one": (3, None, lambda draw: {"which": _which(draw), "wipes_store": draw.random() < 0.3}),
    "an_answer_will_be_lost": RUN_ACTIONS["an_answer_will_be_lost"],
    "time_passes": RUN_ACTIONS["time_passes"],
    "plan_the_next_attempt": (
        3,
        None,
        lambda draw: {"plan": Plan(draw.choice(ENDS), seconds=draw.choice((0, 20, 200, 1500)))},
    ),
}


def _dying(draw: random.Random) -> dict[str, Any]:
    """Draw workers most of which die, without a word, before or after they start a run, at about the same time."""
    deaths = [(draw.choice(AROUND_STARTS), False, draw.choice((1.0, 3.0, 8.0))) for _ in range(MAX_SIBLINGS)]
    return {"deaths": deaths, "delays": [draw.choice((0.0, 0.0, 2.0)) for _ in range(MAX_SIBLINGS)]}


DYING_ACTIONS: Actions = {
    **ACTIONS,
    "the_tries_run": (20, WAITING, _dying),
    "a_person_clears_one": (6, *ACTIONS["a_person_clears_one"][1:]),
}


class SiblingWorker(SimulatedWorker):
    """A worker among others: each goes on while another one waits."""

    stage: Stage

    def step(self) -> None:
        super().step()
        self.stage.step()

    def sleep(self, seconds: float) -> None:
        self.step()
        left = None if self.deadline is None else max((self.deadline - self.now()).total_seconds(), 0.0)
        self.stage.pause(seconds if left is None else min(seconds, left))


class _OnStage:
    """Stands for the worker of the sibling that acts, for what is put in place once for all of them."""

    def __init__(self, world: SiblingsWorld) -> None:
        object.__setattr__(self, "_world", world)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.acting.worker, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._world.acting.worker, name, value)


class _MappedTask(FakeTask):
    """A mapped task. What it has pushed is there for its siblings until its next attempt really starts."""

    def forget_xcoms(self) -> None:
        self.has_to_forget = True

    def enter(self) -> None:
        super().enter()
        if self.has_to_forget:
            super().forget_xcoms()
        self.has_to_forget = False

    has_to_forget = False


class Sibling(World, Runs):
    """One of the mapped tasks.

    :param world: what they share.
    :param index: its map index.
    """

    worker_type = SiblingWorker
    worker: SiblingWorker
    is_acting = False

    def __init__(self, world: SiblingsWorld, index: int) -> None:
        self.together, self.index = world, index
        self.service, self.arguments = world.service, world.arguments
        self.begin_task(has_state_store=world.has_state_store)
        self.worker.stage = world.stage
        self.task: _MappedTask = _MappedTask(self.service.clock, RETRIES, world.has_state_store)
        self.task.ti.map_index, self.task.ti.xcoms, self.task.instances = index, world.xcoms, world.instances

    def write(self, what: str, **fields: Any) -> Entry:
        return self.together.write(what, task=self.index, **fields)

    def segment(self, *arguments: Any, **how: Any) -> None:
        self.is_acting = True
        try:
            super().segment(*arguments, **how)
        finally:
            self.is_acting = False

    def event(self) -> dict[str, Any]:
        assert self.deferral is not None
        return self.watched_over().fire(self.deferral.trigger)

    def stop_as_the_trigger_does(self, state: str) -> None:
        assert self.deferral is not None
        self.watched_over().kill(self.deferral.trigger, state)

    def watched_over(self) -> Triggerer:
        """Return the triggerer, with this sibling's trigger."""
        return Triggerer(self.worker, self.task, self.together.monkeypatch)


class _Instance:
    """A task instance of the DAG run, as the database has it."""

    def __init__(self, sibling: Sibling) -> None:
        self._sibling = sibling
        self.task_id, self.map_index = sibling.task.ti.task_id, sibling.index

    @property
    def state(self) -> str:
        return "running" if self._sibling.is_acting else self._sibling.state


class SiblingsWorld(Script):
    """Mapped tasks of one agent, at one service."""

    actions = ACTIONS
    steady = 3
    deferred_share = 0.5
    hesitation = 0.3
    """How often one lets others get ahead before a step."""

    def __init__(self, seed: int) -> None:
        self.draw = draw = random.Random(seed)
        self.script = []
        self.history: list[Entry] = []
        parameters = {"on_clear": draw.choice(("rerun", "join")), "retry_mode": draw.choice(("restart_or_new", "new"))}
        self.arguments = {**parameters, "deferrable": draw.random() < self.deferred_share, "timeout": 3000}
        self.arguments |= {"poll_interval": 150, "restart_delay": 30, "restarts": draw.randrange(2)}
        self.has_state_store = draw.random() < 0.75
        self.service = RecordingService(fakes.Clock(), restart_lag=draw.choice((0, 20)))
        self.service.skew = timedelta(seconds=draw.choice((0, -86400, 45)))
        self.service.plans = [Plan(seconds=draw.choice((20, 200))), Plan()]
        self.service.write = self.write_request
        self.began = self.service.clock.monotonic()
        self.monkeypatch = pytest.MonkeyPatch()
        self.stage = Stage(self.service.clock, random.Random(seed), self._take_turn, self.hesitation)
        self.xcoms: dict[tuple[str, int, str], str] = {}
        self.instances: list[_Instance] = []
        self.siblings = [Sibling(self, index) for index in range(draw.randint(2, MAX_SIBLINGS))]
        self.instances += [_Instance(sibling) for sibling in self.siblings]
        use_test_mode(self.monkeypatch)
        use_fakes(self.monkeypatch, _OnStage(self))  # type: ignore[arg-type]
        self.monkeypatch.setattr(SequentumConnection, "settings", SETTINGS)  # Airflow needs a ms
        claims_really = AttemptPort.claims

        def claims(port: AttemptPort) -> list[Claim]:
            self.acting.worker.step()
            return claims_really(port)

        self.monkeypatch.setattr(AttemptPort, "claims", claims)
        store = {"began": self.began, "has_state_store": self.has_state_store, "seed": seed}
        self.write("task", siblings=len(self.siblings), **store, **parameters)

    @property
    def acting(self) -> Sibling:
        """The sibling whose turn it is."""
        return self.siblings[self.stage.current]

    def _take_turn(self, index: int) -> None:
        LOG_LINES.worker = self.siblings[index].worker

    def write(self, what: str, **fields: Any) -> Entry:
        """Write an entry of the history."""
        entry = {"at": round(self.service.clock.monotonic() - self.began, 3), "what": what, **fields}
        self.history.append(entry)
        return entry

    def write_request(self, what: str, **fields: Any) -> Entry:
        """Write what reached the service, and of which sibling."""
        return self.write(what, task=self.stage.current, **fields)

    # What happens

    def can(self, name: str) -> bool:
        states = self.actions[name][1]
        return states is None or bool(self._in(states))

    def _in(self, states: Collection[str]) -> list[Sibling]:
        return [sibling for sibling in self.siblings if sibling.state in states]

    def _turn(self, which: int, states: Collection[str]) -> Sibling:
        found = self._in(states)
        sibling = found[which % len(found)]
        self.stage.take(sibling.index)
        return sibling

    def the_tries_run(self, deaths: Sequence[tuple[int | str | None, bool, float]], delays: Sequence[float]) -> None:
        """All that wait for an attempt get it, at about the same time."""

        def work(sibling: Sibling) -> None:
            death, calls_on_kill, startup = deaths[sibling.index]
            sibling.is_acting = True
            self.stage.pause(startup)
            sibling.a_try_runs(death, calls_on_kill=calls_on_kill)

        self.stage.act({one.index: (delays[one.index], partial(work, one)) for one in self._in(WAITING)})

    def a_trigger_fires(self, which: int, death: int | str | None) -> None:
        self._turn(which, ("deferred",)).the_trigger_fires(death, calls_on_kill=False)

    def a_deferral_breaks(self, which: int) -> None:
        self._turn(which, ("deferred",)).the_deferral_breaks(None, "Trigger failure")

    def a_person_marks_one(self, which: int) -> None:
        self._turn(which, ("deferred",)).a_person_marks_the_deferred_task()

    def a_person_clears_one(self, which: int, *, wipes_store: bool) -> None:
        sibling = self.siblings[which % len(self.siblings)]
        self.stage.take(sibling.index)
        sibling.clear(wipes_store=wipes_store)

    def answers_to_starts_will_be_lost(self, losses: Sequence[tuple[fakes.ErrorOf, bool] | None]) -> None:
        certain = (fakes.not_reached, fakes.rate_limited)
        self.service.faults["start"] = [loss and (loss[0], loss[1] and loss[0] not in certain) for loss in losses]

    def an_answer_will_be_lost(self, **how: Any) -> None:
        self.siblings[0].an_answer_will_be_lost(**how)

    def time_passes(self, seconds: float) -> None:
        self.service.clock.sleep(seconds)

    def plan_the_next_attempt(self, plan: Plan) -> None:
        self.service.plans = [plan, Plan()]

    # How it ends

    def end(self) -> list[Entry]:
        try:
            self.service.faults.clear()
            self._run_until_over()
            for sibling in self._in(("failed",)):
                self.a_person_clears_one(sibling.index, wipes_store=False)
            self._run_until_over()
            self.service.asks = "census"
            self.service.clock.sleep(120)
            for run in list(self.service.runs.values()):
                self.service.answer(runs.status(run.agent_id, run.id))
        finally:
            self.monkeypatch.undo()
        return self.history

    def _run_until_over(self) -> None:
        quietly: dict[str, Any] = {"deaths": [(None, False, 1.0)] * MAX_SIBLINGS, "delays": [0.0] * MAX_SIBLINGS}
        for _ in range(4 * (RETRIES + 1)):
            if self.can("the_tries_run"):
                self.the_tries_run(**quietly)
            for _ in self._in(("deferred",)):
                self.a_trigger_fires(0, None)
        if len(self._in(OVER)) < len(self.siblings):
            pytest.fail(f"tasks are still {[sibling.state for sibling in self.siblings]}")


class DyingSiblingsWorld(SiblingsWorld):
    """The same, where workers die around the starts, so that one looks for a lost run while another one comes back."""

    actions = DYING_ACTIONS
    deferred_share, hesitation = 0.2, 0.7
