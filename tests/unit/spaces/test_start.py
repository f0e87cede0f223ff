from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from airflow_provider_sequentum.lifecycle.run_guards import CreditsShort
from airflow_provider_sequentum.lifecycle.run_record import RunRecord
from airflow_provider_sequentum.lifecycle.run_start import (
    HASTY_LOOKS_FOR_LOST_RUN,
    LOOKS_FOR_LOST_RUN,
    RunPolicy,
    StartAmbiguous,
    StillGoing,
)
from airflow_provider_sequentum.lifecycle.space_record import SpaceRecord, SpaceRequest
from airflow_provider_sequentum.lifecycle.space_start import (
    find_space_runs,
    hold_space,
    start_space,
    stop_runs,
    stop_space,
)

from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.run_status import RunStatus
from tests.support import service as fakes
from tests.support.service import START, ErrorOf, FakeService, Plan
from tests.support.worker import Killed, Worker

REQUEST = SpaceRequest(space_id=1, input_parameters='{"a": 1}')
OTHER_INPUTS = replace(REQUEST, input_parameters='{"a": 2}')
POLICY = RunPolicy()
INTENT = SpaceRecord(space_id=1, fingerprint=REQUEST.fingerprint(), max_tries=2, intended_at=START)
ENDLESS = Plan(seconds=None)
LOST = pytest.mark.parametrize("error", [fakes.answer_lost, fakes.server_error])
NEW_WORK = pytest.mark.parametrize("change", [{"max_tries": 3}, {"request": OTHER_INPUTS}])


def hold(
    worker: Worker, *, policy: RunPolicy = POLICY, max_tries: int = 2, request: SpaceRequest = REQUEST
) -> SpaceRecord:
    """One try, which finds what the last one kept."""
    return worker.perform(hold_space(request, policy, max_tries, kept(worker)))


def kept(worker: Worker) -> SpaceRecord | None:
    return SpaceRecord.from_json(worker.record)


def run_ids(record: SpaceRecord | None) -> dict[int, int | None] | None:
    """Return which run each agent has; ``None`` where none is known of any, or nothing is kept."""
    return {agent: run.run_id for agent, run in record.runs.items()} if record and record.runs is not None else None


def found_runs(ids: dict[int, int | None]) -> dict[int, RunRecord]:
    """Return the agents' records after a look that found these runs."""
    intents = {agent: INTENT.intent_of(REQUEST.of_agent(agent)) for agent in ids}
    return {agent: replace(intent, run_id=ids[agent]) for agent, intent in intents.items()}


def going(service: FakeService) -> list[int]:
    service.settle()
    return [run.id for run in service.runs.values() if not run.is_over]


def elapsed(service: FakeService) -> float:
    return (service.clock.now - START).total_seconds()


def lose_the_start(service: FakeService, *, took_effect: bool = True, strangers: int = 0) -> None:
    """Lose the answer to the next start of the space. Meanwhile somebody else starts runs of agent 8."""

    def error(call: Call[Any]) -> SequentumError:
        for _ in range(strangers):
            service.start(8, by_stranger=True)
        return fakes.answer_lost(call)

    service.faults["run-all"] = [(error, took_effect)]


def note_what_goes_at_the_start(service: FakeService) -> list[int]:
    """Return a list which is filled when the space is started next: with the runs that go on beside the new ones."""
    beside: list[int] = []
    old = set(service.runs)
    service.on_start = lambda run: beside.extend(number for number in going(service) if number in old)
    return beside


# Starting


def test_the_intent_is_kept_before_the_start_and_the_runs_after_it(service: FakeService, worker: Worker) -> None:
    kept_at_start: list[object] = []
    service.on_start = lambda run: kept_at_start.append(worker.record)
    record = hold(worker)
    assert kept_at_start == [INTENT.to_json()] * 2
    assert record == kept(worker)
    assert record == replace(
        INTENT,
        runs={
            agent: RunRecord(
                agent_id=agent,
                fingerprint=REQUEST.of_agent(agent).fingerprint(),
                max_tries=2,
                intended_at=START,
                run_id=run_id,
            )
            for agent, run_id in {7: 101, 8: 102}.items()
        },
    )
    assert worker.said == ["2 agents of space 1 have been started."]


