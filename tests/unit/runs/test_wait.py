from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.errors import SequentumError, UnexpectedResponse
from airflow_provider_sequentum.api.run_status import RunStatus, parse_run_status, status_name
from airflow_provider_sequentum.api.runs import Run, status
from airflow_provider_sequentum.jobs.port import FAULT_TOLERANCE, NOT_FOUND_TOLERANCE
from airflow_provider_sequentum.runs.phases import Phase, phase_of_status
from airflow_provider_sequentum.runs.wait import (
    NOT_YET_FOUND_INTERVAL,
    RESTART_GRACE,
    PollOutcome,
    PollResult,
    RunPoller,
    WaitSpec,
    poll,
    poll_until_known,
    wait_for_runs,
)
from tests.support import service as fakes
from tests.support.errors import raises, status_of
from tests.support.service import START, Clock, ErrorOf, FakeService, Plan
from tests.support.worker import Worker

SPEC = WaitSpec(agent_id=7, run_id=101, poll_interval=30)
STATUSES: list[int | str] = [*range(14), 14, 99, -1, "Paused"]
CALL = status(7, 101)


def wait_for(worker: Worker, spec: WaitSpec) -> tuple[PollOutcome | SequentumError, Run | None]:
    [result] = wait_for_runs(worker, [spec])
    return result


def run(code: int | str, **fields: Any) -> Run:
    return Run.model_validate({"id": 101, "configId": 7, "status": code, **fields})


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


# Every status times every kind of wait


@pytest.mark.parametrize(
    ("code", "wait_for_restart", "failure_pause", "table_type", "late"),
    list(product(STATUSES, [False, True], [0.0, 60.0], ["run", "history", None], [False, True])),
)
def test_what_one_observation_means(
    code: int | str, wait_for_restart: bool, failure_pause: float, table_type: str | None, late: bool
) -> None:
    spec = SPEC.updated(wait_for_restart=wait_for_restart, failure_pause=failure_pause, deadline=START + seconds(100))
    result = RunPoller(spec).observe(run(code, tableType=table_type), START + seconds(100 if late else 0))
    phase = phase_of_status(parse_run_status(code), table_type)
    ended = phase.is_over and not (phase is Phase.RESTARTABLE and (wait_for_restart or failure_pause))
    if ended:
        assert result.outcome is PollOutcome.ENDED  # even when the deadline has passed as well
    else:
        assert result.outcome is (PollOutcome.DEADLINE if late else None)


@pytest.mark.parametrize("code", [0, 13, 99, "Paused"])
def test_an_unknown_status_warns_once_and_waits_on(code: int | str) -> None:
    poller = RunPoller(SPEC)
    first, second = poller.observe(run(code), START), poller.observe(run(code), START + seconds(30))
    assert (first.outcome, first.level, second.outcome) == (None, logging.WARNING, None)
    assert f"has the status {status_name(code)!r}, which this version does not know" in str(first.message)
    assert second.level != logging.WARNING
    assert poller.observe(run(10), START + seconds(60)).outcome is PollOutcome.ENDED


@given(st.lists(st.sampled_from(STATUSES), max_size=30), st.sampled_from(STATUSES))
def test_a_wait_ends_with_an_end_and_with_nothing_else(seen: list[int | str], last: int | str) -> None:
    poller, now = RunPoller(SPEC), START
    for code in seen:
        now += seconds(30)
        result = poller.observe(run(code), now)
        assert (result.outcome is PollOutcome.ENDED) is phase_of_status(parse_run_status(code)).is_over
        if result.outcome is not None:
            return
    assert poller.observe(run(last), now).outcome is (
        PollOutcome.ENDED if phase_of_status(parse_run_status(last)).is_over else None
    )


# After a restart in place


ASKED = START + seconds(600)
OLD_END = START + seconds(500)
RESTARTED = SPEC.updated(restart_asked_at=ASKED, failure_ended_at=OLD_END)


@pytest.mark.parametrize("end_time", [OLD_END.isoformat(), None])
def test_the_old_failure_is_no_new_ending_until_the_grace_has_passed(end_time: str | None) -> None:
    poller, stale = RunPoller(RESTARTED), run(6, endTime=end_time)
    assert poller.observe(stale, ASKED).outcome is None
    assert poller.observe(stale, ASKED + RESTART_GRACE - seconds(1)).outcome is None
    assert poller.observe(stale, ASKED + RESTART_GRACE).outcome is PollOutcome.ENDED


