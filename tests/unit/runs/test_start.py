from __future__ import annotations

import re
from contextlib import nullcontext, suppress
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, get_args

import pytest

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.call import Call, Response
from airflow_provider_sequentum.api.errors import SequentumError, UnexpectedResponse
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import (
    AgentRunStartAmbiguous,
    AgentRunStillRunning,
    CreditsTooLow,
    SequentumRequestRefused,
    SequentumUnavailable,
)
from airflow_provider_sequentum.jobs.siblings import Claim
from airflow_provider_sequentum.parameters import OnAmbiguousStart
from airflow_provider_sequentum.runs import lost_start
from airflow_provider_sequentum.runs.lost_start import candidates_for, find_lost_run
from airflow_provider_sequentum.runs.record import RunConfig, RunRecord
from airflow_provider_sequentum.runs.start import acquire_run, restart_or_start
from tests.support import service as fakes
from tests.support.errors import raises
from tests.support.service import START, Clock, ErrorOf, FakeRun, FakeService, Plan
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
    return acquired(worker, acquire_run(worker, previous, new))


def acquired(worker: Worker, run: Run) -> Acquired:
    assert isinstance(worker.record, RunRecord)
    return Acquired(worker.record, run)


def restarted(worker: Worker, before: Acquired, **more: Any) -> Acquired:
    record, run = before
    return acquired(worker, restart_or_start(worker, record, run, record_of(CONFIG.updated(**more))))


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


@pytest.mark.parametrize("error", [fakes.response_lost, fakes.server_error])
def test_a_lost_run_is_found_in_the_same_attempt(service: FakeService, worker: Worker, error: ErrorOf) -> None:
    service.faults["start"] = [(error, True)]
    assert acquire(worker).run.id == 101
    assert service.count("start") == 1


@pytest.mark.parametrize("error", [fakes.response_lost, fakes.server_error])
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
    service.faults["start"] = [(fakes.response_lost, True)]
    service.list_lag = 8
    assert acquire(worker).run.id == 101
    assert service.count("runs") == 2


def test_a_lost_run_that_appears_very_late_is_found_by_the_next_attempt(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.response_lost, True)]
    service.list_lag = 60
    with pytest.raises(SequentumError):
        acquire(worker)
    service.clock.sleep(60)
    assert acquire(worker).run.id == 101
    assert service.count("start") == 1


def test_one_failed_look_for_a_lost_run_is_not_the_last(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.response_lost, True)]
    service.faults["runs"] = [(fakes.server_error, False)]
    assert acquire(worker).run.id == 101


def test_when_no_look_succeeds_the_intent_stays(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.response_lost, True)]
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
        return fakes.response_lost(call)  # type: ignore[arg-type]

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


def answer_with(service: FakeService, run_id: int) -> None:
    """Let the service start runs as it should, and answer with another one."""
    start = service.start

    def other(*arguments: Any, **named: Any) -> FakeRun:
        start(*arguments, **named)
        return service.runs[run_id]

    service.start = other  # type: ignore[method-assign]


def test_a_start_that_is_answered_with_the_run_before_it_is_a_lost_one(service: FakeService, worker: Worker) -> None:
    acquire(worker)
    answer_with(service, 101)
    acquired = acquire(worker, max_tries=3)
    assert (acquired.run.id, acquired.record.run_id, acquired.record.replaced) == (102, 102, (101,))
    assert any("which is an earlier run of the task" in line for line in worker.warned)


@pytest.mark.parametrize(("is_job", "lag"), [(True, 0), (True, 20), (False, 0)])
def test_a_restart_whose_answer_names_something_else_keeps_the_run(
    service: FakeService, worker: Worker, is_job: bool, lag: float
) -> None:
    acquired = failed_run(worker, Plan(seconds=None))
    other = service.start(by_stranger=True)
    if is_job:
        del service.runs[other.id]
    service.restart_lag = lag
    restart = service.restart
    service.restart = lambda *ids: (restart(*ids), other)[1]  # type: ignore[method-assign]
    assert restarted(worker, acquired).run.id == 101
    assert worker.saved is not None
    assert worker.saved["run_id"] == 101


