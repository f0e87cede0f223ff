from __future__ import annotations

import logging

import pytest

from tests.support.builder import FakeBuilder, use_builder
from tests.support.worker import PACKAGE, Worker


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FakeBuilder:
    """The fake Agent Builder behind every operator and trigger, on a clock whose waiting costs no time."""
    fake = FakeBuilder(looks=1)
    use_builder(monkeypatch, Worker(fake))
    return fake


@pytest.fixture
def task_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the package writes to the task's log, in all versions of Airflow."""
    caplog.set_level(logging.DEBUG, PACKAGE)
    return caplog
