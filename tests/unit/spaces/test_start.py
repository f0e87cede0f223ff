from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.exceptions import (
    LATE_START,
    AgentRunStartAmbiguous,
    AgentRunStillRunning,
    CreditsTooLow,
    SequentumUnavailable,
)
from airflow_provider_sequentum.jobs.siblings import Claim
from airflow_provider_sequentum.jobs.stop import MAX_REQUEST_SECONDS
from airflow_provider_sequentum.runs.lost_start import LOOKUP_DELAYS, SIBLING_DELAYS
from airflow_provider_sequentum.runs.start import BUSY_DELAYS
from airflow_provider_sequentum.spaces.record import SpaceConfig, SpaceRecord
from airflow_provider_sequentum.spaces.start import acquire_space, find_runs_to_stop
from tests.support import service as fakes
from tests.support.service import START, ErrorOf, FakeService, Plan
from tests.support.worker import Killed, Worker

CONFIG = SpaceConfig(space_id=1, input_parameters='{"a": 1}')
OTHER_INPUTS = CONFIG.updated(input_parameters='{"a": 2}')
INTENT = SpaceRecord(config=CONFIG, fingerprint=CONFIG.fingerprint(), max_tries=2, requested_at=START)
ENDLESS = Plan(seconds=None)
LOST = pytest.mark.parametrize("error", [fakes.response_lost, fakes.server_error])
NEW_WORK = pytest.mark.parametrize("change", [{"max_tries": 3}, {"config": OTHER_INPUTS}])


def acquire(worker: Worker, *, config: SpaceConfig = CONFIG, max_tries: int = 2) -> SpaceRecord:
    """One attempt, which finds what the last one saved."""
    new = SpaceRecord(config=config, fingerprint=config.fingerprint(), max_tries=max_tries)
    return acquire_space(worker, saved(worker), new)[0]


def saved(worker: Worker) -> SpaceRecord | None:
    return None if worker.saved is None else SpaceRecord.from_json(worker.saved)


def run_ids(record: SpaceRecord | None) -> dict[int, int | None] | None:
    """Return which run each agent has; ``None`` where none is known of any, or nothing is saved."""
    return {agent: run.run_id for agent, run in record.runs.items()} if record and record.runs is not None else None


def active(service: FakeService) -> list[int]:
    service.settle()
    return [run.id for run in service.runs.values() if not run.is_over]


def elapsed(service: FakeService) -> float:
    return (service.clock.now - START).total_seconds()


def lose_the_start(service: FakeService, *, took_effect: bool = True, strangers: tuple[int, ...] = ()) -> None:
    """Lose the response to the next start of the space. Meanwhile someone else starts runs of some agents."""

    def error(call: Call[Any]) -> SequentumError:
        for agent in strangers:
            service.start(agent, by_stranger=True)
        return fakes.response_lost(call)

    service.faults["run-all"] = [(error, took_effect)]


def note_what_is_active_at_the_start(service: FakeService) -> list[int]:
    """Return a list which is filled when the space is started next: with the runs that go on beside the new ones."""
    beside: list[int] = []
    old = set(service.runs)
    service.on_start = lambda run: beside.extend(number for number in active(service) if number in old)
    return beside


# Starting


def test_the_intent_is_saved_before_the_start_and_the_runs_after_it(service: FakeService, worker: Worker) -> None:
    saved_at_start: list[object] = []
    service.on_start = lambda run: saved_at_start.append(worker.saved)
    record = acquire(worker)
    assert saved_at_start == [INTENT.to_json()] * 2
    assert saved(worker) == record
    assert run_ids(record) == {7: 101, 8: 102}
    assert worker.said == ["Started 2 agents of space 1: runs [101, 102]."]


def test_one_request_starts_every_agent_with_the_same_inputs(service: FakeService, worker: Worker) -> None:
    acquire(worker)
    assert service.requests == ["run-all"]
    assert [run.inputs for run in service.runs.values()] == ['{"a": 1}'] * 2
    assert [(call.path, share) for _, call, share in worker.sent] == [("/spaces/1/run-all", 1.0)]


