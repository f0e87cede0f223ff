from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_provider_sequentum.sandbox.clock import Clock
from airflow_provider_sequentum.sandbox.engine import Engine, parse_input_parameters
from airflow_provider_sequentum.sandbox.problems import Problem
from airflow_provider_sequentum.sandbox.run_plan import RunPlan
from airflow_provider_sequentum.sandbox.runs import Run, RunOptions, observe
from airflow_provider_sequentum.sandbox.state import load_state
from tests.unit.sandbox.world import World


def start(world: World, agent_id: int, **options: object) -> Run:
    return world.engine.start(agent_id, RunOptions.model_validate(options))


def status(world: World, run: Run) -> str:
    return observe(run, world.engine.settle()).status_name


def refusal(status_code: int, world: World, agent_id: int, **options: object) -> str:
    with pytest.raises(Problem) as caught:
        start(world, agent_id, **options)
    assert caught.value.status == status_code
    return caught.value.detail


def test_planned_outcomes_are_used_in_order_and_by_restarts(world: World) -> None:
    agent = world.agent()
    agent.planned = [RunPlan(outcome="Failure", duration=1), RunPlan(outcome="Completed", duration=1)]
    run = start(world, agent.id)
    world.clock.advance(1)
    assert status(world, run) == "Failure"
    assert world.engine.restart(agent.id, run.id) is run
    world.clock.advance(1)
    assert status(world, run) == "Completed"
    again = start(world, agent.id)
    world.clock.advance(10)
    assert status(world, again) == "Success"


def test_input_parameters_choose_the_outcome_of_their_run_but_not_of_its_restart(world: World) -> None:
    agent = world.agent()
    run = start(world, agent.id, input_parameters='{"sandbox_outcome": "Failure", "sandbox_duration": 2, "x": 1}')
    world.clock.advance(2)
    assert status(world, run) == "Failure"
    world.engine.restart(agent.id, run.id)
    world.clock.advance(3)
    assert status(world, run) == "Success"


