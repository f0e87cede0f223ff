from __future__ import annotations

import re
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.call import Answer, Call
from airflow_provider_sequentum.api.errors import NotFound, SequentumError
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.parameters import ON_AMBIGUOUS_RUN
from airflow_provider_sequentum.lifecycle.procedure import remember
from airflow_provider_sequentum.runs.start import CreditsShort
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.runs.record import RunRequest
from airflow_provider_sequentum.runs.start import (
    CLOCK_SKEW,
    HeldRun,
    RestartRefused,
    RunPolicy,
    StartAmbiguous,
    StillGoing,
    candidates_for,
    find_lost_run,
    hold_run,
    restart_or_start,
)
from tests.support import service as fakes
from tests.support.service import START, Clock, ErrorOf, FakeService, Plan
from tests.support.worker import Killed, Worker

REQUEST = RunRequest(agent_id=7, input_parameters='{"a": 1}')
POLICY = RunPolicy()
FAILURE = Plan(RunStatus.FAILURE, seconds=10)


def hold(
    worker: Worker,
    *,
    policy: RunPolicy = POLICY,
    max_tries: int = 2,
    request: RunRequest = REQUEST,
    left_behind: RunRecord | None = None,
) -> HeldRun:
    """One try, which finds what the last one kept."""
    record = left_behind or RunRecord.from_json(worker.saved)
    return hold_run(worker, request, policy, max_tries, record))


# Starting


def test_the_intent_is_kept_before_the_start_and_the_run_after_it(service: FakeService, worker: Worker) -> None:
    kept_at_start: list[object] = []
    service.on_start = lambda run: kept_at_start.append(worker.saved)
    held = hold(worker)
    assert isinstance(kept_at_start[0], dict)
    assert (kept_at_start[0]["run_id"], kept_at_start[0]["fingerprint"]) == (None, REQUEST.fingerprint())
    assert worker.saved is not None
    assert worker.saved["run_id"] == held.run.id == 101


@pytest.mark.parametrize("error", [fakes.not_reached, fakes.bad_request, fakes.rate_limited, fakes.unauthorized])
def test_a_start_that_certainly_did_nothing_leaves_nothing_to_look_for(
    service: FakeService, worker: Worker, error: ErrorOf
) -> None:
    service.faults["start"] = [(error, False)]
    with pytest.raises(SequentumError):
        hold(worker)
    assert worker.saved is None
    assert service.count("runs") == 0
    assert hold(worker).run.id == 101


@pytest.mark.parametrize(("min_credits", "is_started"), [(None, True), (1000.0, True), (1000.5, False)])
def test_without_the_credits_asked_for_nothing_is_started(
    service: FakeService, worker: Worker, min_credits: float | None, is_started: bool
) -> None:
    service.credits = 1000.0
    with nullcontext() if is_started else pytest.raises(CreditsShort):
        hold(worker, policy=RunPolicy(min_credits=min_credits))
    assert service.count("start") == is_started
    assert (worker.saved is not None) is is_started


@pytest.mark.parametrize("error", [fakes.answer_lost, fakes.server_error])
def test_a_lost_run_is_found_in_the_same_try(service: FakeService, worker: Worker, error: ErrorOf) -> None:
    service.faults["start"] = [(error, True)]
    assert hold(worker).run.id == 101
    assert service.count("start") == 1


@pytest.mark.parametrize("error", [fakes.answer_lost, fakes.server_error])
def test_a_start_that_left_no_run_is_repeated_by_the_next_try_and_not_by_this_one(
    service: FakeService, worker: Worker, error: ErrorOf
) -> None:
    service.faults["start"] = [(error, False)]
    with pytest.raises(SequentumError):
        hold(worker)
    assert service.count("start") == 1
    assert hold(worker).run.id == 101
    assert len(service.runs) == 1


def test_a_lost_run_that_appears_late_is_found_by_the_second_look(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.answer_lost, True)]
    service.list_lag = 8
    assert hold(worker).run.id == 101
    assert service.count("runs") == 2


def test_a_lost_run_that_appears_very_late_is_found_by_the_next_try(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.answer_lost, True)]
    service.list_lag = 60
    with pytest.raises(SequentumError):
        hold(worker)
    service.clock.sleep(60)
    assert hold(worker).run.id == 101
    assert service.count("start") == 1


