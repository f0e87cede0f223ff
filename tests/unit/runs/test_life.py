"""The life of a task that runs one agent: see ``tests/support/life.py``."""

from __future__ import annotations

from typing import Any

from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from tests.support.life import RETRIES, THOROUGH, Life, LifeAmongStrangers
from tests.support.service import Clock, FakeService, Plan
from tests.support.tries import fire


class Runs(Life):
    """No one else uses the agent, so that every run is this task's."""

    def new_service(self, **options: Any) -> FakeService:
        return FakeService(Clock(), **options)

    def operator(self) -> StartAgentRunOperator:
        return StartAgentRunOperator(
            task_id="run_agent", agent_id=7, input_parameters={"n": self.inputs}, retries=RETRIES, **self.arguments
        )

    def event(self) -> dict[str, Any]:
        assert self.deferral is not None
        return fire(self.worker, self.deferral)

    def waits(self) -> list[dict[str, Any]]:
        assert self.deferral is not None
        return [self.deferral.trigger.serialize()[1]]

    def records(self) -> list[dict[str, Any]]:
        record = self.task.store.get("sequentum_run")
        return [record] if record is not None else []


class RunsAmongStrangers(LifeAmongStrangers, Runs):
    """Others run the same agent, so that a lost run can be mistaken."""


def test_a_kill_while_the_task_gives_up_stops_the_run() -> None:
    life = Runs()
    life.begin(deferrable=True, on_clear="rerun", retry_mode="restart_or_new", restarts=0, restart_lag=0)
    try:
        life.plan_the_next_attempt(plan=Plan(seconds=None))
        life.a_try_runs(death=None, calls_on_kill=False)
        assert life.state == "deferred"
        life.the_trigger_fires(death=0, calls_on_kill=True)
        assert life.service.runs[101].status is RunStatus.STOPPED
    finally:
        life.teardown()


TestRuns = Runs.TestCase
TestRunsAmongStrangers = RunsAmongStrangers.TestCase
TestRuns.settings = TestRunsAmongStrangers.settings = THOROUGH