def test_a_run_from_before_the_intent_is_no_candidate(service: FakeService, worker: Worker) -> None:
    service.start(by_stranger=True)
    service.clock.sleep(3600)
    service.faults["start"] = [(fakes.response_lost, True)]
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
    assert len(candidates_for(record, [run], START)) == candidates
    old = run.model_copy(update={"start_time": START - timedelta(hours=1)})
    assert candidates_for(record, [old], START) == []


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
    with pytest.raises(SequentumRequestRefused, match=r"Run 101 of agent 7 .* Failed and was archived"):
        acquire(worker, retry_mode="restart")
    assert service.count("start") == 1


def test_a_changed_input_is_new_work_and_stops_the_old_run(service: FakeService, worker: Worker) -> None:
    acquire(worker)
    acquired = acquire(worker, input_parameters='{"a": 2}')
    assert (acquired.run.id, service.runs[101].status) == (102, RunStatus.STOPPED)


def test_a_cleared_task_stops_the_run_that_is_running_and_starts_a_new_run(
    service: FakeService, worker: Worker
) -> None:
    acquire(worker)
    still_running: list[int] = []
    service.on_start = lambda run: still_running.extend(r.id for r in service.runs.values() if not r.is_over)
    assert acquire(worker, max_tries=3).run.id == 102
    assert still_running == []
    assert acquire(worker, max_tries=3).run.id == 102, "its retry continues with the new run"


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
        with pytest.raises(SequentumRequestRefused, match=r"Run 101 of agent 7 .* service refused"):
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
@pytest.mark.parametrize("error", [fakes.response_lost, fakes.server_error])
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
        return call.parse(Response(200, {}, b"")) if call.path.endswith("/restart") else answered


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


def test_a_restart_that_a_dying_worker_only_intended_is_sent_by_the_next_attempt(
    service: FakeService, worker: Worker
) -> None:
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
        return fakes.response_lost(call)

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
        (2, r"This is another attempt of the task; its run 101 of agent 7 has the status Running\. Joining it\."),
        (
            3,
            (
                r"The task was cleared; its run 101 of agent 7 has the status Running\. Stopping it and starting a "
                r"new run\."
            ),
        ),
    ],
)
def test_what_the_log_says_about_a_retry_names_the_reason_the_run_and_the_decision(
    worker: Worker, max_tries: int, said: str
) -> None:
    acquire(worker)
    acquire(worker, max_tries=max_tries)
    assert any(re.fullmatch(said, line) for line in worker.said)


def test_a_start_for_an_unknown_agent_says_so(service: FakeService, worker: Worker) -> None:
    with raises(404):
        acquire(worker, agent_id=999)
    assert worker.saved is None


# The clocks of the worker and of the service differ

SKEWS = [timedelta(0), *(sign * skew for skew in (timedelta(seconds=45), timedelta(days=1)) for sign in (1, -1))]


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("list_lag", [0, 8])
def test_a_lost_run_is_found_whatever_the_services_clock_says(
    service: FakeService, worker: Worker, skew: timedelta, list_lag: float
) -> None:
    service.skew, service.list_lag = skew, list_lag
    service.start(by_stranger=True)
    service.clock.sleep(60)
    service.faults["start"] = [(fakes.response_lost, True)]
    assert acquire(worker).run.id == 102
    assert service.count("start") == 1


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("ago", [90, 3600])
def test_a_run_from_before_the_request_is_no_candidate_whatever_the_services_clock_says(
    service: FakeService, worker: Worker, skew: timedelta, ago: float
) -> None:
    service.skew = skew
    service.start(by_stranger=True)
    service.clock.sleep(ago)
    service.faults["start"] = [(fakes.server_error, False)]
    with pytest.raises(SequentumError):
        acquire(worker)
    service.clock.sleep(900)
    assert acquire(worker).run.id == 102