def test_one_failed_look_for_a_lost_run_is_not_the_last(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.answer_lost, True)]
    service.faults["runs"] = [(fakes.server_error, False)]
    assert hold(worker).run.id == 101


def test_when_no_look_succeeds_the_intent_stays(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.answer_lost, True)]
    service.faults["runs"] = [(fakes.server_error, False)] * 2
    with pytest.raises(SequentumError):
        hold(worker)
    assert hold(worker).run.id == 101
    assert service.count("start") == 1


def test_when_no_look_of_the_next_try_succeeds_nothing_is_started(service: FakeService, worker: Worker) -> None:
    intend_and_die(worker)
    lost, kept = service.start(), worker.saved
    service.faults["runs"] = [(fakes.server_error, False)] * 2
    with pytest.raises(SequentumError):
        hold(worker)
    assert (service.count("start"), worker.saved) == (0, kept)
    assert hold(worker).run.id == lost.id


def test_what_the_log_says_about_a_lost_run_names_the_agent(service: FakeService, worker: Worker) -> None:
    intend_and_die(worker)
    hold(worker)
    looking, not_found, started = worker.said
    assert "agent 7" in looking
    assert "agent 7" in not_found
    assert "Run 101 of agent 7" in started


# Lost runs among others


def intend_and_die(worker: Worker) -> None:
    """One try that dies just before it sends the start."""
    with suppress(Killed):
        hold(Worker(worker.service, steps_left=2, kept=worker.kept))


def lose_the_start(worker: Worker, *, strangers: int, took_effect: bool = True, policy: RunPolicy = POLICY) -> HeldRun:
    service = worker.service

    def error(call: object) -> SequentumError:
        for _ in range(strangers):
            service.start(by_stranger=True)
        return fakes.answer_lost(call)  # type: ignore[arg-type]

    service.faults["start"] = [(error, took_effect)]
    return hold(worker, policy=policy)


def test_several_candidates_fail_by_default_and_nothing_is_started(service: FakeService, worker: Worker) -> None:
    with pytest.raises(StartAmbiguous) as caught:
        lose_the_start(worker, strangers=1)
    assert (caught.value.agent_id, sorted(caught.value.run_ids)) == (7, [101, 102])
    assert all(str(number) in str(caught.value) for number in (7, 101, 102))
    with pytest.raises(StartAmbiguous):
        hold(worker)
    assert service.count("start") == 1


def test_several_candidates_adopt_the_newest(service: FakeService, worker: Worker) -> None:
    assert lose_the_start(worker, strangers=2, policy=RunPolicy(on_ambiguous_start="adopt")).run.id == 103
    assert service.count("start") == 1


def test_several_candidates_start_another(service: FakeService, worker: Worker) -> None:
    assert lose_the_start(worker, strangers=1, policy=RunPolicy(on_ambiguous_start="start")).run.id == 103
    assert service.count("start") == 2
    assert any("101" in line and "102" in line for line in worker.said)


def test_starts_whose_answers_stay_lost_are_not_repeated_without_end(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.server_error, False)] * 50
    with pytest.raises(SequentumError):
        hold(worker, policy=RunPolicy(on_ambiguous_start="start"))
    assert service.count("start") == 2


def test_a_second_start_in_one_try_is_recorded_as_the_first_would_have_been(
    service: FakeService, worker: Worker
) -> None:
    hold(worker)
    service.faults["start"] = [(fakes.server_error, False)]
    held = hold(worker, max_tries=3, policy=RunPolicy(on_ambiguous_start="start"))
    assert service.count("start") == 3
    assert (held.record.run_id, held.record.max_tries, held.record.replaced) == (102, 3, (101,))
    assert worker.saved == held.record.to_json()


@pytest.mark.parametrize("on_ambiguous_start", ON_AMBIGUOUS_RUN)
def test_a_single_candidate_is_adopted_and_the_log_says_so(
    service: FakeService, worker: Worker, on_ambiguous_start: str
) -> None:
    policy = RunPolicy(on_ambiguous_start=on_ambiguous_start)
    held = lose_the_start(worker, strangers=1, took_effect=False, policy=policy)
    assert service.runs[held.run.id].by_stranger
    assert service.count("start") == 1
    assert any("Adopting run 101" in line for line in worker.said)


