"""Operator and sensor against the sandbox over real HTTP, on the worker and in the triggerer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred

from airflow_provider_sequentum.exceptions import (
    AgentRunFailed,
    AgentRunFailure,
    AgentRunStopped,
    AgentRunTimeout,
    CreditLimitReached,
    SensedAgentRunFailure,
    SequentumConnectionException,
    SequentumRequestRefused,
    SequentumSkipped,
    SequentumUnavailable,
    SpaceRunsFailed,
)
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from airflow_provider_sequentum.sandbox import Sandbox
from airflow_provider_sequentum.sandbox.agents import Agent
from airflow_provider_sequentum.sandbox.faults import Fault
from airflow_provider_sequentum.sandbox.run_plan import RunPlan
from airflow_provider_sequentum.sensors.agent_run import AgentRunSensor
from tests.support.airflow import FakeTask, use_first_poke
from tests.support.service import Clock

BOTH = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.airflow_compat.trigger_life.MIN_TRIGGER_LIFETIME", 0.0)
    monkeypatch.setattr("airflow_provider_sequentum.runs.lost_start.LOOKUP_DELAYS", (0.05, 0.1))
    monkeypatch.setattr("airflow_provider_sequentum.runs.start.BUSY_DELAYS", (0.05, 0.1))
    # The sandbox's clock is twenty times as fast as this machine's, which no real service's is.
    monkeypatch.setattr("airflow_provider_sequentum.runs.lost_start.CLOCK_TOLERANCE", timedelta(minutes=5))
    monkeypatch.setattr("airflow_provider_sequentum.runs.stop.POLL_INTERVAL", timedelta(seconds=0.05))
    monkeypatch.setattr("airflow_provider_sequentum.runs.stop.FIRST_LOOK", timedelta(seconds=0.05))


@pytest.fixture
def agent(sandbox: Sandbox) -> Agent:
    return sandbox.add_agent("Prices", records=[{"sku": str(number)} for number in range(5)], duration=2.0)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> FakeTask:
    task = FakeTask(Clock(datetime.now(UTC)), retries=2)
    use_first_poke(monkeypatch, task.ti)
    return task


def operator(agent_id: object, **arguments: Any) -> StartAgentRunOperator:
    arguments = {"task_id": "run_agent", "agent_id": agent_id, "retries": 2, "poll_interval": 0.05, **arguments}
    return StartAgentRunOperator(**arguments)


def carry_out(make: Callable[[], Any], task: FakeTask) -> Any:
    """Run one try to its end, through deferrals and reschedules, with a new operator each time."""
    try:
        return make().execute(task.context)
    except TaskDeferred as deferral:
        pending = deferral
    except AirflowRescheduleException:
        task.ti.first_poke = task.ti.first_poke or task.ti.start_date
        return carry_out(make, task)
    while True:
        event = asyncio.run(_only_event(pending.trigger))
        try:
            handed_on = {**(pending.kwargs or {}), "event": event}
            return make().resume_execution("execute_complete", handed_on, task.context)
        except TaskDeferred as deferral:
            pending = deferral


async def _only_event(trigger: Any) -> Any:
    path, arguments = trigger.serialize()
    assert path.endswith(type(trigger).__name__)
    again = type(trigger)(**json.loads(json.dumps(arguments)))
    [event] = [event async for event in again.run()]
    return json.loads(json.dumps(event.payload))


# Endings


@BOTH
def test_a_run_that_ends_well(sandbox: Sandbox, agent: Agent, task: FakeTask, deferrable: bool) -> None:
    run_id = carry_out(lambda: operator(str(agent.id), deferrable=deferrable, input_parameters={"a": 1}), task)
    [start] = sandbox.ledger.starts(agent.id)
    assert (run_id, start.input_parameters) == (start.run_id, '{"a": 1}')
    summary = task.ti.pushed("run")
    assert (summary["run_id"], summary["status"], summary["records"], summary["exported"]) == (run_id, "Success", 5, 5)


@BOTH
@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        ("Failure", AgentRunFailure),
        ("Failed", AgentRunFailed),
        ("Stopped", AgentRunStopped),
        ("Skipped", SequentumSkipped),
    ],
)
def test_a_run_that_ends_otherwise(
    sandbox: Sandbox, agent: Agent, task: FakeTask, deferrable: bool, outcome: str, kind: type[Exception]
) -> None:
    sandbox.plan_runs(agent.id, [RunPlan(outcome=outcome, duration=1)])
    with pytest.raises(kind) as caught:
        carry_out(lambda: operator(agent.id, deferrable=deferrable), task)
    assert "The service says:" in str(caught.value)
    assert ("Possible causes:" in str(caught.value)) is (kind in (AgentRunFailure, AgentRunFailed))


@BOTH
def test_a_retry_restarts_then_replaces(sandbox: Sandbox, agent: Agent, task: FakeTask, deferrable: bool) -> None:
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Failure", duration=1), RunPlan(outcome="Failure", duration=1)])
    for _ in range(2):
        with pytest.raises(AgentRunFailure):
            carry_out(lambda: operator(agent.id, deferrable=deferrable), task)
        task.next_attempt()
    [run] = sandbox.ledger.runs(agent.id)
    assert run.attempts == 2
    sandbox.archive(agent.id, run.run_id)
    assert carry_out(lambda: operator(agent.id, deferrable=deferrable), task) == run.run_id + 1


@BOTH
@pytest.mark.parametrize("lag", [0.0, 20.0])
def test_restarts_within_a_try(sandbox: Sandbox, agent: Agent, task: FakeTask, deferrable: bool, lag: float) -> None:
    sandbox.dialect.restart_lag_seconds = lag
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Failure", duration=1)] * 2)
    carry_out(lambda: operator(agent.id, deferrable=deferrable, restarts=2, restart_delay=0.1), task)
    assert len(sandbox.ledger.restarts) == 2
    assert len(sandbox.ledger.starts(agent.id)) == 1


@BOTH
@pytest.mark.parametrize("answer", ["record", "run_id", "empty"])
@pytest.mark.parametrize("start_response", ["record", "run_id", "none"])
def test_whatever_a_start_and_a_restart_answer(
    sandbox: Sandbox, agent: Agent, task: FakeTask, deferrable: bool, answer: Any, start_response: Any
) -> None:
    sandbox.dialect.restart_response, sandbox.dialect.start_response = answer, start_response
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Failure", duration=1)])
    carry_out(lambda: operator(agent.id, deferrable=deferrable, restarts=1, restart_delay=0.1), task)
    assert (len(sandbox.ledger.starts(agent.id)), len(sandbox.ledger.restarts)) == (1, 1)


@BOTH
@pytest.mark.parametrize("statuses", ["integer", "numeric_string", "name"])
@pytest.mark.parametrize("times", ["utc", "seven_digits", "mixed"])
def test_however_the_service_spells_it(
    sandbox: Sandbox, agent: Agent, task: FakeTask, deferrable: bool, statuses: Any, times: Any
) -> None:
    sandbox.dialect.statuses, sandbox.dialect.times = statuses, times
    run_id = carry_out(lambda: operator(agent.id, deferrable=deferrable), task)
    assert [start.run_id for start in sandbox.ledger.starts(agent.id)] == [run_id]


@BOTH
def test_its_timeout_stops_the_run(sandbox: Sandbox, agent: Agent, task: FakeTask, deferrable: bool) -> None:
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Running")])
    with pytest.raises(AgentRunTimeout, match="It has been stopped"):
        carry_out(lambda: operator(agent.id, deferrable=deferrable, timeout=6), task)
    assert sandbox.ledger.runs(agent.id)[0].status == "Stopped"


def test_its_timeout_stops_the_run_whatever_budget_is_left(
    sandbox: Sandbox, agent: Agent, task: FakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = json.loads(sandbox.connection_uri)
    connection["extra"]["requests_per_minute"] = 1
    monkeypatch.setenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT", json.dumps(connection))
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Running")])
    with pytest.raises(AgentRunTimeout, match="It has been stopped"):
        operator(agent.id, timeout=2).execute(task.context)
    assert sandbox.ledger.runs(agent.id)[0].status == "Stopped"


def test_a_run_that_ignores_a_stop_is_killed(sandbox: Sandbox, agent: Agent, task: FakeTask) -> None:
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Running", ignores_stop=True)])
    with pytest.raises(AgentRunTimeout, match="It has been stopped"):
        operator(agent.id, timeout=5, stop_grace=0.2).execute(task.context)
    assert [kill.detail for kill in sandbox.ledger.kills] == [{"forced": True}]
    assert sandbox.ledger.runs(agent.id)[0].status == "Stopped"


# Lost answers, over a real connection


@BOTH
@pytest.mark.parametrize("fault", ["reset_after", "status_after", "truncated", "garbage", "html", "empty"])
def test_a_lost_answer_to_the_start_costs_no_second_run(
    sandbox: Sandbox, agent: Agent, task: FakeTask, deferrable: bool, fault: Any
) -> None:
    sandbox.fail_next("POST /agent/{agent_id}/start", fault)
    carry_out(lambda: operator(agent.id, deferrable=deferrable), task)
    assert len(sandbox.ledger.starts(agent.id)) == 1


@pytest.mark.parametrize("fault", ["reset_before", "status"])
def test_a_start_that_did_nothing_is_made_good_by_the_next_attempt(
    sandbox: Sandbox, agent: Agent, task: FakeTask, fault: Any
) -> None:
    sandbox.fail_next("POST /agent/{agent_id}/start", fault)
    with pytest.raises(SequentumUnavailable):
        carry_out(lambda: operator(agent.id), task)
    task.next_attempt()
    carry_out(lambda: operator(agent.id), task)
    assert len(sandbox.ledger.starts(agent.id)) == 1


def test_a_rate_limited_start_is_repeated_at_once(sandbox: Sandbox, agent: Agent, task: FakeTask) -> None:
    sandbox.fail_next("POST /agent/{agent_id}/start", "status", status=429, headers={"Retry-After": "1"})
    carry_out(lambda: operator(agent.id), task)
    assert len(sandbox.ledger.starts(agent.id)) == 1


@BOTH
def test_blips_while_waiting_are_tolerated(sandbox: Sandbox, agent: Agent, task: FakeTask, deferrable: bool) -> None:
    for fault in ("reset_after", "html", "truncated"):
        sandbox.fail_next("GET *", fault)
    run_id = carry_out(lambda: operator(agent.id, deferrable=deferrable), task)
    assert [start.run_id for start in sandbox.ledger.starts(agent.id)] == [run_id]


# Bad input: one clear error that names the connection, and never the key


def bad_connection(**changes: Any) -> dict[str, Any]:
    return {"conn_type": "sequentum", "host": "http://127.0.0.1:9", "password": "sk-secret-0123456789", **changes}


BAD_CONNECTIONS: list[tuple[dict[str, Any], type[AirflowException], str]] = [
    (bad_connection(password=None), SequentumConnectionException, "key is missing"),
    (bad_connection(password="sk-secret-0123456789\n"), SequentumUnavailable, "start agent"),
    (bad_connection(), SequentumUnavailable, "start agent"),
    (bad_connection(host="https://no.such.host.invalid"), SequentumUnavailable, "start agent"),
    (bad_connection(host="http://sequentum.example"), SequentumConnectionException, "plain http"),
]


@pytest.mark.parametrize(("connection", "kind", "words"), BAD_CONNECTIONS)
def test_a_bad_connection(
    monkeypatch: pytest.MonkeyPatch,
    task: FakeTask,
    caplog: pytest.LogCaptureFixture,
    connection: dict[str, Any],
    kind: type[Exception],
    words: str,
) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.api.retry.FIRST_WAIT", 0.01)
    monkeypatch.setenv("AIRFLOW_CONN_MY_CONN", json.dumps(connection))
    with pytest.raises(kind, match=words) as caught:
        operator(7, sequentum_conn_id="my_conn").execute(task.context)
    assert "'my_conn'" in str(caught.value)
    assert "sk-secret" not in f"{caught.value} {caught.value.__cause__!r} {caplog.text}"


def test_a_wrong_key(sandbox: Sandbox, agent: Agent, task: FakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = bad_connection(host=sandbox.base_url)
    monkeypatch.setenv("AIRFLOW_CONN_MY_CONN", json.dumps(connection))
    with pytest.raises(SequentumConnectionException, match="Check the API key") as caught:
        operator(agent.id, sequentum_conn_id="my_conn").execute(task.context)
    assert "'my_conn'" in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_a_host_that_answers_html(sandbox: Sandbox, agent: Agent, task: FakeTask) -> None:
    sandbox.fail_next("POST *", "html", times=None)
    sandbox.fail_next("GET *", "html", times=None)
    with pytest.raises(SequentumUnavailable, match="'sequentum_default'"):
        operator(agent.id).execute(task.context)


BAD_REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({"agent_id": 999}, "start agent 999"),
    ({"agent_id": "x"}, "agent_id must be a positive whole number"),
    ({"agent_id": None, "agent_name": "no such"}, "There is no agent with the name 'no such'"),
    ({"agent_id": None, "agent_name": "Twice"}, "2 agents have the name 'Twice'"),
    ({"input_parameters": "[1, 2]"}, "input_parameters must be a JSON object"),
    ({"input_parameters": "{not json"}, "input_parameters must be a JSON object"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD_REQUESTS)
def test_a_bad_request_starts_nothing(
    sandbox: Sandbox, agent: Agent, task: FakeTask, arguments: dict[str, Any], words: str
) -> None:
    for _ in range(2):
        sandbox.add_agent("Twice")
    with pytest.raises(SequentumRequestRefused, match=words) as caught:
        operator(**{"agent_id": agent.id, **arguments}).execute(task.context)
    assert "'sequentum_default'" in str(caught.value)
    assert sandbox.ledger.starts() == []


def test_no_credits(sandbox: Sandbox, agent: Agent, task: FakeTask) -> None:
    sandbox.engine.add_credits(-2000)
    with pytest.raises(SequentumRequestRefused, match="Insufficient credits"):
        operator(agent.id).execute(task.context)


def test_an_archived_agent(sandbox: Sandbox, agent: Agent, task: FakeTask) -> None:
    # The service answers 409, which may pass by itself for all that its published codes say: a retry is spent on it.
    agent.archived = True
    with pytest.raises(SequentumUnavailable, match="archived"):
        operator(agent.id).execute(task.context)


# The sensor


MODES = pytest.mark.parametrize("mode", ["poke", "reschedule", "deferred"])


def sensor(mode: str, agent_id: int, **arguments: Any) -> AgentRunSensor:
    how: dict[str, Any] = {"mode": "reschedule" if mode == "reschedule" else "poke", "deferrable": mode == "deferred"}
    return AgentRunSensor(task_id="sense", agent_id=agent_id, poke_interval=0.05, **how, **arguments)


@MODES
def test_the_sensor_waits_for_a_run_by_its_id(sandbox: Sandbox, agent: Agent, task: FakeTask, mode: str) -> None:
    run_id = operator(agent.id, wait_for_completion=False).execute(task.context)
    assert carry_out(lambda: sensor(mode, agent.id, run_id=str(run_id)), task) == run_id


@MODES
def test_the_sensor_waits_for_the_next_run(sandbox: Sandbox, agent: Agent, task: FakeTask, mode: str) -> None:
    operator(agent.id, wait_for_completion=False).execute(task.context)
    sandbox.advance(600)
    since = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()  # by Airflow's clock; the sandbox's is ahead
    task.clear()
    later = operator(agent.id, wait_for_completion=False).execute(task.context)
    assert carry_out(lambda: sensor(mode, agent.id, since=since), task) == later


@MODES
def test_the_sensor_fails_with_the_run(sandbox: Sandbox, agent: Agent, task: FakeTask, mode: str) -> None:
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Failure", duration=1)])
    run_id = operator(agent.id, wait_for_completion=False).execute(task.context)
    with pytest.raises(SensedAgentRunFailure, match="Possible causes"):
        carry_out(lambda: sensor(mode, agent.id, run_id=run_id), task)


# A whole space


@pytest.fixture
def space(sandbox: Sandbox) -> list[Agent]:
    return [sandbox.add_agent(f"Agent {number}", duration=float(number)) for number in range(1, 5)]


def run_space(task: FakeTask, **arguments: Any) -> Any:
    arguments = {"task_id": "run_agent", "space_id": 1, "retries": 2, "poll_interval": 0.05, **arguments}
    return carry_out(lambda: StartSpaceRunsOperator(**arguments), task)


@BOTH
def test_all_agents_of_a_space(sandbox: Sandbox, space: list[Agent], task: FakeTask, deferrable: bool) -> None:
    space[3].archived = True
    run_ids = run_space(task, deferrable=deferrable, input_parameters={"a": 1})
    starts = sandbox.ledger.starts()
    assert [start.run_id for start in starts] == run_ids
    assert [start.agent_id for start in starts] == [agent.id for agent in space[:3]]
    assert {start.input_parameters for start in starts} == {'{"a": 1}'}
    assert [result["status"] for result in task.ti.pushed("runs")] == ["Success"] * 3


@BOTH
def test_a_space_is_fixed_by_the_next_attempt(
    sandbox: Sandbox, space: list[Agent], task: FakeTask, deferrable: bool
) -> None:
    sandbox.plan_runs(space[0].id, [RunPlan(outcome="Failure", duration=1)])
    sandbox.plan_runs(space[1].id, [RunPlan(outcome="Failed", duration=1)])
    with pytest.raises(SpaceRunsFailed, match="2 of the 4 agents of space 1"):
        run_space(task, deferrable=deferrable)
    task.next_attempt()
    run_space(task, deferrable=deferrable)
    assert [len(sandbox.ledger.starts(agent.id)) for agent in space] == [1, 2, 1, 1]
    assert len(sandbox.ledger.restarts) == 1


@BOTH
@pytest.mark.parametrize("fault", ["reset_after", "status_after", "html"])
def test_a_lost_answer_to_the_start_of_a_space(
    sandbox: Sandbox, space: list[Agent], task: FakeTask, deferrable: bool, fault: Any
) -> None:
    sandbox.fail_next("POST /spaces/{space_id}/run-all", fault)
    assert len(run_space(task, deferrable=deferrable)) == 4
    assert [len(sandbox.ledger.starts(agent.id)) for agent in space] == [1, 1, 1, 1]


# The connection test


def test_the_test_button(sandbox: Sandbox, agent: Agent) -> None:
    from airflow_provider_sequentum.hooks.sequentum import SequentumHook

    ok, words = SequentumHook().test_connection()
    assert ok
    assert words == (f"Connected to {sandbox.base_url} as organization 1 with 1000 credits left; 1 agent visible.")


def test_the_test_button_with_a_wrong_key(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_provider_sequentum.hooks.sequentum import SequentumHook

    monkeypatch.setenv("AIRFLOW_CONN_MY_CONN", json.dumps(bad_connection(host=sandbox.base_url)))
    ok, words = SequentumHook("my_conn").test_connection()
    assert not ok
    assert "Check the API key" in words
    assert "sk-secret" not in words


@BOTH
def test_a_run_that_takes_three_times_as_long_as_usual_is_stopped(
    sandbox: Sandbox, agent: Agent, task: FakeTask, deferrable: bool
) -> None:
    sandbox.plan_runs(agent.id, [RunPlan(duration=0.2)] * 3 + [RunPlan(duration=10**6)])
    for _ in range(3):
        carry_out(lambda: operator(agent.id), FakeTask(Clock(datetime.now(UTC))))
    with pytest.raises(AgentRunTimeout, match=r"when three times its usual duration passed\..* stopped"):
        carry_out(lambda: operator(agent.id, stop_overdue=True, deferrable=deferrable), task)
    assert [run.status for run in sandbox.ledger.runs(agent.id)] == ["Success"] * 3 + ["Stopped"]


def test_the_agents_of_a_space_are_started_within_the_limit_or_not_at_all(sandbox: Sandbox, task: FakeTask) -> None:
    """The first start has no bills to go by, and may cost the whole limit; it costs 1 credit for each agent."""
    space = sandbox.add_space("Shop")
    agents = [sandbox.add_agent(name, records=[], duration=1, space_id=space.id).id for name in ("Prices", "Stock")]

    def run_space(limit: float) -> list[int]:
        operator = StartSpaceRunsOperator(
            task_id="run_space",
            space_id=space.id,
            credit_limit=limit,
            credit_limit_period="day",
            poll_interval=0.05,
        )
        started: list[int] = operator.execute(FakeTask(Clock(datetime.now(UTC)), tasks=[operator]).context)
        return started

    assert len(run_space(3.5)) == 2
    with pytest.raises(CreditLimitReached, match=r"a forecast of 2 credits .* \+ 2 billed since .* = 4, more than"):
        run_space(3.5)
    assert [len(sandbox.ledger.starts(agent_id)) for agent_id in agents] == [1, 1]
    assert len(run_space(4)) == 2


# Another connection


@pytest.fixture
def other_account(sandbox: Sandbox, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A service with other runs, and an agent with the same id."""
    with Sandbox(time_scale=20.0, rate_limit=10_000) as opened:
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", opened.connection_uri)
        assert opened.add_agent("Stock", duration=2.0).id == agent.id
        yield opened