@pytest.mark.parametrize(
    ("reason", "recorded"), [("Insufficient credits.", "Insufficient credits."), ("", "the service states no reason")]
)
def test_an_agent_that_was_not_started_is_recorded_with_the_reason(
    service: FakeService, worker: Worker, reason: str, recorded: str
) -> None:
    service.refuses_to_start = {7: reason}
    record = acquire(worker)
    assert (run_ids(record), record.not_started) == ({8: 101}, {7: recorded})
    assert saved(worker) == record
    assert worker.said == ["Started 1 agent of space 1: runs [101]."]


def test_a_run_that_the_service_does_not_name_is_looked_for_at_once(service: FakeService, worker: Worker) -> None:
    service.keeps_run_id = {7}
    record = acquire(worker)
    assert (run_ids(record), record.not_started) == ({7: 101, 8: 102}, {})
    assert saved(worker) == record
    assert service.requests == ["run-all", "runs"]


def test_a_run_that_the_service_does_not_name_and_that_appears_late_is_found_by_the_next_attempt(
    service: FakeService, worker: Worker
) -> None:
    service.keeps_run_id, service.list_lag = {7}, 60
    assert run_ids(acquire(worker)) == {7: None, 8: 102}
    service.clock.sleep(60)
    assert run_ids(acquire(worker)) == {7: 101, 8: 102}
    assert service.count("run-all") == 1


def test_agents_that_the_answer_leaves_out_are_looked_for(service: FakeService, worker: Worker) -> None:
    service.agents = {7: "Prices", 8: "Stock", 9: "Reviews"}
    run_all = service._run_all

    def cut(call: Call[Any]) -> dict[str, Any]:
        answer = run_all(call)
        return {**answer, "results": answer["results"][:2]}

    service._run_all = cut  # type: ignore[method-assign]
    record = acquire(worker)
    assert (run_ids(record), record.is_incomplete) == ({7: 101, 8: 102, 9: 103}, False)
    assert service.requests == ["run-all", "agents", "runs"]


def test_a_start_that_is_refused_because_runs_are_active_is_repeated(service: FakeService, worker: Worker) -> None:
    service.faults["run-all"] = [(fakes.conflict, False)] * 2
    assert run_ids(acquire(worker)) == {7: 101, 8: 102}
    assert elapsed(service) == sum(BUSY_DELAYS[:2])


def test_a_start_that_stays_refused_is_left_to_the_next_attempt(service: FakeService, worker: Worker) -> None:
    service.faults["run-all"] = [(fakes.conflict, False)] * 4
    with pytest.raises(SequentumUnavailable, match="Nothing was started"):
        acquire(worker)
    assert worker.saved is None


@pytest.mark.parametrize("error", [fakes.not_reached, fakes.bad_request, fakes.rate_limited, fakes.unauthorized])
def test_a_start_that_certainly_did_nothing_leaves_nothing_to_look_for(
    service: FakeService, worker: Worker, error: ErrorOf
) -> None:
    service.faults["run-all"] = [(error, False)]
    with pytest.raises(SequentumError):
        acquire(worker)
    assert worker.kept == [INTENT.to_json(), None]
    assert (service.requests, worker.said) == (["run-all"], [])


def test_a_start_that_certainly_did_nothing_brings_back_the_record_of_the_runs_it_should_replace(
    service: FakeService, worker: Worker
) -> None:
    acquire(worker)
    before = worker.saved
    service.faults["run-all"] = [(fakes.rate_limited, False)]
    with pytest.raises(SequentumError):
        acquire(worker, max_tries=3)
    assert worker.saved == before
    assert run_ids(acquire(worker, max_tries=3)) == {7: 103, 8: 104}


def test_nothing_is_intended_that_cannot_be_paid(service: FakeService, worker: Worker) -> None:
    service.credits = 49
    with pytest.raises(
        CreditsTooLow, match=r"Space 1 was not started: the account has 49 credits left.*min_credits=50"
    ):
        acquire(worker, config=CONFIG.updated(min_credits=50.0))
    assert (service.requests, worker.kept) == (["billing"], [])
    assert run_ids(acquire(worker, config=CONFIG.updated(min_credits=49.0))) == {7: 101, 8: 102}


# Starts whose response was lost


@LOST
def test_lost_runs_are_found_in_the_same_attempt(service: FakeService, worker: Worker, error: ErrorOf) -> None:
    service.faults["run-all"] = [(error, True)]
    record = acquire(worker)
    assert run_ids(record) == {7: 101, 8: 102}
    assert saved(worker) == record
    assert service.requests == ["run-all", "agents", "runs", "runs"]
    adopted = [number for number in (101, 102) if any(f"Adopting run {number}" in line for line in worker.warned)]
    assert adopted == [101, 102]


