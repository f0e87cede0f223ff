from __future__ import annotations

import re
from contextlib import nullcontext, suppress
from datetime import timedelta
from typing import Any, NamedTuple, get_args

import pytest

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.call import Answer, Call
from airflow_provider_sequentum.api.errors import NotFound, SequentumError
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import (
    AgentRunStartAmbiguous,
    AgentRunStillRunning,
    CreditsTooLow,
    SequentumRequestRefused,
    SequentumUnavailable,
)
from airflow_provider_sequentum.parameters import OnAmbiguousStart
from airflow_provider_sequentum.runs.record import RunConfig, RunRecord
from airflow_provider_sequentum.runs.start import acquire_run, candidates_for, find_lost_run, restart_or_start
from tests.support import service as fakes
from tests.support.service import START, Clock, ErrorOf, FakeService, Plan
from tests.support.worker import Killed, Worker

CONFIG = RunConfig(agent_id=7, input_parameters='{"a": 1}')
FAILURE = Plan(RunStatus.FAILURE, seconds=10)


class Acquired(NamedTuple):
    record: RunRecord
    run: Run


def record_of(config: RunConfig, max_tries: int = 2, **fields: Any) -> RunRecord:
    return RunRecord(agent_id=7, config=config, fingerprint=config.fingerprint(), max_tries=max_tries, **fields)


def acquire(
    worker: Worker, *, config: RunConfig = CONFIG, max_tries: int = 2, previous: RunRecord | None = None, **more: Any
) -> Acquired:
    """One attempt, which finds what the last one saved."""
    if previous is None and worker.saved is not None:
        previous = RunRecord.from_json(worker.saved)
    config = config.updated(**more)
    new = record_of(config, max_tries).updated(agent_id=config.agent_id, deadline=worker.deadline)
    return Acquired(*acquire_run(worker, config, max_tries, previous, new))


def restarted(worker: Worker, acquired: Acquired, **more: Any) -> Acquired:
    record, run = acquired
    return Acquired(*restart_or_start(worker, CONFIG.updated(**more), record, run, record_of(CONFIG)))


# Starting


def test_the_intent_is_saved_before_the_start_and_the_run_after_it(service: FakeService, worker: Worker) -> None:
    saved_at_start: list[object] = []
    service.on_start = lambda run: saved_at_start.append(worker.saved)
    acquired = acquire(worker)
    assert isinstance(saved_at_start[0], dict)
    assert (saved_at_start[0].get("run_id"), saved_at_start[0]["fingerprint"]) == (None, CONFIG.fingerprint())
    assert worker.saved is not None
    assert worker.saved["run_id"] == acquired.run.id == 101


@pytest.mark.parametrize("error", [fakes.not_reached, fakes.bad_request, fakes.rate_limited, fakes.unauthorized])
def test_a_start_that_certainly_did_nothing_leaves_nothing_to_look_for(
    service: FakeService, worker: Worker, error: ErrorOf
) -> None:
    service.faults["start"] = [(error, False)]
    with pytest.raises(SequentumError):
        acquire(worker)
    assert worker.saved is None
    assert service.count("runs") == 0
    assert acquire(worker).run.id == 101


@pytest.mark.parametrize(("min_credits", "is_started"), [(None, True), (1000.0, True), (1000.5, False)])
def test_without_the_credits_asked_for_nothing_is_started(
    service: FakeService, worker: Worker, min_credits: float | None, is_started: bool
) -> None:
    service.credits = 1000.0
    with nullcontext() if is_started else pytest.raises(CreditsTooLow):
        acquire(worker, min_credits=min_credits)
    assert service.count("start") == is_started
    assert (worker.saved is not None) is is_started


@pytest.mark.parametrize("error", [fakes.answer_lost, fakes.server_error])
def test_a_lost_run_is_found_in_the_same_attempt(service: FakeService, worker: Worker, error: ErrorOf) -> None:
    service.faults["start"] = [(error, True)]
    assert acquire(worker).run.id == 101
    assert service.count("start") == 1