def test_one_request_starts_every_agent_with_the_same_inputs(service: FakeService, worker: Worker) -> None:
    hold(worker)
    assert service.requests == ["run-all"]
    assert [run.inputs for run in service.runs.values()] == ['{"a": 1}'] * 2
    assert [(step.call.path, step.budget_share) for _, step in worker.sent] == [("/spaces/1/run-all", 1.0)]


@pytest.mark.parametrize(
    ("reason", "recorded"), [("Insufficient credits.", "Insufficient credits."), ("", "the service does not say why")]
)
def test_an_agent_that_was_not_started_is_recorded_with_the_reason(
    service: FakeService, worker: Worker, reason: str, recorded: str
) -> None:
    service.refuses_to_start = {7: reason}
    record = hold(worker)
    assert (run_ids(record), record.not_started) == ({8: 101}, {7: recorded})
    assert kept(worker) == record
    assert worker.said == ["1 agents of space 1 have been started."]


def test_a_run_that_was_started_as_nobody_knows_what_is_looked_for_by_the_next_try(
    service: FakeService, worker: Worker
) -> None:
    service.keeps_run_id = {7}
    record = hold(worker)
    assert (run_ids(record), record.not_started) == ({7: None, 8: 102}, {})
    assert record.runs is not None
    assert record.runs[7] == record.intent_of(REQUEST.of_agent(7))
    service.clock.sleep(10)
    assert run_ids(hold(worker)) == {7: 101, 8: 102}
    assert (service.count("run-all"), service.count("agents"), service.count("runs")) == (1, 0, 1)
    assert "space 1" in worker.warned[0]


def test_a_space_without_agents_is_started_once_more_by_the_next_try(service: FakeService, worker: Worker) -> None:
    service.agents = {}
    record = hold(worker)
    assert (run_ids(record), record.not_started) == ({}, {})
    service.agents = {7: "Prices"}
    assert run_ids(hold(worker)) == {7: 101}


@pytest.mark.parametrize("error", [fakes.not_reached, fakes.bad_request, fakes.rate_limited, fakes.unauthorized])
def test_a_start_that_certainly_did_nothing_leaves_nothing_to_look_for(
    service: FakeService, worker: Worker, error: ErrorOf
) -> None:
    service.faults["run-all"] = [(error, False)]
    with pytest.raises(SequentumError):
        hold(worker)
    assert worker.kept == [INTENT.to_json(), None]
    assert (service.requests, worker.said) == (["run-all"], [])


def test_a_start_that_certainly_did_nothing_brings_back_the_record_of_the_runs_it_should_replace(
    service: FakeService, worker: Worker
) -> None:
    hold(worker)
    before = worker.record
    service.faults["run-all"] = [(fakes.rate_limited, False)]
    with pytest.raises(SequentumError):
        hold(worker, max_tries=3)
    assert worker.record == before
    assert run_ids(hold(worker, max_tries=3)) == {7: 103, 8: 104}


def test_nothing_is_intended_that_cannot_be_paid(service: FakeService, worker: Worker) -> None:
    service.credits = 49
    with pytest.raises(CreditsShort, match=r"49\D.*min_credits=50"):
        hold(worker, policy=RunPolicy(min_credits=50))
    assert (service.requests, worker.kept) == (["billing"], [])
    assert run_ids(hold(worker, policy=RunPolicy(min_credits=49))) == {7: 101, 8: 102}


# Starts whose answer was lost


@LOST
def test_lost_runs_are_found_in_the_same_try(service: FakeService, worker: Worker, error: ErrorOf) -> None:
    service.faults["run-all"] = [(error, True)]
    record = hold(worker)
    assert run_ids(record) == {7: 101, 8: 102}
    assert kept(worker) == record
    assert service.requests == ["run-all", "agents", "runs", "runs"]
    assert "answer was lost" in worker.warned[0]
    adopted = [number for number in (101, 102) if any(f"Adopting run {number}" in line for line in worker.warned)]
    assert adopted == [101, 102]