def run_or_space(sandbox: Sandbox, agent: Agent, kind: str, **arguments: Any) -> Any:
    if kind == "run":
        return operator(agent.id, **arguments)
    arguments = {"task_id": "run_agent", "retries": 2, "poll_interval": 0.05, "stop_grace": 0, **arguments}
    return StartSpaceRunsOperator(space_id=agent.space_id or 0, **arguments)


@pytest.mark.parametrize("kind", ["run", "space"])
def test_an_attempt_with_another_connection_ends_what_the_earlier_one_has_started(
    sandbox: Sandbox, agent: Agent, task: FakeTask, other_account: Sandbox, kind: str
) -> None:
    """The other account does not know the run, so it would not be stopped, and another one would be started."""
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Running")])
    carry_out(lambda: run_or_space(sandbox, agent, kind, wait_for_completion=False), task)
    task.next_attempt()
    carry_out(lambda: run_or_space(sandbox, agent, kind, sequentum_conn_id="other"), task)
    assert sandbox.ledger.going == []
    assert [len(account.ledger.starts()) for account in (sandbox, other_account)] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("is_last", [False, True])
def test_nothing_is_started_with_another_connection_beside_a_run_that_may_go_on(
    sandbox: Sandbox,
    agent: Agent,
    task: FakeTask,
    other_account: Sandbox,
    is_last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.runs.stop.GRACE_AFTER_KILL", timedelta(seconds=0.5))
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Running")])
    task.ti.max_tries = 2
    carry_out(lambda: operator(agent.id, wait_for_completion=False), task)
    for _ in range(2 if is_last else 1):
        task.next_attempt()
    sandbox.faults.add(Fault(route="POST *", status=403, times=None))
    with pytest.raises(SequentumUnavailable, match=r"'sequentum_default'.* Nothing was started") as caught:
        carry_out(lambda: operator(agent.id, sequentum_conn_id="other", stop_grace=0), task)
    assert other_account.ledger.starts() == []
    assert ("may be running and costing credits" if is_last else "The next attempt joins it") in str(caught.value)
    sandbox.faults.clear()
    task.next_attempt()
    carry_out(lambda: operator(agent.id, sequentum_conn_id="other"), task)
    assert (sandbox.ledger.going, len(other_account.ledger.starts())) == ([], 1)


@pytest.mark.parametrize("is_cleared", [False, True])
def test_a_cleared_task_starts_with_another_connection_even_if_the_earlier_one_is_gone(
    sandbox: Sandbox,
    agent: Agent,
    task: FakeTask,
    other_account: Sandbox,
    is_cleared: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Otherwise a task could not be run again after its connection was renamed."""
    monkeypatch.setattr("airflow_provider_sequentum.hooks.connection.LOOKUP_PAUSES", ())
    task.ti.max_tries = task.retries = 2
    carry_out(lambda: operator(agent.id), task)
    monkeypatch.delenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT")
    if is_cleared:
        task.clear()
        carry_out(lambda: operator(agent.id, sequentum_conn_id="other"), task)
        assert "may be running" in capsys.readouterr().out + caplog.text
    else:
        task.next_attempt()
        with pytest.raises(SequentumUnavailable, match="Clear the task to start again regardless"):
            carry_out(lambda: operator(agent.id, sequentum_conn_id="other"), task)
    assert len(other_account.ledger.starts()) == int(is_cleared)