def test_a_failure_with_a_new_end_time_is_a_new_ending_at_once() -> None:
    assert RunPoller(RESTARTED).observe(run(6, endTime=ASKED.isoformat()), ASKED).outcome is PollOutcome.ENDED


def test_a_failure_after_the_run_was_seen_running_is_a_new_ending() -> None:
    poller = RunPoller(RESTARTED)
    assert poller.observe(run(1), ASKED + seconds(1)).outcome is None
    assert poller.observe(run(6), ASKED + seconds(2)).outcome is PollOutcome.ENDED


def test_a_wait_that_is_resumed_elsewhere_still_knows_the_old_failure() -> None:
    again = RunPoller(WaitSpec.from_json(RESTARTED.to_json()))
    assert again.observe(run(6, endTime=OLD_END.isoformat()), ASKED + seconds(5)).outcome is None


@pytest.mark.parametrize("code", [7, 8, 9, 10, 11])
def test_every_other_end_counts_at_once_after_a_restart(code: int) -> None:
    assert RunPoller(RESTARTED).observe(run(code), ASKED).outcome is PollOutcome.ENDED


# The pause before a restart


def test_a_failure_has_to_stand_for_the_pause() -> None:
    poller = RunPoller(SPEC.updated(failure_pause=60))
    assert poller.observe(run(6), START).outcome is None
    assert poller.observe(run(6), START + seconds(59)).outcome is None
    assert poller.observe(run(6), START + seconds(60)).outcome is PollOutcome.ENDED


def test_a_run_that_leaves_failure_in_the_pause_is_waited_for_again() -> None:
    poller = RunPoller(SPEC.updated(failure_pause=60))
    poller.observe(run(6), START)
    assert poller.observe(run(1), START + seconds(30)).outcome is None
    assert poller.observe(run(6), START + seconds(61)).outcome is None
    assert poller.observe(run(6), START + seconds(121)).outcome is PollOutcome.ENDED


def test_a_failure_that_is_archived_in_the_pause_is_over() -> None:
    poller = RunPoller(SPEC.updated(failure_pause=60))
    poller.observe(run(6), START)
    assert poller.observe(run(7), START + seconds(1)).outcome is PollOutcome.ENDED


# Faults


PASSING = [fakes.server_error, fakes.response_lost, fakes.not_reached]
LASTING = [fakes.unauthorized, fakes.bad_request, fakes.conflict, fakes.method_not_allowed]


@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize("tolerate_outages", [False, True])
def test_a_passing_fault_is_tolerated_for_a_while(error: ErrorOf, tolerate_outages: bool) -> None:
    poller = RunPoller(SPEC.updated(tolerate_outages=tolerate_outages))
    assert poller.failed(error(CALL), START).level == logging.WARNING
    assert poller.failed(error(CALL), START + seconds(1)).message is None
    still = poller.failed(error(CALL), START + FAULT_TOLERANCE - seconds(1))
    assert (still.outcome, "for 9 min 59 s; trying again" in (still.message or "")) == (None, True)
    if tolerate_outages:
        assert poller.failed(error(CALL), START + FAULT_TOLERANCE * 100).outcome is None
    else:
        with pytest.raises(SequentumError):
            poller.failed(error(CALL), START + FAULT_TOLERANCE)


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        (SPEC, "run 101 of agent 7"),
        (WaitSpec(agent_id=7, since=START), f"a run of agent 7 created at {START} or later"),
    ],
)
def test_a_passing_fault_names_what_is_waited_for(spec: WaitSpec, what: str) -> None:
    error = fakes.server_error(CALL)
    message = RunPoller(spec).failed(error, START).message
    assert message is not None
    assert f"check {what};" in message
    assert str(error) in message


@pytest.mark.parametrize("error", PASSING)
def test_an_answer_in_between_renews_the_patience(error: ErrorOf) -> None:
    poller = RunPoller(SPEC)
    poller.failed(error(CALL), START)
    back = poller.observe(run(1), START + FAULT_TOLERANCE - seconds(1)).message or ""
    assert back.startswith("The checks of run 101 of agent 7 succeed again, after 9 min 59 s. Run 101")
    assert poller.failed(error(CALL), START + FAULT_TOLERANCE).outcome is None


