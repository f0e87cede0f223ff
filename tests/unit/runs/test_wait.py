from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.errors import NotFound, SequentumError
from airflow_provider_sequentum.api.run_status import RunStatus, parse_run_status, status_name
from airflow_provider_sequentum.api.runs import Run, status
from airflow_provider_sequentum.runs.phases import Phase, phase_of_status
from airflow_provider_sequentum.lifecycle.procedure import Now, Say, Send
from airflow_provider_sequentum.runs.wait import (
    NOT_YET_FOUND_INTERVAL,
    RunPoller,
    WaitSpec,
    PollResult,
    PollOutcome,
    first_look,
    look,
    look_until_known,
    wait_for_end,
)
from airflow_provider_sequentum.jobs.port import FAULT_TOLERANCE, NOT_FOUND_TOLERANCE, RESTART_GRACE
from tests.support import service as fakes
from tests.support.service import START, Clock, ErrorOf, FakeService, Plan
from tests.support.worker import Worker

TERMS = WaitSpec(agent_id=7, run_id=101, poll_interval=30)
STATUSES: list[int | str] = [*range(14), 14, 99, -1, "Paused"]
CALL = status(7, 101)


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
    terms = replace(
        TERMS, wait_for_restart=wait_for_restart, failure_pause=failure_pause, deadline=START + seconds(100)
    )
    verdict = RunPoller(terms).observe(run(code, tableType=table_type), START + seconds(100 if late else 0))
    phase = phase_of_status(parse_run_status(code), table_type)
    ended = phase.is_over and not (phase is Phase.RESTARTABLE and (wait_for_restart or failure_pause))
    if ended:
        assert verdict.outcome is PollOutcome.ENDED  # even when the deadline has passed as well
    else:
        assert verdict.outcome is (PollOutcome.DEADLINE if late else None)


@pytest.mark.parametrize("code", [0, 13, 99, "Paused"])
def test_an_unknown_status_warns_once_and_waits_on(code: int | str) -> None:
    wait = RunPoller(TERMS)
    first, second = wait.observe(run(code), START), wait.observe(run(code), START + seconds(30))
    assert (first.outcome, first.level, second.outcome) == (None, logging.WARNING, None)
    assert f"has the status {status_name(code)!r}, which this version does not know" in str(first.message)
    assert second.level != logging.WARNING
    assert wait.observe(run(10), START + seconds(60)).outcome is PollOutcome.ENDED


@given(st.lists(st.sampled_from(STATUSES), max_size=30), st.sampled_from(STATUSES))
def test_a_wait_ends_with_an_end_and_with_nothing_else(seen: list[int | str], last: int | str) -> None:
    wait, now = RunPoller(TERMS), START
    for code in seen:
        now += seconds(30)
        verdict = wait.observe(run(code), now)
        assert (verdict.outcome is PollOutcome.ENDED) is phase_of_status(parse_run_status(code)).is_over
        if verdict.outcome is not None:
            return
    assert wait.observe(run(last), now).outcome is (
        PollOutcome.ENDED if phase_of_status(parse_run_status(last)).is_over else None
    )


# After a restart in place


ASKED = START + seconds(600)
OLD_END = START + seconds(500)
RESTARTED = replace(TERMS, restart_asked_at=ASKED, failure_ended_at=OLD_END)


@pytest.mark.parametrize("end_time", [OLD_END.isoformat(), None])
def test_the_old_failure_is_no_new_ending_until_the_grace_has_passed(end_time: str | None) -> None:
    wait, stale = RunPoller(RESTARTED), run(6, endTime=end_time)
    assert wait.observe(stale, ASKED).outcome is None
    assert wait.observe(stale, ASKED + RESTART_GRACE - seconds(1)).outcome is None
    assert wait.observe(stale, ASKED + RESTART_GRACE).outcome is PollOutcome.ENDED


def test_a_failure_with_a_new_end_time_is_a_new_ending_at_once() -> None:
    assert RunPoller(RESTARTED).observe(run(6, endTime=ASKED.isoformat()), ASKED).outcome is PollOutcome.ENDED


def test_a_failure_after_the_run_was_seen_going_is_a_new_ending() -> None:
    wait = RunPoller(RESTARTED)
    assert wait.observe(run(1), ASKED + seconds(1)).outcome is None
    assert wait.observe(run(6), ASKED + seconds(2)).outcome is PollOutcome.ENDED


def test_a_wait_that_is_begun_again_elsewhere_still_knows_the_old_failure() -> None:
    again = RunPoller(WaitSpec.from_json(RESTARTED.to_json()))
    assert again.observe(run(6, endTime=OLD_END.isoformat()), ASKED + seconds(5)).outcome is None