@pytest.mark.parametrize("error", [fakes.answer_lost, fakes.server_error])
def test_a_start_that_left_no_run_is_repeated_by_the_next_attempt_and_not_by_this_one(
    service: FakeService, worker: Worker, error: ErrorOf
) -> None:
    service.faults["start"] = [(error, False)]
    with pytest.raises(SequentumError):
        acquire(worker)
    assert service.count("start") == 1
    assert acquire(worker).run.id == 101
    assert len(service.runs) == 1


def test_a_lost_run_that_appears_late_is_found_by_the_second_look(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.answer_lost, True)]
    service.list_lag = 8
    assert acquire(worker).run.id == 101
    assert service.count("runs") == 2


def test_a_lost_run_that_appears_very_late_is_found_by_the_next_attempt(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.answer_lost, True)]
    service.list_lag = 60
    with pytest.raises(SequentumError):
        acquire(worker)
    service.clock.sleep(60)
    assert acquire(worker).run.id == 101
    assert service.count("start") == 1


def test_one_failed_look_for_a_lost_run_is_not_the_last(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.answer_lost, True)]
    service.faults["runs"] = [(fakes.server_error, False)]
    assert acquire(worker).run.id == 101


def test_when_no_look_succeeds_the_intent_stays(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.answer_lost, True)]
    service.faults["runs"] = [(fakes.server_error, False)] * 2
    with pytest.raises(SequentumUnavailable, match=r"Lost\..* Broken\. A run of agent 7 may be running"):
        acquire(worker)
    assert acquire(worker).run.id == 101
    assert service.count("start") == 1


def test_when_no_look_of_the_next_attempt_succeeds_nothing_is_started(service: FakeService, worker: Worker) -> None:
    request_and_die(worker)
    lost, saved = service.start(), worker.saved
    service.faults["runs"] = [(fakes.server_error, False)] * 2
    with pytest.raises(SequentumError):
        acquire(worker)
    assert (service.count("start"), worker.saved) == (0, saved)
    assert acquire(worker).run.id == lost.id


def test_what_the_log_says_about_a_lost_run_names_the_agent(service: FakeService, worker: Worker) -> None:
    request_and_die(worker)
    acquire(worker)
    looking, not_found, started = worker.said
    assert "agent 7" in looking
    assert "agent 7" in not_found
    assert "run 101 of agent 7" in started


# Lost runs among others


def request_and_die(worker: Worker) -> None:
    """One attempt that dies just before it sends the start."""
    worker.steps_left = 1
    with suppress(Killed):
        acquire(worker)
    worker.steps_left = None


def lose_the_start(worker: Worker, *, strangers: int, took_effect: bool = True, **more: Any) -> Acquired:
    service = worker.service

    def error(call: object) -> SequentumError:
        for _ in range(strangers):
            service.start(by_stranger=True)
        return fakes.answer_lost(call)  # type: ignore[arg-type]

    service.faults["start"] = [(error, took_effect)]
    return acquire(worker, **more)


def test_several_candidates_fail_by_default_and_nothing_is_started(service: FakeService, worker: Worker) -> None:
    with pytest.raises(AgentRunStartAmbiguous) as caught:
        lose_the_start(worker, strangers=1)
    assert caught.value.agent_id == 7
    assert all(str(number) in str(caught.value) for number in (7, 101, 102))
    with pytest.raises(AgentRunStartAmbiguous):
        acquire(worker)
    assert service.count("start") == 1


def test_several_candidates_adopt_the_newest(service: FakeService, worker: Worker) -> None:
    assert lose_the_start(worker, strangers=2, on_ambiguous_start="adopt").run.id == 103
    assert service.count("start") == 1


def test_several_candidates_start_another(service: FakeService, worker: Worker) -> None:
    assert lose_the_start(worker, strangers=1, on_ambiguous_start="start").run.id == 103
    assert service.count("start") == 2
    assert any("101" in line and "102" in line for line in worker.said)


def test_starts_whose_answers_stay_lost_are_not_repeated_without_end(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.server_error, False)] * 50
    with pytest.raises(SequentumError):
        acquire(worker, on_ambiguous_start="start")
    assert service.count("start") == 2