@LOST
def test_a_start_that_left_nothing_is_repeated_by_the_next_try_and_not_by_this_one(
    service: FakeService, worker: Worker, error: ErrorOf
) -> None:
    service.faults["run-all"] = [(error, False)]
    with pytest.raises(SequentumError) as caught:
        hold(worker)
    assert caught.value.purpose == "run all agents of space 1"
    assert service.count("run-all") == 1
    assert elapsed(service) == sum(LOOKS_FOR_LOST_RUN)
    assert worker.record == INTENT.to_json()
    assert run_ids(hold(worker)) == {7: 101, 8: 102}
    assert "No runs of space 1 were found." in worker.said


def test_lost_runs_that_appear_late_are_found_by_the_second_look(service: FakeService, worker: Worker) -> None:
    lose_the_start(service)
    service.list_lag = LOOKS_FOR_LOST_RUN[0] + 1
    assert run_ids(hold(worker)) == {7: 101, 8: 102}
    assert (service.count("agents"), service.count("runs")) == (1, 4)


def test_lost_runs_that_appear_very_late_are_found_by_the_next_try(service: FakeService, worker: Worker) -> None:
    lose_the_start(service)
    service.list_lag = 60
    with pytest.raises(SequentumError):
        hold(worker)
    service.clock.sleep(60)
    assert run_ids(hold(worker)) == {7: 101, 8: 102}
    assert len(service.runs) == 2


@pytest.mark.parametrize("verb", ["agents", "runs"])
def test_one_failed_look_for_lost_runs_is_not_the_last(service: FakeService, worker: Worker, verb: str) -> None:
    lose_the_start(service)
    service.faults[verb] = [(fakes.server_error, False)]
    assert run_ids(hold(worker)) == {7: 101, 8: 102}
    assert elapsed(service) == sum(LOOKS_FOR_LOST_RUN)


@pytest.mark.parametrize(
    ("verb", "purpose", "known"),
    [
        ("agents", "list the agents of space 1", None),
        ("runs", "list the runs of agent 7", {7: None, 8: None}),
    ],
)
def test_when_no_look_succeeds_its_error_is_raised_and_the_intent_stays(
    service: FakeService, worker: Worker, verb: str, purpose: str, known: dict[int, int | None] | None
) -> None:
    lose_the_start(service)
    service.faults[verb] = [(fakes.server_error, False)] * (len(LOOKS_FOR_LOST_RUN) * len(service.agents))
    with pytest.raises(SequentumError) as caught:
        hold(worker)
    assert caught.value.purpose == purpose
    assert worker.record == replace(INTENT, runs=found_runs(known) if known else None).to_json()
    service.faults.clear()
    assert run_ids(hold(worker)) == {7: 101, 8: 102}
    assert service.count("run-all") == 1


def test_an_agent_whose_run_was_not_found_keeps_the_intent_for_this_try(service: FakeService, worker: Worker) -> None:
    lose_the_start(service)
    service.refuses_to_start = {8: "?"}
    record = hold(worker)
    assert (run_ids(record), record.not_started) == ({7: 101, 8: None}, {})
    assert record.runs is not None
    assert record.runs[8] == record.intent_of(REQUEST.of_agent(8))
    assert kept(worker) == record
    assert service.requests == ["run-all", "agents", "runs", "runs", "runs"], "agent 7 is looked for once"


@pytest.mark.parametrize("appears", [True, False])
def test_the_next_try_looks_once_more_for_the_run_of_an_agent_before_it_counts_as_not_started(
    service: FakeService, worker: Worker, appears: bool
) -> None:
    lose_the_start(service)
    service.refuses_to_start = {8: "?"}
    hold(worker)
    if appears:
        service.start(8)
    record = hold(worker)
    assert run_ids(record) == ({7: 101, 8: 102} if appears else {7: 101})
    assert dict(record.not_started) == ({} if appears else {8: "its start was lost"})
    assert kept(worker) == record
    assert service.count("run-all") == 1


def test_archived_agents_are_not_looked_for(service: FakeService, worker: Worker) -> None:
    service.archived_agents = {8}
    lose_the_start(service)
    assert run_ids(hold(worker)) == {7: 101}
    assert service.count("runs") == 1


