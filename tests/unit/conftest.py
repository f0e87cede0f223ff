"""The fake service, who talks to it, and the task in whose name that happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.service import Clock, FakeService
from tests.support.worker import Worker

if TYPE_CHECKING:
    from tests.support.airflow import FakeTask


@pytest.fixture
def service() -> FakeService:
    return FakeService(Clock())


@pytest.fixture
def worker(service: FakeService) -> Worker:
    """The port of a procedure on the fake service."""
    return Worker(service)


@pytest.fixture
def fakes_behind_operators(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the operators, sensors and hooks of a test talk to the fake service, on its clock."""
    from tests.support.airflow import use_fakes  # imports Airflow, which most tests of this folder do without

    use_fakes(monkeypatch, worker)


@pytest.fixture
def task(service: FakeService) -> FakeTask:
    from tests.support.airflow import FakeTask

    return FakeTask(service.clock, retries=2)
