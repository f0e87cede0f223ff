"""A start that the service still processes, or does not list yet, when the task has searched for its runs in vain."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.airflow_compat.kill import AirflowTaskTerminated
from airflow_provider_sequentum.exceptions import LATE_START, SequentumUnavailable
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from tests.support.airflow import FakeTask
from tests.support.service import Clock, FakeService, Plan, response_lost
from tests.support.worker import Worker

pytestmark = pytest.mark.usefixtures("fakes_behind_operators")

KINDS = pytest.mark.parametrize("kind", [StartAgentRunOperator, StartSpaceRunsOperator])


@pytest.fixture
def service() -> FakeService:
    fake = FakeService(Clock(), plans=[Plan(seconds=None)], list_lag=100, agents={7: "Prices"})
    fake.faults["start"] = fake.faults["run-all"] = [(response_lost, True)]
    return fake


def operator(kind: Any) -> Any:
    what = {"agent_id": 7} if kind is StartAgentRunOperator else {"space_id": 1}
    return kind(task_id="run_agent", deferrable=False, **what)


@KINDS
def test_the_last_attempt_says_that_a_run_may_appear(
    service: FakeService, worker: Worker, task: FakeTask, kind: Any
) -> None:
    task.ti.max_tries = 0
    with pytest.raises(SequentumUnavailable) as caught:
        operator(kind).execute(task.context)
    assert LATE_START in str(caught.value)
    assert not service.runs[101].is_over


@KINDS
def test_a_killed_attempt_says_it_too(service: FakeService, worker: Worker, task: FakeTask, kind: Any) -> None:
    killed = operator(kind)

    def kill(call: Any) -> Any:
        killed.on_kill()
        return response_lost(call)

    service.faults["start"] = service.faults["run-all"] = [(kill, True)]
    with pytest.raises(AirflowTaskTerminated) as caught:
        killed.execute(task.context)
    assert LATE_START in "".join(caught.value.__notes__)


@KINDS
@pytest.mark.parametrize("has_store", [True, False])
def test_so_does_an_attempt_that_starts_another_one_if_the_first_was_certainly_sent(
    service: FakeService, worker: Worker, task: FakeTask, kind: Any, has_store: bool
) -> None:
    task.has_state_store = has_store
    with pytest.raises(SequentumUnavailable):
        operator(kind).execute(task.context)
    task.next_attempt()
    worker.warned.clear()
    service.plans = [Plan()]
    assert operator(kind).execute(task.context) in (102, [102])
    assert any(LATE_START in line for line in worker.warned) is has_store