@pytest.mark.parametrize("text", ["[1]", "{", "3", '"text"', "[" * 100_000])
def test_input_parameters_must_be_a_json_object(text: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_input_parameters(text)
    assert caught.value.status == 400


def test_an_unusable_sandbox_parameter_is_a_400_and_starts_nothing(world: World) -> None:
    agent = world.agent()
    detail = refusal(400, world, agent.id, input_parameters='{"sandbox_outcome": "Nope"}')
    assert "Nope" in detail
    assert world.engine.ledger.starts() == []
    assert world.engine.actual_runs() == []


def test_only_a_failure_can_be_restarted(world: World) -> None:
    agent = world.agent(RunPlan(outcome="Failure", duration=1))
    run = start(world, agent.id)
    with pytest.raises(Problem, match="only a Failure"):
        world.engine.restart(agent.id, run.id)
    world.clock.advance(1)
    world.engine.archive(agent.id, run.id)
    with pytest.raises(Problem, match="is Failed; only a Failure"):
        world.engine.restart(agent.id, run.id)


def test_a_space_has_a_concurrency_limit() -> None:
    world = World(space_concurrency=1)
    agent = world.agent(RunPlan(duration=10))
    first, second = start(world, agent.id), start(world, agent.id)
    assert (status(world, first), status(world, second)) == ("Starting", "Queuing")
    world.clock.advance(12)
    assert (status(world, first), status(world, second)) == ("Success", "Running")


@pytest.mark.parametrize(("conflict", "held"), [("wait", "Waiting"), ("queue", "Queuing")])
def test_an_exclusive_run_holds_the_next_one(world: World, conflict: str, held: str) -> None:
    world.engine.dialect.exclusive_conflict = conflict  # type: ignore[assignment]
    agent = world.agent(RunPlan(duration=10), exclusive=True)
    start(world, agent.id)
    second = start(world, agent.id)
    assert status(world, second) == held
    world.clock.advance(11.5)
    assert status(world, second) == "Running"


def test_an_exclusive_conflict_can_be_refused(world: World) -> None:
    world.engine.dialect.exclusive_conflict = "refuse"
    agent = world.agent()
    start(world, agent.id, is_exclusive=True)
    assert refusal(409, world, agent.id, is_exclusive=True) == "Agent is already running"


def test_stopping_frees_the_slot() -> None:
    world = World(space_concurrency=1)
    agent = world.agent(RunPlan(outcome="Running", stop_seconds=2))
    first, second = start(world, agent.id), start(world, agent.id)
    world.engine.stop(agent.id, first.id)
    assert (status(world, first), status(world, second)) == ("Stopping", "Queuing")
    world.clock.advance(2)
    assert (status(world, first), status(world, second)) == ("Stopped", "Starting")


def test_a_second_kill_ends_a_run_that_ignores_its_stop(world: World) -> None:
    agent = world.agent(RunPlan(outcome="Running", ignores_stop=True))
    run = start(world, agent.id)
    world.engine.kill(agent.id, run.id)
    world.clock.advance(1000)
    assert status(world, run) == "Stopping"
    world.engine.kill(agent.id, run.id)
    assert status(world, run) == "Stopped"
    assert [kill.detail for kill in world.engine.ledger.kills] == [{"forced": False}, {"forced": True}]
    with pytest.raises(Problem, match="is over"):
        world.engine.kill(agent.id, run.id)


def test_credits_are_charged_and_run_out() -> None:
    world = World(credits=3)
    agent = world.agent(RunPlan(duration=1, credits=2))
    first, second = start(world, agent.id), start(world, agent.id)
    assert world.engine.account.balance == 0
    world.clock.advance(1)
    assert (status(world, first), status(world, second)) == ("Success", "Success")
    assert refusal(422, world, agent.id) == "Insufficient credits."
    world.engine.add_credits(5)
    assert status(world, start(world, agent.id)) == "Starting"


def test_a_queued_run_stays_queued_when_credits_run_out() -> None:
    world = World(credits=1, space_concurrency=1)
    agent = world.agent(RunPlan(duration=1, credits=0.5))
    start(world, agent.id)
    waiting = start(world, agent.id)
    world.engine.add_credits(-1)
    world.clock.advance(100)
    assert status(world, waiting) == "Queuing"
    world.engine.add_credits(1)
    assert status(world, waiting) == "Starting"


def test_an_archived_agent_cannot_be_run(world: World) -> None:
    agent = world.agent()
    agent.archived = True
    assert "archived" in refusal(409, world, agent.id)


def test_a_run_in_progress_is_not_deleted(world: World) -> None:
    agent = world.agent(RunPlan(duration=1))
    run = start(world, agent.id)
    with pytest.raises(Problem) as caught:
        world.engine.delete(agent.id, run.id, "RemoveEntireRun")
    assert caught.value.status == 400
    world.clock.advance(1)
    world.engine.delete(agent.id, run.id, "RemoveEntireRun")
    with pytest.raises(Problem):
        world.engine.run(agent.id, run.id)
    assert [truth.run_id for truth in world.engine.ledger.runs(agent.id)] == [run.id]


def test_a_run_of_another_agent_is_not_found(world: World) -> None:
    one, other = world.agent(), world.agent()
    run = start(world, one.id)
    with pytest.raises(Problem) as caught:
        world.engine.stop(other.id, run.id)
    assert caught.value.status == 404
    assert world.engine.ledger.stops == []


def test_the_plan_of_a_run_in_progress_can_be_changed(world: World) -> None:
    agent = world.agent(RunPlan(outcome="Running"))
    run = start(world, agent.id)
    world.clock.advance(50)
    world.engine.replan(agent.id, run.id, RunPlan(outcome="Failure", duration=60))
    world.clock.advance(10)
    assert status(world, run) == "Failure"


def test_the_true_finish_time_is_exact_however_late_one_looks(world: World) -> None:
    agent = world.agent(RunPlan(duration=7, queue_seconds=3))
    run = start(world, agent.id)
    world.clock.advance(10_000)
    (truth,) = world.engine.ledger.runs()
    assert truth.finished is not None
    assert (truth.finished - run.created).total_seconds() == 10


def test_run_ids_do_not_fit_into_32_bits(world: World) -> None:
    assert start(world, world.agent().id).id > 2**32


def test_memory_survives_in_a_file_that_only_its_owner_reads(world: World, tmp_path: Path) -> None:
    agent = world.agent(RunPlan(duration=10))
    agent.planned = [RunPlan(outcome="Failure")]
    run = start(world, agent.id)
    world.engine.account.add_key("mine")
    file = tmp_path / "state.json"
    world.engine.state.save(file, world.clock.now())
    assert file.stat().st_mode & 0o077 == 0
    again = Engine(world.engine.settings, world.engine.dialect, world.clock, load_state(file))
    world.clock.advance(10)
    assert observe(again.run(agent.id, run.id), again.settle()).status_name == "Failure"
    assert again.state.keys == world.engine.state.keys
    assert [effect.kind for effect in again.ledger.effects] == ["start"]
    assert len(again.ledger.runs()) == 1


def test_a_file_that_is_no_state_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    file.write_text(json.dumps({"hello": 1}))
    with pytest.raises(ValueError, match="not a state file"):
        load_state(file)


def test_time_goes_on_while_the_sandbox_is_away(tmp_path: Path) -> None:
    clock = Clock()
    world = World()
    clock.advance(1000)
    file = tmp_path / "state.json"
    world.engine.state.save(file, clock.now())
    assert 999 < load_state(file).clock_ahead.total_seconds() < 1001


def test_a_kill_during_the_delay_of_a_stop_is_not_the_second_one(world: World) -> None:
    agent = world.agent(RunPlan(outcome="Running", stop_delay=10, ignores_stop=True))
    run = start(world, agent.id)
    world.clock.advance(5)
    world.engine.stop(agent.id, run.id)
    world.engine.kill(agent.id, run.id)
    assert status(world, run) == "Running"
    world.clock.advance(10)
    assert status(world, run) == "Stopping"
    world.engine.kill(agent.id, run.id)
    assert status(world, run) == "Stopped"
    assert [kill.detail for kill in world.engine.ledger.kills] == [{"forced": False}, {"forced": True}]


def test_the_ledger_knows_a_restarted_run_while_its_old_failure_shows(world: World) -> None:
    world.engine.dialect.restart_lag_seconds = 30
    agent = world.agent(RunPlan(outcome="Failure", duration=1))
    agent.planned = [RunPlan(outcome="Failure", duration=1), RunPlan(outcome="Running")]
    run = start(world, agent.id)
    world.clock.advance(2)
    assert world.engine.ledger.going == []
    world.engine.restart(agent.id, run.id)
    world.clock.advance(29)
    assert status(world, run) == "Failure"
    (actual,) = world.engine.ledger.going
    assert (actual.run_id, actual.status, actual.going, actual.attempts) == (run.id, "Running", True, 2)
    world.clock.advance(2)
    assert status(world, run) == "Running"


def test_a_queued_run_and_one_with_an_unknown_status_are_going() -> None:
    world = World(space_concurrency=1)
    working = start(world, world.agent(RunPlan(working_status="Dreaming", duration=100)).id)
    queued = start(world, world.agent().id)
    world.clock.advance(50)
    assert [(run.run_id, run.status) for run in world.engine.ledger.going] == [
        (working.id, "Dreaming"),
        (queued.id, "Queuing"),
    ]
