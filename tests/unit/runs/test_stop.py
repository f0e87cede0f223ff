from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from airflow_provider_sequentum.api import AsyncSequentumClient, ClientSettings, runs
from airflow_provider_sequentum.api.call import Call, Reply
from airflow_provider_sequentum.api.errors import HttpStatusError, SequentumError
from airflow_provider_sequentum.api.run_status import RunStatus, status_name
from airflow_provider_sequentum.jobs import stop as stopping
from airflow_provider_sequentum.jobs.port import NOT_FOUND_TOLERANCE
from airflow_provider_sequentum.jobs.stop import MAX_REQUEST_SECONDS, astop_jobs
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.runs.stop import (
    FIRST_LOOK,
    GRACE_AFTER_KILL,
    POLL_INTERVAL,
    RunStopper,
    stop_run,
    stop_runs,
)
from airflow_provider_sequentum.runs.wait import RESTART_GRACE
from tests.support import service as fakes
from tests.support.service import START, Clock, ErrorOf, FakeService, Plan
from tests.support.worker import Worker

STOP_GRACE = 45.0


def stop(worker: Worker, run_id: int = 101, stop_grace: float = STOP_GRACE, **fields: Any) -> RunStopper:
    return stop_run(worker, RunRecord(agent_id=7, run_id=run_id, **fields), stop_grace)


def status_of(result: RunStopper) -> str | None:
    return None if result.seen is None else status_name(result.seen.status)


@pytest.fixture
def service() -> FakeService:
    service = FakeService(Clock(), plans=[Plan(seconds=None)])
    service.start()
    return service


def elapsed(service: FakeService) -> timedelta:
    return service.clock.now - START


def test_a_run_that_stops_is_not_killed(service: FakeService, worker: Worker) -> None:
    result = stop(worker)
    assert (result.confirmed, status_of(result)) == (True, "Stopped")
    assert result.sentence == "It has been stopped."
    assert (service.count("stop"), service.count("kill")) == (1, 0)


def test_a_run_that_ignores_the_stop_is_killed_after_the_grace(service: FakeService, worker: Worker) -> None:
    service.ignores_stop = True
    assert stop(worker).confirmed
    assert service.count("kill") == 1
    assert timedelta(seconds=STOP_GRACE) <= elapsed(service) < timedelta(seconds=STOP_GRACE) + GRACE_AFTER_KILL
    started, killed, ended = worker.said
    assert all("Run 101 of agent 7" in line for line in worker.said)
    assert "requesting a stop" in started
    assert "has not stopped yet (Stopping)" in killed
    assert "has been stopped" in ended


@pytest.mark.parametrize("stop_grace", [0, 3])
def test_the_grace_can_be_chosen(service: FakeService, worker: Worker, stop_grace: float) -> None:
    service.ignores_stop = True
    assert stop(worker, stop_grace=stop_grace).confirmed
    assert elapsed(service) <= timedelta(seconds=stop_grace) + GRACE_AFTER_KILL + FIRST_LOOK


@pytest.mark.parametrize("error", [fakes.server_error, fakes.not_reached, fakes.unauthorized, fakes.response_lost])
def test_a_stop_that_cannot_be_confirmed_is_logged_with_the_id_and_raises_nothing(
    service: FakeService, worker: Worker, error: ErrorOf
) -> None:
    for verb in ("stop", "kill", "status"):
        service.faults[verb] = [(error, False)] * 200
    result = stop(worker)
    assert (result.confirmed, status_of(result)) == (False, None)
    assert "may be running and costing credits" in result.sentence
    assert "Run 101 of agent 7: The provider could not confirm that it ended" in worker.said[-1]
    assert not any("None" in line for line in worker.said)
    assert sum(str(error(runs.stop(7, 101))) in line for line in worker.warned) >= 3, "each fault is logged"
    assert elapsed(service) < timedelta(seconds=STOP_GRACE) + 3 * GRACE_AFTER_KILL


def test_a_run_that_outlives_everything_is_named_with_its_status(service: FakeService, worker: Worker) -> None:
    for verb in ("stop", "kill"):
        service.faults[verb] = [(fakes.server_error, False)] * 200
    assert status_of(stop(worker)) == "Running"
    assert "last seen: Running" in worker.said[-1]