def test_lost_runs_are_looked_for_after_each_pause_until_all_are_found(service: FakeService, worker: Worker) -> None:
    service.start(7)
    service.start(8)
    service.list_lag = 3
    record = worker.perform(find_space_runs(INTENT, REQUEST, POLICY, 2, looks=(1.0, 2.0, 4.0)))
    assert record == replace(INTENT, runs=found_runs({7: 101, 8: 102}))
    assert worker.kept == [record.to_json()]
    assert elapsed(service) == 1 + 2


# Lost runs among others


@pytest.mark.parametrize(
    ("on_ambiguous_start", "run_of_8"), [("adopt", 103), ("start", None)], ids=["the newest", "its own start"]
)
def test_an_agent_whose_run_cannot_be_told_from_others_gets(
    service: FakeService, worker: Worker, on_ambiguous_start: str, run_of_8: int | None
) -> None:
    lose_the_start(service, strangers=1)
    record = hold(worker, policy=RunPolicy(on_ambiguous_start=on_ambiguous_start))
    assert run_ids(record) == {7: 101, 8: run_of_8}
    assert kept(worker) == record
    assert service.count("run-all") == 1


def test_runs_that_cannot_be_told_from_others_fail_by_default_and_start_nothing(
    service: FakeService, worker: Worker
) -> None:
    lose_the_start(service, strangers=1)
    with pytest.raises(StartAmbiguous) as caught:
        hold(worker)
    assert (caught.value.agent_id, sorted(caught.value.run_ids)) == (8, [102, 103])
    assert worker.record == replace(INTENT, is_ambiguous=True, runs=found_runs({7: 101, 8: None})).to_json()
    with pytest.raises(StartAmbiguous):
        hold(worker)
    assert service.count("run-all") == 1


def test_a_person_who_clears_an_ambiguous_task_gets_new_runs(service: FakeService, worker: Worker) -> None:
    hold(worker)
    lose_the_start(service, strangers=1)
    with pytest.raises(StartAmbiguous):
        hold(worker, max_tries=3)
    warned = len(worker.warned)
    record = hold(worker, max_tries=4)
    assert (run_ids(record), record.is_ambiguous, record.max_tries) == ({7: 106, 8: 107}, False, 4)
    assert (record.replaced[7][:1], record.replaced[8][:1]) == ((101,), (102,))
    assert "cleared" in worker.warned[warned]


def test_a_person_who_clears_without_having_been_told_is_told_first(service: FakeService, worker: Worker) -> None:
    with suppress(Killed):
        hold(Worker(service, steps_left=3, kept=worker.kept))  # dies before it can remember the runs
    service.start(8, by_stranger=True)
    with pytest.raises(StartAmbiguous):
        hold(worker, max_tries=3)
    told = replace(INTENT, is_ambiguous=True, max_tries=3, runs=found_runs({7: 101, 8: None}))
    assert worker.record == told.to_json()
    with pytest.raises(StartAmbiguous):
        hold(worker, max_tries=3)  # not cleared since
    assert run_ids(hold(worker, max_tries=4)) == {7: 104, 8: 105}


@pytest.mark.parametrize("is_found_by_a_look", [False, True])
def test_a_clear_after_ambiguity_stops_the_runs_that_are_known(
    service: FakeService, worker: Worker, is_found_by_a_look: bool
) -> None:
    service.plans = [ENDLESS]
    if is_found_by_a_look:
        lose_the_start(service, strangers=1)
    else:
        service.keeps_run_id = {8}
        hold(worker)
        service.start(8, by_stranger=True)
    with pytest.raises(StartAmbiguous):
        hold(worker)
    assert "[101]" in worker.warned[-1]
    beside = note_what_goes_at_the_start(service)
    hold(worker, max_tries=3)
    assert beside
    assert 101 not in beside


def test_found_runs_that_are_replaced_are_not_taken_for_the_lost_ones(service: FakeService, worker: Worker) -> None:
    with suppress(Killed):
        hold(Worker(service, steps_left=3, kept=worker.kept))  # dies before it can remember the runs
    lose_the_start(service)
    assert run_ids(hold(worker, max_tries=3)) == {7: 103, 8: 104}