@pytest.mark.parametrize("is_own_there", [False, True])
@pytest.mark.parametrize("behind", [timedelta(hours=2), timedelta(days=20_000)])
def test_a_date_from_before_the_runs_in_its_answer_makes_no_run_a_candidate(
    service: FakeService, worker: Worker, monkeypatch: pytest.MonkeyPatch, behind: timedelta, is_own_there: bool
) -> None:
    """A cache or a gateway may write a ``Date`` that has nothing to do with the clock that runs are dated by."""
    exchange = service.exchange
    monkeypatch.setattr(service, "exchange", lambda call: exchange(call)._replace(served_at=service.clock.now - behind))
    stranger = service.start(by_stranger=True)
    service.clock.sleep(3600)
    service.faults["start"] = [(fakes.server_error, is_own_there)]
    if is_own_there:
        assert acquire(worker).run.id == 102
    else:
        with pytest.raises(SequentumError):
            acquire(worker)
    assert stranger.stop_asked_at is None
    assert service.count("start") == 1


@pytest.mark.parametrize("ahead", [5, 20, 50])
@pytest.mark.parametrize("on_ambiguous_start", ["fail", "adopt", "start"])
def test_no_run_is_started_beside_one_that_seems_to_be_from_just_before_the_request(
    service: FakeService, worker: Worker, monkeypatch: pytest.MonkeyPatch, ahead: float, on_ambiguous_start: Any
) -> None:
    """The clock of a gateway, which writes ``Date``, is ahead of the one that runs are dated by."""
    exchange, skew = service.exchange, timedelta(seconds=ahead)
    monkeypatch.setattr(service, "exchange", lambda call: exchange(call)._replace(served_at=service.clock.now + skew))
    service.clock.sleep(3600)
    service.faults["start"] = [(fakes.response_lost, True)]
    asked = partial(acquire, worker, on_ambiguous_start=on_ambiguous_start)
    if on_ambiguous_start == "fail":
        with pytest.raises(AgentRunStartAmbiguous, match=r"Runs \[101\] seem to have been created") as caught:
            asked()
        assert caught.value.run_id == 101
        assert service.count("start") == 1
        return
    assert asked().run.id == (101 if on_ambiguous_start == "adopt" else 102)


@pytest.mark.parametrize("ahead", [timedelta(minutes=2), timedelta(hours=3), timedelta(days=40)])
@pytest.mark.parametrize("seconds", [None, 5])
def test_no_second_run_is_started_because_of_a_date_that_nothing_confirms(
    service: FakeService, worker: Worker, monkeypatch: pytest.MonkeyPatch, ahead: timedelta, seconds: float | None
) -> None:
    """A gateway's clock makes all runs look older than the request, the lost one too, which may have ended by now."""
    exchange = service.exchange
    monkeypatch.setattr(service, "exchange", lambda call: exchange(call)._replace(served_at=service.clock.now + ahead))
    service.plans = [Plan(seconds=seconds)]
    service.clock.sleep(3600)
    service.faults["start"] = [(fakes.response_lost, True)]
    for _ in range(2):
        with pytest.raises(AgentRunStartAmbiguous, match=r"Runs \[101\] seem to have been created"):
            acquire(worker)
    assert service.count("start") == 1


def misname(service: FakeService, named: int) -> None:
    """Make it so that the response to a start has named a run that never existed."""
    real = service.runs.pop(named)
    real.id = service.next_id
    service.runs[real.id] = real
    service.next_id += 1


@pytest.mark.parametrize("ahead", [timedelta(seconds=20), timedelta(minutes=2), timedelta(hours=3)])
@pytest.mark.parametrize("seconds", [None, 90])
@pytest.mark.parametrize("on_ambiguous_start", ["fail", "adopt", "start"])
def test_no_run_is_started_in_place_of_an_unknown_one_because_of_a_date_that_nothing_confirms(
    service: FakeService,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    ahead: timedelta,
    seconds: float | None,
    on_ambiguous_start: Any,
) -> None:
    """By the clock of a gateway, what the start has really started is older than its request."""
    exchange = service.exchange
    service.plans = [Plan(seconds=seconds)]
    acquire(worker)
    misname(service, 101)
    monkeypatch.setattr(service, "exchange", lambda call: exchange(call)._replace(served_at=service.clock.now + ahead))
    asked = partial(acquire, worker, on_ambiguous_start=on_ambiguous_start)
    if on_ambiguous_start == "fail":
        for _ in range(2):
            with pytest.raises(AgentRunStartAmbiguous, match=r"Runs \[102\] seem to have been created"):
                asked()
        assert service.count("start") == 1
        return
    assert asked().run.id == (102 if on_ambiguous_start == "adopt" else 103)