def test_a_run_that_is_over_is_reported_as_it_is(service: FakeService, worker: Worker) -> None:
    service.runs[101].status = RunStatus.SUCCESS
    result = stop(worker)
    assert (result.confirmed, status_of(result)) == (True, "Success")
    assert result.sentence == "It had already ended with status Success."
    assert elapsed(service) == FIRST_LOOK


def test_lost_looks_are_no_reason_to_kill(service: FakeService, worker: Worker) -> None:
    service.faults["status"] = [(fakes.server_error, False)] * 3
    assert stop(worker).confirmed
    assert service.count("kill") == 0


def test_a_deadline_that_has_passed_does_not_cut_a_stop_short(service: FakeService, worker: Worker) -> None:
    service.ignores_stop = True
    worker.deadline = START + timedelta(seconds=10)
    assert stop(worker).confirmed
    assert worker.deadline == START + timedelta(seconds=10)
    assert service.count("status") < 30


# A request that was accepted is not yet a stop


def test_a_single_404_after_a_stop_is_not_its_end(service: FakeService, worker: Worker) -> None:
    service.faults["stop"] = [(fakes.server_error, False)]
    service.faults["status"] = [(fakes.not_found, False)]
    result = stop(worker)
    assert (result.confirmed, status_of(result)) == (True, "Stopped")
    assert service.runs[101].status is RunStatus.STOPPED


def test_404s_while_the_run_is_stopping_do_not_spare_it_the_kill(service: FakeService, worker: Worker) -> None:
    service.ignores_stop = True
    service.faults["status"] = [None, (fakes.not_found, False), None, (fakes.not_found, False)] * 3
    assert stop(worker).confirmed
    assert (service.count("kill"), service.runs[101].status) == (1, RunStatus.STOPPED)


def test_a_404_that_lasts_is_the_end(service: FakeService, worker: Worker) -> None:
    result = stop(worker, 999)
    assert (result.confirmed, result.seen) == (True, None)
    assert result.sentence == "The service no longer knows it."
    assert worker.said[-1] == "Run 999 of agent 7: The service no longer knows it."
    assert NOT_FOUND_TOLERANCE <= elapsed(service) < NOT_FOUND_TOLERANCE + 2 * POLL_INTERVAL


@pytest.mark.parametrize("stop_grace", [0, 5, 300])
def test_a_404_that_lasts_ends_the_stop_whatever_the_grace(
    service: FakeService, worker: Worker, stop_grace: float
) -> None:
    assert stop(worker, 999, stop_grace).confirmed
    assert elapsed(service) < NOT_FOUND_TOLERANCE + 2 * POLL_INTERVAL


def test_a_404_in_the_middle_of_an_outage_has_to_last_by_itself(service: FakeService, worker: Worker) -> None:
    service.ignores_stop = True
    service.faults["kill"] = [(fakes.server_error, False)] * 20
    service.faults["status"] = [(fakes.not_found, False), (fakes.server_error, False)] * 30
    assert not stop(worker).confirmed


def test_a_stop_that_was_accepted_and_did_nothing_is_repeated(service: FakeService, worker: Worker) -> None:
    real = service._act

    def forgets_the_first(verb: str, call: Call[Any]) -> Any:
        return None if verb == "stop" and service.count("stop") == 1 else real(verb, call)

    service._act = forgets_the_first  # type: ignore[method-assign]
    assert stop(worker).confirmed
    assert (service.count("stop"), service.count("kill")) == (2, 0)


def test_a_stop_that_never_arrived_is_repeated(service: FakeService, worker: Worker) -> None:
    service.faults["stop"] = [(fakes.not_reached, False)] * 3
    assert stop(worker).confirmed
    assert (service.count("stop"), service.count("kill")) == (4, 0)


@pytest.mark.parametrize("error", [fakes.not_reached, fakes.rate_limited])
def test_a_kill_that_never_arrived_is_no_kill(service: FakeService, worker: Worker, error: ErrorOf) -> None:
    # Where the stop was lost, the first kill equals a stop, and it takes a second one to force the end.
    service.ignores_stop = True
    service.faults["stop"] = [(fakes.server_error, False)] * 200
    service.faults["kill"] = [(error, False), (error, False)]
    assert stop(worker).confirmed
    assert service.count("kill") == 4


