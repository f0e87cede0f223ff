"""The version of an agent that a run has, against the sandbox: expected, changed by someone else, restored."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_sequentum.api import ClientSettings, SequentumClient, agents
from airflow_provider_sequentum.exceptions import AgentRunFailure, AgentVersionChanged
from airflow_provider_sequentum.hooks import pins
from airflow_provider_sequentum.hooks.pins import pin_key
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.agent_version import RestoreAgentVersionOperator
from airflow_provider_sequentum.sandbox import RunPlan, Sandbox
from airflow_provider_sequentum.sandbox.agents import Agent
from tests.support.airflow import FakeTask
from tests.support.deaths import Mortal, mortal
from tests.support.service import Clock
from tests.support.variables import Variables, variables

__all__ = ["mortal", "variables"]

pytestmark = pytest.mark.usefixtures("variables")


@pytest.fixture
def agent(sandbox: Sandbox) -> Agent:
    return sandbox.add_agent("Prices", records=[{"name": "Tea"}], duration=1)


@pytest.fixture
def someone(sandbox: Sandbox) -> Iterator[SequentumClient]:
    """A user who works with the same service."""
    with SequentumClient(ClientSettings(api_key=sandbox.api_key, base_url=sandbox.base_url)) as client:
        yield client


@pytest.fixture
def task() -> FakeTask:
    return FakeTask(Clock(datetime.now(UTC)), retries=2)


def operator(agent: Agent, **arguments: Any) -> StartAgentRunOperator:
    return StartAgentRunOperator(task_id="run_agent", agent_id=agent.id, retries=2, poll_interval=0.05, **arguments)


def restore(agent: Agent, version: int, task: FakeTask) -> int:
    return RestoreAgentVersionOperator(task_id="restore", agent_id=agent.id, version=version).execute(task.context)


def save_new_version(someone: SequentumClient, agent: Agent, comment: str = "shop moved") -> None:
    someone.send(agents.restore_version(agent.id, 1, comment))


def change_at_start(monkeypatch: pytest.MonkeyPatch, someone: SequentumClient, agent: Agent) -> None:
    """Let someone save a new version just before the start arrives."""
    exchange = SequentumClient.exchange

    def exchange_later(client: SequentumClient, call: Any, **options: Any) -> Any:
        if call.path.endswith("/start"):
            save_new_version(someone, agent)
        return exchange(client, call, **options)

    monkeypatch.setattr(SequentumClient, "exchange", exchange_later)


def test_the_expected_version_runs(sandbox: Sandbox, agent: Agent, task: FakeTask, variables: Variables) -> None:
    operator(agent, expected_version="1").execute(task.context)
    assert len(sandbox.ledger.starts(agent.id)) == 1
    assert variables == {pin_key("sequentum_default", agent.id): "1"}


def test_a_version_that_was_changed_before_the_start(
    sandbox: Sandbox, agent: Agent, task: FakeTask, someone: SequentumClient
) -> None:
    save_new_version(someone, agent)
    with pytest.raises(AgentVersionChanged, match=r"not version 1 .*Version 2 was saved by sandbox .*'shop moved'"):
        operator(agent, expected_version=1).execute(task.context)
    assert sandbox.ledger.starts(agent.id) == []


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
def test_a_version_that_is_changed_between_the_check_and_the_start(
    sandbox: Sandbox,
    agent: Agent,
    task: FakeTask,
    someone: SequentumClient,
    monkeypatch: pytest.MonkeyPatch,
    deferrable: bool,
) -> None:
    sandbox.plan_runs(agent.id, [RunPlan(duration=10_000)])
    change_at_start(monkeypatch, someone, agent)
    with pytest.raises(AgentVersionChanged) as caught:
        operator(agent, expected_version=1, deferrable=deferrable).execute(task.context)
    [run] = sandbox.ledger.runs(agent.id)
    assert (run.status, caught.value.run_id) == ("Stopped", run.run_id)
    assert "has version 2, not version 1" in str(caught.value)
    assert "Version 2 was saved by sandbox" in str(caught.value)
    assert "It has been stopped." in str(caught.value)


def test_a_kill_at_any_step_leaves_no_run_of_another_version(
    sandbox: Sandbox, someone: SequentumClient, mortal: Mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.runs.lost_start.LOOKUP_DELAYS", (0.0, 0.0))
    monkeypatch.setattr("airflow_provider_sequentum.runs.lost_start.LOOKUP_DELAYS_IF_KILLED", (0.0,))
    monkeypatch.setattr("airflow_provider_sequentum.runs.stop.POLL_INTERVAL", timedelta(seconds=0.05))
    monkeypatch.setattr("airflow_provider_sequentum.runs.stop.FIRST_LOOK", timedelta(seconds=0.05))
    for steps in itertools.count():
        agent = sandbox.add_agent(f"Agent {steps}", records=[], duration=10_000)
        task = FakeTask(Clock(datetime.now(UTC)), retries=2)
        with monkeypatch.context() as patch:
            change_at_start(patch, someone, agent)
            try:
                lived = mortal.outlives(steps, partial(operator(agent, expected_version=1).execute, task.context))
            except AgentVersionChanged:
                lived = True
            if not lived:
                task.next_attempt()
                with pytest.raises(AgentVersionChanged):
                    operator(agent, expected_version=1).execute(task.context)
        assert [run.run_id for run in sandbox.ledger.going] == [], steps
        assert len(sandbox.ledger.starts(agent.id)) <= 1, steps
        if lived:
            break
    assert steps > 5


def test_a_pin_is_set_by_the_first_success_and_kept(
    sandbox: Sandbox, agent: Agent, task: FakeTask, someone: SequentumClient, variables: Variables
) -> None:
    key = pin_key("sequentum_default", agent.id)
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Failure", duration=1)])
    with pytest.raises(AgentRunFailure):
        operator(agent, expected_version="pinned").execute(task.context)
    assert variables == {}, "a run that failed pins nothing"
    task.next_attempt()
    operator(agent, expected_version="pinned").execute(task.context)
    assert variables == {key: "1"}
    save_new_version(someone, agent)
    other = FakeTask(Clock(datetime.now(UTC)))
    with pytest.raises(AgentVersionChanged, match="expected_version='pinned'"):
        operator(agent, expected_version="pinned").execute(other.context)
    operator(agent, expected_version=2).execute(FakeTask(Clock(datetime.now(UTC))).context)
    assert variables == {key: "2"}, "the new version was accepted"
    operator(agent, expected_version="pinned").execute(FakeTask(Clock(datetime.now(UTC))).context)
    assert len(sandbox.ledger.starts(agent.id)) == 3


def test_without_an_expectation_no_variable_is_touched(agent: Agent, task: FakeTask, variables: Variables) -> None:
    operator(agent).execute(task.context)
    assert variables == {}


def test_a_resumed_task_works_with_the_pin_that_it_was_started_with(
    sandbox: Sandbox, agent: Agent, task: FakeTask, variables: Variables
) -> None:
    key = pin_key("sequentum_default", agent.id)
    variables[key] = "1"
    with pytest.raises(TaskDeferred) as deferral:
        operator(agent, expected_version="pinned", deferrable=True).execute(task.context)
    variables[key] = "9"
    record = (deferral.value.kwargs or {})["record"]
    assert record["config"]["pinned_version"] == 1


def test_a_restored_version_is_the_pinned_one(
    sandbox: Sandbox, agent: Agent, someone: SequentumClient, variables: Variables
) -> None:
    save_new_version(someone, agent)
    assert restore(agent, 1, FakeTask(Clock(datetime.now(UTC)))) == 3
    assert variables == {pin_key("sequentum_default", agent.id): "3"}
    run_id = operator(agent, expected_version="pinned").execute(FakeTask(Clock(datetime.now(UTC))).context)
    assert [run.run_id for run in sandbox.ledger.runs(agent.id)] == [run_id]


def test_a_kill_at_any_step_restores_once_and_moves_the_pin(
    sandbox: Sandbox,
    someone: SequentumClient,
    mortal: Mortal,
    variables: Variables,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pin is moved by a step of its own, and a retry of a task that died before it moves it."""
    move_pin = pins.move_pin

    def move_as_a_step(conn_id: str, agent_id: int, version: int) -> None:
        mortal.step()
        move_pin(conn_id, agent_id, version)

    monkeypatch.setattr(pins, "move_pin", move_as_a_step)
    for steps in itertools.count():
        agent = sandbox.add_agent(f"Agent {steps}", records=[], duration=1)
        save_new_version(someone, agent)
        variables[pin_key("sequentum_default", agent.id)] = "1"
        task = FakeTask(Clock(datetime.now(UTC)), retries=2)
        lived = mortal.outlives(steps, partial(restore, agent, 1, task))
        if not lived:
            assert variables[pin_key("sequentum_default", agent.id)] == "1", steps
            task.next_attempt()
            assert restore(agent, 1, task) == 3, steps
        versions = [version.version for version in someone.send(agents.list_versions(agent.id))]
        assert sorted(versions) == [1, 2, 3], steps
        assert variables[pin_key("sequentum_default", agent.id)] == "3", steps
        if lived:
            break
    assert steps == 6
