"""The hook's verbs against the sandbox."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from airflow_provider_sequentum.exceptions import (
    AgentRunFailed,
    AgentRunFailure,
    AgentRunStopped,
    AgentRunTimeout,
    CreditLimitReached,
    SequentumRequestRefused,
    SequentumSkipped,
    SequentumUnavailable,
)
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.sandbox import RunPlan, Sandbox
from airflow_provider_sequentum.sandbox.agents import Agent


@pytest.fixture
def agent(sandbox: Sandbox) -> Agent:
    return sandbox.add_agent("Prices", records=[{"name": "Tea", "price": 9.5}], duration=2)


@pytest.fixture
def hook() -> SequentumHook:
    return SequentumHook()


def test_from_the_start_to_the_bill(sandbox: Sandbox, agent: Agent, hook: SequentumHook) -> None:
    assert [found.id for found in hook.list_agents(name="price")] == [agent.id]
    run = hook.start_run(agent_id=str(agent.id), input_parameters={"page": 1})
    ended = hook.wait_for_run(agent_id=agent.id, run_id=run.id, poll_interval=0.05)
    assert (ended.id, ended.data_count) == (run.id, 1)
    assert hook.get_run(agent_id=agent.id, run_id=str(run.id)).status == ended.status
    assert [record["name"] for record in hook.iter_records(agent.id, run.id)] == ["Tea"]
    assert hook.cost_of(agent_id=agent.id, run_id=run.id) == pytest.approx(1.0)
    [start] = sandbox.ledger.starts(agent.id)
    assert (start.run_id, start.input_parameters) == (run.id, '{"page": 1}')


@pytest.mark.parametrize("period", ["day", "month"])
def test_a_start_above_the_limit_is_refused(sandbox: Sandbox, agent: Agent, hook: SequentumHook, period: str) -> None:
    for _ in range(2):  # the first has no history: it may cost the whole limit, and costs 1
        run = hook.start_run(agent_id=agent.id, credit_limit=2.5, credit_limit_period=period)
        hook.wait_for_run(agent_id=agent.id, run_id=run.id, poll_interval=0.05)
    with pytest.raises(CreditLimitReached, match=r"forecast of 1 credit .* \+ 2 billed since .* = 3, more than"):
        hook.start_run(agent_id=str(agent.id), credit_limit="2.5", credit_limit_period=period)
    assert len(sandbox.ledger.starts(agent.id)) == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"credit_limit": 1, "credit_limit_period": "dag_run"}, "must be 'day' or 'month'"),
        ({"credit_limit": 1, "credit_limit_period": "year"}, "credit_limit_period must be one of"),
        ({"credit_limit": -1}, "credit_limit must be a number of 0 or more"),
        ({"credit_limit": True}, "credit_limit must be a number of 0 or more"),
    ],
)
def test_a_limit_that_means_nothing_starts_nothing(
    sandbox: Sandbox, agent: Agent, hook: SequentumHook, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(SequentumRequestRefused, match=named):
        hook.start_run(agent_id=agent.id, **options)
    assert sandbox.ledger.starts(agent.id) == []


def test_an_unset_limit_is_none(sandbox: Sandbox, agent: Agent, hook: SequentumHook) -> None:
    hook.start_run(agent_id=agent.id, credit_limit="")
    assert [entry.path.rpartition("/")[2] for entry in sandbox.ledger.requests] == ["start"]


def test_agents_of_a_space(sandbox: Sandbox, agent: Agent, hook: SequentumHook) -> None:
    space = sandbox.add_space("Other")
    other = sandbox.add_agent("Stock", records=[], space_id=space.id)
    assert [found.id for found in hook.list_agents(space_id=space.id)] == [other.id]
    assert {found.id for found in hook.list_agents()} >= {agent.id, other.id}


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        ("Failure", AgentRunFailure),
        ("Failed", AgentRunFailed),
        ("Stopped", AgentRunStopped),
        ("Skipped", SequentumSkipped),
    ],
)
def test_a_run_that_did_not_end_well_is_an_error(
    sandbox: Sandbox, agent: Agent, hook: SequentumHook, outcome: str, kind: type[Exception]
) -> None:
    sandbox.plan_runs(agent.id, [RunPlan(outcome=outcome, duration=1)])
    run = hook.start_run(agent_id=agent.id)
    with pytest.raises(kind, match=f"Run {run.id} of agent {agent.id} ended") as caught:
        hook.wait_for_run(agent_id=agent.id, run_id=run.id, poll_interval=0.05)
    assert (caught.value.agent_id, caught.value.run_id) == (agent.id, run.id)  # type: ignore[attr-defined]


def test_a_wait_that_is_over_leaves_the_run(sandbox: Sandbox, agent: Agent, hook: SequentumHook) -> None:
    sandbox.plan_runs(agent.id, [RunPlan(duration=10**6)])
    run = hook.start_run(agent_id=agent.id)
    with pytest.raises(AgentRunTimeout, match="It was not stopped"):
        hook.wait_for_run(agent_id=agent.id, run_id=run.id, timeout=0.2, poll_interval=0.05)
    assert [going.run_id for going in sandbox.ledger.going] == [run.id]
    assert hook.cost_of(agent_id=agent.id, run_id=run.id) is None


def test_a_start_is_sent_once_whatever_becomes_of_its_answer(
    sandbox: Sandbox, agent: Agent, hook: SequentumHook
) -> None:
    sandbox.fail_next("POST /agent/{agent_id}/start", "reset_after")
    with pytest.raises(SequentumUnavailable, match="may have acted"):
        hook.start_run(agent_id=agent.id)
    assert len(sandbox.ledger.starts(agent.id)) == 1


def test_an_unknown_run_is_refused(agent: Agent, hook: SequentumHook) -> None:
    for verb in (hook.get_run, hook.cost_of):
        with pytest.raises(SequentumRequestRefused, match="run 1 of agent"):
            verb(agent_id=agent.id, run_id=1)


@pytest.mark.parametrize("name", ["start_run", "wait_for_run", "get_run", "list_agents", "cost_of", "iter_records"])
def test_every_verb_can_be_a_tool_with_a_pinned_agent(name: str) -> None:
    """A toolset passes arguments by name, and describes each by the docstring."""
    verb = getattr(SequentumHook, name)
    parameters = {parameter for parameter in inspect.signature(verb).parameters if parameter != "self"}
    assert name == "list_agents" or "agent_id" in parameters
    assert all(f":param {parameter}:" in (verb.__doc__ or "") for parameter in parameters)
