"""An engine for unit tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow_provider_sequentum.sandbox.agents import Agent
from airflow_provider_sequentum.sandbox.clock import Clock
from airflow_provider_sequentum.sandbox.engine import Engine
from airflow_provider_sequentum.sandbox.run_plan import RunPlan
from airflow_provider_sequentum.sandbox.settings import Dialect, Settings

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class World:
    """An engine whose time stands still until it is moved."""

    def __init__(self, **settings: object) -> None:
        self.clock = Clock(start=NOON, monotonic=lambda: 0.0)
        self.engine = Engine(Settings.model_validate(settings), Dialect(), self.clock)

    def agent(self, plan: RunPlan | None = None, records: int = 10, **fields: Any) -> Agent:
        rows = [{"n": number} for number in range(records)]
        return self.engine.add_agent("Numbers", rows, self.clock.now(), plan=plan or RunPlan(), **fields)
