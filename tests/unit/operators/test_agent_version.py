from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.hooks.pins import move_pin, pin_key, read_pin
from airflow_provider_sequentum.operators.agent_version import RestoreAgentVersionOperator, _mark
from tests.support.airflow import FakeTask
from tests.support.service import Clock
from tests.support.variables import Variables, variables

__all__ = ["variables"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"agent_id": "x", "version": 1}, "agent_id must be a positive whole number"),
        ({"agent_id": 7, "version": 0}, "version must be a positive whole number"),
        ({"agent_id": 7, "version": ""}, "version must be set"),
        ({"agent_id": 7, "version": 1, "reason": 5}, "reason must be a string"),
        ({"agent_id": 7, "version": 1, "reason": "a\0b"}, "reason must have no NUL"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_sent(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SequentumRequestRefused, match=f"{message}.*Nothing was restored"):
        RestoreAgentVersionOperator(task_id="restore", **arguments).execute(FakeTask(Clock()).context)


def test_a_retry_has_the_same_mark_and_a_cleared_task_another() -> None:
    task = FakeTask(Clock(), retries=2)
    first = _mark(task.context)
    task.next_attempt()
    assert _mark(task.context) == first
    task.clear()
    assert _mark(task.context) != first
    sibling = FakeTask(Clock(), retries=2)
    sibling.ti.map_index = 1
    assert _mark(sibling.context) != first


def test_a_pin(variables: Variables) -> None:
    assert read_pin("a", 7) is None
    move_pin("a", 7, 12)
    assert (read_pin("a", 7), read_pin("a", 8), read_pin("b", 7)) == (12, None, None)


@pytest.mark.parametrize("value", ["x", "0", "-1", "1.5"])
def test_a_pin_that_is_no_version_is_refused(variables: Variables, value: str) -> None:
    variables[pin_key("a", 7)] = value
    with pytest.raises(SequentumRequestRefused, match="The Variable 'sequentum_pinned_version_a_7' must be"):
        read_pin("a", 7)
