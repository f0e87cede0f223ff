"""A world of a sensor, which waits for a run that other people and programs start, restart and stop."""

from __future__ import annotations

import random
import sys
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import AirflowSensorTimeout, BaseSensorOperator

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.sensors.agent_run import AgentRunSensor
from tests.simulation.triggerer import Triggerer
from tests.simulation.worlds import (
    TASK_ACTIONS,
    WAITING,
    Actions,
    RecordingService,
    World,
    drawn_death,
)
from tests.support import service as fakes
from tests.support.airflow import use_fakes, use_first_poke
from tests.support.life import RETRIES, LifeAmongStrangers
from tests.support.service import START, Plan

ENDS = (*[RunStatus.SUCCESS] * 3, RunStatus.COMPLETED, *[RunStatus.FAILURE] * 3, RunStatus.STOPPED, RunStatus.SKIPPED)


def _dies(draw: random.Random) -> dict[str, Any]:
    return {"death": drawn_death(draw), "calls_on_kill": False}  # a sensor has nothing to do when it is killed


ACTIONS: Actions = {
    **TASK_ACTIONS,
    "a_try_runs": (8, WAITING, _dies),
    "the_trigger_fires": (8, ("deferred",), _dies),
    "a_run_is_started": (
        4,
        None,
        lambda draw: {"plan": Plan(draw.choice(ENDS), seconds=draw.choice((0, 20, 200, 1500, None)))},
    ),
    "a_run_is_stopped": (1, None, lambda draw: {"which": draw.randrange(9)}),
    "failures_are_archived": (1, None, lambda draw: {}),
    "somebody_restarts_a_failure": (3, None, lambda draw: {}),
    "the_service_is_down": (1, None, lambda draw: {"requests": draw.choice((3, 20, 60))}),
    "no_runs_are_known": (1, None, lambda draw: {"requests": draw.choice((1, 3, 60))}),
}
del ACTIONS["the_inputs_change"]


class _Sensors(LifeAmongStrangers):
    """A task that is a sensor."""

    def operator(self) -> AgentRunSensor:
        return AgentRunSensor(task_id="run_agent", agent_id=7, retries=RETRIES, **self.arguments)


class SensorWorld(World, _Sensors):
    """A sensor that waits for one run, by its id or as the first one since a moment."""

    actions = ACTIONS
    verbs = ("status", "status", "runs")
    service: RecordingService

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        self.mode = draw.choice(("poke", "reschedule", "deferred", "deferred"))
        service = RecordingService(fakes.Clock(), restart_lag=draw.choice((0, 20)))
        service.skew = timedelta(seconds=draw.choice((0, 0, -86400, -45, 45, 86400)))
        parameters = {
            "wait_for_restart": draw.random() < 0.4,
            "soft_fail": draw.random() < 0.2,
            "timeout": draw.choice((100, 3000)),
            "poke_interval": draw.choice((30, 150)),
        }
        since = START + timedelta(seconds=draw.choice((-30, 0, 30, 600)))
        by_time = {"run_id": None, "since": since.isoformat()}
        which: dict[str, Any] = draw.choice(({"run_id": 101, "since": None}, by_time, by_time))
        kind: dict[str, Any] = {"mode": "reschedule" if self.mode == "reschedule" else "poke"}
        self.arguments = {**parameters, **which, **kind, "deferrable": self.mode == "deferred"}
        self.open(seed, service, draw, sensor=self.mode, **which, **parameters)
        use_fakes(self.monkeypatch, self.worker)
        use_first_poke(self.monkeypatch, self.task.ti)
        base = sys.modules[BaseSensorOperator.__module__]  # it sleeps between pokes and counts their time
        time = SimpleNamespace(sleep=self.sleep, monotonic=service.clock.monotonic)
        self.monkeypatch.setattr(base, "time", time)
        self.monkeypatch.setattr(base.timezone, "utcnow", lambda: service.clock.now)
        self.triggerer = Triggerer(self.worker, self.task, self.monkeypatch)
        if draw.random() < 0.7:
            self.a_run_is_started(Plan(draw.choice(ENDS), seconds=draw.choice((20, 200, 1500))))

    # How Airflow does it

    def known_to_trigger(self) -> set[int]:
        return set()  # a sensor has no run to stop

    def asked(self) -> dict[str, Any]:
        return {}

    def sleep(self, seconds: float) -> None:
        """Sleep between two pokes."""
        self.worker.step()
        self.service.clock.sleep(seconds)

    def a_try_runs(self, death: int | str | None, *, calls_on_kill: bool) -> None:
        self._try(death, calls_on_kill=calls_on_kill)

    def an_attempt_meets_an_error_that_no_one_foresaw(self, step: int, error: type[BaseException]) -> None:
        self._try(step, error=error)

    def _try(self, death: int | str | None, **how: Any) -> None:
        self.task.enter()
        first = self.operator()
        self.task.ti.first_poke = None
        self.segment(first, lambda: self._poked(first), death, **how)

    def _poked(self, sensor: Any) -> Any:
        """Run a try to its end; each time that the sensor is rescheduled, another process goes on with it."""
        first_poke = self.service.clock.now
        while True:
            try:
                return sensor.execute(self.task.context)
            except AirflowRescheduleException as reschedule:
                self.service.clock.now = max(reschedule.reschedule_date, self.service.clock.now)
                self.task.ti.first_poke, sensor = first_poke, self.operator()

    def failed(self, *, retried: bool) -> None:
        # Airflow doesn't retry a sensor whose timeout has passed.
        super().failed(retried=retried and self.history[-1].get("error") != AirflowSensorTimeout.__name__)

    # What happens to the runs

    def a_run_is_started(self, plan: Plan) -> None:
        self.service.plans = [plan, Plan()]
        run = self.service.start(by_stranger=True)
        self.write("person", does="start", run_id=run.id)

    def a_run_is_stopped(self, which: int) -> None:
        self.service.settle()
        going = [run for run in self.service.runs.values() if not run.is_over]
        if going:
            going[which % len(going)].stop_asked_at = self.service.clock.now

    def somebody_restarts_a_failure(self) -> None:
        self.service.settle()
        failed = [run for run in self.service.runs.values() if run.status is RunStatus.FAILURE]
        for run in failed[:1]:
            self.service.restart(run.id, self.service.restart_lag)

    def the_service_is_down(self, requests: int) -> None:
        for verb in ("status", "runs"):
            self.service.faults[verb] = [(fakes.server_error, False)] * requests

    def no_runs_are_known(self, requests: int) -> None:
        self.service.faults["status"] = [(fakes.not_found, False)] * requests

    def take_census(self) -> None:
        for run in list(self.service.runs.values()):
            self.service.answer(runs.status(run.agent_id, run.id))
