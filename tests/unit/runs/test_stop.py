from __future__ import annotations

import pytest

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.runs.stop import KILL_GRACE, STOP_GRACE, stop_run
from airflow_provider_sequentum.jobs.port import RESTART_GRACE
from tests.support import service as fakes
from tests.support.service import START, Clock, ErrorOf, FakeService, Plan
from tests.support.worker import Worker


@pytest.fixture
def service() -> FakeService:
    service = FakeService(Clock(), plans=[Plan(seconds=None)])
    service.start()
    return service


def elapsed(service: FakeService) -> float:
    return (service.clock.now - START).total_seconds()


def test_a_run_that_stops_is_not_killed(service: FakeService, worker: Worker) -> None:
    result = stop_run(worker, 7, 101))
    assert (result.confirmed, result.status) == (True, "Stopped")
    assert (service.count("stop"), service.count("kill")) == (1, 0)


def test_a_run_that_ignores_the_stop_is_killed_after_the_grace(service: FakeService, worker: Worker) -> None:
    service.ignores_stop = True
    result = stop_run(worker, 7, 101))
    assert result.confirmed
    assert service.count("kill") == 1
    assert STOP_GRACE <= elapsed(service) < STOP_GRACE + KILL_GRACE
    begun, killed, ended = worker.said
    assert all("Run 101 of agent 7" in line for line in worker.said)
    assert "being stopped" in begun
    assert "is still Stopping" in killed
    assert "has ended: Stopped" in ended


def test_the_grace_can_be_chosen(service: FakeService, worker: Worker) -> None:
    service.ignores_stop = True
    stop_run(worker, 7, 101, stop_grace=3))
    assert elapsed(service) == 3


def test_a_lost_stop_is_followed_by_two_kills(service: FakeService, worker: Worker) -> None:
    # A first kill equals a stop: where the stop never arrived, it takes a second one to force the end.
    service.ignores_stop = True
    service.faults["stop"] = [(fakes.not_reached, False)]
    assert stop_run(worker, 7, 101)).confirmed
    assert service.count("kill") == 2


@pytest.mark.parametrize("error", [fakes.server_error, fakes.not_reached, fakes.unauthorized, fakes.answer_lost])
def test_a_stop_that_cannot_be_confirmed_is_said_with_the_id_and_raises_nothing(
    service: FakeService, worker: Worker, error: ErrorOf
) -> None:
    for verb in ("stop", "kill", "status"):
        service.faults[verb] = [(error, False)] * 200
    result = stop_run(worker, 7, 101))
    assert (result.confirmed, result.status) == (False, None)
    assert "Run 101 of agent 7 could not be confirmed to have stopped" in worker.said[-1]
    assert not any("None" in line for line in worker.said)
    assert sum(str(error(runs.stop(7, 101))) in line for line in worker.said) > 3, "each fault is told"
    assert elapsed(service) < STOP_GRACE + 3 * KILL_GRACE


def test_a_run_that_outlives_everything_is_named_with_its_status(service: FakeService, worker: Worker) -> None:
    for verb in ("stop", "kill"):
        service.faults[verb] = [(fakes.server_error, False)] * 10
    assert stop_run(worker, 7, 101)).status == "Running"
    assert "last seen: Running" in worker.said[-1]


def test_a_run_the_service_does_not_know_needs_no_stop(service: FakeService, worker: Worker) -> None:
    result = stop_run(worker, 7, 999))
    assert result.confirmed
    assert result.sentence == "The service no longer knows it."
    assert worker.said[-1].startswith("Run 999 of agent 7 has ended: the service no longer knows it")
    assert elapsed(service) == 0


def test_a_run_that_is_over_is_told_as_it_is(service: FakeService, worker: Worker) -> None:
    service.runs[101].status = RunStatus.SUCCESS
    result = stop_run(worker, 7, 101))
    assert (result.confirmed, result.status) == (True, "Success")
    assert elapsed(service) == 0


def test_one_lost_look_is_no_reason_to_kill(service: FakeService, worker: Worker) -> None:
    service.faults["status"] = [(fakes.server_error, False)] * 3
    assert stop_run(worker, 7, 101)).confirmed
    assert service.count("kill") == 0


@pytest.mark.parametrize("lost", [None, fakes.answer_lost, fakes.not_reached])
def test_an_old_failure_shown_after_a_restart_is_not_taken_for_the_end(
    service: FakeService, worker: Worker, lost: ErrorOf | None
) -> None:
    service.runs[101].status = RunStatus.FAILURE
    service.restart(101, lag=40)
    service.faults["stop"] = [(lost, False)] if lost else []
    result = stop_run(worker, 7, 101, restart_asked_at=START))
    assert (result.confirmed, result.status) == (True, "Stopped")
    assert service.runs[101].status is RunStatus.STOPPED


def test_a_failure_that_refuses_the_stop_is_over(service: FakeService, worker: Worker) -> None:
    service.runs[101].status = RunStatus.FAILURE
    result = stop_run(worker, 7, 101, restart_asked_at=START))
    assert (result.confirmed, result.status) == (True, "Failure")
    assert elapsed(service) == 0


def test_a_failure_long_after_a_restart_is_over(service: FakeService, worker: Worker) -> None:
    service.runs[101].status = RunStatus.FAILURE
    service.faults["stop"] = [(fakes.server_error, False)]
    service.clock.sleep(RESTART_GRACE.total_seconds())
    assert stop_run(worker, 7, 101, restart_asked_at=START)).status == "Failure"
    assert elapsed(service) == RESTART_GRACE.total_seconds()