@pytest.mark.parametrize("code", [7, 8, 9, 10, 11])
def test_every_other_end_counts_at_once_after_a_restart(code: int) -> None:
    assert RunPoller(RESTARTED).observe(run(code), ASKED).outcome is PollOutcome.ENDED


# The pause before a restart


def test_a_failure_has_to_stand_for_the_pause() -> None:
    wait = RunPoller(replace(TERMS, failure_pause=60))
    assert wait.observe(run(6), START).outcome is None
    assert wait.observe(run(6), START + seconds(59)).outcome is None
    assert wait.observe(run(6), START + seconds(60)).outcome is PollOutcome.ENDED


def test_a_run_that_leaves_failure_in_the_pause_is_waited_for_anew() -> None:
    wait = RunPoller(replace(TERMS, failure_pause=60))
    wait.observe(run(6), START)
    assert wait.observe(run(1), START + seconds(30)).outcome is None
    assert wait.observe(run(6), START + seconds(61)).outcome is None
    assert wait.observe(run(6), START + seconds(121)).outcome is PollOutcome.ENDED


def test_a_failure_that_is_archived_in_the_pause_is_over() -> None:
    wait = RunPoller(replace(TERMS, failure_pause=60))
    wait.observe(run(6), START)
    assert wait.observe(run(7), START + seconds(1)).outcome is PollOutcome.ENDED


# Faults


PASSING = [fakes.server_error, fakes.answer_lost, fakes.not_reached]
LASTING = [fakes.unauthorized, fakes.bad_request, fakes.conflict, fakes.method_not_allowed]


@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize("is_patient", [False, True])
def test_a_passing_fault_is_borne_for_a_while(error: ErrorOf, is_patient: bool) -> None:
    wait = RunPoller(replace(TERMS, is_patient=is_patient))
    assert wait.fault(error(CALL), START).level == logging.WARNING
    assert wait.fault(error(CALL), START + FAULT_TOLERANCE - seconds(1)).message is None
    if is_patient:
        assert wait.fault(error(CALL), START + FAULT_TOLERANCE * 100).outcome is None
    else:
        with pytest.raises(SequentumError):
            wait.fault(error(CALL), START + FAULT_TOLERANCE)


@pytest.mark.parametrize(
    ("terms", "what"), [(TERMS, "at run 101"), (WaitSpec(agent_id=7, since=START), "for the run")]
)
def test_a_passing_fault_is_said_of_the_run_if_it_is_known(terms: WaitSpec, what: str) -> None:
    error = fakes.server_error(CALL)
    message = RunPoller(terms).fault(error, START).message
    assert message is not None
    assert f"look {what}," in message
    assert str(error) in message


@pytest.mark.parametrize("error", PASSING)
def test_an_answer_in_between_renews_the_patience(error: ErrorOf) -> None:
    wait = RunPoller(TERMS)
    wait.fault(error(CALL), START)
    wait.observe(run(1), START + FAULT_TOLERANCE - seconds(1))
    assert wait.fault(error(CALL), START + FAULT_TOLERANCE).outcome is None


@pytest.mark.parametrize("is_patient", [False, True])
def test_a_key_that_is_busy_is_no_fault_however_long(is_patient: bool) -> None:
    wait = RunPoller(replace(TERMS, is_patient=is_patient))
    assert wait.fault(fakes.rate_limited(CALL), START) == PollResult()
    assert wait.fault(fakes.rate_limited(CALL), START + FAULT_TOLERANCE * 100) == PollResult()
    # Nor is it counted as one, when there is a fault later.
    assert wait.fault(fakes.server_error(CALL), START + FAULT_TOLERANCE * 101).outcome is None


@pytest.mark.parametrize("error", LASTING)
@pytest.mark.parametrize("is_patient", [False, True])
def test_a_fault_that_cannot_pass_is_raised_at_once(error: ErrorOf, is_patient: bool) -> None:
    with pytest.raises(SequentumError):
        RunPoller(replace(TERMS, is_patient=is_patient)).fault(error(CALL), START)


@pytest.mark.parametrize("is_patient", [False, True])
def test_a_run_that_is_not_known_is_waited_for_a_minute(is_patient: bool) -> None:
    wait = RunPoller(replace(TERMS, is_patient=is_patient))
    assert wait.fault(fakes.not_found(CALL), START).outcome is None
    assert wait.fault(fakes.not_found(CALL), START + NOT_FOUND_TOLERANCE - seconds(1)).outcome is None
    with pytest.raises(NotFound):
        wait.fault(fakes.not_found(CALL), START + NOT_FOUND_TOLERANCE)