@LOST
def test_a_start_that_left_nothing_is_repeated_by_the_next_attempt_and_not_by_this_one(
    service: FakeService, worker: Worker, error: ErrorOf
) -> None:
    service.faults["run-all"] = [(error, False)]
    with pytest.raises(SequentumError) as caught:
        acquire(worker)
    assert caught.value.purpose == "run all agents of space 1"
    assert (service.count("run-all"), elapsed(service)) == (1, sum(LOOKUP_DELAYS))
    assert run_ids(saved(worker)) is None
    assert run_ids(acquire(worker)) == {7: 101, 8: 102}
    assert f"No runs of space 1 were found. {LATE_START}" in worker.warned


@pytest.mark.parametrize("of_others", [(8,), (7, 7), (8, 9)])
def test_runs_of_others_are_not_taken_for_those_of_a_start_that_never_took_effect(
    service: FakeService, worker: Worker, of_others: tuple[int, ...]
) -> None:
    service.agents = {7: "Prices", 8: "Stock", 9: "Reviews"}
    lose_the_start(service, took_effect=False, strangers=of_others)
    with pytest.raises(AgentRunStartAmbiguous, match="have no such run, so it may never have taken effect"):
        acquire(worker)
    assert run_ids(saved(worker)) is None
    assert elapsed(service) == sum((*LOOKUP_DELAYS, *SIBLING_DELAYS)), "runs that appear late would have been found"


def test_lost_runs_that_appear_one_after_the_other_are_found(service: FakeService, worker: Worker) -> None:
    lose_the_start(service)
    run_all = service._run_all

    def slow(call: Call[Any]) -> dict[str, Any]:
        answer = run_all(call)
        service.runs[102].created += timedelta(seconds=20)
        return answer

    service._run_all, service.list_lag = slow, 1  # type: ignore[method-assign]
    assert run_ids(acquire(worker)) == {7: 101, 8: 102}


def test_lost_runs_that_appear_late_are_found_by_the_second_look(service: FakeService, worker: Worker) -> None:
    lose_the_start(service)
    service.list_lag = LOOKUP_DELAYS[0] + 1
    assert run_ids(acquire(worker)) == {7: 101, 8: 102}
    assert (service.count("agents"), service.count("runs")) == (1, 4)


@pytest.mark.parametrize("verb", ["agents", "runs"])
def test_when_no_look_succeeds_start_and_look_are_named_and_the_intent_stays(
    service: FakeService, worker: Worker, verb: str
) -> None:
    lose_the_start(service)
    service.faults[verb] = [(fakes.unauthorized, False)] * len(LOOKUP_DELAYS)
    with pytest.raises(SequentumUnavailable, match=r"Lost\..*No access\..*Runs of space 1 may be running"):
        acquire(worker)
    assert run_ids(saved(worker)) is None
    assert run_ids(acquire(worker)) == {7: 101, 8: 102}
    assert service.count("run-all") == 1


def test_a_look_ends_with_the_first_fault(service: FakeService, worker: Worker) -> None:
    # With the service down each request takes long.
    lose_the_start(service)
    service.faults["runs"] = [(fakes.server_error, False)] * len(LOOKUP_DELAYS)
    with pytest.raises(SequentumUnavailable):
        acquire(worker)
    assert service.count("runs") == len(LOOKUP_DELAYS)


def test_archived_agents_are_not_looked_for(service: FakeService, worker: Worker) -> None:
    service.archived_agents = {8}
    lose_the_start(service)
    assert run_ids(acquire(worker)) == {7: 101}
    assert service.count("runs") == 1


@pytest.mark.parametrize("skew", [-86_400, -45, 45, 86_400])
@pytest.mark.parametrize("age", [90, 3600])
def test_old_runs_are_never_candidates_whatever_the_clocks_say(
    service: FakeService, worker: Worker, skew: float, age: float
) -> None:
    service.skew = timedelta(seconds=skew)
    service.start(7, by_stranger=True)
    service.start(8, by_stranger=True)
    service.clock.sleep(age)
    lose_the_start(service, took_effect=False)
    with pytest.raises(SequentumError, match="Lost"):
        acquire(worker)
    service.faults["run-all"] = [(fakes.response_lost, True)]
    assert run_ids(acquire(worker)) == {7: 103, 8: 104}