@pytest.mark.parametrize("on_ambiguous_start", ["fail", "adopt"])
def test_no_run_is_started_in_place_of_an_unknown_one_that_the_list_may_hide(
    service: FakeService, worker: Worker, monkeypatch: pytest.MonkeyPatch, on_ambiguous_start: Any
) -> None:
    service.start(by_stranger=True)
    service.clock.sleep(3600)
    acquire(worker)
    misname(service, 102)
    act = service._act

    def act_and_spoil(verb: str, call: Call[Any]) -> Any:
        found = act(verb, call)
        return [{**found[0], "id": None}, *found[1:]] if verb == "runs" else found

    monkeypatch.setattr(service, "_act", act_and_spoil)
    with pytest.raises(AgentRunStartAmbiguous, match="1 run in the service's list for agent 7 cannot be read"):
        acquire(worker, on_ambiguous_start=on_ambiguous_start)
    assert service.count("start") == 1


def test_a_run_from_just_before_the_request_that_had_ended_by_then_keeps_none_from_being_started(
    service: FakeService, worker: Worker
) -> None:
    service.plans = [Plan(seconds=20)]
    service.start(by_stranger=True)
    service.clock.sleep(30)
    service.faults["start"] = [(fakes.server_error, False)]
    with pytest.raises(SequentumError):
        acquire(worker)
    assert acquire(worker).run.id == 102


@pytest.mark.parametrize("seconds", [1, 20])
def test_a_run_from_just_before_the_request_that_is_stopped_meanwhile_keeps_none_from_being_started(
    service: FakeService, worker: Worker, seconds: float
) -> None:
    """What a cleared task had before: its old trigger stops it."""
    service.stop_seconds = seconds
    service.start(by_stranger=True)
    service.clock.sleep(10)
    service.answer(runs.stop(7, 101))
    service.faults["start"] = [(fakes.server_error, False)]
    with pytest.raises(SequentumError):
        acquire(worker)
    assert acquire(worker).run.id == 102


@pytest.mark.parametrize("skew", SKEWS)
def test_a_guess_takes_no_run_from_before_the_dag_run_whatever_the_services_clock_says(
    service: FakeService, worker: Worker, skew: timedelta
) -> None:
    service.skew, service.plans = skew, [Plan(seconds=None)]
    service.start(by_stranger=True)
    service.clock.sleep(400)
    assert acquire(worker, previous=guess(service)).run.id == 102


@pytest.mark.parametrize("skew", SKEWS)
def test_where_the_service_does_not_tell_its_time_ids_decide(
    service: FakeService, worker: Worker, skew: timedelta
) -> None:
    service.skew, service.tells_time, service.plans = skew, False, [Plan(seconds=1)]
    acquire(worker)
    service.clock.sleep(3600)
    service.faults["start"] = [(fakes.response_lost, True)]
    assert acquire(worker, max_tries=3).run.id == 102
    assert service.count("start") == 2


def test_where_the_service_does_not_tell_its_time_a_first_run_is_told_by_being_active(
    service: FakeService, worker: Worker
) -> None:
    service.tells_time = False
    service.start(by_stranger=True)
    service.clock.sleep(3600)
    service.faults["start"] = [(fakes.response_lost, True)]
    assert acquire(worker).run.id == 102


# Mapped siblings start the same agent


def claim(*run_ids: int, agent_id: int | None = 7, **more: Any) -> Claim:
    return Claim(agent_id=agent_id, run_ids=run_ids, map_index=1, **more)


@pytest.mark.parametrize(("claimed", "found"), [((101,), 102), ((102,), 101), ((101, 102), None)])
def test_a_run_that_a_sibling_has_claimed_is_not_taken_for_the_lost_one(
    service: FakeService, worker: Worker, claimed: tuple[int, ...], found: int | None
) -> None:
    record = record_of(CONFIG, requested_at=service.clock.now)
    worker.siblings = [claim(*claimed)]
    for _ in range(2):
        service.start()
    run = find_lost_run(worker, record, "fail")
    assert (run.id if run else None) == found