@pytest.mark.parametrize("acted", [True, False])
@pytest.mark.parametrize("error", [fakes.server_error, fakes.response_lost, fakes.not_reached, fakes.rate_limited])
def test_a_request_that_failed_in_passing_costs_seconds(
    service: FakeService, worker: Worker, error: ErrorOf, acted: bool
) -> None:
    service.ignores_stop = True
    takes_effect = acted and error in (fakes.server_error, fakes.response_lost)
    for verb in ("stop", "kill"):
        service.faults[verb] = [(error, takes_effect)]
    assert stop(worker, stop_grace=10).confirmed
    assert elapsed(service) <= timedelta(seconds=10 + 2 * 3 + 2)


def test_a_service_that_goes_on_failing_is_asked_less_and_less_often(service: FakeService, worker: Worker) -> None:
    for verb in ("stop", "kill"):
        service.faults[verb] = [(fakes.server_error, False)] * 100
    assert not stop(worker, stop_grace=45).confirmed
    assert elapsed(service) == timedelta(seconds=45 + 40)
    assert service.count("stop") + service.count("kill") <= 14


# A Failure that the run was restarted from


@pytest.mark.parametrize("lost", [None, fakes.response_lost, fakes.not_reached])
def test_an_old_failure_shown_after_a_restart_is_not_taken_for_the_end(
    service: FakeService, worker: Worker, lost: ErrorOf | None
) -> None:
    service.runs[101].status = RunStatus.FAILURE
    service.restart(101, lag=40)
    service.faults["stop"] = [(lost, False)] if lost else []
    result = stop(worker, restart_asked_at=START)
    assert (result.confirmed, status_of(result)) == (True, "Stopped")
    assert service.runs[101].status is RunStatus.STOPPED


def test_an_old_failure_is_not_taken_for_the_end_of_a_run_that_could_be_stopped(
    service: FakeService, worker: Worker
) -> None:
    # It is shown for longer than the grace; that the service accepts a stop says that the run is active.
    service.runs[101].status = RunStatus.FAILURE
    service.restart(101, lag=3600)
    service.clock.sleep(600)
    result = stop(worker, restart_asked_at=START)
    assert not result.confirmed
    assert (service.runs[101].status, service.count("stop") > 1) == (RunStatus.STOPPED, True)


def test_a_new_failure_is_the_end_of_a_run_that_could_be_stopped(service: FakeService, worker: Worker) -> None:
    run = service.runs[101]

    def fails_by_itself(call: Call[Any]) -> SequentumError:
        run.status, run.end_time = RunStatus.FAILURE, service.clock.now
        return fakes.response_lost(call)

    service.faults["stop"] = [(fails_by_itself, False)]
    result = stop(worker, restart_asked_at=START, failure_ended_at=START - timedelta(hours=1))
    assert (result.confirmed, status_of(result), elapsed(service)) == (True, "Failure", FIRST_LOOK)


def test_a_failure_that_refuses_the_stop_is_over(service: FakeService, worker: Worker) -> None:
    service.runs[101].status = RunStatus.FAILURE
    result = stop(worker, restart_asked_at=START)
    assert (result.confirmed, status_of(result)) == (True, "Failure")
    assert elapsed(service) == FIRST_LOOK


def test_a_failure_long_after_a_restart_is_over(service: FakeService, worker: Worker) -> None:
    service.runs[101].status = RunStatus.FAILURE
    service.faults["stop"] = [(fakes.server_error, False)]
    service.clock.sleep(RESTART_GRACE.total_seconds())
    assert status_of(stop(worker, restart_asked_at=START)) == "Failure"
    assert elapsed(service) == RESTART_GRACE + FIRST_LOOK


# The answer to another question


@pytest.mark.parametrize("foreign", [{"id": 102}, {"configId": 8}, {"id": 102, "configId": 8}])
def test_the_end_of_another_run_is_not_the_end_of_this_one(
    service: FakeService, worker: Worker, foreign: dict[str, int]
) -> None:
    real = service._act

    def answers_about_another(verb: str, call: Call[Any]) -> Any:
        answer = real(verb, call)
        return {**answer, "status": 8, **foreign} if verb == "status" else answer

    service._act = answers_about_another  # type: ignore[method-assign]
    result = stop(worker)
    assert (result.confirmed, result.seen) == (False, None)
    assert {call.path.split("/")[4] for _, call, _ in worker.sent} == {"101"}