@pytest.mark.parametrize("ahead", [5, 20, 45, 120, 90_000])
def test_nothing_is_started_beside_runs_that_seem_to_be_from_just_before_the_request(
    service: FakeService, worker: Worker, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """The clock of a gateway, which writes ``Date``, is ahead of the one that runs are dated by."""
    exchange, skew = service.exchange, timedelta(seconds=ahead)
    monkeypatch.setattr(service, "exchange", lambda call: exchange(call)._replace(served_at=service.clock.now + skew))
    service.faults["run-all"] = [(fakes.response_lost, True)]
    with pytest.raises(
        AgentRunStartAmbiguous, match=r"Runs \[101, 102\] of agents \[7, 8\] may belong to it.*just before"
    ):
        acquire(worker)
    assert service.count("run-all") == 1


@pytest.mark.parametrize(
    ("on_ambiguous_start", "run_of_8"), [("adopt", 103), ("start", None)], ids=["the newest", "its own start"]
)
def test_an_agent_whose_run_cannot_be_told_from_others_gets(
    service: FakeService, worker: Worker, on_ambiguous_start: str, run_of_8: int | None
) -> None:
    lose_the_start(service, strangers=(8,))
    record = acquire(worker, config=CONFIG.updated(on_ambiguous_start=on_ambiguous_start))
    assert run_ids(record) == {7: 101, 8: run_of_8}
    assert saved(worker) == record
    assert service.count("run-all") == 1


def test_a_start_that_left_nothing_is_repeated_once_if_the_author_wants_it(
    service: FakeService, worker: Worker
) -> None:
    service.faults["run-all"] = [(fakes.response_lost, False)] * 2
    with pytest.raises(SequentumError):
        acquire(worker, config=CONFIG.updated(on_ambiguous_start="start"))
    assert service.count("run-all") == 2


def test_runs_that_cannot_be_told_from_others_fail_by_default_and_start_nothing(
    service: FakeService, worker: Worker
) -> None:
    lose_the_start(service, strangers=(8,))
    with pytest.raises(AgentRunStartAmbiguous, match=r"Runs \[102, 103\] of agents \[8\]"):
        acquire(worker)
    record = saved(worker)
    assert record is not None
    assert (record.is_ambiguous, run_ids(record)) == (True, {7: 101, 8: None})
    with pytest.raises(AgentRunStartAmbiguous):
        acquire(worker)
    assert service.count("run-all") == 1


def test_a_person_who_clears_an_ambiguous_task_gets_new_runs(service: FakeService, worker: Worker) -> None:
    acquire(worker)
    lose_the_start(service, strangers=(8,))
    with pytest.raises(AgentRunStartAmbiguous):
        acquire(worker, max_tries=3)
    beside = note_what_is_active_at_the_start(service)
    record = acquire(worker, max_tries=4)
    assert (run_ids(record), record.is_ambiguous, record.max_tries) == ({7: 106, 8: 107}, False, 4)
    assert 103 not in beside, "it is known to be the task's"


def test_runs_that_the_task_had_before_are_not_taken_for_the_lost_ones(service: FakeService, worker: Worker) -> None:
    acquire(worker)
    lose_the_start(service)
    record = acquire(worker, max_tries=3)
    assert run_ids(record) == {7: 103, 8: 104}
    assert record.replaced == {7: (101,), 8: (102,)}


# Mapped siblings


def test_siblings_are_told_of_the_intent_and_of_the_runs(service: FakeService, worker: Worker) -> None:
    acquire(worker)
    assert worker.claimed == [Claim(is_answered=False), Claim(run_ids=(101, 102))]


def test_siblings_are_told_again_by_the_next_attempt(service: FakeService, worker: Worker) -> None:
    # What an attempt has claimed goes with its XComs.
    acquire(worker)
    worker.claimed.clear()
    acquire(worker)
    assert worker.claimed == [Claim(run_ids=(101, 102))]


def test_the_runs_of_a_sibling_are_not_adopted(service: FakeService, worker: Worker) -> None:
    lose_the_start(service, strangers=(7, 8))
    worker.siblings = [Claim(run_ids=(103, 104), map_index=1)]
    assert run_ids(acquire(worker)) == {7: 101, 8: 102}


def test_nothing_is_adopted_while_the_start_of_a_sibling_is_unanswered(service: FakeService, worker: Worker) -> None:
    lose_the_start(service)
    worker.siblings = [Claim(is_answered=False, map_index=1)]
    with pytest.raises(AgentRunStartAmbiguous, match="Starts of 1 mapped sibling have no response"):
        acquire(worker)
    assert run_ids(saved(worker)) == {7: None, 8: None} or run_ids(saved(worker)) is None


# The next attempt


def test_a_retry_continues_with_the_runs_and_asks_nothing(service: FakeService, worker: Worker) -> None:
    first = acquire(worker)
    assert acquire(worker) == first == saved(worker)
    assert service.requests == ["run-all"]


@NEW_WORK
def test_new_work_stops_the_runs_that_are_active_and_then_starts_new_ones(
    service: FakeService, worker: Worker, change: dict[str, Any]
) -> None:
    acquire(worker)
    service.clock.sleep(1)
    beside = note_what_is_active_at_the_start(service)
    record = acquire(worker, **change)
    assert (run_ids(record), beside, active(service)) == ({7: 103, 8: 104}, [], [103, 104])
    assert [service.runs[number].status for number in (101, 102)] == [RunStatus.STOPPED] * 2
    assert record.replaced == {7: (101,), 8: (102,)}
    assert record.requested_at > START
    assert service.count("stop") == 2


def test_a_cleared_task_joins_when_told_to(service: FakeService, worker: Worker) -> None:
    first = acquire(worker)
    config = CONFIG.updated(on_clear="join")
    record = acquire(worker, max_tries=3, config=config)
    # Each run keeps the max_tries it was started with: its own decision has to see that the task was cleared.
    assert record == first.updated(max_tries=3, config=config) == saved(worker)
    assert service.requests == ["run-all"]


def test_runs_that_are_over_are_replaced_without_a_stop(service: FakeService, worker: Worker) -> None:
    service.plans = [Plan(seconds=10), ENDLESS]
    acquire(worker)
    service.clock.sleep(10)
    assert run_ids(acquire(worker, max_tries=3)) == {7: 103, 8: 104}
    assert {call.path for _, call, _ in worker.sent if call.path.endswith("/stop")} == {"/agent/8/run/102/stop"}


def test_runs_that_cannot_be_looked_at_are_stopped_before_they_are_replaced(
    service: FakeService, worker: Worker
) -> None:
    acquire(worker)
    service.faults["status"] = [(fakes.server_error, False)]
    before = service.count("status")
    assert run_ids(acquire(worker, max_tries=3)) == {7: 103, 8: 104}
    assert [service.runs[number].status for number in (101, 102)] == [RunStatus.STOPPED] * 2
    assert service.requests[before:][1:3] == ["status", "stop"], (
        "while nothing is answered, the second is not asked for"
    )


def test_a_run_that_still_shows_the_failure_it_was_restarted_from_is_stopped(
    service: FakeService, worker: Worker
) -> None:
    service.plans = [Plan(RunStatus.FAILURE, seconds=0), ENDLESS]
    first = acquire(worker)
    assert first.runs is not None
    service.restart(101, lag=40)
    worker.save(first.with_run(7, first.runs[7].restarting(START, START)))
    beside = note_what_is_active_at_the_start(service)
    assert run_ids(acquire(worker, max_tries=3)) == {7: 103, 8: 104}
    assert (service.runs[101].status, beside) == (RunStatus.STOPPED, [])


@NEW_WORK
def test_no_runs_are_started_beside_one_that_could_not_be_stopped(
    service: FakeService, worker: Worker, change: dict[str, Any]
) -> None:
    service.plans = [ENDLESS]
    acquire(worker)
    before = worker.saved
    service.faults["stop"] = service.faults["kill"] = [(fakes.server_error, False)] * 40
    with pytest.raises(AgentRunStillRunning, match=r"Runs \[101, 102\] of agents \[7, 8\]"):
        acquire(worker, **change)
    assert (active(service), service.count("run-all"), worker.saved) == ([101, 102], 1, before)
    service.faults.clear()
    assert run_ids(acquire(worker, **change)) == {7: 103, 8: 104}


def test_runs_that_are_replaced_get_the_grace_of_the_author(service: FakeService, worker: Worker) -> None:
    service.plans, service.stop_seconds = [ENDLESS], 200
    acquire(worker)
    assert run_ids(acquire(worker, max_tries=3, config=CONFIG.updated(stop_grace=300.0))) == {7: 103, 8: 104}
    assert service.count("kill") == 0


@NEW_WORK
def test_lost_runs_are_found_and_stopped_before_new_work_starts(
    service: FakeService, worker: Worker, change: dict[str, Any]
) -> None:
    worker.steps_left = 2  # dies before it can save the runs
    with suppress(Killed):
        acquire(worker)
    worker.steps_left = None
    assert (saved(worker), active(service)) == (INTENT, [101, 102])
    beside = note_what_is_active_at_the_start(service)
    assert run_ids(acquire(worker, **change)) == {7: 103, 8: 104}
    assert (beside, active(service)) == ([], [103, 104])


# Airflow older than 3.3: nothing was kept, and an earlier attempt may have started runs


@pytest.mark.parametrize(("age", "found"), [(0, {7: 101, 8: 102}), (120, {7: 103, 8: 104})], ids=["active", "over"])
def test_without_a_record_runs_are_joined_only_if_they_are_active(
    service: FakeService, worker: Worker, age: float, found: dict[int, int | None]
) -> None:
    worker.save(INTENT.updated(requested_at=START - timedelta(minutes=5), is_guess=True))
    service.start(7)
    service.start(8)
    service.clock.sleep(age)
    assert run_ids(acquire(worker)) == found


# Death at every step


@pytest.mark.parametrize("steps", range(8))
def test_a_worker_that_dies_anywhere_leaves_one_run_of_each_agent(service: FakeService, steps: int) -> None:
    dying = Worker(service, steps_left=steps)
    with suppress(Killed):
        acquire(dying)
    service.clock.sleep(30)
    assert run_ids(acquire(Worker(service, kept=list(dying.kept)))) == {7: 101, 8: 102}
    assert len(service.runs) == 2


@pytest.mark.parametrize("steps", range(20))
def test_a_worker_that_dies_while_it_replaces_runs_leaves_one_of_each_that_is_active(
    service: FakeService, steps: int
) -> None:
    first = Worker(service)
    acquire(first)
    dying = Worker(service, steps_left=steps, kept=list(first.kept))
    beside = note_what_is_active_at_the_start(service)
    with suppress(Killed):
        acquire(dying, max_tries=3)
    service.clock.sleep(3)
    assert run_ids(acquire(Worker(service, kept=list(dying.kept)), max_tries=3)) == {7: 103, 8: 104}
    assert (beside, active(service)) == ([], [103, 104])


# What a kill may stop


@pytest.mark.parametrize("is_killed", [True, False])
def test_lost_runs_are_found_to_be_stopped(service: FakeService, worker: Worker, is_killed: bool) -> None:
    service.start(7)
    service.start(8)
    found, sentence = find_runs_to_stop(worker, INTENT, is_killed=is_killed)
    assert ([run.run_id for run in found], sentence) == ([101, 102], "")
    assert (elapsed(service) == 0) is is_killed


def test_nothing_is_stopped_that_may_be_of_others(service: FakeService, worker: Worker) -> None:
    service.start(8, by_stranger=True)
    found, sentence = find_runs_to_stop(worker, INTENT, is_killed=True)
    assert found == []
    assert "Runs of space 1 may be running" in sentence
    assert "Runs [101] of agents [8]" in sentence


def test_a_search_that_fails_is_said(service: FakeService, worker: Worker) -> None:
    service.faults["agents"] = [(fakes.unauthorized, False)] * 9
    found, sentence = find_runs_to_stop(worker, INTENT, is_killed=True)
    assert (found, "No access." in sentence) == ([], True)


def test_an_agent_that_cannot_be_read_leaves_the_start_unproven(
    service: FakeService, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    act = service._act

    def with_a_broken_agent(verb: str, call: Call[Any]) -> Any:
        answer = act(verb, call)
        return [*answer, {"name": "no id"}] if verb == "agents" else answer

    monkeypatch.setattr(service, "_act", with_a_broken_agent)
    lose_the_start(service)
    with pytest.raises(AgentRunStartAmbiguous, match="1 agent could not be read"):
        acquire(worker)


def test_requests_of_a_look_have_little_time() -> None:
    assert MAX_REQUEST_SECONDS <= 10