def test_the_run_of_a_sibling_whose_answer_is_late_is_not_adopted(service: FakeService, worker: Worker) -> None:
    worker.siblings = [claim(is_answered=False)]
    with pytest.raises(AgentRunStartAmbiguous, match="1 mapped sibling may have started it") as caught:
        lose_the_start(worker, strangers=1, took_effect=False)
    assert caught.value.run_id == 101
    assert worker.claimed[-1].is_answered is False, "the start of this task is unanswered for its siblings too"
    assert service.count("start") == 1


def test_the_answer_of_a_sibling_is_waited_for(service: FakeService, worker: Worker) -> None:
    worker.siblings = [claim(is_answered=False)]
    slept = worker.sleep

    def sleep(seconds: float) -> None:
        slept(seconds)
        if service.clock.now > START + timedelta(seconds=20):
            worker.siblings = [claim(101)]

    worker.sleep = sleep  # type: ignore[method-assign]
    assert lose_the_start(worker, strangers=1).run.id == 102


def test_the_lost_run_of_a_sibling_that_was_cleared_is_not_adopted(service: FakeService, worker: Worker) -> None:
    # The sibling failed, because its run could not be told from others; a person cleared it, and it started run 103.
    worker.siblings = [claim(103, has_lost_run=True)]
    with pytest.raises(AgentRunStartAmbiguous, match="A mapped sibling has lost a run") as caught:
        lose_the_start(worker, strangers=1, took_effect=False)
    assert caught.value.run_id == 101
    assert service.count("start") == 1


def test_a_run_that_is_younger_than_all_that_a_sibling_has_lost_is_adopted(worker: Worker) -> None:
    worker.siblings = [claim(100, has_lost_run=True)]
    assert lose_the_start(worker, strangers=0).run.id == 101


@pytest.mark.parametrize("policy", ["fail", "start"])
def test_a_task_whose_run_could_not_be_told_from_others_says_so_to_its_siblings(
    service: FakeService, worker: Worker, policy: str
) -> None:
    with suppress(AgentRunStartAmbiguous):
        lose_the_start(worker, strangers=1, on_ambiguous_start=policy)
    if policy == "fail":
        assert worker.claimed[-1].is_answered is False
        acquire(worker, max_tries=3)
    assert (worker.claimed[-1].run_ids, worker.claimed[-1].has_lost_run) == ((103,), True)
    request_and_die(worker)
    acquire(worker, max_tries=4)
    assert worker.claimed[-1].has_lost_run, "also after further attempts"


def test_an_intent_that_an_earlier_attempt_left_is_lost_too_where_another_run_is_started(
    service: FakeService, worker: Worker
) -> None:
    request_and_die(worker)
    service.start(by_stranger=True)
    service.start(by_stranger=True)
    assert acquire(worker, on_ambiguous_start="start").record.may_lack_runs
    assert worker.claimed[-1].has_lost_run


@pytest.mark.parametrize("lost_by", [None, "a clear that wiped the record", "an ambiguous start"])
def test_a_refused_start_does_not_settle_what_the_task_has_lost(
    service: FakeService, worker: Worker, lost_by: str | None
) -> None:
    if lost_by == "an ambiguous start":
        with suppress(AgentRunStartAmbiguous):
            lose_the_start(worker, strangers=1)
    service.faults["start"] = [(fakes.rate_limited, False)]
    previous = None if worker.saved is None else RunRecord.from_json(worker.saved)
    new = record_of(CONFIG, 3, may_lack_runs=lost_by == "a clear that wiped the record")
    with pytest.raises(SequentumError):
        acquire_run(worker, previous, new)
    assert worker.claimed[-1].is_answered is (lost_by is None)


@pytest.mark.parametrize(("on_ambiguous_start", "run_id"), [("adopt", 101), ("start", 102)])
def test_the_author_may_decide_about_the_run_of_an_unanswered_sibling(
    service: FakeService, worker: Worker, on_ambiguous_start: str, run_id: int
) -> None:
    worker.siblings = [claim(is_answered=False)]
    acquired = lose_the_start(worker, strangers=1, took_effect=False, on_ambiguous_start=on_ambiguous_start)
    assert acquired.run.id == run_id


