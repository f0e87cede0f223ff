"""Worlds: a task in an Airflow, its runs at a service, and everything that can happen to them, drawn from a seed.

The model of Airflow and of the people who click is the one of the state machines (``tests/support/life.py``), with the
real operators on the worker, and the real triggers and the real watcher in the triggerer. Here nothing is judged:
a world only writes its history down.
"""

from __future__ import annotations

import logging
import random
import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.sdk import BaseOperator, TaskDeferred

from airflow_provider_sequentum.airflow_compat.kill import KillSwitch
from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.call import Call, Reply
from airflow_provider_sequentum.api.errors import HttpStatusError, SequentumError
from airflow_provider_sequentum.api.run_status import RunStatus
from tests.simulation.history import Entry
from tests.simulation.triggerer import Triggerer
from tests.support import service as fakes
from tests.support.airflow import use_fakes
from tests.support.builder import FakeBuilder, use_builder
from tests.support.life import LifeAmongStrangers, TaskLife
from tests.support.service import FakeService, Plan
from tests.support.worker import Killed, Worker
from tests.unit.runs.test_life import Runs
from tests.unit.sessions.test_life import FOLLOWUPS, GIVEN, GivenSessions, SessionLife, Sessions
from tests.unit.spaces.test_life import Spaces

if TYPE_CHECKING:
    import pytest

T = TypeVar("T")

Action = tuple[str, dict[str, Any]]
Draw = Callable[[random.Random], dict[str, Any]]

ENDS = (RunStatus.SUCCESS, RunStatus.COMPLETED, RunStatus.FAILURE, RunStatus.FAILURE, RunStatus.STOPPED)
LOSSES = (fakes.response_lost, fakes.server_error, fakes.not_reached, fakes.rate_limited)
WAITING = ("scheduled", "up_for_retry")


def drawn_death(draw: random.Random) -> int | str | None:
    """Draw before which step something happens to the worker: the n-th one, or the next request of a kind."""
    return draw.choice((None, None, draw.randrange(13), draw.choice(("stop", "cancel", "status", "start", "runs"))))


def _plan(draw: random.Random) -> Plan:
    return Plan(draw.choice(ENDS), seconds=draw.choice((0, 20, 200, 1500, None)))


Actions = dict[str, tuple[int, Sequence[str] | None, Draw]]

TASK_ACTIONS: Actions = {
    "a_try_runs": (8, WAITING, lambda draw: {"death": drawn_death(draw), "calls_on_kill": draw.random() < 0.5}),
    "the_trigger_fires": (
        8,
        ("deferred",),
        lambda draw: {"death": drawn_death(draw), "calls_on_kill": draw.random() < 0.5},
    ),
    "an_attempt_meets_an_error_that_no_one_foresaw": (
        1,
        WAITING,
        lambda draw: {"step": draw.randrange(13), "error": draw.choice((RuntimeError, KeyboardInterrupt))},
    ),
    "the_trigger_moves": (1, ("deferred",), lambda draw: {}),
    "the_deferral_breaks": (
        1,
        ("deferred",),
        lambda draw: {"death": drawn_death(draw), "error": draw.choice(("Trigger timeout", "Trigger failure"))},
    ),
    "a_person_marks_the_deferred_task": (2, ("deferred",), lambda draw: {}),
    "clear": (3, None, lambda draw: {"wipes_store": draw.random() < 0.4}),
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
    "the_status_is_refused": (1, None, lambda draw: {"refused": draw.choice((1, 1, 2, 60))}),
}
"""What can happen to every task. Each action has its weight, the states of the task in which it can happen (``None``:
all), and its arguments."""

RUN_ACTIONS: Actions = {
    **TASK_ACTIONS,
    "plan_the_next_attempt": (3, None, lambda draw: {"plan": _plan(draw)}),
    "a_stop_is_refused": (1, None, lambda draw: {"refused": draw.choice((1, 60))}),
    "runs_wait_for_a_kill": (1, None, lambda draw: {"ignores": draw.random() < 0.7}),
    "failures_are_archived": (1, None, lambda draw: {}),
    "somebody_restarts_a_failure": (1, None, lambda draw: {}),
    "a_stranger_starts_a_run": (1, None, lambda draw: {"seconds": draw.choice((20, 2000))}),
}