@pytest.mark.parametrize("tolerate_outages", [False, True])
def test_a_key_that_is_busy_is_no_fault_however_long(tolerate_outages: bool) -> None:
    poller = RunPoller(SPEC.updated(tolerate_outages=tolerate_outages))
    assert poller.failed(fakes.rate_limited(CALL), START) == PollResult()
    assert poller.failed(fakes.rate_limited(CALL), START + FAULT_TOLERANCE * 100) == PollResult()
    # Nor is it counted as one, when there is a fault later.
    assert poller.failed(fakes.server_error(CALL), START + FAULT_TOLERANCE * 101).outcome is None


@pytest.mark.parametrize("error", LASTING)
@pytest.mark.parametrize("tolerate_outages", [False, True])
def test_a_fault_that_cannot_pass_is_raised_at_once(error: ErrorOf, tolerate_outages: bool) -> None:
    with pytest.raises(SequentumError):
        RunPoller(SPEC.updated(tolerate_outages=tolerate_outages)).failed(error(CALL), START)


@pytest.mark.parametrize("tolerate_outages", [False, True])
def test_a_run_that_is_not_known_is_waited_for_a_minute(tolerate_outages: bool) -> None:
    poller = RunPoller(SPEC.updated(tolerate_outages=tolerate_outages))
    assert poller.failed(fakes.not_found(CALL), START).outcome is None
    assert poller.failed(fakes.not_found(CALL), START + NOT_FOUND_TOLERANCE - seconds(1)).outcome is None
    with raises(404):
        poller.failed(fakes.not_found(CALL), START + NOT_FOUND_TOLERANCE)


def test_a_404_during_an_outage_has_to_last_by_itself() -> None:
    poller = RunPoller(SPEC)
    poller.failed(fakes.server_error(CALL), START)
    assert poller.failed(fakes.not_found(CALL), START + seconds(300)).outcome is None
    poller.failed(fakes.server_error(CALL), START + seconds(350))
    assert poller.failed(fakes.not_found(CALL), START + seconds(400)).outcome is None
    with raises(404):
        poller.failed(fakes.not_found(CALL), START + seconds(400) + NOT_FOUND_TOLERANCE)


@pytest.mark.parametrize("error", [*PASSING, *LASTING, fakes.not_found, fakes.rate_limited])
def test_a_fault_at_the_deadline_is_the_deadline(error: ErrorOf) -> None:
    poller = RunPoller(SPEC.updated(deadline=START))
    assert poller.failed(error(CALL), START).outcome is PollOutcome.DEADLINE


# The whole wait


@pytest.mark.parametrize("outcome", [RunStatus.SUCCESS, RunStatus.COMPLETED, RunStatus.FAILURE, RunStatus.STOPPED])
def test_a_wait_returns_the_runs_last_record(outcome: RunStatus) -> None:
    service = FakeService(Clock(), plans=[Plan(outcome, seconds=100)])
    service.start()
    ended, record = wait_for(Worker(service), SPEC)
    assert ended is PollOutcome.ENDED
    assert record is not None
    assert record.status is outcome
    assert seconds(100) <= service.clock.now - START <= seconds(130)


def test_a_wait_gives_up_at_its_deadline_and_not_later() -> None:
    service = FakeService(Clock(), plans=[Plan(seconds=None)])
    service.start()
    spec = SPEC.updated(deadline=START + seconds(75))
    assert wait_for(Worker(service), spec)[0] is PollOutcome.DEADLINE
    assert service.clock.now == START + seconds(75)


def test_a_wait_outlives_an_outage() -> None:
    service = FakeService(Clock())
    service.start()
    service.faults["status"] = [(fakes.server_error, False)] * 15
    assert wait_for(Worker(service), SPEC)[0] is PollOutcome.ENDED