@pytest.mark.parametrize("sibling", [claim(agent_id=8, is_answered=False), claim(103), claim()])
def test_siblings_that_cannot_have_started_it_are_no_doubt(worker: Worker, sibling: Claim) -> None:
    worker.siblings = [sibling]
    assert lose_the_start(worker, strangers=0).run.id == 101


def test_a_space_whose_start_is_unanswered_is_a_doubt(worker: Worker) -> None:
    worker.siblings = [claim(agent_id=None, is_answered=False)]
    with pytest.raises(AgentRunStartAmbiguous):
        lose_the_start(worker, strangers=0)


def test_a_start_is_claimed_before_it_is_sent_and_the_run_after_it(service: FakeService, worker: Worker) -> None:
    claims_at_start: list[Claim] = []
    service.on_start = lambda run: claims_at_start.extend(worker.claimed)
    acquire(worker)
    assert [(each.run_ids, each.is_answered) for each in claims_at_start] == [((), False)]
    assert (worker.claimed[-1].run_ids, worker.claimed[-1].is_answered) == ((101,), True)


def test_a_start_that_certainly_did_nothing_is_no_longer_claimed(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.bad_request, False)]
    with pytest.raises(SequentumError):
        acquire(worker)
    assert (worker.claimed[-1].run_ids, worker.claimed[-1].is_answered) == ((), True)


def test_a_retry_claims_the_run_that_it_joins_or_restarts_again(service: FakeService, worker: Worker) -> None:
    # Airflow drops the XComs of an attempt, claims among them, when the next one starts.
    service.plans = [FAILURE, Plan()]
    acquire(worker)
    for seconds in (1, 600):
        worker.claimed.clear()
        service.clock.sleep(seconds)
        acquire(worker)
        assert (worker.claimed[-1].run_ids, worker.claimed[-1].is_answered) == ((101,), True)


# A killed task: what it may stop


@pytest.mark.parametrize(
    ("strangers", "siblings", "found"),
    [
        (0, [], 101),
        (0, [claim(102)], 101),
        (1, [claim(102)], 101),
        (0, [claim(101)], None),
        (0, [claim(is_answered=False)], "ambiguous"),
        (1, [], "ambiguous"),
    ],
)
def test_a_killed_task_stops_only_what_is_certainly_its_own(
    service: FakeService, worker: Worker, strangers: int, siblings: list[Claim], found: int | str | None
) -> None:
    record = record_of(CONFIG, requested_at=service.clock.now)
    service.start()
    for _ in range(strangers):
        service.start(by_stranger=True)
    worker.siblings = siblings
    with pytest.raises(AgentRunStartAmbiguous) if found == "ambiguous" else nullcontext():
        run = find_lost_run(worker, record, "fail", is_killed=True)
        assert (run and run.id) == found
    if found == 101:
        assert service.clock.now == START, "Airflow gives it about five seconds"


# A list that is cut