def test_a_second_start_in_one_attempt_is_recorded_as_the_first_would_have_been(
    service: FakeService, worker: Worker
) -> None:
    acquire(worker)
    service.faults["start"] = [(fakes.server_error, False)]
    acquired = acquire(worker, max_tries=3, on_ambiguous_start="start")
    assert service.count("start") == 3
    assert (acquired.record.run_id, acquired.record.max_tries, acquired.record.replaced) == (102, 3, (101,))
    assert worker.saved == acquired.record.to_json()


@pytest.mark.parametrize("on_ambiguous_start", get_args(OnAmbiguousStart))
def test_a_single_candidate_is_adopted_and_the_log_says_so(
    service: FakeService, worker: Worker, on_ambiguous_start: str
) -> None:
    acquired = lose_the_start(worker, strangers=1, took_effect=False, on_ambiguous_start=on_ambiguous_start)
    assert service.runs[acquired.run.id].by_stranger
    assert service.count("start") == 1
    assert any("Adopting run 101" in line for line in worker.said)


def test_a_person_who_clears_an_ambiguous_task_gets_a_new_run(service: FakeService, worker: Worker) -> None:
    with pytest.raises(AgentRunStartAmbiguous):
        lose_the_start(worker, strangers=1)
    acquired = acquire(worker, max_tries=3)
    assert (acquired.run.id, acquired.record.max_tries) == (103, 3)
    assert any("101" in line and "102" in line for line in worker.said)


def test_a_person_who_clears_without_having_been_told_is_told_first(service: FakeService, worker: Worker) -> None:
    worker.steps_left = 2
    with suppress(Killed):
        acquire(worker)  # dies before it can save the run
    worker.steps_left = None
    service.start(by_stranger=True)
    with pytest.raises(AgentRunStartAmbiguous):
        acquire(worker, max_tries=3)
    with pytest.raises(AgentRunStartAmbiguous):
        acquire(worker, max_tries=3)  # not cleared since
    assert acquire(worker, max_tries=4).run.id == 103


def test_a_run_that_the_task_had_before_is_not_taken_for_the_lost_one(service: FakeService, worker: Worker) -> None:
    service.plans = [Plan(seconds=0)]
    assert acquire(worker).run.id == 101
    service.faults["start"] = [(fakes.rate_limited, False)]
    with pytest.raises(SequentumError):
        acquire(worker, max_tries=3)
    service.faults["start"] = [(fakes.server_error, False)]
    with pytest.raises(SequentumError):
        acquire(worker, max_tries=3)
    assert acquire(worker, max_tries=3).run.id == 102
    assert acquire(worker, max_tries=4).run.id == 103
    assert worker.saved is not None
    assert worker.saved["replaced"] == [101, 102]


def test_a_run_from_before_the_intent_is_no_candidate(service: FakeService, worker: Worker) -> None:
    service.start(by_stranger=True)
    service.clock.sleep(3600)
    service.faults["start"] = [(fakes.answer_lost, True)]
    assert acquire(worker).run.id == 102


def test_a_lost_run_is_found_behind_many_newer_ones(service: FakeService, worker: Worker) -> None:
    # The list holds the newest first; a busy agent has pushed the lost run far back when the retry comes.
    record = record_of(CONFIG, requested_at=service.clock.now)
    lost = service.start()
    for _ in range(80):
        service.start(by_stranger=True)
    with pytest.raises(AgentRunStartAmbiguous, match=str(lost.id)):
        find_lost_run(worker, record, "fail")


@pytest.mark.parametrize(("status", "candidates"), [(RunStatus.RUNNING, 1), (RunStatus.STOPPED, 0)])
def test_a_run_that_does_not_say_its_age_is_a_candidate_while_it_runs(status: RunStatus, candidates: int) -> None:
    record = record_of(CONFIG, requested_at=START)
    run = Run.model_validate({"id": 5, "configId": 7, "status": int(status)})
    assert len(candidates_for(record, [run], START, START)) == candidates
    old = run.model_copy(update={"start_time": START - timedelta(hours=1)})
    assert candidates_for(record, [old], START, START) == []


# The next attempt