def test_a_wait_for_the_next_run_finds_it_and_stays_with_it() -> None:
    service = FakeService(Clock(), plans=[Plan(seconds=400)])
    service.start(by_stranger=True)
    service.clock.sleep(10)
    spec = WaitSpec(agent_id=7, since=service.clock.now, poll_interval=30, deadline=START + seconds(1000))
    worker = Worker(service)
    service.faults["runs"] = [(fakes.server_error, False)]
    service.clock.sleep(10)
    mine = service.start(by_stranger=True)
    service.clock.sleep(10)
    service.start(by_stranger=True)
    outcome, record = wait_for(worker, spec)
    assert outcome is PollOutcome.ENDED
    assert record is not None
    assert record.id == mine.id


def test_a_wait_for_a_run_that_never_comes_ends_at_the_deadline_without_a_record() -> None:
    service = FakeService(Clock())
    spec = WaitSpec(agent_id=7, since=START, poll_interval=30, deadline=START + seconds(100))
    assert wait_for(Worker(service), spec) == (PollOutcome.DEADLINE, None)


def test_a_wait_for_the_next_run_of_an_unknown_agent_fails_at_once() -> None:
    service = FakeService(Clock())
    outcome, _ = wait_for(Worker(service), WaitSpec(agent_id=999, since=START, poll_interval=30))
    assert status_of(outcome) == 404


def test_the_person_watching_reads_changes_at_once_and_the_rest_ever_more_rarely() -> None:
    service = FakeService(Clock(), plans=[Plan(seconds=3600)])
    service.start()
    worker = Worker(service)
    wait_for(worker, SPEC.updated(poll_interval=5))
    assert 5 <= len(worker.said) <= 15
    assert worker.said[0].startswith("Run 101 of agent 7: Running, 1 page, 0 records")


# How long who waits alone pauses


def test_a_poll_interval_is_kept_to_whatever_the_runs_age() -> None:
    poller = RunPoller(SPEC)
    assert poller.pause(START) == 30
    poller.observe(run(1, startTime=START.isoformat()), START + seconds(36_000), START + seconds(36_000))
    assert poller.pause(START + seconds(36_000)) == 30


@pytest.mark.parametrize(("age", "low", "high"), [(0, 5, 10), (300, 25, 35), (36_000, 60, 60)])
@pytest.mark.parametrize("skew", [timedelta(0), timedelta(days=1), timedelta(days=-1)])
def test_without_a_poll_interval_the_pause_grows_with_the_runs_age(
    age: float, low: float, high: float, skew: timedelta
) -> None:
    poller = RunPoller(SPEC.updated(poll_interval=None))
    assert 5 <= poller.pause(START) <= 10  # nothing is known of the run yet
    poller.observe(run(1, startTime=(START + skew).isoformat()), START + seconds(age), START + seconds(age) + skew)
    assert low <= poller.pause(START + seconds(age)) <= high


def test_a_pause_never_lies_beyond_the_deadline_or_the_time_a_failure_has_to_stand() -> None:
    poller = RunPoller(SPEC.updated(poll_interval=None, deadline=START + seconds(100), failure_pause=20.0))
    poller.observe(run(1, startTime=(START - seconds(9000)).isoformat()), START + seconds(90), START + seconds(90))
    assert poller.pause(START + seconds(90)) == 10
    poller.observe(run(6), START + seconds(50))
    assert poller.pause(START + seconds(65)) == 5
    assert poller.pause(START + seconds(200)) == 0


# A spec travels through a trigger


times = st.none() | st.datetimes(timezones=st.just(UTC), min_value=datetime(2000, 1, 1))  # noqa: DTZ001


@given(
    st.builds(
        WaitSpec,
        agent_id=st.integers(1),
        run_id=st.none() | st.integers(1),
        since=times,
        poll_interval=st.none() | st.floats(0.1, 1e6),
        deadline=times,
        failure_pause=st.floats(0, 1e6),
        wait_for_restart=st.booleans(),
        tolerate_outages=st.booleans(),
        restart_asked_at=times,
        failure_ended_at=times,
    )
)
def test_a_spec_outlives_json(spec: WaitSpec) -> None:
    assert WaitSpec.from_json(spec.to_json()) == spec


# One look


def test_what_is_wrong_is_logged_as_a_warning_and_how_far_the_run_is_as_information(
    service: FakeService, worker: Worker
) -> None:
    service.start()
    service.faults["status"] = [(fakes.server_error, False)]
    poller = RunPoller(SPEC)
    poll(worker, poller)
    [warning] = worker.warned
    poll(worker, poller)
    assert worker.said[0] == warning
    assert "Run 101 of agent 7: Running" in worker.said[-1]
    assert len(worker.warned) == 1