def test_a_person_who_clears_an_ambiguous_task_gets_a_new_run(service: FakeService, worker: Worker) -> None:
    with pytest.raises(StartAmbiguous):
        lose_the_start(worker, strangers=1)
    held = hold(worker, max_tries=3)
    assert (held.run.id, held.record.max_tries) == (103, 3)
    assert any("101" in line and "102" in line for line in worker.said)


def test_a_person_who_clears_without_having_been_told_is_told_first(service: FakeService, worker: Worker) -> None:
    with suppress(Killed):
        hold(Worker(service, steps_left=3, kept=worker.kept))  # dies before it can remember the run
    service.start(by_stranger=True)
    with pytest.raises(StartAmbiguous):
        hold(worker, max_tries=3)
    with pytest.raises(StartAmbiguous):
        hold(worker, max_tries=3)  # not cleared since
    assert hold(worker, max_tries=4).run.id == 103


def test_a_run_that_the_task_had_before_is_not_taken_for_the_lost_one(service: FakeService, worker: Worker) -> None:
    service.plans = [Plan(seconds=0)]
    assert hold(worker).run.id == 101
    service.faults["start"] = [(fakes.rate_limited, False)]
    with pytest.raises(SequentumError):
        hold(worker, max_tries=3)
    service.faults["start"] = [(fakes.server_error, False)]
    with pytest.raises(SequentumError):
        hold(worker, max_tries=3)
    assert hold(worker, max_tries=3).run.id == 102
    assert hold(worker, max_tries=4).run.id == 103
    assert worker.saved is not None
    assert worker.saved["replaced"] == [101, 102]


def test_a_run_from_before_the_intent_is_no_candidate(service: FakeService, worker: Worker) -> None:
    service.start(by_stranger=True)
    service.clock.sleep(3600)
    service.faults["start"] = [(fakes.answer_lost, True)]
    assert hold(worker).run.id == 102


def test_a_lost_run_is_found_behind_many_newer_ones(service: FakeService, worker: Worker) -> None:
    # The list holds the newest first; a busy agent has pushed the lost run far back when the retry comes.
    record = RunRecord(agent_id=7, fingerprint="f", max_tries=2, intended_at=service.clock.now)
    lost = service.start()
    for _ in range(80):
        service.start(by_stranger=True)
    with pytest.raises(StartAmbiguous) as caught:
        find_lost_run(worker, record, POLICY))
    assert lost.id in caught.value.run_ids


@pytest.mark.parametrize(("status", "candidates"), [(RunStatus.RUNNING, 1), (RunStatus.STOPPED, 0)])
def test_a_run_that_does_not_say_its_age_is_a_candidate_while_it_goes(
    service: FakeService, worker: Worker, status: RunStatus, candidates: int
) -> None:
    record = RunRecord(agent_id=7, fingerprint="f", max_tries=2, intended_at=START)
    run = runs.Run.model_validate({"id": 5, "configId": 7, "status": int(status)})
    assert len(candidates_for(record, [run])) == candidates
    old = run.model_copy(update={"start_time": START - timedelta(hours=1)})
    assert candidates_for(record, [old]) == []


@pytest.mark.parametrize(
    ("earlier", "is_candidate"),
    [(timedelta(0), True), (CLOCK_SKEW, True), (CLOCK_SKEW + timedelta(seconds=1), False)],
)
def test_the_clocks_may_differ_by_as_much_as_is_allowed(earlier: timedelta, is_candidate: bool) -> None:
    record = RunRecord(agent_id=7, fingerprint="f", max_tries=2, intended_at=START)
    created = (START - earlier).isoformat()
    run = runs.Run.model_validate({"id": 5, "configId": 7, "status": 1, "created": created})
    assert candidates_for(record, [run]) == ([run] if is_candidate else [])


@pytest.mark.parametrize(("held_by_siblings", "found"), [({101}, 102), ({102}, 101), ({101, 102}, None)])
def test_a_run_that_a_mapped_sibling_holds_is_not_taken_for_the_lost_one(
    service: FakeService, worker: Worker, held_by_siblings: set[int], found: int | None
) -> None:
    record = RunRecord(agent_id=7, fingerprint="f", max_tries=2, intended_at=service.clock.now)
    for _ in range(2):
        service.start()
    run = find_lost_run(worker, record, POLICY), siblings=lambda: frozenset(held_by_siblings))
    assert (run.id if run else None) == found