RESTLESS_ACTIONS: Actions = {
    "a_try_runs": RUN_ACTIONS["a_try_runs"],
    "the_trigger_fires": RUN_ACTIONS["the_trigger_fires"],
    "a_person_acts_on_the_restart": (12, ("deferred",), lambda draw: {"marks": draw.random() < 0.8}),
    **RUN_ACTIONS,
}

UNSEEN_ACTIONS: Actions = {
    "a_person_clears_and_looks_are_refused": (6, ("deferred",), lambda draw: {"first": draw.randrange(2)}),
    "a_person_marks_what_waits_for_some": (12, ("deferred",), lambda draw: {}),
    **RUN_ACTIONS,
}

HURRIED_ACTIONS: Actions = {
    **RUN_ACTIONS,
    "clear": (9, *RUN_ACTIONS["clear"][1:]),
    "a_stop_is_refused": (4, *RUN_ACTIONS["a_stop_is_refused"][1:]),
}

LOST_START_ACTIONS: Actions = {
    "the_start_is_lost_and_the_worker_meets_its_end": (
        8,
        WAITING,
        lambda draw: {
            "error": draw.choice((fakes.response_lost, fakes.server_error)),
            "death": draw.choice(("runs", "runs", draw.randrange(13))),
            "calls_on_kill": draw.random() < 0.7,
        },
    ),
    **RUN_ACTIONS,
}

SESSION_ACTIONS: Actions = {
    **TASK_ACTIONS,
    "plan_the_next_turns": (2, None, lambda draw: {"looks": draw.choice((1, 2, 5, 100))}),
    "the_session_is_not_found_for_a_while": (1, None, lambda draw: {"refused": draw.randint(1, 10)}),
    "a_session_cannot_be_cancelled": (1, None, lambda draw: {"refused": draw.randint(1, 60)}),
    "a_cancellation_takes_no_effect": (1, None, lambda draw: {"ignored": draw.random() < 0.5}),
    "a_message_takes_effect_late": (1, None, lambda draw: {"requests": draw.randint(1, 9)}),
    "a_session_ends": (1, None, lambda draw: {"status": draw.choice(("cancelled", "error"))}),
    "what_is_over_is_torn_down": (1, None, lambda draw: {}),
}

SCRIPT_LENGTH = 20

EMPHASES = (0.0, 0.0, 0.0, 3.0, 3.0)
"""By what the weight of each action may be multiplied in one history: events that rarely come together among many
others meet more often where there are few others."""

MAX_STEPS = 2000
"""More steps than any piece of an attempt takes: one that takes more does not come to an end."""

_PROTOTYPES: dict[type, Any] = {}
"""An operator for each world. To build one takes Airflow as long as most attempts take altogether."""