def test_a_run_that_is_running_is_joined(service: FakeService, worker: Worker) -> None:
    first = acquire(worker)
    assert acquire(worker).run.id == first.run.id
    assert service.count("start") == 1


def test_a_run_that_succeeded_is_returned(service: FakeService, worker: Worker) -> None:
    acquire(worker)
    service.clock.sleep(3600)
    acquired = acquire(worker)
    assert (acquired.run.id, acquired.run.status) == (101, RunStatus.SUCCESS)
    assert service.count("start") == 1


def test_a_failure_is_restarted_in_place(service: FakeService, worker: Worker) -> None:
    service.plans = [FAILURE, Plan()]
    acquire(worker)
    service.clock.sleep(3600)
    acquired = acquire(worker)
    assert (acquired.run.id, service.runs[101].restarts, service.count("start")) == (101, 1, 1)
    assert acquired.record.restart_asked_at == service.clock.now


def test_an_archived_failure_is_replaced_by_a_new_run(service: FakeService, worker: Worker) -> None:
    service.plans = [FAILURE, Plan()]
    acquire(worker)
    service.clock.sleep(3600)
    service.archive(101)
    assert acquire(worker).run.id == 102
    assert service.count("restart") == 0


def test_an_archived_failure_is_refused_where_only_a_restart_is_allowed(service: FakeService, worker: Worker) -> None:
    service.plans = [FAILURE, Plan()]
    acquire(worker)
    service.clock.sleep(3600)
    service.archive(101)
    with pytest.raises(SequentumRequestRefused, match="Run 101 of agent 7 .* Failed and was archived"):
        acquire(worker, retry_mode="restart")
    assert service.count("start") == 1


def test_a_changed_input_is_new_work_and_stops_the_old_run(service: FakeService, worker: Worker) -> None:
    acquire(worker)
    acquired = acquire(worker, input_parameters='{"a": 2}')
    assert (acquired.run.id, service.runs[101].status) == (102, RunStatus.STOPPED)


def test_a_cleared_task_stops_the_run_that_is_running_and_starts_a_new_run(service: FakeService, worker: Worker) -> None:
    acquire(worker)
    still_running: list[int] = []
    service.on_start = lambda run: still_running.extend(r.id for r in service.runs.values() if not r.is_over)
    assert acquire(worker, max_tries=3).run.id == 102
    assert still_running == []
    assert acquire(worker, max_tries=3).run.id == 102, "its retry goes on with the new run"


@pytest.mark.parametrize("change", [{"max_tries": 3}, {"input_parameters": "{}"}])
def test_no_run_is_started_beside_one_that_could_not_be_stopped(
    service: FakeService, worker: Worker, change: dict[str, Any]
) -> None:
    service.plans = [Plan(seconds=None)]
    acquire(worker)
    saved = worker.saved
    service.faults["stop"] = service.faults["kill"] = [(fakes.server_error, False)] * 50
    with pytest.raises(AgentRunStillRunning) as caught:
        acquire(worker, **change)
    assert (caught.value.agent_id, caught.value.run_id) == (7, 101)
    assert all(str(number) in str(caught.value) for number in (7, 101))
    assert (service.count("start"), worker.saved) == (1, saved)
    service.faults.clear()
    assert acquire(worker, **change).run.id == 102
    assert service.runs[101].status is RunStatus.STOPPED


def test_a_cleared_task_joins_when_told_to(service: FakeService, worker: Worker) -> None:
    acquire(worker)
    acquired = acquire(worker, max_tries=3, on_clear="join")
    assert (acquired.run.id, acquired.record.max_tries) == (101, 3)
    assert worker.saved == acquired.record.to_json(), "a retry of this attempt finds it, and is no longer cleared"
    assert service.count("stop") == 0


@pytest.mark.parametrize("on_clear", ["rerun", "join"])
def test_a_cleared_success_runs_again(service: FakeService, worker: Worker, on_clear: str) -> None:
    acquire(worker)
    service.clock.sleep(3600)
    assert acquire(worker, max_tries=3, on_clear=on_clear).run.id == 102


