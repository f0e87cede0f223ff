"""The fake service and who talks to it."""

from __future__ import annotations

import pytest

from tests.support.service import Clock, FakeService
from tests.support.worker import Worker


@pytest.fixture
def service() -> FakeService:
    return FakeService(Clock())


@pytest.fixture
def worker(service: FakeService) -> Worker:
    return Worker(service)