def test_runs_that_the_task_had_before_are_not_taken_for_the_lost_ones(service: FakeService, worker: Worker) -> None:
    hold(worker)
    lose_the_start(service)
    record = hold(worker, max_tries=3)
    assert run_ids(record) == {7: 103, 8: 104}
    assert record.replaced == {7: (101,), 8: (102,)}


def test_a_space_that_several_starts_in_a_row_did_not_reach_still_knows_what_it_had(
    service: FakeService, worker: Worker
) -> None:
    service.plans = [Plan(seconds=0)]
    hold(worker)
    for _ in range(2):
        lose_the_start(service, took_effect=False)
        with pytest.raises(SequentumError):
            hold(worker, max_tries=3)
    record = hold(worker, max_tries=3)
    assert (run_ids(record), record.max_tries) == ({7: 103, 8: 104}, 3)
    assert record.replaced == {7: (101,), 8: (102,)}


# The next try


def test_a_retry_goes_on_with_the_runs_and_asks_nothing(service: FakeService, worker: Worker) -> None:
    first = hold(worker)
    said = list(worker.said)
    assert hold(worker) == first == kept(worker)
    assert (service.requests, worker.said) == (["run-all"], said)


@NEW_WORK
def test_new_work_stops_the_runs_that_go_and_then_starts_anew(
    service: FakeService, worker: Worker, change: dict[str, Any]
) -> None:
    hold(worker)
    service.clock.sleep(1)
    beside = note_what_goes_at_the_start(service)
    record = hold(worker, **change)
    assert (run_ids(record), beside, going(service)) == ({7: 103, 8: 104}, [], [103, 104])
    assert [service.runs[number].status for number in (101, 102)] == [RunStatus.STOPPED] * 2
    assert record.replaced == {7: (101,), 8: (102,)}
    assert record.intended_at > START
    assert (record.fingerprint, record.max_tries) == (
        change.get("request", REQUEST).fingerprint(),
        change.get("max_tries", 2),
    )
    assert any("new work" in line and "space 1" in line for line in worker.said)


def test_a_cleared_task_joins_when_told_to(service: FakeService, worker: Worker) -> None:
    first = hold(worker)
    record = hold(worker, max_tries=3, policy=RunPolicy(on_clear="join"))
    # Each run keeps the max_tries it was started with: its own decision has to see that the task was cleared.
    assert record == replace(first, max_tries=3) == kept(worker)
    assert service.requests == ["run-all"]


def test_changed_inputs_are_new_work_even_where_a_clear_joins(service: FakeService, worker: Worker) -> None:
    hold(worker)
    assert run_ids(hold(worker, request=OTHER_INPUTS, policy=RunPolicy(on_clear="join"))) == {7: 103, 8: 104}
    assert service.runs[101].status is RunStatus.STOPPED


def test_runs_that_are_over_are_replaced_without_a_stop(service: FakeService, worker: Worker) -> None:
    service.plans = [Plan(seconds=10), ENDLESS]
    hold(worker)
    service.clock.sleep(10)
    assert run_ids(hold(worker, max_tries=3)) == {7: 103, 8: 104}
    assert [service.runs[number].status for number in (101, 102)] == [RunStatus.SUCCESS, RunStatus.STOPPED]
    assert {step.call.path for _, step in worker.sent if step.call.path.endswith("/stop")} == {"/agent/8/run/102/stop"}


def test_a_run_that_cannot_be_looked_at_is_stopped_before_it_is_replaced(service: FakeService, worker: Worker) -> None:
    hold(worker)
    service.faults["status"] = [(fakes.server_error, False)]
    assert run_ids(hold(worker, max_tries=3)) == {7: 103, 8: 104}
    assert service.runs[101].status is RunStatus.STOPPED
    assert "run 101 of agent 7" in worker.warned[0]


