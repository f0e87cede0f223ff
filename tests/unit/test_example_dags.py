"""Decisions that the example DAGs make by themselves; the system tests run them as a whole."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "dags_examples"
NINE, TEN = datetime(2026, 11, 27, 9, tzinfo=UTC), datetime(2026, 11, 27, 10, tzinfo=UTC)
HOUR = {"from": NINE.isoformat(), "to": TEN.isoformat()}


@pytest.fixture
def window() -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location("hourly_incremental", EXAMPLES / "hourly_incremental.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[..., Any] = module.window.function
    return function


def test_a_scheduled_run_extracts_its_data_interval(window: Callable[..., Any]) -> None:
    assert window(NINE, TEN, SimpleNamespace(run_after=TEN)) == HOUR


def test_a_run_without_an_interval_extracts_the_last_whole_hour(window: Callable[..., Any]) -> None:
    assert window(None, None, SimpleNamespace(run_after=TEN.replace(minute=20, second=5, microsecond=7))) == HOUR


def test_an_interval_without_length_is_refused(window: Callable[..., Any]) -> None:
    """That of Airflow 3 with a cron expression as the schedule: the agent would extract nothing, without a word."""
    with pytest.raises(ValueError, match="Use CronDataIntervalTimetable"):
        window(TEN, TEN, SimpleNamespace(run_after=TEN))
