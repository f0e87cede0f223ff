"""The life of a task that runs all agents of a space: see ``tests/support/life.py``."""

from __future__ import annotations

from typing import Any

from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from tests.support.life import RETRIES, THOROUGH, Life, LifeAmongStrangers
from tests.support.service import Clock, FakeService
from tests.support.tries import fire_space


class Spaces(Life):
    """Nobody else uses the agents, so that every run is this task's."""

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
        return [{"stop_grace": arguments["stop_grace"], **wait} for wait in arguments["waits"]]

    def records(self) -> list[dict[str, Any]]:
        record = self.task.store.get(StartSpaceRunsOperator.state_key)
        return list((record.get("runs") or {}).values()) if record is not None else []


class SpacesAmongStrangers(LifeAmongStrangers, Spaces):
    """Others run the same agents, so that a lost run can be mistaken."""


TestSpaces = Spaces.TestCase
TestSpacesAmongStrangers = SpacesAmongStrangers.TestCase
TestSpaces.settings = TestSpacesAmongStrangers.settings = THOROUGH