def test_a_404_during_an_outage_has_to_last_by_itself() -> None:
    wait = RunPoller(TERMS)
    wait.fault(fakes.server_error(CALL), START)
    assert wait.fault(fakes.not_found(CALL), START + seconds(300)).outcome is None
    wait.fault(fakes.server_error(CALL), START + seconds(350))
    assert wait.fault(fakes.not_found(CALL), START + seconds(400)).outcome is None
    with pytest.raises(NotFound):
        wait.fault(fakes.not_found(CALL), START + seconds(400) + NOT_FOUND_TOLERANCE)


@pytest.mark.parametrize("error", [*PASSING, *LASTING, fakes.not_found, fakes.rate_limited])
def test_a_fault_at_the_deadline_is_the_deadline(error: ErrorOf) -> None:
    wait = RunPoller(replace(TERMS, deadline=START))
    assert wait.fault(error(CALL), START).outcome is PollOutcome.DEADLINE


# The whole wait


@pytest.mark.parametrize("outcome", [RunStatus.SUCCESS, RunStatus.COMPLETED, RunStatus.FAILURE, RunStatus.STOPPED])
def test_a_wait_returns_the_runs_last_record(outcome: RunStatus) -> None:
    service = FakeService(Clock(), plans=[Plan(outcome, seconds=100)])
    service.start()
    ended, record = Worker(service).perform(wait_for_end(TERMS))
    assert ended is PollOutcome.ENDED
    assert record is not None
    assert record.status is outcome
    assert seconds(100) <= service.clock.now - START <= seconds(130)


def test_a_wait_gives_up_at_its_deadline_and_not_later() -> None:
    service = FakeService(Clock(), plans=[Plan(seconds=None)])
    service.start()
    terms = replace(TERMS, deadline=START + seconds(75))
    assert Worker(service).perform(wait_for_end(terms))[0] is PollOutcome.DEADLINE
    assert service.clock.now == START + seconds(75)


def test_a_wait_outlives_an_outage() -> None:
    service = FakeService(Clock())
    service.start()
    service.faults["status"] = [(fakes.server_error, False)] * 15
    assert Worker(service).perform(wait_for_end(TERMS))[0] is PollOutcome.ENDED


def test_a_wait_for_the_next_run_finds_it_and_stays_with_it() -> None:
    service = FakeService(Clock(), plans=[Plan(seconds=400)])
    service.start(by_stranger=True)
    service.clock.sleep(10)
    terms = WaitSpec(agent_id=7, since=service.clock.now, poll_interval=30, deadline=START + seconds(1000))
    worker = Worker(service)
    service.faults["runs"] = [(fakes.server_error, False)]
    service.clock.sleep(10)
    mine = service.start(by_stranger=True)
    service.clock.sleep(10)
    service.start(by_stranger=True)
    outcome, record = wait_for_end(worker, terms))
    assert outcome is PollOutcome.ENDED
    assert record is not None
    assert record.id == mine.id


def test_a_wait_for_a_run_that_never_comes_ends_at_the_deadline_without_a_record() -> None:
    service = FakeService(Clock())
    terms = WaitSpec(agent_id=7, since=START, poll_interval=30, deadline=START + seconds(100))
    assert Worker(service).perform(wait_for_end(terms)) == (PollOutcome.DEADLINE, None)


def test_a_wait_for_the_next_run_of_an_unknown_agent_fails_at_once() -> None:
    service = FakeService(Clock())
    with pytest.raises(NotFound):
        Worker(service).perform(wait_for_end(WaitSpec(agent_id=999, since=START, poll_interval=30)))


def test_the_person_watching_reads_changes_at_once_and_the_rest_ever_more_rarely() -> None:
    service = FakeService(Clock(), plans=[Plan(seconds=3600)])
    service.start()
    worker = Worker(service)
    wait_for_end(worker, replace(TERMS, poll_interval=5)))
    assert 5 <= len(worker.said) <= 15
    assert worker.said[0].startswith("Run 101 of agent 7: Running, 1 pages, 0 records, 0 errors")


# How long who waits alone pauses


def test_a_poll_interval_is_kept_to_whatever_the_runs_age() -> None:
    wait = RunPoller(TERMS)
    assert wait.pause(START) == 30
    wait.observe(run(1, startTime=START.isoformat()), START + seconds(36_000))
    assert wait.pause(START + seconds(36_000)) == 30


@pytest.mark.parametrize(("age", "low", "high"), [(0, 5, 10), (300, 25, 35), (36_000, 60, 60)])
def test_without_a_poll_interval_the_pause_grows_with_the_runs_age(age: float, low: float, high: float) -> None:
    wait = RunPoller(replace(TERMS, poll_interval=None))
    assert 5 <= wait.pause(START) <= 10  # nothing is known of the run yet
    wait.observe(run(1, startTime=START.isoformat()), START + seconds(age))
    assert low <= wait.pause(START + seconds(age)) <= high