@pytest.fixture
def short_list(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(lost_start, "MAX_LISTED_RUNS", 3)
    return 3


def test_a_single_candidate_in_a_cut_list_is_no_proof(service: FakeService, worker: Worker, short_list: int) -> None:
    # The others in the list are those of siblings; the task's own run is behind them, or the one that is left.
    worker.siblings = [claim(102, 103)]
    with pytest.raises(AgentRunStartAmbiguous, match="More runs were created since than the 3"):
        lose_the_start(worker, strangers=3)


@pytest.mark.parametrize("most_listed", [1, 2, 3])
def test_a_list_that_the_service_cuts_by_itself_is_no_proof(
    service: FakeService, worker: Worker, most_listed: int
) -> None:
    service.most_listed = most_listed
    worker.siblings = [claim(102, 103)]
    with pytest.raises(AgentRunStartAmbiguous, match=f"More runs were created since than the {most_listed}"):
        lose_the_start(worker, strangers=3)


@pytest.mark.parametrize("on_ambiguous_start", ["fail", "adopt"])
def test_no_candidate_in_a_cut_list_does_not_mean_that_none_was_started(
    service: FakeService, worker: Worker, short_list: int, on_ambiguous_start: str
) -> None:
    worker.siblings = [claim(102, 103, 104)]
    with pytest.raises(AgentRunStartAmbiguous):
        lose_the_start(worker, strangers=3, on_ambiguous_start=on_ambiguous_start)


def test_a_full_list_that_reaches_back_far_enough_is_as_good_as_any(
    service: FakeService, worker: Worker, short_list: int
) -> None:
    for _ in range(3):
        service.start(by_stranger=True)
    service.clock.sleep(3600)
    assert lose_the_start(worker, strangers=0).run.id == 104


def test_an_error_names_a_few_of_many_candidates(service: FakeService, worker: Worker) -> None:
    with pytest.raises(AgentRunStartAmbiguous, match=r"\[101, 102, .*, 120 and 481 more\]") as caught:
        lose_the_start(worker, strangers=500)
    assert len(str(caught.value)) < 1000


def hide_the_first_run(service: FakeService) -> None:
    """Let the service list the first run, which is the task's own, in a way that cannot be read."""
    act = service._act_on_agent

    def spoilt(verb: str, *arguments: Any) -> Any:
        answer = act(verb, *arguments)
        return [{**run, "id": None} if run["id"] == 101 else run for run in answer] if verb == "runs" else answer

    service._act_on_agent = spoilt  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("on_ambiguous_start", ["fail", "adopt"])
@pytest.mark.parametrize(("strangers", "siblings"), [(1, []), (1, [102])])
def test_a_list_with_a_run_that_cannot_be_read_proves_nothing(
    service: FakeService, worker: Worker, strangers: int, siblings: list[int], on_ambiguous_start: str
) -> None:
    hide_the_first_run(service)
    worker.siblings = [claim(*siblings)]
    is_adopted = on_ambiguous_start == "adopt" and not siblings
    with (
        nullcontext()
        if is_adopted
        else pytest.raises(AgentRunStartAmbiguous, match="1 run in the service's list for agent 7 cannot")
    ):
        lose_the_start(worker, strangers=strangers, on_ambiguous_start=on_ambiguous_start)
    assert service.count("start") == 1


# Another run of the agent is active


def test_a_409_to_a_start_passes(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.conflict, False)] * 2
    assert acquire(worker).run.id == 101
    assert (service.count("start"), service.count("runs")) == (3, 0)
    assert timedelta(0) < service.clock.now - START < timedelta(minutes=2)


def test_a_409_that_lasts_is_left_to_the_next_attempt(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.conflict, False)] * 20
    with pytest.raises(SequentumUnavailable, match="Nothing was started; a retry sends the start again"):
        acquire(worker)
    assert (worker.saved, service.count("start")) == (None, 4)


def test_a_409_is_not_waited_out_beyond_the_deadline(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.conflict, False)] * 20
    worker.deadline = START + timedelta(seconds=5)
    with pytest.raises(SequentumError):
        acquire(worker)
    assert (service.clock.now, worker.saved) == (worker.deadline, None)


# The deadline bounds what comes before the stop


def test_a_lost_run_is_looked_for_until_the_deadline_only(service: FakeService, worker: Worker) -> None:
    service.faults["start"] = [(fakes.response_lost, True)]
    service.list_lag = 60
    worker.deadline = START + timedelta(seconds=7)
    with pytest.raises(SequentumUnavailable, match="may be running"):
        acquire(worker)
    assert service.clock.now == worker.deadline
    assert worker.saved is not None


@pytest.mark.parametrize("error", [fakes.not_found, fakes.server_error])
def test_the_run_of_an_earlier_attempt_is_looked_at_until_the_deadline_only(
    service: FakeService, worker: Worker, error: ErrorOf
) -> None:
    acquire(worker)
    service.faults["status"] = [(error, False)] * 100
    worker.deadline = START + timedelta(seconds=12)
    with pytest.raises(SequentumError):
        acquire(worker)
    assert service.clock.now <= worker.deadline