# The next try


def test_a_run_that_is_going_is_joined(service: FakeService, worker: Worker) -> None:
    first = hold(worker)
    assert hold(worker).run.id == first.run.id
    assert service.count("start") == 1


def test_a_run_that_succeeded_is_returned(service: FakeService, worker: Worker) -> None:
    hold(worker)
    service.clock.sleep(3600)
    held = hold(worker)
    assert (held.run.id, held.run.status) == (101, RunStatus.SUCCESS)
    assert service.count("start") == 1


def test_a_failure_is_restarted_in_place(service: FakeService, worker: Worker) -> None:
    service.plans = [FAILURE, Plan()]
    hold(worker)
    service.clock.sleep(3600)
    held = hold(worker)
    assert (held.run.id, service.runs[101].restarts, service.count("start")) == (101, 1, 1)
    assert held.record.restart_asked_at == service.clock.now


def test_an_archived_failure_is_replaced_by_a_new_run(service: FakeService, worker: Worker) -> None:
    service.plans = [FAILURE, Plan()]
    hold(worker)
    service.clock.sleep(3600)
    service.archive(101)
    assert hold(worker).run.id == 102
    assert service.count("restart") == 0


def test_an_archived_failure_is_refused_where_only_a_restart_is_allowed(service: FakeService, worker: Worker) -> None:
    service.plans = [FAILURE, Plan()]
    hold(worker)
    service.clock.sleep(3600)
    service.archive(101)
    with pytest.raises(RestartRefused, match="Failed and was archived") as caught:
        hold(worker, policy=RunPolicy(retry_mode="restart"))
    assert (caught.value.agent_id, caught.value.run_id) == (7, 101)
    assert "archived" in caught.value.reason
    assert service.count("start") == 1


def test_a_changed_input_is_new_work_and_stops_the_old_run(service: FakeService, worker: Worker) -> None:
    hold(worker)
    held = hold(worker, request=replace(REQUEST, input_parameters='{"a": 2}'))
    assert (held.run.id, service.runs[101].status) == (102, RunStatus.STOPPED)


def test_a_cleared_task_stops_the_run_that_is_going_and_starts_anew(service: FakeService, worker: Worker) -> None:
    hold(worker)
    still_going: list[int] = []
    service.on_start = lambda run: still_going.extend(r.id for r in service.runs.values() if not r.is_over)
    assert hold(worker, max_tries=3).run.id == 102
    assert still_going == []
    assert hold(worker, max_tries=3).run.id == 102, "its retry goes on with the new run"


@pytest.mark.parametrize("change", [{"max_tries": 3}, {"request": replace(REQUEST, input_parameters="{}")}])
def test_no_run_is_started_beside_one_that_could_not_be_stopped(
    service: FakeService, worker: Worker, change: dict[str, Any]
) -> None:
    service.plans = [Plan(seconds=None)]
    hold(worker)
    kept = worker.saved
    service.faults["stop"] = [(fakes.server_error, False)]
    service.faults["kill"] = [(fakes.server_error, False)] * 2
    with pytest.raises(StillGoing) as caught:
        hold(worker, **change)
    assert (caught.value.agent_ids, caught.value.run_ids) == ([7], [101])
    assert all(str(number) in str(caught.value) for number in (7, 101))
    assert (service.count("start"), worker.saved) == (1, kept)
    assert hold(worker, **change).run.id == 102
    assert service.runs[101].status is RunStatus.STOPPED


def test_a_cleared_task_joins_when_told_to(service: FakeService, worker: Worker) -> None:
    hold(worker)
    held = hold(worker, max_tries=3, policy=RunPolicy(on_clear="join"))
    assert (held.run.id, held.record.max_tries) == (101, 3)
    assert worker.saved == held.record.to_json(), "a retry of this attempt finds it, and is no longer cleared"
    assert service.count("stop") == 0


@pytest.mark.parametrize("on_clear", ["rerun", "join"])
def test_a_cleared_success_runs_again(service: FakeService, worker: Worker, on_clear: str) -> None:
    hold(worker)
    service.clock.sleep(3600)
    assert hold(worker, max_tries=3, policy=RunPolicy(on_clear=on_clear)).run.id == 102


