"""What a task does with every status a run can have, known or not, in both modes and under every policy.

The tables below are written down a second time on purpose: nothing of them is taken from the code.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSkipException

from airflow_provider_sequentum.exceptions import (
    AgentRunFailed,
    AgentRunFailure,
    AgentRunStopped,
    AgentRunTimeout,
    SequentumRequestRefused,
    SequentumSkipped,
)
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from tests.support.airflow import FakeTask
from tests.support.service import Clock, FakeService, Plan, ending_in
from tests.support.tries import run_try
from tests.support.worker import Worker

pytestmark = pytest.mark.usefixtures("fakes_behind_operators")

STOPPING, FAILURE, FAILED, STOPPED, COMPLETED, SUCCESS, SKIPPED = 5, 6, 7, 8, 9, 10, 11
STATUSES: list[int | str] = [*range(14), 14, 99, -1, "Paused"]
ENDS: dict[int | str, type[AirflowException] | None] = {
    FAILURE: AgentRunFailure,
    FAILED: AgentRunFailed,
    STOPPED: AgentRunStopped,
    COMPLETED: None,
    SUCCESS: None,
    SKIPPED: SequentumSkipped,
}
"""Every other status is waited out, up to the task's timeout."""

POLICIES = [
    {"deferrable": deferrable, "retry_mode": retry_mode, "restarts": restarts, "on_timeout": on_timeout}
    for deferrable, retry_mode, restarts, on_timeout in product(
        (False, True), ("restart_or_new", "restart", "new"), (0, 1, 2), ("stop", "leave")
    )
]


def identify(value: object) -> str:
    return "-".join(str(item) for item in value.values()) if isinstance(value, dict) else str(value)


@pytest.fixture
def service() -> FakeService:
    return FakeService(Clock())


def run_a_try(worker: Worker, task: FakeTask, policy: dict[str, Any]) -> Any:
    return run_try(
        worker,
        task,
        lambda: StartAgentRunOperator(
            task_id="run_agent", agent_id=7, retries=2, timeout=900, restart_delay=5, poll_interval=30, **policy
        ),
    )


@pytest.mark.parametrize("store", [True, False], ids=["store", "no store"])
@pytest.mark.parametrize("policy", POLICIES, ids=identify)
@pytest.mark.parametrize("status", STATUSES)
def test_the_first_try_and_the_second(
    service: FakeService, worker: Worker, status: int | str, policy: dict[str, Any], store: bool
) -> None:
    task = FakeTask(service.clock, retries=2, has_state_store=store)
    service.plans = [ending_in(status)]
    kind = ENDS.get(status, AgentRunTimeout)
    if kind is None:
        assert run_a_try(worker, task, policy) == 101
    else:
        with pytest.raises(kind) as caught:
            run_a_try(worker, task, policy)
        assert type(caught.value) is kind
        assert isinstance(caught.value, AirflowSkipException) is (status == SKIPPED)
        assert isinstance(caught.value, AirflowFailException) is (status == STOPPED), "whether it is retried"
    assert service.count("start") == 1
    assert service.count("restart") == (policy["restarts"] if status == FAILURE else 0)
    left_going = kind is AgentRunTimeout and policy["on_timeout"] == "leave"
    assert (service.count("stop") > 0) is (kind is AgentRunTimeout and not left_going)
    assert service.runs[101].is_over is not left_going

    service.plans = [Plan()]
    service.clock.sleep(120)
    task.next_attempt()
    if status == FAILED and policy["retry_mode"] == "restart" and store:
        with pytest.raises(SequentumRequestRefused):
            run_a_try(worker, task, policy)
        return
    if status == SKIPPED and store:
        with pytest.raises(SequentumSkipped):
            run_a_try(worker, task, policy)
        return
    if left_going and status != STOPPING:
        with pytest.raises(AgentRunTimeout):
            run_a_try(worker, task, policy)
        assert service.count("start") == 1  # it was joined
        return
    # A run that is Stopping is waited out, then replaced.
    restarted = status == FAILURE and policy["retry_mode"] != "new" and store
    same = restarted or (kind is None and store)
    assert run_a_try(worker, task, policy) == (101 if same else 102)
    assert service.count("restart") == restarted + (policy["restarts"] if status == FAILURE else 0)


@pytest.mark.parametrize("going", [False, True])
@pytest.mark.parametrize("on_clear", ["rerun", "join"])
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("deferrable", [False, True])
def test_clearing_it(
    service: FakeService, worker: Worker, status: int | str, deferrable: bool, on_clear: str, going: bool
) -> None:
    task = FakeTask(service.clock, retries=2)
    policy = {"deferrable": deferrable, "on_clear": on_clear}
    service.plans = [ending_in(status, 300 if going else 0), Plan()]
    run_a_try(worker, task, {**policy, "wait_for_completion": False})
    service.settle()
    is_going = not service.runs[101].is_over
    task.clear()
    joined = is_going and on_clear == "join" and service.runs[101].status != STOPPING
    if not joined:
        assert run_a_try(worker, task, policy) == 102
        assert service.runs[101].is_over
        assert (service.count("stop") > 0) is is_going
        return
    kind = ENDS.get(status, AgentRunTimeout)
    if kind is None:
        assert run_a_try(worker, task, policy) == 101
    else:
        with pytest.raises(kind):
            run_a_try(worker, task, policy)
    assert len(service.runs) == 1