def test_a_run_that_was_stopped_is_replaced(service: FakeService, worker: Worker) -> None:
    acquire(worker)
    service.runs[101].stop_asked_at = service.clock.now
    service.clock.sleep(2)
    acquired = acquire(worker)
    assert (acquired.run.id, service.runs[101].status) == (102, RunStatus.STOPPED)


def test_a_run_that_was_deleted_is_replaced(service: FakeService, worker: Worker) -> None:
    acquire(worker)
    service.clock.sleep(3600)
    del service.runs[101]
    service.runs[500] = fakes.FakeRun(500, 8, START, Plan(), START)
    assert service.runs[acquire(worker).run.id].agent_id == 7
    assert service.count("start") == 2


def test_a_run_that_is_not_known_yet_is_waited_for(service: FakeService, worker: Worker) -> None:
    acquire(worker)
    service.faults["status"] = [(fakes.not_found, False)] * 3
    assert acquire(worker).run.id == 101
    assert service.count("start") == 1


def test_a_run_that_cannot_be_looked_at_is_never_replaced(service: FakeService, worker: Worker) -> None:
    acquire(worker)
    saved = worker.saved
    service.faults["status"] = [(fakes.server_error, False)]
    with pytest.raises(SequentumError):
        acquire(worker)
    assert worker.saved == saved
    assert service.count("start") == 1


def test_an_abandoned_run_is_replaced(service: FakeService, worker: Worker) -> None:
    acquired = acquire(worker)
    service.clock.sleep(3600)
    assert acquire(worker, previous=acquired.record.updated(is_rejected=True)).run.id == 102


# Restarting


def failed_run(worker: Worker, *following: Plan) -> Acquired:
    worker.service.plans = [FAILURE, *(following or [Plan()])]
    acquire(worker)
    worker.service.clock.sleep(600)
    record = RunRecord.from_json(worker.saved)
    assert record is not None
    return Acquired(record, worker.service.answer(runs.status(7, 101)))


@pytest.mark.parametrize("error", [fakes.bad_request, fakes.conflict, fakes.method_not_allowed, fakes.not_found])
@pytest.mark.parametrize("retry_mode", ["restart_or_new", "restart"])
def test_a_refused_restart(service: FakeService, worker: Worker, error: ErrorOf, retry_mode: str) -> None:
    acquired = failed_run(worker)
    service.faults["restart"] = [(error, False)]
    if retry_mode == "restart":
        with pytest.raises(SequentumRequestRefused, match="Run 101 of agent 7 .* service refused"):
            restarted(worker, acquired, retry_mode=retry_mode)
        assert service.count("start") == 1
        return
    replacing = restarted(worker, acquired, retry_mode=retry_mode)
    assert replacing.run.id == 102
    assert (replacing.record.replaced, replacing.record.max_tries) == ((101,), 2)
    assert any("cannot be restarted, so a new run is started" in line for line in worker.said)


def test_a_retry_whose_restart_is_refused_starts_what_the_task_asks_for(service: FakeService, worker: Worker) -> None:
    failed_run(worker)
    service.offers_restart = False
    assert acquire(worker).run.id == 102
    assert service.runs[102].inputs == CONFIG.input_parameters


def test_a_retry_whose_restart_is_refused_starts_nothing_where_only_a_restart_is_allowed(
    service: FakeService, worker: Worker
) -> None:
    failed_run(worker)
    service.offers_restart = False
    with pytest.raises(SequentumRequestRefused):
        acquire(worker, retry_mode="restart")
    assert service.count("start") == 1


@pytest.mark.parametrize("seconds", [5, 500])
def test_a_restart_that_another_program_was_quicker_with_is_joined(
    service: FakeService, worker: Worker, seconds: float
) -> None:
    acquired = failed_run(worker)
    service.restart(101)
    service.clock.sleep(seconds)  # the run goes on, or has succeeded since
    joined = restarted(worker, acquired)
    assert joined.run.id == 101
    assert joined.run.status is (RunStatus.RUNNING if seconds < 60 else RunStatus.SUCCESS)
    assert joined.record == acquired.record
    assert "run 101 of agent 7" in worker.said[-1].lower()
    assert service.count("start") == 1