def test_a_run_that_still_shows_the_failure_it_was_restarted_from_is_stopped(
    service: FakeService, worker: Worker
) -> None:
    service.plans = [Plan(RunStatus.FAILURE, seconds=0), ENDLESS]
    first = hold(worker)
    assert first.runs is not None
    service.restart(101, lag=40)
    worker.kept.append(first.with_run(7, first.runs[7].restarting(START, START)).to_json())
    beside = note_what_goes_at_the_start(service)
    assert run_ids(hold(worker, max_tries=3)) == {7: 103, 8: 104}
    assert (service.runs[101].status, beside) == (RunStatus.STOPPED, [])


@NEW_WORK
@pytest.mark.parametrize("unstoppable", [[101], [101, 102]])
def test_no_runs_are_started_beside_one_that_could_not_be_stopped(
    service: FakeService, worker: Worker, change: dict[str, Any], unstoppable: list[int]
) -> None:
    service.plans = [ENDLESS]
    hold(worker)
    before = worker.record
    # All are asked to stop in advance; then each gets a stop and two kills.
    broken = (fakes.server_error, False)
    service.faults["stop"] = [broken if number in unstoppable else None for number in (101, 102, 101, 102)]
    service.faults["kill"] = [broken for _ in unstoppable for _ in range(2)]
    with pytest.raises(StillGoing) as caught:
        hold(worker, **change)
    assert (caught.value.agent_ids, caught.value.run_ids) == ([7, 8][: len(unstoppable)], unstoppable)
    assert (going(service), service.count("run-all"), worker.record) == (unstoppable, 1, before)
    assert run_ids(hold(worker, **change)) == {7: 103, 8: 104}
    assert [service.runs[number].status for number in (101, 102)] == [RunStatus.STOPPED] * 2


def test_runs_that_are_replaced_get_the_grace_of_the_author(service: FakeService, worker: Worker) -> None:
    service.plans, service.stop_seconds = [ENDLESS], 200
    hold(worker)
    assert run_ids(hold(worker, max_tries=3, policy=RunPolicy(stop_grace=300))) == {7: 103, 8: 104}
    assert service.count("kill") == 0


@NEW_WORK
def test_lost_runs_are_found_and_stopped_before_new_work_starts_anew(
    service: FakeService, worker: Worker, change: dict[str, Any]
) -> None:
    with suppress(Killed):
        hold(Worker(service, steps_left=3, kept=worker.kept))
    assert (kept(worker), going(service)) == (INTENT, [101, 102])
    beside = note_what_goes_at_the_start(service)
    assert run_ids(hold(worker, **change)) == {7: 103, 8: 104}
    assert (beside, going(service)) == ([], [103, 104])


def test_a_clear_that_joins_finds_lost_runs_too(service: FakeService, worker: Worker) -> None:
    with suppress(Killed):
        hold(Worker(service, steps_left=3, kept=worker.kept))
    record = hold(worker, max_tries=3, policy=RunPolicy(on_clear="join"))
    assert (run_ids(record), record.max_tries) == ({7: 101, 8: 102}, 3)
    assert service.count("run-all") == 1


def test_a_direct_start_replaces_what_it_is_told_of(service: FakeService, worker: Worker) -> None:
    first = worker.perform(start_space(REQUEST, POLICY, 2, None))
    second = worker.perform(start_space(REQUEST, POLICY, 2, first))
    assert (run_ids(second), second.all_runs) == ({7: 103, 8: 104}, {7: (101, 103), 8: (102, 104)})


# Airflow older than 3.3: nothing was kept, and an earlier try may have started runs


@pytest.mark.parametrize(("age", "found"), [(0, {7: 101, 8: 102}), (120, {7: 103, 8: 104})], ids=["going", "over"])
def test_without_a_record_runs_are_joined_only_if_they_go(
    service: FakeService, worker: Worker, age: float, found: dict[int, int | None]
) -> None:
    guess = replace(INTENT, intended_at=START - timedelta(minutes=5), is_guess=True)
    service.start(7)
    service.start(8)
    service.clock.sleep(age)
    assert run_ids(worker.perform(hold_space(REQUEST, POLICY, 2, guess))) == found


# Death at every step


