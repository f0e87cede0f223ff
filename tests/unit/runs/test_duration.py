"""How long a run may take, compared with earlier ones."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from statistics import median
from typing import Any

import pytest

from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.runs.duration import MIN_DURATIONS, find_overdue_time, last_durations
from airflow_provider_sequentum.runs.record import RunRecord
from tests.support.service import START, FakeService, Plan, unauthorized
from tests.support.worker import Worker


def ended_run(**more: Any) -> Run:
    times = {"created": START, "startTime": START, "endTime": START + timedelta(minutes=1)}
    return Run.model_validate({"id": 3, "configId": 7, "status": int(RunStatus.SUCCESS), **times, **more})


def lasting(*minutes: float) -> Iterator[Run]:
    for number, each in enumerate(minutes):
        yield ended_run(id=10 + number, endTime=START + timedelta(minutes=each))


@pytest.mark.parametrize(
    ("listed", "seconds"),
    [
        ([], None),
        ([*lasting(1, 2)], None),
        ([*lasting(1, 2, 90)], 120.0),
        ([*lasting(*[1] * 20, *[50] * 60)], 60.0),
        ([*lasting(1, 2, 90), ended_run(status=int(RunStatus.FAILED), endTime=START)], 120.0),
        ([*lasting(1, 2), ended_run(endTime=None)], None),
        ([*lasting(0, 0, 0, 0, 1, 2)], None),
        ([*lasting(0, 0, 0, 0, 1, 2, 90)], 120.0),
    ],
)
def test_the_usual_duration_is_the_median_of_runs_that_succeeded(listed: list[Run], seconds: float | None) -> None:
    durations = last_durations(listed, run_id=0)
    assert (median(durations) if len(durations) >= MIN_DURATIONS else None) == seconds


def with_history(service: FakeService, *minutes: float) -> None:
    for each in minutes:
        service.plans = [Plan(seconds=60 * each)]
        service.start(by_stranger=True)
        service.clock.sleep(60 * each)
    service.plans = [Plan(seconds=None)]


def test_the_log_says_what_was_decided_and_why(service: FakeService, worker: Worker) -> None:
    service.skew = timedelta(hours=2)
    with_history(service, 1, 2, 3)
    run = service.start()
    service.clock.sleep(100)
    seen = Run.model_validate(run.as_json(worker.now(), service.skew))
    record = RunRecord(agent_id=7, run_id=run.id)
    overdue_at = find_overdue_time(worker, record, seen)
    assert overdue_at == run.created + timedelta(minutes=6)
    [line] = worker.said
    assert line == (
        f"Run {run.id} of agent 7 will be stopped if it takes longer than 6 min 0 s: 3 times the median of 2 min 0 s, "
        "from 3 runs that succeeded."
    )
    asked_at = worker.now()
    restarted = record.restarting(asked_at, None)
    assert find_overdue_time(worker, restarted, seen) == asked_at + timedelta(minutes=6)


@pytest.mark.parametrize("ahead", [timedelta(minutes=5), timedelta(days=1), timedelta(days=300_000)])
def test_a_date_ahead_of_the_service_s_clock_makes_no_run_overdue(
    service: FakeService, worker: Worker, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    """A gateway with a wrong clock may write it."""
    with_history(service, 1, 1, 1)
    asked_at = worker.now()
    run = Run.model_validate(service.start().as_json(worker.now()))
    service.clock.sleep(10)
    exchange = service.exchange
    monkeypatch.setattr(service, "exchange", lambda call: exchange(call)._replace(served_at=service.clock.now + ahead))
    record = RunRecord(agent_id=7, run_id=run.id, requested_at=asked_at)
    assert find_overdue_time(worker, record, run) == asked_at + timedelta(minutes=3)


def test_a_history_that_is_too_short_or_cannot_be_read_stops_nothing(service: FakeService, worker: Worker) -> None:
    with_history(service, 1, 2)
    run = Run.model_validate(service.start().as_json(worker.now()))
    record = RunRecord(agent_id=7, run_id=run.id)
    assert find_overdue_time(worker, record, run) is None
    service.faults["runs"] = [(unauthorized, False)]
    assert find_overdue_time(worker, record, run) is None
    short, unread = worker.warned
    assert "fewer than 3 runs of the agent have succeeded" in short
    assert "the agent's runs could not be listed" in unread
