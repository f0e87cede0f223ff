"""The life of a run on a real Airflow: whoever dies, whatever is clicked, it is counted in the sandbox's ledger."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_sequentum.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_sequentum.sandbox.agents import Agent
    from tests.system.harness import AirflowInstance, DagRun
    from tests.system.stage import Stage

pytestmark = pytest.mark.slow

TASK = "run_agent"
BOTH = pytest.mark.parametrize("mode", ["worker", "deferred"])
FOR_EVER = 3600.0


@pytest.fixture
def airflow(stage: Stage) -> AirflowInstance:
    if stage.airflow.api.major < 3:
        pytest.skip("Airflow 2.11 keeps nothing between tries, and has no on_kill of triggers")
    return stage.airflow


@pytest.fixture
def sandbox(stage: Stage) -> Sandbox:
    assert stage.sandbox is not None
    stage.sandbox.settings.rate_limit = 10_000
    return stage.sandbox


@pytest.fixture
def agent(sandbox: Sandbox, request: pytest.FixtureRequest) -> Agent:
    return sandbox.add_agent(request.node.name, duration=15.0)


def until(condition: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def started(sandbox: Sandbox, agent: Agent) -> list[int]:
    return [effect.run_id for effect in sandbox.ledger.starts(agent.id) if effect.run_id is not None]


def statuses(sandbox: Sandbox, agent: Agent) -> list[str]:
    return [truth.status for truth in sandbox.ledger.runs(agent.id)]


def run_agent(airflow: AirflowInstance, agent: Agent, dag: str, **params: Any) -> DagRun:
    return airflow.trigger(dag, {"agent_id": agent.id, **params})


def wait_until_deferred(airflow: AirflowInstance, run: DagRun, sandbox: Sandbox, agent: Agent) -> int:
    airflow.wait_for_task(run, TASK, {"deferred"}, timeout=90)
    return started(sandbox, agent)[-1]


# The worker dies


@BOTH
@pytest.mark.parametrize("die_at", ["before POST", "after POST", "after record"])
def test_a_worker_that_is_killed_leaves_one_run(
    airflow: AirflowInstance, sandbox: Sandbox, agent: Agent, mode: str, die_at: str
) -> None:
    run = airflow.wait(run_agent(airflow, agent, f"run_agent_{mode}", die_at=die_at), timeout=180)
    assert run.state == "success"
    assert airflow.task_instance(run, TASK).try_number == 2
    assert len(started(sandbox, agent)) == 1
    assert airflow.xcom(run, TASK) == started(sandbox, agent)[0]


def test_a_worker_that_is_killed_on_resume_leaves_one_run(
    airflow: AirflowInstance, sandbox: Sandbox, agent: Agent
) -> None:
    run = airflow.wait(run_agent(airflow, agent, "run_agent_deferred", die_at="on resume"), timeout=180)
    assert run.state == "success"
    assert airflow.task_instance(run, TASK).try_number == 2
    assert airflow.xcom(run, TASK) == started(sandbox, agent)[0]
    assert len(started(sandbox, agent)) == 1


def test_a_worker_that_is_shut_down_leaves_its_run_to_the_next_attempt(
    airflow: AirflowInstance, sandbox: Sandbox, agent: Agent
) -> None:
    run = airflow.wait(run_agent(airflow, agent, "run_agent_worker", die_at="shut down"), timeout=180)
    assert run.state == "success"
    assert airflow.task_instance(run, TASK).try_number == 2
    assert (len(started(sandbox, agent)), statuses(sandbox, agent)) == (1, ["Success"])
    assert "The worker is being shut down" in airflow.log(run, TASK, try_number=1)


# A triggerer dies, or is taken for dead, or the scheduler dies with all its workers


@pytest.mark.parametrize("service", ["triggerer", "scheduler"])
def test_a_killed_service_leaves_the_run_alone(
    airflow: AirflowInstance, sandbox: Sandbox, agent: Agent, service: str
) -> None:
    run = run_agent(airflow, agent, "run_agent_deferred")
    wait_until_deferred(airflow, run, sandbox, agent)
    airflow.kill(service)
    airflow.start(service)
    assert airflow.wait(run, timeout=180).state == "success"
    assert len(started(sandbox, agent)) == 1
    assert statuses(sandbox, agent) == ["Success"]


def test_a_trigger_that_moves_to_another_triggerer_leaves_the_run_alone(
    airflow: AirflowInstance, sandbox: Sandbox
) -> None:
    agent = sandbox.add_agent("Moving", duration=100.0)
    run = run_agent(airflow, agent, "run_agent_deferred")
    wait_until_deferred(airflow, run, sandbox, agent)
    time.sleep(5)  # until the trigger runs
    airflow.start("triggerer", name="triggerer-2")
    airflow.kill("triggerer", signal.SIGSTOP)
    try:
        time.sleep(45)  # after 30 s without a heartbeat the other one takes over
    finally:
        airflow.kill("triggerer", signal.SIGCONT)
    until(lambda: "the trigger moved" in airflow.log(run, TASK))  # on_kill was called, and told it apart
    assert statuses(sandbox, agent) == ["Running"]
    assert airflow.task_instance(run, TASK).state == "deferred"
    airflow.kill("triggerer")
    airflow.start("triggerer")
    assert airflow.wait(run, timeout=180).state == "success"
    assert (len(started(sandbox, agent)), statuses(sandbox, agent)) == (1, ["Success"])
    airflow.kill("triggerer-2", signal.SIGTERM)


def test_a_task_whose_scheduler_is_taken_for_dead_leaves_its_run_to_the_next_attempt(
    airflow: AirflowInstance, sandbox: Sandbox
) -> None:
    """The other scheduler cannot adopt what an executor within the first one runs, so it starts the tasks again."""
    agent = sandbox.add_agent("Adopted", duration=FOR_EVER)
    run = run_agent(airflow, agent, "run_agent_once")
    until(lambda: len(started(sandbox, agent)) == 1)
    airflow.signal_command("scheduler", signal.SIGSTOP)
    try:
        time.sleep(35)  # a scheduler is taken for dead after 30 s
        airflow.start("scheduler", name="scheduler-2")
        until(lambda: airflow.task_instance(run, TASK).try_number == 2, timeout=180)
        airflow.wait_for_task(run, TASK, {"running"})
        until(lambda: "Joining it" in airflow.log(run, TASK, try_number=2))
        until(lambda: "keeps running: the next attempt joins it" in airflow.log(run, TASK, try_number=1))
        assert airflow.task_instance(run, TASK).state == "running"
        assert len(started(sandbox, agent)) == 1
        assert statuses(sandbox, agent) in (["Starting"], ["Running"])
        airflow.mark(run, TASK, "failed")
        until(lambda: statuses(sandbox, agent) == ["Stopped"])
    finally:
        airflow.kill("scheduler")
        airflow.kill("scheduler-2")
        airflow.start("scheduler")


# A person clicks


@pytest.mark.parametrize("state", ["failed", "success"])
def test_marking_a_deferred_task_stops_the_run(airflow: AirflowInstance, sandbox: Sandbox, state: Any) -> None:
    agent = sandbox.add_agent("Marked", duration=FOR_EVER)
    run = run_agent(airflow, agent, "run_agent_deferred")
    wait_until_deferred(airflow, run, sandbox, agent)
    time.sleep(5)  # until the trigger runs
    airflow.mark(run, TASK, state)
    until(lambda: statuses(sandbox, agent) == ["Stopped"])


def test_marking_a_running_task_stops_the_run(airflow: AirflowInstance, sandbox: Sandbox) -> None:
    agent = sandbox.add_agent("Marked on the worker", duration=FOR_EVER)
    run = run_agent(airflow, agent, "run_agent_worker")
    airflow.wait_for_task(run, TASK, {"running"})
    until(lambda: len(started(sandbox, agent)) == 1)
    airflow.mark(run, TASK, "failed")
    until(lambda: statuses(sandbox, agent) == ["Stopped"])


def test_marking_a_task_that_is_about_to_be_deferred_stops_the_run(airflow: AirflowInstance, sandbox: Sandbox) -> None:
    # The process hears of a mark seconds later. By then it is gone: Airflow refuses the deferral without a word.
    agent = sandbox.add_agent("Marked before its deferral", duration=FOR_EVER)
    sandbox.fail_next(f"POST /agent/{agent.id}/start", "late", delay=3.0)
    run = run_agent(airflow, agent, "run_agent_deferred")
    until(lambda: len(started(sandbox, agent)) == 1)
    time.sleep(2.5)
    airflow.mark(run, TASK, "failed")
    until(lambda: statuses(sandbox, agent) == ["Stopped"])


@pytest.mark.parametrize("does", ["marks it", "clears it and wipes its record"])
def test_a_task_that_a_person_ends_while_it_is_being_deferred_stops_its_run(
    airflow: AirflowInstance, sandbox: Sandbox, does: str
) -> None:
    agent = sandbox.add_agent(f"Deferred when a person {does}", duration=FOR_EVER)
    run = run_agent(airflow, agent, "run_agent_deferred", die_at="ended while it is being deferred")
    until(lambda: len(started(sandbox, agent)) == 1)
    time.sleep(2)  # until it would be deferred
    if does == "marks it":
        airflow.mark(run, TASK, "failed")
    else:
        airflow.wipe_state_store(run, TASK)
        airflow.clear(run, TASK)
        airflow.wipe_state_store(run, TASK)
    until(lambda: statuses(sandbox, agent)[0] == "Stopped", timeout=10)
    assert "Failed to report terminal task state" in airflow.log(run, TASK, 1)
    assert "The task was marked or cleared while it was being deferred." in airflow.log(run, TASK, 1)
    if does != "marks it":
        until(lambda: len(started(sandbox, agent)) == 2, timeout=120)
        airflow.wait_for_task(run, TASK, {"deferred"}, timeout=90)
        time.sleep(5)  # until the trigger runs
        airflow.mark(run, TASK, "failed")
        until(lambda: statuses(sandbox, agent) == ["Stopped", "Stopped"])


def test_a_task_that_is_marked_before_its_start_was_sent_starts_nothing(
    airflow: AirflowInstance, sandbox: Sandbox, agent: Agent
) -> None:
    run = run_agent(airflow, agent, "run_agent_worker", die_at="killed before POST")
    airflow.wait_for_task(run, TASK, {"running"})
    time.sleep(5)  # until it executes
    airflow.mark(run, TASK, "failed")
    until(lambda: "Task killed" in airflow.log(run, TASK))
    assert started(sandbox, agent) == []


def test_clearing_a_running_task_stops_its_run_and_starts_again(airflow: AirflowInstance, sandbox: Sandbox) -> None:
    agent = sandbox.add_agent("Cleared on the worker", duration=30.0)
    run = run_agent(airflow, agent, "run_agent_worker")
    until(lambda: len(started(sandbox, agent)) == 1)
    time.sleep(2)
    airflow.clear(run, TASK)
    assert airflow.wait(run, timeout=240).state == "success"
    assert statuses(sandbox, agent) == ["Stopped", "Success"]
    assert airflow.xcom(run, TASK) == started(sandbox, agent)[1]


def test_clearing_a_deferred_task_with_its_upstream_stops_the_run_although_no_new_attempt_comes(
    airflow: AirflowInstance, sandbox: Sandbox
) -> None:
    agent = sandbox.add_agent("Cleared with its upstream", duration=FOR_EVER)
    run = run_agent(airflow, agent, "run_agent_behind_another_task")
    wait_until_deferred(airflow, run, sandbox, agent)
    time.sleep(5)  # until the trigger runs
    airflow.clear(run, "works_once")
    assert airflow.wait(run, timeout=120).state == "failed"
    until(lambda: statuses(sandbox, agent) == ["Stopped"])


def test_clearing_a_deferred_task_stops_its_run_and_starts_again(airflow: AirflowInstance, sandbox: Sandbox) -> None:
    agent = sandbox.add_agent("Cleared", duration=30.0)
    run = run_agent(airflow, agent, "run_agent_deferred")
    wait_until_deferred(airflow, run, sandbox, agent)
    time.sleep(5)
    airflow.clear(run, TASK)
    assert airflow.wait(run, timeout=240).state == "success"
    assert statuses(sandbox, agent) == ["Stopped", "Success"]
    assert airflow.xcom(run, TASK) == started(sandbox, agent)[1]


def test_clearing_a_deferred_task_may_join_its_run(airflow: AirflowInstance, sandbox: Sandbox) -> None:
    # The new attempt begins before the old trigger hears of the clear; the old trigger must not stop what it joined.
    agent = sandbox.add_agent("Joined", duration=40.0)
    run = run_agent(airflow, agent, "run_agent_joining")
    wait_until_deferred(airflow, run, sandbox, agent)
    time.sleep(5)
    airflow.clear(run, TASK)
    assert airflow.wait(run, timeout=240).state == "success"
    assert statuses(sandbox, agent) == ["Success"]


@BOTH
def test_clearing_a_success_runs_the_agent_again(airflow: AirflowInstance, sandbox: Sandbox, mode: str) -> None:
    agent = sandbox.add_agent("Again", duration=2.0)
    run = airflow.wait(run_agent(airflow, agent, f"run_agent_{mode}"), timeout=180)
    airflow.clear(run, TASK)
    assert airflow.wait(run, timeout=180).state == "success"
    assert len(started(sandbox, agent)) == 2
    assert airflow.xcom(run, TASK) == started(sandbox, agent)[1]


# Time passes


@BOTH
def test_execution_timeout_stops_the_run(airflow: AirflowInstance, sandbox: Sandbox, mode: str) -> None:
    agent = sandbox.add_agent("Too slow", duration=FOR_EVER)
    run = airflow.wait(run_agent(airflow, agent, f"run_agent_limited_{mode}"), timeout=180)
    assert run.state == "failed"
    until(lambda: statuses(sandbox, agent) == ["Stopped"])
    if mode == "deferred":
        assert "execution_timeout passed. It has been stopped" in airflow.log(run, TASK)


@BOTH
def test_its_own_timeout_stops_the_run_of_every_try(airflow: AirflowInstance, sandbox: Sandbox, mode: str) -> None:
    agent = sandbox.add_agent("Too slow", duration=FOR_EVER)
    run = airflow.wait(run_agent(airflow, agent, f"run_agent_{mode}", timeout=15), timeout=300)
    assert run.state == "failed"
    assert statuses(sandbox, agent) == ["Stopped"] * 3


# The service refuses a start


def test_of_mapped_siblings_on_one_agent_each_has_a_run_of_its_own(airflow: AirflowInstance, sandbox: Sandbox) -> None:
    agent = sandbox.add_agent("Shared", duration=30.0)
    route = f"POST /agent/{agent.id}/start"
    sandbox.fail_next(route, "delay", delay=0.1)  # a sibling has started
    sandbox.fail_next(route, "status", status=503)  # nothing was done, which the task cannot know
    run = airflow.wait(airflow.trigger("run_agents_mapped", {"agents": [agent.id] * 2}), timeout=240)
    assert run.state == "success"
    results = {airflow.xcom(run, TASK, map_index=index) for index in (0, 1)}
    assert results == set(started(sandbox, agent))
    assert len(results) == 2


# Failure and Failed


@BOTH
def test_a_retry_restarts_a_failure_and_replaces_a_failed_run(
    airflow: AirflowInstance, sandbox: Sandbox, mode: str
) -> None:
    from airflow_provider_sequentum.sandbox.run_plan import RunPlan

    agent = sandbox.add_agent("Unlucky", duration=2.0)
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Failure", duration=2), RunPlan(outcome="Failed", duration=2)])
    run = airflow.wait(run_agent(airflow, agent, f"run_agent_{mode}"), timeout=300)
    assert run.state == "success"
    first, second = sandbox.ledger.runs(agent.id)
    assert (first.status, first.attempts, second.status) == ("Failed", 2, "Success")
    assert airflow.xcom(run, TASK) == second.run_id
    assert "The next attempt restarts it in place" in airflow.log(run, TASK, try_number=1)
    assert "The next attempt starts a new run" in airflow.log(run, TASK, try_number=2)