def test_a_run_that_was_stopped_is_replaced(service: FakeService, worker: Worker) -> None:
    hold(worker)
    service.runs[101].stop_asked_at = service.clock.now
    service.clock.sleep(2)
    held = hold(worker)
    assert (held.run.id, service.runs[101].status) == (102, RunStatus.STOPPED)


def test_a_run_that_was_deleted_is_replaced(service: FakeService, worker: Worker) -> None:
    hold(worker)
    service.clock.sleep(3600)
    del service.runs[101]
    service.runs[500] = fakes.FakeRun(500, 8, START, Plan(), START)
    assert service.runs[hold(worker).run.id].agent_id == 7
    assert service.count("start") == 2


def test_a_run_that_is_not_known_yet_is_waited_for(service: FakeService, worker: Worker) -> None:
    hold(worker)
    service.faults["status"] = [(fakes.not_found, False)] * 3
    assert hold(worker).run.id == 101
    assert service.count("start") == 1


def test_a_run_that_cannot_be_looked_at_is_never_replaced(service: FakeService, worker: Worker) -> None:
    hold(worker)
    kept = worker.saved
    service.faults["status"] = [(fakes.server_error, False)]
    with pytest.raises(SequentumError):
        hold(worker)
    assert worker.saved == kept
    assert service.count("start") == 1


def test_an_abandoned_run_is_replaced(service: FakeService, worker: Worker) -> None:
    held = hold(worker)
    service.clock.sleep(3600)
    assert hold(worker, left_behind=replace(held.record, abandoned=True)).run.id == 102


# Restarting


def failed_run(worker: Worker, *following: Plan) -> HeldRun:
    worker.service.plans = [FAILURE, *(following or [Plan()])]
    hold(worker)
    worker.service.clock.sleep(600)
    record = RunRecord.from_json(worker.saved)
    assert record is not None
    return HeldRun(record, worker.service.answer(runs.status(7, 101)))


@pytest.mark.parametrize("error", [fakes.bad_request, fakes.conflict, fakes.method_not_allowed, fakes.not_found])
@pytest.mark.parametrize("retry_mode", ["restart_or_new", "restart"])
def test_a_refused_restart(service: FakeService, worker: Worker, error: ErrorOf, retry_mode: str) -> None:
    held = failed_run(worker)
    service.faults["restart"] = [(error, False)]
    procedure = restart_or_start(held, REQUEST, RunPolicy(retry_mode=retry_mode))
    if retry_mode == "restart":
        with pytest.raises(RestartRefused, match="service refused") as caught:
            worker.perform(procedure)
        assert (caught.value.agent_id, caught.value.run_id) == (7, 101)
        assert service.count("start") == 1
        return
    replacing = worker.perform(procedure)
    assert replacing.run.id == 102
    assert (replacing.record.replaced, replacing.record.max_tries) == ((101,), 2)
    assert any("can't be restarted, so a new run is started" in line for line in worker.said)


def test_a_retry_whose_restart_is_refused_starts_what_the_task_asks_for(service: FakeService, worker: Worker) -> None:
    failed_run(worker)
    service.offers_restart = False
    assert hold(worker).run.id == 102
    assert service.runs[102].inputs == REQUEST.input_parameters


def test_a_retry_whose_restart_is_refused_starts_nothing_where_only_a_restart_is_allowed(
    service: FakeService, worker: Worker
) -> None:
    failed_run(worker)
    service.offers_restart = False
    with pytest.raises(RestartRefused):
        hold(worker, policy=RunPolicy(retry_mode="restart"))
    assert service.count("start") == 1


@pytest.mark.parametrize("seconds", [5, 500])
def test_a_restart_that_somebody_else_was_quicker_with_is_joined(
    service: FakeService, worker: Worker, seconds: float
) -> None:
    held = failed_run(worker)
    service.restart(101)
    service.clock.sleep(seconds)  # the run goes on, or has succeeded since
    joined = restart_or_start(worker, held, REQUEST, POLICY))
    assert joined.run.id == 101
    assert joined.run.status is (RunStatus.RUNNING if seconds < 60 else RunStatus.SUCCESS)
    assert joined.record == held.record
    assert "Run 101 of agent 7" in worker.said[-1]
    assert service.count("start") == 1


