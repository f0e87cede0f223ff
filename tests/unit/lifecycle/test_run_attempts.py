"""The life of a task that runs one agent: see ``tests/support/life.py``."""

from __future__ import annotations

from typing import Any

from airflow_provider_sequentum.operators import run_parameters, run_task
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from tests.support.life import RETRIES, THOROUGH, Life, LifeAmongStrangers
from tests.support.service import Clock, FakeService
from tests.support.tries import fire


class Runs(Life):
    """Nobody else uses the agent, so that every run is this task's."""

    def new_service(self, **options: Any) -> FakeService:
        return FakeService(Clock(), **options)

    def modules(self) -> list[Any]:
        return [run_parameters, run_task]

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
        record = self.task.store.get(run_task.STATE_KEY)
        return [record] if record is not None else []


class RunsAmongStrangers(LifeAmongStrangers, Runs):
    """Others run the same agent, so that a lost run can be mistaken."""


TestRuns = Runs.TestCase
TestRunsAmongStrangers = RunsAmongStrangers.TestCase
TestRuns.settings = TestRunsAmongStrangers.settings = THOROUGH
