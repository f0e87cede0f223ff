from __future__ import annotations

import logging
import time
from typing import Any, Self

import pytest

from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.triggers.agent_builder import AgentBuilderTrigger
from tests.unit.lifecycle.builder_service import FakeBuilder


class FakeClient:
    """Both clients of the fake service."""

    def __init__(self, service: FakeBuilder) -> None:
        self.service = service

    def send(self, call: Any, *, budget_share: float = 1.0) -> Any:
        return self.service.answer(call)


class FakeAsyncClient(FakeClient):
    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    async def send(self, call: Any, *, budget_share: float = 1.0) -> Any:
        return self.service.answer(call)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FakeBuilder:
    """The fake service behind every hook, on a clock whose waiting costs no time."""
    fake = FakeBuilder(looks=1)
    use_builder(monkeypatch, fake)
    return fake


def use_builder(monkeypatch: pytest.MonkeyPatch, fake: FakeBuilder) -> None:
    """Let every hook talk to a fake service, and let waiting cost no time."""

    async def aget_client(hook: SequentumHook) -> FakeAsyncClient:
        return FakeAsyncClient(fake)

    async def asleep(seconds: float) -> None:
        return None

    monkeypatch.setattr(SequentumHook, "client", property(lambda hook: FakeClient(fake)))
    monkeypatch.setattr(SequentumHook, "aget_client", aget_client)
    monkeypatch.setattr(SequentumHook, "perform_apart", lambda hook, procedure, urgent=False: hook.perform(procedure))
    monkeypatch.setattr(SequentumHook, "session_link", lambda hook, session_id: f"https://cloud.example/{session_id}")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr("airflow_provider_sequentum.hooks.driver.asyncio.sleep", asleep)
    monkeypatch.setattr("airflow_provider_sequentum.triggers.timing.SHORTEST_TRIGGER_LIFE", 0.0)


@pytest.fixture
def task_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What operator, hook and trigger write to the task's log, in all versions of Airflow."""
    log = logging.getLogger("task")
    caplog.set_level(logging.DEBUG, "task")
    for kind in (AgentBuilderOperator, SequentumHook, AgentBuilderTrigger):
        monkeypatch.setattr(kind, "log", log)
    return caplog
