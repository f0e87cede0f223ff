"""The fake Agent Builder."""

from __future__ import annotations

import logging

import pytest

from tests.support.builder import FakeBuilder
from tests.support.worker import PACKAGE


@pytest.fixture
def service() -> FakeBuilder:
    return FakeBuilder()


@pytest.fixture
def task_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the package writes to the task's log, in all versions of Airflow."""
    caplog.set_level(logging.DEBUG, PACKAGE)
    return caplog