def test_an_old_failure_is_looked_at_until_the_deadline_only(service: FakeService, worker: Worker) -> None:
    acquired = failed_run(worker)
    worker.save(acquired.record.restarting(service.clock.now, acquired.run.end_time))
    worker.deadline = service.clock.now + timedelta(seconds=12)
    with pytest.raises(SequentumError):
        acquire(worker)
    assert service.clock.now == worker.deadline
    assert service.runs[101].restarts == 0


def test_nothing_is_started_after_a_stop_that_took_until_the_deadline(service: FakeService, worker: Worker) -> None:
    service.plans = [Plan(seconds=None)]
    acquire(worker)
    service.ignores_stop = True
    worker.deadline = START + timedelta(seconds=10)
    with pytest.raises(SequentumError):
        acquire(worker, max_tries=3)
    assert (service.runs[101].status, len(service.runs)) == (RunStatus.STOPPED, 1)


# Decided too early


@pytest.mark.parametrize(("outcome", "run_id", "restarts"), [(10, 101, 0), (6, 101, 1), (8, 102, 0)])
def test_a_run_that_ends_by_itself_before_it_is_stopped_is_taken_as_it_ended(
    service: FakeService, worker: Worker, outcome: int, run_id: int, restarts: int
) -> None:
    acquire(worker)
    run = service.runs[101]
    run.status = RunStatus.STOPPING

    def ends(call: Call[Any]) -> SequentumError:
        run.status, run.end_time = RunStatus(outcome), service.clock.now
        return fakes.conflict(call)

    service.faults["stop"] = [(ends, False)]
    assert acquire(worker).run.id == run_id
    assert (run.restarts, service.count("start")) == (restarts, run_id - 100)


# Said too little


@pytest.mark.parametrize("error", [fakes.unauthorized, fakes.bad_request, fakes.server_error])
def test_an_unread_list_after_a_lost_start_does_not_hide_that_a_run_may_be_running(
    service: FakeService, worker: Worker, error: ErrorOf
) -> None:
    service.faults["start"] = [(fakes.server_error, True)]
    service.faults["runs"] = [(error, False)] * 20
    with pytest.raises(SequentumUnavailable) as caught:
        acquire(worker)
    for part in ("Broken.", str(error(runs.list_runs(7, 5))), "run of agent 7 may be running and costing credits"):
        assert part in str(caught.value)
    assert worker.saved is not None


# The answer to another question


@pytest.mark.parametrize("foreign", [{"id": 555}, {"configId": 8}, {"id": 555, "configId": 8}])
def test_another_run_is_not_joined_restarted_or_returned(
    service: FakeService, worker: Worker, foreign: dict[str, int]
) -> None:
    acquire(worker)
    saved, real = worker.saved, service._act

    def answers_about_another(verb: str, call: Call[Any]) -> Any:
        answer = real(verb, call)
        return {**answer, **foreign} if verb == "status" else answer

    service._act = answers_about_another  # type: ignore[method-assign]
    for max_tries in (2, 3):
        with pytest.raises(UnexpectedResponse):
            acquire(worker, max_tries=max_tries)
    assert (worker.saved, service.requests[1:]) == (saved, ["status", "status"])


def test_a_start_that_is_answered_with_another_agents_run_is_looked_for(service: FakeService, worker: Worker) -> None:
    real = service._act

    def answers_about_another(verb: str, call: Call[Any]) -> Any:
        answer = real(verb, call)
        return {**answer, "id": 555, "configId": 8} if verb == "start" else answer

    service._act = answers_about_another  # type: ignore[method-assign]
    assert acquire(worker).run.id == 101


def test_a_restart_that_is_answered_with_another_agents_run_keeps_the_run(service: FakeService, worker: Worker) -> None:
    acquired = failed_run(worker)
    real = service._act

    def answers_about_another(verb: str, call: Call[Any]) -> Any:
        answer = real(verb, call)
        return {**answer, "id": 555, "configId": 8} if verb == "restart" else answer

    service._act = answers_about_another  # type: ignore[method-assign]
    again = restarted(worker, acquired)
    assert (again.record.run_id, again.run.id, service.count("start")) == (101, 101, 1)
