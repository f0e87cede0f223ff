from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.operators.schedules import (
    PauseAgentSchedulesOperator,
    ResumeAgentSchedulesOperator,
)
from airflow_provider_sequentum.runs.schedules import SchedulesConfig
from tests.support.airflow import FakeTask
from tests.support.service import Clock


class LazyIds:
    """What a mapped task's output is."""

    def __getitem__(self, index: int) -> int:
        return [4, 5][index]

    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        (None, []),
        ("", []),
        ([], []),
        ("[]", []),
        ([1, "2"], [1, 2]),
        ("[1, 2]", [1, 2]),
        ((3,), [3]),
        (LazyIds(), [4, 5]),
    ],
)
def test_ids(value: object, ids: list[int]) -> None:
    operator = ResumeAgentSchedulesOperator(task_id="resume", agent_id=7, schedule_ids=value)  # type: ignore[arg-type]
    assert list(SchedulesConfig.of(operator).schedule_ids) == ids


@pytest.mark.parametrize("value", [3, "7", "x", "null", [0], ["a"], [[1]], {"a": 1}, {"1": 2}, 0, True])
def test_what_is_no_list_of_ids_is_refused_before_anything_is_sent(value: Any) -> None:
    task = FakeTask(Clock())
    with pytest.raises(SequentumRequestRefused, match=r"schedule_ids must be a list of ids.*Nothing was sent"):
        ResumeAgentSchedulesOperator(task_id="resume", agent_id=7, schedule_ids=value).execute(task.context)


@pytest.mark.parametrize("agent_id", [None, "", "x", 0, True])
def test_what_is_no_agent_is_refused_before_anything_is_sent(agent_id: Any) -> None:
    task = FakeTask(Clock())
    with pytest.raises(SequentumRequestRefused, match=r"agent_id must be (set|a positive whole number)"):
        PauseAgentSchedulesOperator(task_id="pause", agent_id=agent_id).execute(task.context)


@pytest.mark.parametrize("kind", [PauseAgentSchedulesOperator, ResumeAgentSchedulesOperator])
def test_a_record_that_cannot_be_read_is_not_taken_for_none(kind: Any) -> None:
    task = FakeTask(Clock())
    task.store.set(kind.state_key, {"format": 99})
    arguments = {} if kind is PauseAgentSchedulesOperator else {"schedule_ids": [1]}
    with pytest.raises(SequentumRequestRefused, match=f"delete the key '{kind.state_key}'"):
        kind(task_id="schedules", agent_id=7, **arguments).execute(task.context)
