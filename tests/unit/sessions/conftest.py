"""The fake Agent Builder and who talks to it."""

from __future__ import annotations

import pytest

from tests.support.builder import FakeBuilder
from tests.support.worker import Worker


@pytest.fixture
def service() -> FakeBuilder:
    return FakeBuilder()


@pytest.fixture
def worker(service: FakeBuilder) -> Worker:
    return Worker(service)