def test_looking_leaves_room_in_the_budget_for_a_start(service: FakeService, worker: Worker) -> None:
    service.start()
    poll(worker, RunPoller(SPEC))
    poll(worker, RunPoller(WaitSpec(agent_id=7, since=START)))
    assert [share for _, _, share in worker.sent] == [0.8, 0.8]


# A look that remembers nothing


def test_it_looks_again_until_the_run_is_known() -> None:
    service = FakeService(Clock())
    service.start()
    service.faults["status"] = [(fakes.not_found, False)] * 2
    result = poll_until_known(Worker(service), RunPoller(SPEC))
    assert result.outcome is None
    assert service.clock.now == START + seconds(2 * NOT_YET_FOUND_INTERVAL)


def test_it_gives_up_on_a_run_that_stays_unknown_when_a_wait_does() -> None:
    service = FakeService(Clock())
    with raises(404):
        poll_until_known(Worker(service), RunPoller(SPEC))
    assert NOT_FOUND_TOLERANCE <= service.clock.now - START < NOT_FOUND_TOLERANCE + seconds(NOT_YET_FOUND_INTERVAL)


def test_it_looks_once_at_a_run_that_is_known() -> None:
    service = FakeService(Clock())
    service.start()
    poll_until_known(Worker(service), RunPoller(SPEC))
    assert service.clock.now == START


def test_it_looks_once_for_a_run_that_is_not_there_yet() -> None:
    worker = Worker(FakeService(Clock()), steps_left=10)
    result = poll_until_known(worker, RunPoller(WaitSpec(agent_id=7, since=START)))
    assert result.outcome is None
    assert worker.service.requests == ["runs"]


# The answer to another question


@pytest.mark.parametrize("foreign", [{"id": 102}, {"configId": 8}, {"id": 102, "configId": 8}])
def test_the_end_of_another_run_is_not_the_end_of_this_one(
    service: FakeService, worker: Worker, foreign: dict[str, int]
) -> None:
    service.start()
    service.runs[101].plan = Plan(seconds=None)
    real = service.runs[101].as_json
    service.runs[101].as_json = lambda *now: {**real(*now), "status": 10, **foreign}  # type: ignore[method-assign]
    outcome, seen = wait_for(worker, SPEC)
    assert (type(outcome), seen) == (UnexpectedResponse, None)
    assert service.clock.now - START >= FAULT_TOLERANCE


# Many runs


def test_each_of_many_runs_is_waited_for_and_none_holds_up_another(service: FakeService, worker: Worker) -> None:
    service.plans = [Plan(seconds=500), Plan(RunStatus.FAILURE, seconds=20), Plan(seconds=None)]
    ids = [service.start().id for _ in range(3)]
    specs = [SPEC.updated(run_id=run_id) for run_id in ids] + [SPEC.updated(run_id=999)]
    specs[2] = specs[2].updated(deadline=START + seconds(100))
    (first, slow), (second, failed), (third, _), (fourth, _) = wait_for_runs(worker, specs)
    assert (first, second, third) == (PollOutcome.ENDED, PollOutcome.ENDED, PollOutcome.DEADLINE)
    assert status_of(fourth) == 404
    assert (slow and slow.id, failed and failed.status) == (101, RunStatus.FAILURE)
    looks = [call.path.split("/")[4] for _, call, _ in worker.sent]
    assert looks.count("102") == 2, "a run that has ended is not looked at again"
    assert service.clock.now - START < seconds(600)


def test_nothing_to_wait_for_is_nothing_to_do(worker: Worker) -> None:
    assert wait_for_runs(worker, []) == []


# The deadline


@pytest.mark.parametrize("error", [fakes.server_error, fakes.not_found, fakes.rate_limited])
def test_a_fault_does_not_put_the_deadline_off(service: FakeService, worker: Worker, error: ErrorOf) -> None:
    service.start()
    service.faults["status"] = [(error, False)] * 100
    worker.deadline = START + seconds(5)
    outcome, _ = wait_for(worker, SPEC.updated(deadline=worker.deadline))
    assert (outcome, service.clock.now) == (PollOutcome.DEADLINE, worker.deadline)