def test_after_a_refused_restart_no_failure_is_taken_for_a_stale_one(service: FakeService, worker: Worker) -> None:
    held = failed_run(worker)
    service.faults["restart"] = [(fakes.conflict, False)]
    service.faults["status"] = [(fakes.server_error, False)]
    with pytest.raises(SequentumError):
        restart_or_start(worker, held, REQUEST, POLICY))
    assert worker.saved is not None
    assert worker.saved["restart_asked_at"] is None


@pytest.mark.parametrize("took_effect", [True, False])
@pytest.mark.parametrize("error", [fakes.answer_lost, fakes.server_error])
def test_a_lost_answer_to_a_restart_starts_nothing(
    service: FakeService, worker: Worker, error: ErrorOf, took_effect: bool
) -> None:
    held = failed_run(worker)
    service.faults["restart"] = [(error, took_effect)]
    restarted = restart_or_start(worker, held, REQUEST, POLICY))
    assert (restarted.run.id, service.count("start")) == (101, 1)
    assert restarted.record.restart_asked_at == service.clock.now
    assert restarted.record.failure_ended_at == held.run.end_time
    assert worker.saved == restarted.record.to_json()
    assert str(error(runs.restart(7, 101))) in worker.said[-1]


@pytest.mark.parametrize("error", [fakes.not_reached, fakes.rate_limited])
def test_a_restart_that_was_not_sent_is_tried_again_by_the_next_try(
    service: FakeService, worker: Worker, error: ErrorOf
) -> None:
    held = failed_run(worker)
    service.faults["restart"] = [(error, False)]
    with pytest.raises(SequentumError):
        restart_or_start(worker, held, REQUEST, POLICY))
    assert hold(worker).run.id == 101
    assert service.runs[101].restarts == 1


class CurtService(FakeService):
    """It does not say what it has restarted: the form of that answer is not published."""

    def answer(self, call: Call[Any]) -> Any:
        answered = super().answer(call)
        return call.parse(Answer(200, {}, b"")) if call.path.endswith("/restart") else answered


def test_a_restart_that_is_answered_with_nothing_keeps_the_run() -> None:
    service = CurtService(Clock())
    worker = Worker(service)
    held = failed_run(worker)
    restarted = restart_or_start(worker, held, REQUEST, POLICY))
    assert (restarted.run, restarted.record.run_id) == (held.run, 101)
    assert restarted.record.restart_asked_at == service.clock.now
    assert worker.saved == restarted.record.to_json()
    assert "Run 101 of agent 7" in worker.said[-1]


def test_the_new_id_of_a_restarted_run_is_kept(service: FakeService, worker: Worker) -> None:
    held = failed_run(worker)
    service.runs[102] = service.runs.pop(101)
    service.runs[101] = service.runs[102]
    service.runs[101].id = 102
    assert restart_or_start(worker, held, REQUEST, POLICY)).record.run_id == 102
    assert worker.saved is not None
    assert worker.saved["run_id"] == 102


def test_an_old_failure_shown_just_after_a_restart_is_not_restarted_again(service: FakeService, worker: Worker) -> None:
    service.plans = [FAILURE, Plan(seconds=300)]
    service.restart_lag = 40
    hold(worker)
    service.clock.sleep(600)
    hold(worker)
    service.clock.sleep(5)  # the worker died, and its retry sees the old Failure
    assert hold(worker).run.status is RunStatus.RUNNING
    assert service.runs[101].restarts == 1


def test_a_restart_that_a_dying_worker_only_intended_is_made_up_for(service: FakeService, worker: Worker) -> None:
    # The record says that a restart was asked for, and it never was: the Failure that stands is the ending.
    held = failed_run(worker)
    remember(worker, held.record.restarting(service.clock.now, held.run.end_time).to_json()))
    service.clock.sleep(5)
    assert hold(worker).run.status is RunStatus.RUNNING
    assert (service.runs[101].restarts, service.count("start")) == (1, 1)


def test_a_cleared_task_stops_a_run_that_was_restarted_a_moment_ago(service: FakeService, worker: Worker) -> None:
    service.plans = [FAILURE, Plan(seconds=None), Plan()]
    service.restart_lag = 40
    hold(worker)
    service.clock.sleep(600)
    hold(worker)
    service.clock.sleep(5)
    assert hold(worker, max_tries=3).run.id == 102
    assert service.runs[101].status is RunStatus.STOPPED