# Many runs: all are asked before any is watched


def refusing(text: str) -> ErrorOf:
    return lambda call: HttpStatusError(text, purpose=call.purpose, request=call.request, status_code=409)


OVER = ["Run 101 is over.", "Conflict: The run has already finished", "already stopped", "Run is not running"]
NOT_OVER = [
    "Run 101 is not over yet.",
    "Not in this state.",
    "The export has not ended.",
    "Cannot stop while exporting",
]


@pytest.mark.parametrize("text", OVER)
@pytest.mark.parametrize("status", [fakes.unauthorized, fakes.bad_request])
def test_where_the_status_is_refused_a_stop_refused_because_it_is_over_confirms_the_end(
    service: FakeService, worker: Worker, text: str, status: ErrorOf
) -> None:
    service.faults["status"] = [(status, False)] * 200
    service.faults["stop"] = [None, *[(refusing(text), False)] * 200]
    result = stop(worker)
    assert (result.confirmed, service.count("kill")) == (True, 0)
    assert result.sentence == "The service does not show it, but states that it is over."
    assert elapsed(service) < timedelta(seconds=STOP_GRACE)


def test_a_kill_refused_because_it_is_over_confirms_the_end_too(service: FakeService, worker: Worker) -> None:
    service.faults["status"] = [(fakes.unauthorized, False)] * 200
    service.faults["kill"] = [(refusing(OVER[0]), False)]
    assert stop(worker, stop_grace=0).confirmed


@pytest.mark.parametrize("text", NOT_OVER)
def test_a_refusal_that_says_something_else_confirms_nothing(service: FakeService, worker: Worker, text: str) -> None:
    service.faults["status"] = [(fakes.unauthorized, False)] * 200
    for verb in ("stop", "kill"):
        service.faults[verb] = [(refusing(text), False)] * 200
    assert not stop(worker).confirmed


@pytest.mark.parametrize("look", [None, fakes.server_error, fakes.response_lost])
def test_where_the_status_can_be_read_it_decides(service: FakeService, worker: Worker, look: ErrorOf | None) -> None:
    service.faults["status"] = [(look, False)] * 3 if look else []
    service.faults["stop"] = [(refusing(OVER[0]), False)]
    result = stop(worker)
    assert (result.confirmed, status_of(result), result.is_hidden) == (True, "Stopped", False)
    assert service.runs[101].is_over


@pytest.mark.parametrize("times", [5, 25])
def test_the_time_to_end_begins_when_the_stop_is_no_longer_refused_by_the_rate_limit(
    service: FakeService, worker: Worker, times: int
) -> None:
    service.faults["stop"] = [(fakes.rate_limited, False)] * times
    assert stop(worker).confirmed
    assert service.runs[101].status is RunStatus.STOPPED
    assert (service.count("stop"), service.count("kill")) == (times + 1, 0)


def many(service: FakeService, number: int = 20) -> list[RunRecord]:
    return [RunRecord(agent_id=7, run_id=service.start().id) for _ in range(number)]


def verbs(worker: Worker) -> list[str]:
    return [call.path.rsplit("/", 1)[-1] for _, call, _ in worker.sent]


@pytest.mark.parametrize("error", [None, fakes.not_reached, fakes.server_error, fakes.unauthorized])
def test_all_are_asked_before_any_is_watched(service: FakeService, worker: Worker, error: ErrorOf | None) -> None:
    records = many(service)
    service.faults["stop"] = [(error, False)] * 20 if error else []
    results = stop_runs(worker, records, STOP_GRACE)
    assert verbs(worker)[:20] == ["stop"] * 20
    assert len({call.path for _, call, _ in worker.sent[:20]}) == 20
    assert all(result.confirmed for result in results)
    assert [result.seen and result.seen.id for result in results] == [record.run_id for record in records]


def test_each_is_stopped_once_and_killed_only_if_it_has_to_be(service: FakeService, worker: Worker) -> None:
    records = many(service, 3)
    service.runs[102].status = RunStatus.SUCCESS
    results = stop_runs(worker, records, STOP_GRACE)
    assert [status_of(result) for result in results] == ["Success", "Stopped", "Stopped"]
    assert (service.count("stop"), service.count("kill")) == (3, 0)