def test_a_pause_never_lies_beyond_the_deadline_or_the_time_a_failure_has_to_stand() -> None:
    wait = RunPoller(replace(TERMS, poll_interval=None, deadline=START + seconds(100), failure_pause=20.0))
    wait.observe(run(1, startTime=(START - seconds(9000)).isoformat()), START + seconds(90))
    assert wait.pause(START + seconds(90)) == 10
    wait.observe(run(6), START + seconds(50))
    assert wait.pause(START + seconds(65)) == 5
    assert wait.pause(START + seconds(200)) == 0


# Terms travel through a trigger


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
        is_patient=st.booleans(),
        restart_asked_at=times,
        failure_ended_at=times,
    )
)
def test_terms_outlive_json(terms: WaitSpec) -> None:
    assert WaitSpec.from_json(terms.to_json()) == terms
    assert set(terms.to_json()) == set(WaitSpec.names())


# One look


def test_what_is_wrong_is_said_as_a_warning() -> None:
    looking = look(RunPoller(TERMS))
    assert isinstance(next(looking), Send)
    assert looking.throw(fakes.server_error(CALL)) == Now()
    said = looking.send(START)
    assert isinstance(said, Say)
    assert said.level == logging.WARNING


def test_how_far_the_run_is_is_said_as_information() -> None:
    looking = look(RunPoller(TERMS))
    assert isinstance(next(looking), Send)
    assert looking.send(run(1)) == Now()
    said = looking.send(START)
    assert isinstance(said, Say)
    assert said.level == logging.INFO


# A look that remembers nothing


def test_it_looks_again_until_the_run_is_known() -> None:
    service = FakeService(Clock())
    service.start()
    service.faults["status"] = [(fakes.not_found, False)] * 2
    verdict = Worker(service).perform(look_until_known(RunPoller(TERMS)))
    assert verdict.outcome is None
    assert service.clock.now == START + seconds(2 * NOT_YET_FOUND_INTERVAL)


def test_it_gives_up_on_a_run_that_stays_unknown_when_a_wait_does() -> None:
    service = FakeService(Clock())
    with pytest.raises(NotFound):
        Worker(service).perform(look_until_known(RunPoller(TERMS)))
    assert NOT_FOUND_TOLERANCE <= service.clock.now - START < NOT_FOUND_TOLERANCE + seconds(NOT_YET_FOUND_INTERVAL)


def test_it_looks_once_at_a_run_that_is_known() -> None:
    service = FakeService(Clock())
    service.start()
    Worker(service).perform(look_until_known(RunPoller(TERMS)))
    assert service.clock.now == START


def test_it_looks_once_for_a_run_that_is_not_there_yet() -> None:
    worker = Worker(FakeService(Clock()), steps_left=10)
    verdict = look_until_known(worker, RunPoller(WaitSpec(agent_id=7, since=START))))
    assert verdict.outcome is None
    assert worker.service.requests == ["runs"]


# The first look at a run that something else started


def test_the_record_of_a_run_that_is_known_is_returned_at_once() -> None:
    service = FakeService(Clock())
    for agent_id in (8, 7, 7):
        service.start(agent_id)
    found = Worker(service).perform(first_look(7, 102))
    assert (found.id, found.agent_id, found.status) == (102, 7, RunStatus.RUNNING)
    assert service.clock.now == START


@pytest.mark.parametrize("error", [*PASSING, fakes.not_found, fakes.rate_limited])
def test_a_first_look_that_fails_in_passing_is_repeated(error: ErrorOf) -> None:
    service = FakeService(Clock())
    service.start()
    service.faults["status"] = [(error, False)] * 2
    assert Worker(service).perform(first_look(7, 101)).id == 101
    assert service.clock.now == START + seconds(2 * NOT_YET_FOUND_INTERVAL)


@pytest.mark.parametrize(
    ("error", "tolerance"),
    [(fakes.server_error, FAULT_TOLERANCE), (fakes.not_found, NOT_FOUND_TOLERANCE), (fakes.unauthorized, seconds(0))],
)
def test_a_first_look_that_keeps_failing_is_given_up_when_a_wait_would_be(error: ErrorOf, tolerance: timedelta) -> None:
    service = FakeService(Clock())
    service.start()
    service.faults["status"] = [(error, False)] * 200
    with pytest.raises(SequentumError) as caught:
        Worker(service).perform(first_look(7, 101))
    assert type(caught.value) is type(error(CALL))
    assert service.clock.now == START + tolerance
