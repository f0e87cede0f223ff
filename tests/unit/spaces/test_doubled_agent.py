"""An agent that run-all says it has started more than once: the task works with one run, and owns the others too."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.exceptions import AgentRunStartAmbiguous
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.runs.stop import stop_runs
from tests.support.airflow import FakeTask, deferred_by
from tests.support.service import Clock, FakeService, Plan, server_error
from tests.support.tries import fire_space, run_try
from tests.support.worker import Killed, Worker

pytestmark = pytest.mark.usefixtures("fakes_behind_operators")

BOTH = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferred"])
LONG = Plan(seconds=90)


@pytest.fixture
def service() -> FakeService:
    """Agent 7 is started three times, agent 8 once."""
    service = FakeService(Clock(), plans=[LONG])
    run_all = service._run_all

    def thrice(call: Call[Any]) -> dict[str, Any]:
        answer = run_all(call)
        further = [{**answer["results"][0], "runId": service.start(7).id} for _ in range(2)]
        return {**answer, "results": [further[0], *answer["results"], further[1], answer["results"][0]]}

    service._run_all = thrice  # type: ignore[method-assign]
    return service


def operator(**arguments: Any) -> StartSpaceRunsOperator:
    return StartSpaceRunsOperator(**{"task_id": "run_agent", "space_id": 1, "retries": 2, **arguments})


def a_try(worker: Worker, task: FakeTask, **arguments: Any) -> Any:
    return run_try(worker, task, lambda: operator(**arguments), fire_space)


def running(service: FakeService) -> set[int]:
    service.settle()
    return {run.id for run in service.runs.values() if not run.is_over}


@BOTH
def test_the_others_are_stopped_and_that_is_said(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    assert a_try(worker, task, deferrable=deferrable) == [101, 102]
    assert [service.runs[number].stop_asked_at is not None for number in (101, 102, 103, 104)] == [
        *(False, False),
        *(True, True),
    ]
    [said] = [line for line in worker.warned if "several runs" in line]
    assert said.endswith("several runs of agents [7]. The task uses one of each; stopping runs [103, 104].")


@pytest.mark.parametrize("steps", range(16))
def test_whenever_the_worker_dies_the_next_attempt_leaves_none_going(
    service: FakeService, worker: Worker, task: FakeTask, steps: int
) -> None:
    worker.steps_left = steps
    with pytest.raises(Killed):
        a_try(worker, task)
    worker.steps_left = None
    record = task.store.get(StartSpaceRunsOperator.state_key)
    is_answered = bool(record and record.get("runs"))
    task.next_attempt()
    if service.runs and not is_answered:
        with pytest.raises(AgentRunStartAmbiguous):  # three runs of agent 7 could be its
            a_try(worker, task)
        return
    assert a_try(worker, task) == [101, 102]
    assert not running(service)
    assert service.count("run-all") == 1


@BOTH
def test_what_could_not_be_stopped_is_tried_again_and_said(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.faults["stop"] = [(server_error, False)] * 100
    service.faults["kill"] = [(server_error, False)] * 6
    assert a_try(worker, task, deferrable=deferrable) == [101, 102]
    assert not running(service)
    assert any("103" in line and "may be running and costing credits" in line for line in worker.warned)


def test_they_are_stopped_with_the_deferred_task(service: FakeService, worker: Worker, task: FakeTask) -> None:
    service.ignores_stop = True
    deferral = deferred_by(lambda: operator(deferrable=True).execute(task.context))
    arguments = deferral.trigger.serialize()[1]
    assert {run["run_id"] for run in arguments["also_stop"]} <= {103, 104}
    service.ignores_stop = False
    stop_runs(worker, [RunRecord.from_json(run) for run in [*arguments["waits"], *arguments["also_stop"]]], 5)
    assert not running(service)


def test_those_that_an_unreadable_record_names_are_stopped_too(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    for _ in range(3):
        service.start(7)
    named = [{"agent_id": 7, "run_id": number} for number in (101, 102, 103)]
    task.store.set(StartSpaceRunsOperator.state_key, {"runs": named, "requested_at": "no time"})
    with pytest.raises(AirflowException, match="3 runs have ended"):
        operator().execute(task.context)
    assert not running(service)
