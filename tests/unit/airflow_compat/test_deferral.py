from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_sequentum.airflow_compat.deferral import (
    BACKSTOP,
    deferral_timeout,
    is_resumed,
    keep_values_if_resumed,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
AIRFLOW_3 = SimpleNamespace(_ti_context_from_server=SimpleNamespace(next_method="execute_complete"))
AIRFLOW_2 = SimpleNamespace(next_method="execute_complete")
FRESH = (SimpleNamespace(), SimpleNamespace(next_method=None, _ti_context_from_server=SimpleNamespace(next_method="")))


def render() -> None:
    raise KeyError("a Variable that was deleted")


@pytest.mark.parametrize("ti", [AIRFLOW_3, AIRFLOW_2])
def test_a_resumed_task_goes_on_without_its_templates(ti: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert is_resumed({"ti": ti})
    with keep_values_if_resumed({"ti": ti}, logging.getLogger("airflow.task")):
        render()
    assert "a Variable that was deleted" in caplog.text


@pytest.mark.parametrize("ti", FRESH)
def test_a_task_that_starts_needs_its_templates(ti: Any) -> None:
    with pytest.raises(KeyError), keep_values_if_resumed({"ti": ti}, logging.getLogger("airflow.task")):
        render()


@pytest.mark.parametrize(("left", "timeout"), [(60, timedelta(minutes=1)), (-60, timedelta(0))])
def test_airflows_timeout_follows_the_one_of_the_trigger(left: int, timeout: timedelta) -> None:
    assert deferral_timeout(NOW + timedelta(seconds=left), NOW) == timeout + BACKSTOP


def test_a_wait_without_a_deadline_has_no_timeout() -> None:
    assert deferral_timeout(None, NOW) is None