def test_an_old_failure_that_comes_back_into_view_is_not_taken_for_the_end_of_a_stop(
    service: FakeService, worker: Worker
) -> None:
    service.plans = [FAILURE, Plan(seconds=None), Plan()]
    hold(worker)
    service.clock.sleep(600)
    hold(worker)
    service.clock.sleep(5)

    def lost_while_an_old_state_is_shown(call: Call[Any]) -> SequentumError:
        service.runs[101].shown_until = service.clock.now + timedelta(seconds=20)
        return fakes.answer_lost(call)

    service.faults["stop"] = [(lost_while_an_old_state_is_shown, True)]
    going_at_start: list[int] = []
    service.on_start = lambda run: going_at_start.extend(r.id for r in service.runs.values() if not r.is_over)
    assert hold(worker, max_tries=3).run.id == 102
    assert going_at_start == []


def test_a_new_failure_soon_after_a_restart_is_restarted(service: FakeService, worker: Worker) -> None:
    service.plans = [FAILURE, Plan(RunStatus.FAILURE, seconds=3), Plan(seconds=300)]
    hold(worker)
    service.clock.sleep(600)
    hold(worker)
    service.clock.sleep(5)
    hold(worker)
    assert service.runs[101].restarts == 2


# Airflow older than 3.3: nothing was kept, and an earlier try may have started a run


def guess(service: FakeService) -> RunRecord:
    return RunRecord(
        agent_id=7,
        fingerprint=REQUEST.fingerprint(),
        max_tries=2,
        intended_at=service.clock.now - timedelta(minutes=5),
        is_guess=True,
    )


def test_without_a_record_a_single_run_that_is_going_is_joined(service: FakeService, worker: Worker) -> None:
    service.start()
    assert hold(worker, left_behind=guess(service)).run.id == 101


def test_without_a_record_a_run_that_is_over_is_not_taken_for_ours(service: FakeService, worker: Worker) -> None:
    service.start()
    service.clock.sleep(120)
    assert hold(worker, left_behind=guess(service)).run.id == 102


# Death at every step


@pytest.mark.parametrize("steps", range(8))
def test_a_worker_that_dies_anywhere_leaves_at_most_one_run(service: FakeService, steps: int) -> None:
    dying = Worker(service, steps_left=steps)
    with suppress(Killed):
        hold(dying)
    service.clock.sleep(30)
    held = Worker(service).perform(hold_run(REQUEST, POLICY, 2, RunRecord.from_json(dying.record)))
    assert len(service.runs) == 1
    assert held.run.id == 101


@pytest.mark.parametrize("steps", range(14))
def test_a_worker_that_dies_while_it_replaces_a_run_leaves_one_that_goes(service: FakeService, steps: int) -> None:
    first = Worker(service)
    hold(first)
    dying = Worker(service, steps_left=steps, kept=list(first.kept))
    going_at_start: list[int] = []
    service.on_start = lambda run: going_at_start.extend(r.id for r in service.runs.values() if not r.is_over)
    with suppress(Killed):
        hold(dying, max_tries=3)
    service.clock.sleep(3)
    held = hold(Worker(service, kept=list(dying.kept)), max_tries=3)
    assert going_at_start == []
    assert [run.id for run in service.runs.values() if not run.is_over] == [held.run.id] == [102]


@pytest.mark.parametrize(
    ("max_tries", "said"),
    [
        (2, r"An earlier try .*; its run 101 of agent 7 is Running\. Going on with it\."),
        (3, r"The task was cleared; its run 101 of agent 7 is Running\. Stopping it and starting a new run\."),
    ],
)
def test_what_the_log_says_about_a_retry_names_the_reason_the_run_and_the_decision(
    worker: Worker, max_tries: int, said: str
) -> None:
    hold(worker)
    hold(worker, max_tries=max_tries)
    assert any(re.fullmatch(said, line) for line in worker.said)


def test_a_start_for_an_unknown_agent_says_so(service: FakeService, worker: Worker) -> None:
    with pytest.raises(NotFound):
        hold(worker, request=RunRequest(agent_id=999))
    assert worker.saved is None
