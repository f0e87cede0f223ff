from __future__ import annotations

from datetime import timedelta

import pytest
from airflow_provider_sequentum.lifecycle.run_wait import RunWaitTerms, WaitOutcome
from airflow_provider_sequentum.lifecycle.tolerance import WAITING_SHARE

from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import SequentumError, Unauthorized
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.lifecycle.space_wait import WaitResult, wait_for_ends
from tests.support import service as fakes
from tests.support.service import START, Clock, FakeService, Plan
from tests.support.worker import Worker

AGENT_OF = {101: 7, 102: 8, 103: 9}


@pytest.fixture
def service() -> FakeService:
    return FakeService(Clock(), agents={7: "Prices", 8: "Stock", 9: "Reviews"})


def start(service: FakeService, *plans: Plan) -> None:
    """Start one run after each plan: 101, 102, ..."""
    service.plans = [*plans, Plan()]
    for agent_id, _ in zip(AGENT_OF.values(), plans, strict=False):
        service.start(agent_id)


def terms(run_id: int, *, poll_interval: float | None = 30, deadline: float | None = None) -> RunWaitTerms:
    moment = None if deadline is None else START + timedelta(seconds=deadline)
    return RunWaitTerms(agent_id=AGENT_OF[run_id], run_id=run_id, poll_interval=poll_interval, deadline=moment)


def ending(result: WaitResult) -> tuple[WaitOutcome, int | None, object]:
    """Return a wait's outcome, and the run's id and status as they were read last."""
    assert not isinstance(result, SequentumError)
    outcome, run = result
    return (outcome, None, None) if run is None else (outcome, run.id, run.status)


def looks(worker: Worker) -> list[tuple[float, int]]:
    """Return after how many seconds which run was looked at."""
    return [
        ((moment - START).total_seconds(), int(step.call.path.rsplit("/", 2)[-2]))
        for moment, step in worker.sent
        if step.call.path.endswith("/status")
    ]


def test_each_run_is_waited_for_and_the_results_come_in_the_order_of_the_terms(
    service: FakeService, worker: Worker
) -> None:
    start(service, Plan(seconds=100), Plan(RunStatus.FAILURE, seconds=10), Plan(RunStatus.STOPPED, seconds=300))
    results = worker.perform(wait_for_ends([terms(103), terms(101), terms(102)]))
    assert [ending(result) for result in results] == [
        (WaitOutcome.ENDED, 103, RunStatus.STOPPED),
        (WaitOutcome.ENDED, 101, RunStatus.SUCCESS),
        (WaitOutcome.ENDED, 102, RunStatus.FAILURE),
    ]


def test_nothing_to_wait_for_asks_nothing(service: FakeService, worker: Worker) -> None:
    assert worker.perform(wait_for_ends([])) == []
    assert (service.requests, service.clock.now) == ([], START)


def test_runs_that_are_over_are_looked_at_at_once_and_once(service: FakeService, worker: Worker) -> None:
    start(service, Plan(seconds=0), Plan(seconds=0))
    worker.perform(wait_for_ends([terms(102), terms(101)]))
    assert looks(worker) == [(0, 102), (0, 101)]
    assert service.clock.now == START


def test_each_run_is_looked_at_in_its_own_rhythm(service: FakeService, worker: Worker) -> None:
    start(service, Plan(seconds=60), Plan(seconds=60))
    worker.perform(wait_for_ends([terms(101, poll_interval=40), terms(102, poll_interval=25)]))
    assert looks(worker) == [(0, 101), (0, 102), (25, 102), (40, 101), (50, 102), (75, 102), (80, 101)]


def test_looks_that_are_due_together_come_in_the_order_of_the_terms(service: FakeService, worker: Worker) -> None:
    start(service, Plan(seconds=30), Plan(seconds=30))
    worker.perform(wait_for_ends([terms(102), terms(101)]))
    assert looks(worker) == [(0, 102), (0, 101), (30, 102), (30, 101)]


def test_a_slow_answer_about_one_run_puts_the_others_off_and_drops_none(service: FakeService, worker: Worker) -> None:
    def slow_error(call: Call[object]) -> SequentumError:
        service.clock.sleep(100)
        return fakes.server_error(call)

    start(service, Plan(seconds=200), Plan(seconds=20))
    service.faults["status"] = [None, None, (slow_error, False)]
    results = worker.perform(wait_for_ends([terms(101), terms(102)]))
    assert [ending(result)[0] for result in results] == [WaitOutcome.ENDED] * 2
    assert looks(worker) == [(0, 101), (0, 102), (30, 101), (130, 102), (160, 101), (190, 101), (220, 101)]


def test_each_run_has_its_own_deadline(service: FakeService, worker: Worker) -> None:
    start(service, Plan(seconds=None), Plan(seconds=500), Plan(seconds=None))
    results = worker.perform(wait_for_ends([terms(101, deadline=100), terms(102), terms(103, deadline=0)]))
    assert [ending(result) for result in results] == [
        (WaitOutcome.DEADLINE, 101, RunStatus.RUNNING),
        (WaitOutcome.ENDED, 102, RunStatus.SUCCESS),
        (WaitOutcome.DEADLINE, 103, RunStatus.RUNNING),
    ]
    assert [moment for moment, run_id in looks(worker) if run_id != 102] == [0, 0, 30, 60, 90, 100]


def test_a_deadline_that_passes_before_anything_was_read_leaves_no_record(service: FakeService, worker: Worker) -> None:
    start(service, Plan(seconds=None))
    service.faults["status"] = [(fakes.server_error, False)] * 10
    [result] = worker.perform(wait_for_ends([terms(101, deadline=60)]))
    assert ending(result) == (WaitOutcome.DEADLINE, None, None)


def test_a_run_that_cannot_be_looked_at_ends_its_own_wait_only(service: FakeService, worker: Worker) -> None:
    start(service, Plan(seconds=60), Plan(seconds=60))
    service.faults["status"] = [(fakes.unauthorized, False)]
    error, other = worker.perform(wait_for_ends([terms(101), terms(102)]))
    assert isinstance(error, Unauthorized)
    assert ending(other) == (WaitOutcome.ENDED, 102, RunStatus.SUCCESS)
    assert [run_id for _, run_id in looks(worker)] == [101, 102, 102, 102]


def test_a_fault_that_passes_is_said_with_the_run_and_borne(service: FakeService, worker: Worker) -> None:
    start(service, Plan(seconds=60), Plan(seconds=60))
    service.faults["status"] = [None, (fakes.server_error, False)]
    results = worker.perform(wait_for_ends([terms(101), terms(102)]))
    assert [ending(result)[1:] for result in results] == [(101, RunStatus.SUCCESS), (102, RunStatus.SUCCESS)]
    [warning] = worker.warned
    assert "run 102" in warning


def test_waits_leave_room_in_the_budget_for_who_starts(service: FakeService, worker: Worker) -> None:
    start(service, Plan(seconds=60), Plan(seconds=60))
    worker.perform(wait_for_ends([terms(101), terms(102)]))
    assert {step.budget_share for _, step in worker.sent} == {WAITING_SHARE}
