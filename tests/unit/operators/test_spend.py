"""What StartAgentRunOperator does about costs: the limit, the sum over a task's tries, and runs that take too long."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.exceptions import AgentRunFailure, AgentRunTimeout, CreditLimitReached
from airflow_provider_sequentum.hooks.port import ANNOUNCEMENT_KEY
from airflow_provider_sequentum.jobs.siblings import Announcement, PlannedStart
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from tests.support.airflow import FakeTask, deferred_by
from tests.support.service import START, Clock, FakeService, Plan
from tests.support.tries import run_try
from tests.support.worker import Killed, Worker

pytestmark = pytest.mark.usefixtures("fakes_behind_operators")

BOTH = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferred"])


@pytest.fixture
def service() -> FakeService:
    fake = FakeService(Clock())
    bill(fake, 1, 4)
    return fake


@pytest.fixture
def task(service: FakeService, worker: Worker) -> FakeTask:
    return FakeTask(service.clock, retries=2, tasks=[operator()])


def bill(service: FakeService, run_id: int, cost: float) -> None:
    at = (START - timedelta(hours=1)).isoformat()
    service.bills.append({"runId": run_id, "date": at, "startTime": at, "endTime": at, "cost": cost})


def operator(**arguments: Any) -> StartAgentRunOperator:
    return StartAgentRunOperator(
        **{"task_id": "run_agent", "agent_id": 7, "retries": 2, "deferrable": False, "credit_limit": 10, **arguments}
    )


def run_through(worker: Worker, task: FakeTask, **arguments: Any) -> Any:
    return run_try(worker, task, lambda: operator(**arguments))


def announced(task: FakeTask) -> list[float | None]:
    found = Announcement.from_json(task.ti.pushed(ANNOUNCEMENT_KEY))
    assert found.pending == ()
    return [start.credits for start in found.starts]


def say(task: FakeTask, task_id: str, *credits_: float) -> None:
    starts = tuple(PlannedStart(agent_id=8, credits=each) for each in credits_)
    task.tasks.append(operator(task_id=task_id))
    task.ti.another_pushes(task_id, -1, ANNOUNCEMENT_KEY, Announcement(task_id=task_id, starts=starts).to_json())


@BOTH
def test_a_start_within_the_limit(service: FakeService, worker: Worker, task: FakeTask, deferrable: bool) -> None:
    say(task, "before", 3, 3)
    assert run_through(worker, task, deferrable=deferrable) == 101
    assert announced(task) == [4]
    assert service.count("billing") == 1


def test_a_start_above_the_limit_is_refused(service: FakeService, worker: Worker, task: FakeTask) -> None:
    say(task, "before", 3, 4)
    with pytest.raises(CreditLimitReached, match=r"4 credits .* \+ 7 for 2 starts of this DAG run = 11") as caught:
        run_through(worker, task)
    assert "(connection 'sequentum_default')" in str(caught.value)
    assert announced(task) == []
    assert not service.runs


def test_what_a_task_without_a_limit_says_is_not_read(worker: Worker, task: FakeTask) -> None:
    say(task, "before", 100)
    task.tasks[1].credit_limit = None
    assert run_through(worker, task) == 101


def test_a_retry_and_a_clear_count_what_was_started_before(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(RunStatus.FAILURE)]
    for _ in range(2):
        with pytest.raises(AgentRunFailure):
            run_through(worker, task, retry_mode="new")
        task.next_attempt()
    assert len(service.runs) == 2
    task.clear()
    with pytest.raises(CreditLimitReached, match=r"\+ 8 for 2 starts of this DAG run = 12"):
        run_through(worker, task, retry_mode="new")
    assert announced(task) == [4, 4]
    assert len(service.runs) == 2


def test_a_retry_that_joins_its_run_starts_and_counts_nothing_more(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(seconds=600)]

    deferred_by(lambda: operator(deferrable=True).execute(task.context))  # and its trigger is lost
    task.next_attempt()
    assert run_through(worker, task) == 101
    assert announced(task) == [4]
    assert service.count("billing") == 1


def test_where_no_records_are_kept_each_earlier_try_counts_as_a_start(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    task.has_state_store = False
    task.next_attempt()
    assert run_through(worker, task) == 101
    assert announced(task) == [None, 4]
    task.next_attempt()
    with pytest.raises(CreditLimitReached, match=r"8 for 2 starts"):
        run_through(worker, task)


def test_a_task_that_ended_without_a_word_counts_as_a_start(worker: Worker, task: FakeTask) -> None:
    task.tasks.append(operator(task_id="broken"))
    task.instances = [SimpleNamespace(task_id="broken", map_index=index, state="failed") for index in (0, 1)]
    with pytest.raises(CreditLimitReached, match=r"8 for tasks that have ended"):
        run_through(worker, task)


@BOTH
def test_the_summary_has_what_all_tries_cost(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(RunStatus.FAILURE), Plan(RunStatus.FAILURE), Plan()]
    bill(service, 101, 1.5)
    bill(service, 102, 2)
    more: dict[str, Any] = {"credit_limit": None, "report_cost": True, "retry_mode": "new", "deferrable": deferrable}
    with pytest.raises(AgentRunFailure):
        run_through(worker, task, **more)
    task.next_attempt()
    assert run_through(worker, task, **more, restarts=1) == 102
    summary = task.ti.pushed("run")
    assert summary["cost"] == 2
    assert summary["task_cost"] == {"credits": 3.5, "runs": [101, 102], "is_complete": True}


def test_tries_of_which_nothing_is_recorded_make_the_sum_incomplete(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    bill(service, 101, 2)
    task.has_state_store = False
    task.next_attempt()
    run_through(worker, task, credit_limit=None, report_cost=True)
    assert task.ti.pushed("run")["task_cost"] == {"credits": 2, "runs": [101], "is_complete": False}


def with_history(service: FakeService) -> None:
    service.plans = [Plan(seconds=60)]
    for _ in range(3):
        service.start(by_stranger=True)
        service.clock.sleep(60)


@BOTH
@pytest.mark.parametrize("on_timeout", ["stop", "leave"])
def test_a_run_that_outlives_three_times_its_usual_duration_is_stopped(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, on_timeout: str
) -> None:
    with_history(service)
    service.plans = [Plan(seconds=None)]
    started = worker.now()
    more: dict[str, Any] = {"credit_limit": None, "stop_overdue": True, "deferrable": deferrable}
    with pytest.raises(AgentRunTimeout, match=r"when three times its usual duration passed\. .*stopped"):
        run_through(worker, task, **more, on_timeout=on_timeout)
    run = service.runs[104]
    assert run.status is RunStatus.STOPPED
    assert run.stop_asked_at is not None
    assert timedelta(minutes=3) <= run.stop_asked_at - started < timedelta(minutes=4)
    assert any("will be stopped if it takes longer than 3 min 0 s" in line for line in worker.said)
    assert service.count("runs") == 1


@BOTH
def test_a_restart_in_place_gets_the_whole_time_again(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    with_history(service)
    service.plans = [Plan(RunStatus.FAILURE, seconds=150), Plan(seconds=150)]
    more: dict[str, Any] = {"credit_limit": None, "stop_overdue": True, "deferrable": deferrable}
    assert run_through(worker, task, **more, restarts=1, restart_delay=0) == 104


def test_an_earlier_timeout_is_the_timeout(service: FakeService, worker: Worker, task: FakeTask) -> None:
    with_history(service)
    task.ti.start_date = worker.now()
    service.plans = [Plan(seconds=None)]
    with pytest.raises(AgentRunTimeout, match="when the task's timeout passed"):
        run_through(worker, task, credit_limit=None, stop_overdue=True, timeout=100)


@BOTH
@pytest.mark.parametrize("on_clear", ["rerun", "join"])
@pytest.mark.parametrize("is_cleared", [False, True])
def test_a_run_that_is_joined_is_not_stopped_for_a_limit_that_its_task_no_longer_has(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, on_clear: str, is_cleared: bool
) -> None:
    with_history(service)
    service.plans = [Plan(seconds=400), Plan(seconds=60)]
    more: dict[str, Any] = {"credit_limit": None, "deferrable": deferrable, "on_clear": on_clear}
    worker.steps_left = 12  # the worker dies while it waits, or right after the deferral
    with suppress(Killed):
        run_through(worker, task, **more, stop_overdue=True)
    worker.steps_left = None
    assert task.store.get("sequentum_run")["overdue_at"]
    if is_cleared:
        task.clear()
    else:
        task.next_attempt()
    joins = on_clear == "join" or not is_cleared
    assert run_through(worker, task, **more, stop_overdue=False) == (104 if joins else 105)
    assert service.count("stop") == (0 if joins else 1)
