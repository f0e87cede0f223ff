"""The life of a task that runs all agents of a space: see ``tests/support/life.py``."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from tests.support import service as fakes
from tests.support.life import RETRIES, THOROUGH, Life, LifeAmongStrangers
from tests.support.service import Clock, FakeService, Plan
from tests.support.tries import fire_space


class Spaces(Life):
    """No one else uses the agents, so that every run is this task's."""

    verbs = ("run-all", "run-all", "run-all", "agents", "start", "restart", "restart", "status", "runs", "stop", "kill")

    def new_service(self, **options: Any) -> FakeService:
        return FakeService(Clock(), agents={7: "Prices", 8: "Stock"}, **options)

    def operator(self) -> StartSpaceRunsOperator:
        return StartSpaceRunsOperator(
            task_id="run_agent", space_id=1, input_parameters={"n": self.inputs}, retries=RETRIES, **self.arguments
        )

    def event(self) -> dict[str, Any]:
        assert self.deferral is not None
        return fire_space(self.worker, self.deferral)

    def waits(self) -> list[dict[str, Any]]:
        assert self.deferral is not None
        arguments = self.deferral.trigger.serialize()[1]
        runs = [*arguments["waits"], *arguments["also_stop"]]
        return [{"stop_grace": arguments["stop_grace"], **run} for run in runs]

    def records(self) -> list[dict[str, Any]]:
        record = self.task.store.get(StartSpaceRunsOperator.state_key)
        return list((record.get("runs") or {}).values()) if record is not None else []


def test_a_run_that_could_not_be_looked_at_is_stopped_with_those_that_are_waited_for() -> None:
    life = Spaces()
    life.begin(deferrable=True, on_clear="join", retry_mode="restart_or_new", restarts=0, restart_lag=0)
    try:
        life.the_status_is_refused(refused=1)
        life.a_try_runs(death=None, calls_on_kill=False)
        life.clear(wipes_store=False)
        life.a_try_runs(death=None, calls_on_kill=False)
        assert [len(life.waits()), len(life.mine_going())] == [2, 2]
        life.a_person_marks_the_deferred_task()
        assert not life.mine_going()
    finally:
        life.teardown()


@pytest.mark.parametrize("lost", ["start", "run-all"])
def test_a_run_that_no_trigger_can_stop_is_told_of_before_the_others_are_waited_for(lost: str) -> None:
    """The trigger stops what it waits for. Of a run whose start was lost it does not know, maybe for hours."""
    life = Spaces()
    life.begin(deferrable=True, on_clear="rerun", retry_mode="new", restarts=0, restart_lag=0)
    life.service.plans = [Plan(outcome=RunStatus.FAILURE, seconds=0), Plan(seconds=2000)]
    try:
        if lost == "start":
            life.a_try_runs(death=12, calls_on_kill=False)
            life.service.faults["start"] = [(fakes.response_lost, True)]
            life.service.faults["runs"] = [(fakes.server_error, False)] * 2
        else:
            life.service.plans = [Plan(seconds=2000)]
            life.service.keeps_run_id, life.service.list_lag = {8}, 60.0
        life.a_try_runs(death=None, calls_on_kill=False)
        assert (life.state, len(life.waits()), len(life.left_out)) == ("deferred", 1, 1)
        [said] = [line for line in life.worker.warned if "running and costing credits" in line]
        assert f"A run of agent {7 if lost == 'start' else 8} may be running" in said
    finally:
        life.service.list_lag = 0.0
        life.teardown()


class SpacesAmongStrangers(LifeAmongStrangers, Spaces):
    """Others run the same agents, so that a lost run can be mistaken."""


TestSpaces = Spaces.TestCase
TestSpacesAmongStrangers = SpacesAmongStrangers.TestCase
TestSpaces.settings = TestSpacesAmongStrangers.settings = THOROUGH
