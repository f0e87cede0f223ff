"""Whose task an operator of a remote job is."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.remote_job import RemoteJobOperator
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from tests.support.airflow import FakeTask
from tests.support.service import Clock, FakeService
from tests.support.worker import Worker

ARGUMENTS: dict[type[RemoteJobOperator[Any]], dict[str, Any]] = {
    StartAgentRunOperator: {"agent_id": 7},
    StartSpaceRunsOperator: {"space_id": 1},
    AgentBuilderOperator: {"prompt": "Get the prices."},
}
"""All operators of remote jobs."""


@pytest.fixture
def service() -> FakeService:
    return FakeService(Clock())


@pytest.mark.usefixtures("fakes_behind_operators")
@pytest.mark.parametrize("kind", ARGUMENTS)
@pytest.mark.parametrize("task_id", ["inner", "outer"])
def test_code_of_another_task_cannot_own_a_job(
    service: FakeService, worker: Worker, task: FakeTask, kind: type[RemoteJobOperator[Any]], task_id: str
) -> None:
    """Airflow would tell that task of a kill, and two operators of it would share one record."""
    task.ti.task = BaseOperator(task_id="outer")
    for deferrable in (False, True):
        operator = kind(task_id=task_id, deferrable=deferrable, **ARGUMENTS[kind])
        with pytest.raises(SequentumRequestRefused, match=r"called by the code of the task .* Nothing was sent"):
            operator.execute(task.context)
    assert (service.requests, worker.kept) == ([], [])


@pytest.mark.usefixtures("fakes_behind_operators")
@pytest.mark.parametrize("found", [{}, {"__airflow_state_ref__": "s3://bucket/key"}, [], "s3://bucket/key"])
@pytest.mark.parametrize("kind", ARGUMENTS)
def test_what_is_no_record_is_not_taken_for_one_of_nothing(
    service: FakeService, worker: Worker, task: FakeTask, kind: type[RemoteJobOperator[Any]], found: Any
) -> None:
    """A worker without the state store's own backend gets a reference, and a job may be going that it does not name."""
    task.store.set(kind.state_key, found)
    task.next_attempt()
    with pytest.raises(SequentumRequestRefused, match=r"this task's job cannot be read.* Nothing was started"):
        kind(task_id="run_agent", deferrable=False, **ARGUMENTS[kind]).execute(task.context)
    assert (service.requests, worker.kept, task.store.get(kind.state_key)) == ([], [], found)


@pytest.mark.usefixtures("fakes_behind_operators")
def test_a_task_of_its_own_owns_its_job(task: FakeTask) -> None:
    task.ti.task = operator = StartAgentRunOperator(task_id="run_agent", agent_id=7, deferrable=False)
    assert operator.execute(task.context) == 101


def test_no_operator_is_left_out() -> None:
    assert set(RemoteJobOperator.__subclasses__()) >= ARGUMENTS.keys()
    own = {kind for kind in RemoteJobOperator.__subclasses__() if kind.__module__.startswith("airflow_provider_")}
    assert own == ARGUMENTS.keys()