@pytest.mark.parametrize("steps", range(8))
def test_a_worker_that_dies_anywhere_leaves_one_run_of_each_agent(service: FakeService, steps: int) -> None:
    dying = Worker(service, steps_left=steps)
    with suppress(Killed):
        hold(dying)
    service.clock.sleep(30)
    assert run_ids(hold(Worker(service, kept=list(dying.kept)))) == {7: 101, 8: 102}
    assert len(service.runs) == 2


@pytest.mark.parametrize("steps", range(20))
def test_a_worker_that_dies_while_it_replaces_runs_leaves_one_of_each_that_goes(
    service: FakeService, steps: int
) -> None:
    first = Worker(service)
    hold(first)
    dying = Worker(service, steps_left=steps, kept=list(first.kept))
    beside = note_what_goes_at_the_start(service)
    with suppress(Killed):
        hold(dying, max_tries=3)
    service.clock.sleep(3)
    assert run_ids(hold(Worker(service, kept=list(dying.kept)), max_tries=3)) == {7: 103, 8: 104}
    assert (beside, going(service)) == ([], [103, 104])


# Stopping


def stop(
    worker: Worker,
    record: SpaceRecord,
    *,
    over: tuple[int, ...] = (),
    stop_grace: float = 45,
    looks: tuple[float, ...] = HASTY_LOOKS_FOR_LOST_RUN,
) -> None:
    worker.perform(stop_space(record, REQUEST, over, stop_grace, looks))


def test_a_kill_asks_all_runs_to_stop_before_it_waits_for_any(service: FakeService, worker: Worker) -> None:
    record = hold(worker)
    stop(worker, record)
    assert [(run.status, run.stop_asked_at) for run in service.runs.values()] == [(RunStatus.STOPPED, START)] * 2
    assert (service.count("agents"), service.count("kill")) == (0, 0)
    assert not any("space 1" in warning for warning in worker.warned)
    assert {step.budget_share for _, step in worker.sent} == {1.0}


def test_a_kill_leaves_runs_alone_that_need_no_stop(service: FakeService, worker: Worker) -> None:
    record = hold(worker)
    stop(worker, record, over=(7,))
    assert (going(service), service.runs[101].stop_asked_at) == ([101], None)


def test_a_killed_run_gets_its_grace_and_no_more(service: FakeService, worker: Worker) -> None:
    service.plans, service.ignores_stop = [ENDLESS], True
    record = hold(worker)
    stop(worker, record, stop_grace=3)
    assert going(service) == []
    assert elapsed(service) == 3 * 2, "a grace for each, as both ignore the stop"


def test_a_kill_in_the_middle_of_the_start_finds_the_runs_and_stops_them(service: FakeService, worker: Worker) -> None:
    service.start(7)
    service.start(8)
    stop(worker, INTENT)
    assert [(run.status, run.stop_asked_at) for run in service.runs.values()] == [(RunStatus.STOPPED, START)] * 2
    assert run_ids(kept(worker)) == {7: 101, 8: 102}
    assert not any("may still be going" in warning for warning in worker.warned)


def test_a_kill_stops_what_is_known_before_it_looks_for_the_rest(service: FakeService, worker: Worker) -> None:
    service.keeps_run_id, service.list_lag = {8}, 4
    service.plans = [ENDLESS]
    record = hold(worker)
    del service.requests[:]
    stop(worker, record)
    assert service.requests[:2] == ["stop", "runs"]
    asked_at = [run.stop_asked_at for run in service.runs.values()]
    assert asked_at == [START, START + timedelta(seconds=sum(HASTY_LOOKS_FOR_LOST_RUN[:3]))]
    assert going(service) == []
    stops = [step.call.path for _, step in worker.sent if step.call.path.endswith("/stop")]
    assert stops[:2] == ["/agent/7/run/101/stop", "/agent/8/run/102/stop"], "a run is not asked at each look"


@pytest.mark.parametrize("seconds", HASTY_LOOKS_FOR_LOST_RUN)
def test_a_run_that_is_found_by_the_last_look_of_a_kill_is_stopped(
    service: FakeService, worker: Worker, seconds: float
) -> None:
    service.start(7)
    service.start(8)
    stop(worker, INTENT, looks=(seconds,))
    assert going(service) == []