def test_after_a_refused_restart_no_failure_is_taken_for_a_stale_one(service: FakeService, worker: Worker) -> None:
    acquired = failed_run(worker)
    service.faults["restart"] = [(fakes.conflict, False)]
    service.faults["status"] = [(fakes.server_error, False)]
    with pytest.raises(SequentumError):
        restarted(worker, acquired)
    assert worker.saved is not None
    assert "restart_asked_at" not in worker.saved


@pytest.mark.parametrize("took_effect", [True, False])
@pytest.mark.parametrize("error", [fakes.answer_lost, fakes.server_error])
def test_a_lost_answer_to_a_restart_starts_nothing(
    service: FakeService, worker: Worker, error: ErrorOf, took_effect: bool
) -> None:
    acquired = failed_run(worker)
    service.faults["restart"] = [(error, took_effect)]
    again = restarted(worker, acquired)
    assert (again.run.id, service.count("start")) == (101, 1)
    assert again.record.restart_asked_at == service.clock.now
    assert again.record.failure_ended_at == acquired.run.end_time
    assert worker.saved == again.record.to_json()
    assert str(error(runs.restart(7, 101))) in worker.said[-1]


@pytest.mark.parametrize("error", [fakes.not_reached, fakes.rate_limited])
def test_a_restart_that_was_not_sent_is_tried_again_by_the_next_attempt(
    service: FakeService, worker: Worker, error: ErrorOf
) -> None:
    acquired = failed_run(worker)
    service.faults["restart"] = [(error, False)]
    with pytest.raises(SequentumError):
        restarted(worker, acquired)
    assert acquire(worker).run.id == 101
    assert service.runs[101].restarts == 1


class CurtService(FakeService):
    """It does not say what it has restarted: the form of that answer is not published."""

    def answer(self, call: Call[Any]) -> Any:
        answered = super().answer(call)
        return call.parse(Answer(200, {}, b"")) if call.path.endswith("/restart") else answered


def test_a_restart_that_is_answered_with_nothing_keeps_the_run() -> None:
    service = CurtService(Clock())
    worker = Worker(service)
    acquired = failed_run(worker)
    again = restarted(worker, acquired)
    assert (again.run, again.record.run_id) == (acquired.run, 101)
    assert again.record.restart_asked_at == service.clock.now
    assert worker.saved == again.record.to_json()
    assert "run 101 of agent 7" in worker.said[-1].lower()


def test_the_new_id_of_a_restarted_run_is_saved(service: FakeService, worker: Worker) -> None:
    acquired = failed_run(worker)
    service.runs[102] = service.runs.pop(101)
    service.runs[101] = service.runs[102]
    service.runs[101].id = 102
    assert restarted(worker, acquired).record.run_id == 102
    assert worker.saved is not None
    assert worker.saved["run_id"] == 102


def test_an_old_failure_shown_just_after_a_restart_is_not_restarted_again(service: FakeService, worker: Worker) -> None:
    service.plans = [FAILURE, Plan(seconds=300)]
    service.restart_lag = 40
    acquire(worker)
    service.clock.sleep(600)
    acquire(worker)
    service.clock.sleep(5)  # the worker died, and its retry sees the old Failure
    assert acquire(worker).run.status is RunStatus.RUNNING
    assert service.runs[101].restarts == 1


def test_a_restart_that_a_dying_worker_only_intended_is_sent_by_the_next_attempt(service: FakeService, worker: Worker) -> None:
    # The record says that a restart was asked for, and it never was: the Failure that stands is the ending.
    acquired = failed_run(worker)
    worker.save(acquired.record.restarting(service.clock.now, acquired.run.end_time))
    service.clock.sleep(5)
    assert acquire(worker).run.status is RunStatus.RUNNING
    assert (service.runs[101].restarts, service.count("start")) == (1, 1)


def test_a_cleared_task_stops_a_run_that_was_restarted_a_moment_ago(service: FakeService, worker: Worker) -> None:
    service.plans = [FAILURE, Plan(seconds=None), Plan()]
    service.restart_lag = 40
    acquire(worker)
    service.clock.sleep(600)
    acquire(worker)
    service.clock.sleep(5)
    assert acquire(worker, max_tries=3).run.id == 102
    assert service.runs[101].status is RunStatus.STOPPED