def test_what_became_of_one_run_does_not_depend_on_how_long_another_takes(service: FakeService, worker: Worker) -> None:
    records = many(service, 2)
    service.runs[102].status = RunStatus.SUCCESS
    service.ignores_stop = True
    service.faults["kill"] = [(fakes.server_error, False)] * 50
    assert [result.confirmed for result in stop_runs(worker, records, STOP_GRACE)] == [True, False]


class Slow(Worker):
    """Each request takes as long as it may, and never arrives."""

    def exchange(self, call: Call[Any], *, budget_share: float = 1.0, within: float | None = None) -> Reply[Any]:
        assert within is not None
        self.sent.append((self.now(), call, budget_share))
        self.service.clock.sleep(within)
        raise fakes.not_reached(call)


def test_twenty_runs_take_little_longer_than_one_where_the_service_is_down(service: FakeService) -> None:
    records = many(service)
    stop_runs(Slow(service), records[:1], STOP_GRACE)
    alone = elapsed(service)
    start = service.clock.now
    assert not any(result.confirmed for result in stop_runs(Slow(service), records, STOP_GRACE))
    assert service.clock.now - start < alone + timedelta(seconds=20 * MAX_REQUEST_SECONDS)


# In a triggerer


async def test_many_runs_are_all_stopped_although_the_limit_of_the_key_is_used_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user marks a DAG run whose mapped tasks are deferred: the trigger of each stops its run, all with one key."""
    monkeypatch.setattr("airflow_provider_sequentum.jobs.stop.MAX_REQUEST_SECONDS", 0.2)
    monkeypatch.setattr("airflow_provider_sequentum.runs.stop.GRACE_AFTER_KILL", timedelta(seconds=0.3))
    stopped: list[str] = []

    def serve(request: httpx.Request) -> httpx.Response:
        run_id, verb = request.url.path.split("/")[-2:]
        limit = {"X-RateLimit-Limit": "5", "X-RateLimit-Window-Seconds": "1"}
        if request.method == "POST":
            assert verb == "stop"
            stopped.append(run_id)
            return httpx.Response(200, headers=limit)
        status = 8 if run_id in stopped else 1
        return httpx.Response(200, headers=limit, json={"id": int(run_id), "configId": 7, "status": status})

    settings = ClientSettings(api_key=f"sk-{time.monotonic_ns()}", base_url="https://sequentum.example")

    async def stop_one(stopper: RunStopper) -> None:
        async with AsyncSequentumClient(settings, transport=httpx.MockTransport(serve)) as client:
            await astop_jobs(client, [stopper])

    first, *others = [RunStopper(RunRecord(agent_id=7, run_id=number), 2.0) for number in range(1, 16)]
    await stop_one(first)  # its responses state the limit
    await asyncio.gather(*map(stop_one, others))
    assert len(stopped) == 15
    assert all(stopper.confirmed for stopper in others)


@pytest.mark.parametrize("ignores_stop", [False, True])
def test_a_triggerer_does_the_same_as_a_worker(monkeypatch: pytest.MonkeyPatch, ignores_stop: bool) -> None:
    requests = []
    for is_triggerer in (False, True):
        service = FakeService(Clock(), plans=[Plan(seconds=None)], ignores_stop=ignores_stop)
        records = many(service, 3)
        if not is_triggerer:
            stop_runs(Worker(service), records, STOP_GRACE)
        else:

            async def send(call: Call[Any], *, within: float, service: FakeService = service) -> Any:
                return service.answer(call)

            async def sleep(seconds: float, service: FakeService = service) -> None:
                service.clock.sleep(seconds)

            monkeypatch.setattr(stopping, "steady_clock", lambda service=service: lambda: service.clock.now)
            monkeypatch.setattr(asyncio, "sleep", sleep)
            client: Any = SimpleNamespace(send=send)
            stoppers = [RunStopper(record, STOP_GRACE) for record in records]
            asyncio.run(stopping.astop_jobs(client, stoppers))
            assert all(stopper.confirmed for stopper in stoppers)
        requests.append(service.requests)
    assert requests[0] == requests[1]