def test_what_a_kill_does_not_find_is_said_with_the_space(service: FakeService, worker: Worker) -> None:
    stop(worker, INTENT)
    assert service.count("agents") == 1
    [warning] = worker.warned
    assert "Runs of space 1 may still be going and costing credits" in warning


def test_a_kill_raises_nothing_when_it_cannot_look(service: FakeService, worker: Worker) -> None:
    service.start(7)
    service.start(8)
    service.faults["agents"] = [(fakes.server_error, False)] * 2
    stop(worker, INTENT)
    assert going(service) == []
    failed = [warning for warning in worker.warned if "Could not find every run of space 1" in warning]
    assert len(failed) == 2


def test_a_kill_stops_nothing_that_cannot_be_told_from_the_runs_of_others(service: FakeService, worker: Worker) -> None:
    service.keeps_run_id, service.plans = {8}, [ENDLESS]
    record = hold(worker)
    service.start(8, by_stranger=True)
    stop(worker, record, looks=(0.0,))
    assert going(service) == [102, 103]
    ambiguous, *_, last = worker.warned
    assert "space 1" in ambiguous
    assert "[103, 102]" in ambiguous
    assert "Runs of space 1 may still be going" in last


def test_a_kill_remembers_that_its_runs_cannot_be_told_from_others(service: FakeService, worker: Worker) -> None:
    service.start(8)
    service.start(8, by_stranger=True)
    stop(worker, replace(INTENT, max_tries=5), looks=(0.0,))
    record = kept(worker)
    assert record is not None
    assert (record.is_ambiguous, record.max_tries, run_ids(record)) == (True, 5, {7: None, 8: None})


def test_a_kill_stops_what_it_finds_beside_what_cannot_be_told_from_others(
    service: FakeService, worker: Worker
) -> None:
    service.plans = [ENDLESS]
    service.start(7)
    service.start(8)
    service.start(8, by_stranger=True)
    stop(worker, INTENT, looks=(0.0,))
    assert going(service) == [102, 103]


def test_a_kill_stops_what_it_finds_beside_what_it_cannot_look_for(service: FakeService, worker: Worker) -> None:
    service.plans = [ENDLESS]
    service.start(8)
    service.start(7)
    service.faults["runs"] = [(fakes.server_error, False)]
    stop(worker, INTENT, looks=(0.0,))
    assert going(service) == [102]
    assert "Runs of space 1 may still be going" in worker.warned[-1]


# Stopping some runs


def test_stopped_runs_are_told_in_their_order(service: FakeService, worker: Worker) -> None:
    service.plans = [Plan(seconds=0), ENDLESS]
    runs = hold(worker).runs
    assert runs is not None
    results = worker.perform(stop_runs([runs[8], runs[7]], 45))
    assert [(result.confirmed, result.status) for result in results] == [(True, "Stopped"), (True, "Success")]


def test_a_record_without_a_run_needs_no_stop(service: FakeService, worker: Worker) -> None:
    assert worker.perform(stop_runs(found_runs({7: None}).values(), 45)) == []
    assert service.requests == []


def test_a_run_that_did_not_take_the_first_stop_is_named_and_asked_again(service: FakeService, worker: Worker) -> None:
    runs = hold(worker).runs
    assert runs is not None
    service.faults["stop"] = [(fakes.server_error, False)]
    results = worker.perform(stop_runs(runs.values(), 45))
    assert [result.confirmed for result in results] == [True, True]
    assert "Run 101 of agent 7" in worker.warned[0]
    assert service.count("kill") == 0


def test_a_run_that_was_restarted_is_not_taken_for_over_because_of_its_old_failure(
    service: FakeService, worker: Worker
) -> None:
    service.plans = [Plan(RunStatus.FAILURE, seconds=0), ENDLESS]
    runs = hold(worker).runs
    assert runs is not None
    service.restart(101, lag=40)
    [result] = worker.perform(stop_runs([runs[7].restarting(START, START)], 45))
    assert (result.status, service.runs[101].status) == ("Stopped", RunStatus.STOPPED)