def test_an_old_failure_that_comes_back_into_view_is_not_taken_for_the_end_of_a_stop(
    service: FakeService, worker: Worker
) -> None:
    service.plans = [FAILURE, Plan(seconds=None), Plan()]
    acquire(worker)
    service.clock.sleep(600)
    acquire(worker)
    service.clock.sleep(5)

    def lost_while_an_old_state_is_shown(call: Call[Any]) -> SequentumError:
        service.runs[101].shown_until = service.clock.now + timedelta(seconds=20)
        return fakes.answer_lost(call)

    service.faults["stop"] = [(lost_while_an_old_state_is_shown, True)]
    running_at_start: list[int] = []
    service.on_start = lambda run: running_at_start.extend(r.id for r in service.runs.values() if not r.is_over)
    assert acquire(worker, max_tries=3).run.id == 102
    assert running_at_start == []


def test_a_new_failure_soon_after_a_restart_is_restarted(service: FakeService, worker: Worker) -> None:
    service.plans = [FAILURE, Plan(RunStatus.FAILURE, seconds=3), Plan(seconds=300)]
    acquire(worker)
    service.clock.sleep(600)
    acquire(worker)
    service.clock.sleep(5)
    acquire(worker)
    assert service.runs[101].restarts == 2


# Airflow older than 3.3: nothing was kept, and an earlier attempt may have started a run


def guess(service: FakeService) -> RunRecord:
    return record_of(CONFIG, requested_at=service.clock.now - timedelta(minutes=5), is_guess=True)


def test_without_a_record_a_single_run_that_is_running_is_joined(service: FakeService, worker: Worker) -> None:
    service.start()
    assert acquire(worker, previous=guess(service)).run.id == 101


def test_without_a_record_a_run_that_is_over_is_not_taken_for_ours(service: FakeService, worker: Worker) -> None:
    service.start()
    service.clock.sleep(120)
    assert acquire(worker, previous=guess(service)).run.id == 102


# Death at every step


@pytest.mark.parametrize("steps", range(8))
def test_a_worker_that_dies_anywhere_leaves_at_most_one_run(service: FakeService, steps: int) -> None:
    dying = Worker(service, steps_left=steps)
    with suppress(Killed):
        acquire(dying)
    service.clock.sleep(30)
    acquired = acquire(Worker(service, kept=list(dying.kept)))
    assert len(service.runs) == 1
    assert acquired.run.id == 101


@pytest.mark.parametrize("steps", range(14))
def test_a_worker_that_dies_while_it_replaces_a_run_leaves_one_that_goes(service: FakeService, steps: int) -> None:
    first = Worker(service)
    acquire(first)
    dying = Worker(service, steps_left=steps, kept=list(first.kept))
    running_at_start: list[int] = []
    service.on_start = lambda run: running_at_start.extend(r.id for r in service.runs.values() if not r.is_over)
    with suppress(Killed):
        acquire(dying, max_tries=3)
    service.clock.sleep(3)
    acquired = acquire(Worker(service, kept=list(dying.kept)), max_tries=3)
    assert running_at_start == []
    assert [run.id for run in service.runs.values() if not run.is_over] == [acquired.run.id] == [102]


@pytest.mark.parametrize(
    ("max_tries", "said"),
    [
        (2, r"An earlier attempt .*; its run 101 of agent 7 is Running\. Joining it\."),
        (3, r"The task was cleared; its run 101 of agent 7 is Running\. Stopping it and starting a new run\."),
    ],
)
def test_what_the_log_says_about_a_retry_names_the_reason_the_run_and_the_decision(
    worker: Worker, max_tries: int, said: str
) -> None:
    acquire(worker)
    acquire(worker, max_tries=max_tries)
    assert any(re.fullmatch(said, line) for line in worker.said)


def test_a_start_for_an_unknown_agent_says_so(service: FakeService, worker: Worker) -> None:
    with pytest.raises(NotFound):
        acquire(worker, agent_id=999)
    assert worker.saved is None