def use_test_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep Airflow from looking for its task runner at each attempt, and from warning that there is none."""
    safeguard = sys.modules[BaseOperator.__module__].ExecutorSafeguard
    monkeypatch.setattr(safeguard, "test_mode", True)
    # That of Airflow 2.11 belongs to the main thread alone.
    monkeypatch.setattr(safeguard, "_sentinel", SimpleNamespace(callers={}), raising=False)


class Stuck(BaseException):
    """A piece of an attempt does not come to an end."""


class SimulatedWorker(Worker):
    """A worker that notices when a procedure runs in circles."""

    steps = 0
    last_verb: str | None = None
    """Before the next request of this kind something happens."""

    def exchange(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> Reply[T]:
        if self.last_verb is not None and call.path.endswith(f"/{self.last_verb}"):
            self.last_verb, self.steps_left = None, 0
        return super().exchange(call, budget_share=budget_share, within=within)

    def step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise Stuck
        super().step()


class _Recording:
    """A fake service that writes down what reaches it."""

    write: Callable[..., Entry]
    asks = "task"

    def answer(self, call: Call[T]) -> T:
        self.written: Entry = {}
        try:
            return super().answer(call)  # type: ignore[misc, no-any-return]
        except SequentumError:
            if self.written.get("status") == 200:
                self.written["lost"] = True
            elif not self.written:
                self.write("fault", path=call.path, by=self.asks)
            raise


class RecordingService(_Recording, FakeService):
    """A fake service of runs."""

    def _act(self, verb: str, call: Call[Any]) -> Any:
        next_id = self.next_id
        fields = {"path": call.path, "body": call.body, "by": self.asks, "clock": self.skew.total_seconds()}
        try:
            answer = super()._act(verb, call)
        except HttpStatusError as refusal:
            self.written = self.write("request", status=refusal.status_code, answer=None, lost=False, **fields)
            raise
        if verb == "run-all":
            numbers = range(next_id, self.next_id)
            started = [{"runId": number, "agentId": self.runs[number].agent_id} for number in numbers]
            answer_told = {"started": started, "told": answer}
        else:
            answer_told = answer
        self.written = self.write("request", status=200, answer=answer_told, lost=False, **fields)
        return answer


class RecordingBuilder(_Recording, FakeBuilder):
    """A fake Agent Builder. A message whose answer is lost may take effect late: before one of the next requests, and
    not later than before the next message."""

    makes_late = 0
    """After how many requests the next message takes effect; 0 for at once."""
    late: Call[Any] | None = None
    late_since = 0.0
    requests_left = 0

    def answer(self, call: Call[T]) -> T:
        is_message = call.path.endswith("/followup")
        self.requests_left -= 1
        if self.late is not None and (is_message or self.requests_left == 0):
            self._take_effect(self.late)
        if is_message and self.makes_late:
            self.late, self.requests_left, self.makes_late = call, self.makes_late, 0
            self.late_since = self.clock.monotonic()
            raise fakes.response_lost(call)
        return super().answer(call)

    def _take_effect(self, call: Call[Any]) -> None:
        self.late = None
        with suppress(HttpStatusError):  # the session is not there any more, or busy
            self._act(call)
            self.written |= {"lost": True, "sent": self.written["at"] - (self.clock.monotonic() - self.late_since)}

    def _act(self, call: Call[Any]) -> Any:
        fields = {"path": call.path, "body": call.body, "by": self.asks, "clock": self.skew.total_seconds()}
        try:
            answer = super()._act(call)
        except HttpStatusError as refusal:
            self.written = self.write("request", status=refusal.status_code, answer=None, lost=False, **fields)
            raise
        ignored = call.path.endswith("/cancel") and self.ignores_cancel
        self.written = self.write("request", status=200, answer=answer, lost=False, ignored=ignored, **fields)
        return answer


class Script:
    """What happens in a world, one thing after another, as it is drawn."""

    actions: Actions
    draw: random.Random
    monkeypatch: pytest.MonkeyPatch
    script: list[Action]
    steady = 2
    """How many of the actions happen in every history: attempts and triggers, without which nothing happens."""

    def play(self) -> list[Entry]:
        """Let things happen as they are drawn; return the history."""
        names = list(self.actions)
        weights = [weight * self.draw.choice(EMPHASES) for weight, _, _ in self.actions.values()]
        weights[: self.steady] = [self.actions[name][0] for name in names[: self.steady]]
        for name in self.draw.choices(names, weights, k=SCRIPT_LENGTH):
            action = (name, self.actions[name][2](self.draw))
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

    @abstractmethod
    def can(self, name: str) -> bool:
        """Return whether something can happen now."""

    def do(self, action: Action) -> None:
        """Let something happen."""
        name, arguments = action
        getattr(self, name)(**arguments)

    @abstractmethod
    def end(self) -> list[Entry]:
        """Let everything come to its end without further trouble; return the history."""


class World(Script, TaskLife):
    """What all worlds of one task have in common: how things happen, and what of them is written down.

    Hypothesis runs no world, so none is prepared for it, which takes longer than what a history begins with otherwise.
    """

    triggerer: Triggerer
    worker: SimulatedWorker
    worker_type = SimulatedWorker
    arguments: dict[str, Any]
    log_level = logging.WARNING  # only warnings are a part of a history

    def open(self, seed: int, service: Any, draw: random.Random, **parameters: Any) -> None:
        """Open the world, with a new task.

        :param seed: what everything is drawn from, with ``draw``.
        :param parameters: those of the task that decide what is promised.
        """
        self.draw = draw
        self.history: list[Entry] = []
        self.script: list[Action] = []
        self.service = service
        service.write = self.write
        self.began = service.clock.monotonic()
        has_state_store = draw.random() < 0.75
        self.begin_task(has_state_store=has_state_store)
        use_test_mode(self.monkeypatch)
        self.write("task", began=self.began, has_state_store=has_state_store, seed=seed, **parameters)

    def write(self, what: str, **fields: Any) -> Entry:
        """Write an entry of the history."""
        entry = {"at": round(self.service.clock.monotonic() - self.began, 3), "what": what, **fields}
        self.history.append(entry)
        return entry

    # How it goes

    def can(self, name: str) -> bool:
        """Return whether something can happen now."""
        states = self.actions[name][1]
        return states is None or self.state in states

    def end(self) -> list[Entry]:
        """Let the task come to its end without further trouble, and take a census of its jobs."""
        try:
            self.service.faults.clear()
            self.run_until_over()
            if self.state == "failed":  # a worker died in the last attempt; a person clears the task
                self.clear()
                self.run_until_over()
            self.service.asks = "census"
            self.take_census()
        finally:
            self.monkeypatch.undo()
        return self.history

    def take_census(self) -> None:
        """Ask the service what became of every job."""

    def operator(self) -> Any:
        """Return a new operator: a copy, as Airflow itself makes one for each task of a mapped one."""
        kind = type(self)
        if kind not in _PROTOTYPES:
            _PROTOTYPES[kind] = super().operator()  # type: ignore[safe-super]  # a life says which
        prototype = _PROTOTYPES[kind]
        operator = object.__new__(type(prototype))
        vars(operator).update(vars(prototype) | self.arguments | self.asked())
        if hasattr(operator, "_kill_switch"):  # which a sensor has not
            vars(operator)["_kill_switch"] = KillSwitch()
        return operator

    def asked(self) -> dict[str, Any]:
        """Return the parameters that say what the task is to do now."""
        return {"input_parameters": {"n": self.inputs}}

    # What is written down

    def segment(self, operator: BaseOperator, work: Any, death: int | str | None, **how: Any) -> None:
        kill = operator.on_kill

        def killed() -> None:
            self.write("person", does="kill")
            kill()

        def watched() -> Any:
            try:
                result = work()
            except TaskDeferred:
                self.write("ended", how="deferred", said=" ".join(self.worker.warned))
                raise
            except Killed:
                self.write("ended", how="died", said=" ".join(self.worker.warned))
                raise
            except Stuck:
                self.write("ended", how="stuck", said="")
                raise Killed from None
            except BaseException as error:
                texts = [str(error), *getattr(error, "__notes__", []), *self.worker.warned]
                self.write("ended", how="raised", error=type(error).__name__, said=" ".join(texts))
                raise
            self.write("ended", how="returned", result=result, said=" ".join(self.worker.warned))
            return result

        self.worker.steps = 0
        resumed = self.state == "deferred"
        self.write("attempt", number=self.task.ti.try_number, resumed=resumed, inputs=str(self.inputs))
        vars(operator)["on_kill"] = killed
        self.worker.last_verb = death if isinstance(death, str) else None
        super().segment(operator, watched, death if isinstance(death, int) else None, **how)
        self.worker.last_verb = None
        self.write("state", state=self.state)

    def clear(self, *, wipes_store: bool = False) -> None:
        if self.state == "scheduled":
            return
        self.write("person", does="clear", wipes=wipes_store)
        if wipes_store and self.state != "deferred":
            self.write("person", does="wipe")
        self.worker.warned.clear()
        super().clear(wipes_store=wipes_store)
        self.write("state", state=self.state, said=" ".join(self.worker.warned))

    def a_person_marks_the_deferred_task(self) -> None:
        self.write("person", does="mark")
        super().a_person_marks_the_deferred_task()
        self.write("state", state=self.state, said=" ".join(self.worker.warned))

    # What the triggerer does

    def event(self) -> dict[str, Any]:
        assert self.deferral is not None
        return self.triggerer.fire(self.deferral.trigger)

    def the_trigger_moves(self) -> None:
        assert self.deferral is not None
        self.triggerer.kill(self.deferral.trigger, "deferred")

    def stop_as_the_trigger_does(self, state: str) -> None:
        assert self.deferral is not None
        self.triggerer.kill(self.deferral.trigger, state)

    # Nothing is judged here

    def check_start(self, job: Any) -> None:
        pass

    def check_success(self, result: Any) -> None:
        pass

    def check_nothing_is_left(self, ending: BaseException | None = None) -> None:
        pass


class _WorldOfRuns(World, LifeAmongStrangers):
    """A world of runs."""

    actions = RUN_ACTIONS
    service: RecordingService
    deferred_share = 0.6
    policies: Sequence[str] = ("rerun", "join")
    least_restarts = 0
    restart_lags: Sequence[float] = (0, 20, 45)
    ignoring_share = 0.2
    """In how many worlds runs wait for a kill."""
    timeouts: Sequence[float] = (3000, 3000, 100)

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        parameters = {
            "deferrable": draw.random() < self.deferred_share,
            "on_clear": draw.choice(self.policies),
            "retry_mode": draw.choice(("restart_or_new", "restart", "new")),
            "restarts": max(draw.randrange(3), self.least_restarts),
        }
        self.arguments = {**parameters, "timeout": draw.choice(self.timeouts), "restart_delay": 30}
        self.arguments["poll_interval"] = draw.choice((150, 600))
        service = self.new_service(restart_lag=draw.choice(self.restart_lags))
        service.skew = timedelta(seconds=draw.choice((0, -86400, -45, 45, 86400)))
        service.plans, service.ignores_stop = self.first_plans(draw), draw.random() < self.ignoring_share
        self.is_among_strangers = draw.random() < 0.3
        self.open(seed, service, draw, **parameters)
        use_fakes(self.monkeypatch, self.worker)
        if draw.random() < 0.2:
            self.a_stop_is_refused(60)
        self.triggerer = Triggerer(self.worker, self.task, self.monkeypatch)

    def first_plans(self, draw: random.Random) -> list[Plan]:
        """Draw what becomes of the first run, and say what becomes of the others."""
        return [_plan(draw), Plan()]

    def can(self, name: str) -> bool:
        return super().can(name) and (self.is_among_strangers or name != "a_stranger_starts_a_run")

    def a_stop_is_refused(self, refused: int) -> None:
        for verb in ("stop", "kill"):
            self.service.faults[verb] = [(fakes.server_error, False)] * refused

    def runs_wait_for_a_kill(self, ignores: bool) -> None:
        self.service.ignores_stop = ignores

    def take_census(self) -> None:
        self.service.clock.sleep(120)
        for run in list(self.service.runs.values()):
            self.service.answer(runs.status(run.agent_id, run.id))

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


class _Restless(_WorldOfRuns):
    """A world in which people act at once when a run was restarted, while the service may still show its Failure."""

    deferred_share, least_restarts, restart_lags, ignoring_share = 0.8, 1, (0, 20, 45, 45), 0.5

    actions = RESTLESS_ACTIONS
    steady = 3

    def first_plans(self, draw: random.Random) -> list[Plan]:
        return [Plan(RunStatus.FAILURE, seconds=draw.choice((0, 20, 200))), Plan(seconds=draw.choice((60, 1500)))]

    def can(self, name: str) -> bool:
        return super().can(name) and (name != "a_person_acts_on_the_restart" or self._was_just_restarted())

    def _was_just_restarted(self) -> bool:
        minute_ago = self.service.clock.now - timedelta(minutes=1)
        moments = [moment for wait in self.waits() if (moment := wait.get("restart_asked_at")) is not None]
        return any(datetime.fromisoformat(moment) > minute_ago for moment in moments)

    def a_person_acts_on_the_restart(self, *, marks: bool) -> None:
        if marks:
            self.a_person_marks_the_deferred_task()
        else:
            self.clear(wipes_store=False)


class RunWorld(_WorldOfRuns, Runs):
    """A task that runs one agent."""

    def new_service(self, **options: Any) -> RecordingService:
        return RecordingService(fakes.Clock(), **options)


class SpaceWorld(_WorldOfRuns, Spaces):
    """A task that runs all agents of a space."""

    def new_service(self, **options: Any) -> RecordingService:
        return RecordingService(fakes.Clock(), agents={7: "Prices", 8: "Stock"}, **options)


class RestlessRunWorld(_Restless, RunWorld):
    """The same, where people act at once."""


class RestlessSpaceWorld(_Restless, SpaceWorld):
    """The same, where people act at once."""


class UnseenSpaceWorld(SpaceWorld):
    """The same, where looks at runs are refused, and people act while a task waits for the others."""

    deferred_share, policies = 0.9, ("join",)
    actions = UNSEEN_ACTIONS

    def first_plans(self, draw: random.Random) -> list[Plan]:
        return [_plan(draw), Plan(seconds=draw.choice((60, 1500)))]

    def can(self, name: str) -> bool:
        return super().can(name) and (name != "a_person_marks_what_waits_for_some" or self._waits_for_some())

    def _waits_for_some(self) -> bool:
        return self.deferral is not None and bool(self.deferral.trigger.serialize()[1]["also_stop"])

    def a_person_clears_and_looks_are_refused(self, *, first: int) -> None:
        self.clear(wipes_store=False)
        self.service.faults["status"] = [*[None] * first, (fakes.server_error, False)]

    def a_person_marks_what_waits_for_some(self) -> None:
        self.a_person_marks_the_deferred_task()


class LostStartSpaceWorld(SpaceWorld):
    """The same, where the answers to starts are lost, and tasks are killed while they look for what was started."""

    actions = LOST_START_ACTIONS

    def first_plans(self, draw: random.Random) -> list[Plan]:
        return [_plan(draw), Plan(seconds=draw.choice((60, 1500)))]

    def the_start_is_lost_and_the_worker_meets_its_end(
        self, *, error: fakes.ErrorOf, death: int | str, calls_on_kill: bool
    ) -> None:
        self.service.faults["run-all"] = [(error, True)]
        self.a_try_runs(death, calls_on_kill=calls_on_kill)


class HurriedRunWorld(RunWorld):
    """A task with little time, which is cleared while its run goes on: to stop that one may take longer."""

    deferred_share, policies, ignoring_share, timeouts = 0.8, ("rerun",), 0.5, (20, 40, 100)
    actions = HURRIED_ACTIONS

    def first_plans(self, draw: random.Random) -> list[Plan]:
        return [_plan(draw), Plan(seconds=draw.choice((60, 1500)))]


class _WorldOfSessions(World, SessionLife):
    """A world of Agent Builder sessions, of either generation of the service."""

    actions = SESSION_ACTIONS
    service: RecordingBuilder

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        service = RecordingBuilder(single_shot=draw.random() < 0.3)
        service.skew = timedelta(seconds=draw.choice((0, -86400, -45, 45, 86400)))
        self.followups = [] if service.single_shot else list(FOLLOWUPS[: draw.randrange(3)])
        self.arguments = {"deferrable": draw.random() < 0.6, "followups": self.followups, "timeout": 3000}
        self.arguments["poll_interval"] = 200
        given = self.draw_start(draw)
        self.open(seed, service, draw, **{"session_id": given, **self.arguments}, single_shot=service.single_shot)
        use_builder(self.monkeypatch, self.worker)
        self.triggerer = Triggerer(self.worker, self.task, self.monkeypatch)
        if given is not None:
            service.begin(given)

    @abstractmethod
    def draw_start(self, draw: random.Random) -> str | None:
        """Draw how the session is started; return the one that is given."""

    def end(self) -> list[Entry]:
        self.service.ignores_cancel, self.service.makes_late = False, 0
        return super().end()

    def a_message_takes_effect_late(self, requests: int) -> None:
        self.service.makes_late = requests

    def a_session_ends(self, status: str) -> None:
        for name in sorted(self.mine_going()):
            self.write("person", does="end", session=name, status=status)
        super().a_session_ends(status)


class StartedSessionWorld(_WorldOfSessions, Sessions):
    """A task that starts its session."""

    def asked(self) -> dict[str, Any]:
        return {"prompt": f"Pull the prices, for the {self.inputs}th time"}

    def draw_start(self, draw: random.Random) -> str | None:
        self.arguments["on_ready"] = draw.choice(("finish", "finish", "fail", "cancel"))
        self.arguments["on_ambiguous_start"] = draw.choice(("fail", "start"))
        self.arguments["on_lost_session"] = draw.choice(("fail", "start"))
        return None


class GivenSessionWorld(_WorldOfSessions, GivenSessions):
    """A task that continues the session which another one has started."""

    def asked(self) -> dict[str, Any]:
        return {}

    def draw_start(self, draw: random.Random) -> str | None:
        self.arguments["on_ready"] = draw.choice(("finish", "fail", "cancel"))
        self.arguments |= {"session_id": GIVEN, "on_ambiguous_start": "fail"}
        return GIVEN
