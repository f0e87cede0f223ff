from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from airflow_provider_sequentum.lifecycle.procedure import Procedure
from airflow_provider_sequentum.triggers.run_event import read_run_event
from airflow_provider_sequentum.triggers.timing import SHORTEST_TRIGGER_LIFE

from airflow_provider_sequentum.api.errors import Unauthorized
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import SequentumConnectionException
from airflow_provider_sequentum.runs.wait import PollOutcome, WaitSpec
from airflow_provider_sequentum.triggers import agent_run, run_watcher, user_action
from airflow_provider_sequentum.triggers.agent_run import AgentRunTrigger

ARGUMENTS: dict[str, Any] = {
    "sequentum_conn_id": "my_conn",
    "agent_id": 7,
    "run_id": 42,
    "since": "2026-11-22T09:00:00+00:00",
    "poll_interval": 15.0,
    "deadline": "2026-11-22T10:00:00+00:00",
    "failure_pause": 60.0,
    "wait_for_restart": True,
    "is_patient": True,
    "restart_asked_at": "2026-11-22T09:30:00+00:00",
    "failure_ended_at": "2026-11-22T09:29:00+00:00",
    "stop_on_kill": True,
    "stop_on_clear": False,
    "stop_grace": 5.0,
    "carried": {"own": None, "execution": None, "restarts_done": 1},
}
RUN = Run.model_validate({"id": 42, "configId": 7, "status": 10, "dataCount": 5})


def trigger(**changes: Any) -> AgentRunTrigger:
    made = AgentRunTrigger(**{**ARGUMENTS, **changes})
    made.task_instance = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)  # type: ignore[assignment]
    return made


# What travels through the database


def test_a_trigger_outlives_its_serialisation() -> None:
    path, arguments = trigger().serialize()
    assert path == "airflow_provider_sequentum.triggers.agent_run.AgentRunTrigger"
    assert arguments == ARGUMENTS
    assert json.loads(json.dumps(arguments)) == arguments
    assert AgentRunTrigger(**arguments).serialize() == (path, arguments)


def test_every_term_of_a_wait_reaches_the_trigger() -> None:
    assert set(WaitSpec.names()) <= set(ARGUMENTS)
    assert trigger()._terms().to_json() == {name: ARGUMENTS[name] for name in WaitSpec.names()}


def test_the_least_that_has_to_be_said() -> None:
    least = AgentRunTrigger(sequentum_conn_id="c", agent_id=7)
    assert least._terms() == WaitSpec(agent_id=7)
    assert not least.stop_on_kill


def test_no_trigger_touches_the_task_state_store() -> None:
    # Airflow never answers a trigger that asks for it, and the question blocks its whole triggerer.
    package = Path(agent_run.__file__).parents[1]
    touching = {path.relative_to(package) for path in package.rglob("*.py") if "task_state_store" in path.read_text()}
    assert touching == {Path("operators/task_state.py")}


# The event


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the shared watcher does, and with what it was asked."""
    situation: dict[str, Any] = {"seconds": 0.0, "result": (PollOutcome.ENDED, RUN)}

    async def wait_for_run(conn_id: str, terms: WaitSpec, log: Any) -> Any:
        situation["asked"] = (conn_id, terms)
        await asyncio.sleep(situation["seconds"])
        if isinstance(situation["result"], Exception):
            raise situation["result"]
        return situation["result"]

    monkeypatch.setattr(run_watcher, "wait_for_run", wait_for_run)
    monkeypatch.setattr("airflow_provider_sequentum.triggers.timing.SHORTEST_TRIGGER_LIFE", 0.2)
    return situation


async def events(one: AgentRunTrigger) -> list[dict[str, Any]]:
    return [event.payload async for event in one.run()]


async def test_one_event_and_then_it_ends(wait: dict[str, Any]) -> None:
    fired = await events(trigger())
    assert len(fired) == 1
    assert json.loads(json.dumps(fired[0])) == fired[0]
    news = read_run_event(fired[0])
    assert (news.agent_id, news.run_id, news.outcome, news.run) == (7, 42, PollOutcome.ENDED, RUN)
    assert news.carried == ARGUMENTS["carried"]
    assert wait["asked"] == ("my_conn", trigger()._terms())


@pytest.mark.parametrize("run", [RUN, None])
async def test_a_deadline(wait: dict[str, Any], run: Run | None) -> None:
    wait["result"] = (PollOutcome.DEADLINE, run)
    news = read_run_event((await events(trigger()))[0])
    assert (news.outcome, news.run, news.known_run_id) == (PollOutcome.DEADLINE, run, 42)


@pytest.mark.parametrize(
    "error", [Unauthorized("The key is wrong."), SequentumConnectionException("The connection is missing.")]
)
async def test_a_wait_that_cannot_go_on(wait: dict[str, Any], error: Exception) -> None:
    wait["result"] = error
    news = read_run_event((await events(trigger()))[0])
    assert (news.outcome, news.run_id) == (None, 42)
    assert isinstance(news.error, SequentumConnectionException)
    assert str(error) in str(news.error)


async def test_an_error_nobody_foresaw_breaks_the_trigger(wait: dict[str, Any]) -> None:
    wait["result"] = RuntimeError("a bug")
    with pytest.raises(RuntimeError):
        await events(trigger())


# Airflow fails a task whose trigger fires in its first seconds


@pytest.mark.parametrize("seconds", [0.0, 0.1])
async def test_a_trigger_never_fires_in_its_first_seconds(wait: dict[str, Any], seconds: float) -> None:
    wait["seconds"] = seconds
    begun = asyncio.get_running_loop().time()
    await events(trigger())
    assert asyncio.get_running_loop().time() - begun >= 0.19


@pytest.mark.parametrize("result", [(PollOutcome.DEADLINE, None), Unauthorized("no")])
async def test_neither_does_it_for_a_deadline_or_an_error(wait: dict[str, Any], result: Any) -> None:
    wait["result"] = result
    begun = asyncio.get_running_loop().time()
    await events(trigger())
    assert asyncio.get_running_loop().time() - begun >= 0.19


def test_the_first_seconds_are_more_than_those_in_which_it_was_seen_to_fail() -> None:
    assert SHORTEST_TRIGGER_LIFE >= 8


# Killed by a person, or only moved


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the task's state is, how long a stop takes, and which runs were stopped."""
    situation: dict[str, Any] = {"state": "failed", "seconds": 0.0, "stopped": []}

    def task_states(**which: Any) -> dict[str, dict[str, Any]]:
        situation["asked"] = which
        return situation["state"] if isinstance(situation["state"], dict) else {"r": {"t": situation["state"]}}

    class Client:
        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *exc_info: object) -> None:
            pass

    async def aget_client(hook: Any) -> Client:
        if situation.get("no_connection"):
            raise SequentumConnectionException("gone")
        return Client()

    def stop_run(*arguments: Any) -> Any:
        return arguments

    async def aperform(procedure: Procedure[Any], client: Any, log: Any) -> None:
        await asyncio.sleep(situation["seconds"])
        situation["stopped"].append(procedure)

    task_runner = pytest.importorskip("airflow.sdk.execution_time.task_runner", reason="on_kill needs Airflow 3.3")
    monkeypatch.setattr(task_runner.RuntimeTaskInstance, "get_task_states", staticmethod(task_states))
    monkeypatch.setattr("airflow_provider_sequentum.hooks.sequentum.SequentumHook.aget_client", aget_client)
    monkeypatch.setattr("airflow_provider_sequentum.runs.stop.stop_run", stop_run)
    monkeypatch.setattr("airflow_provider_sequentum.hooks.driver.aperform", aperform)
    return situation


STATES = {
    "success": True,
    "failed": True,
    "skipped": True,
    "upstream_failed": True,
    "removed": True,
    # A trigger that moves to another triggerer leaves its task deferred; a cleared task goes on with a new try.
    "deferred": False,
    "running": False,
    "queued": False,
    "scheduled": False,
    "restarting": False,
    "up_for_retry": False,
    "up_for_reschedule": False,
    None: False,
}


@pytest.mark.parametrize(("state", "stopped"), list(STATES.items()), ids=str)
async def test_the_run_is_stopped_if_the_task_is_over(
    service: dict[str, Any], state: str | None, stopped: bool
) -> None:
    service["state"] = state
    await trigger().on_kill()
    terms = trigger()._terms()
    assert service["stopped"] == ([(7, 42, 5.0, terms.restart_asked_at)] if stopped else [])
    assert service["asked"] == {"dag_id": "d", "task_ids": ["t"], "run_ids": ["r"], "map_index": -1}


@pytest.mark.parametrize("state", list(STATES), ids=str)
async def test_a_cleared_task_that_waits_for_others_may_have_no_new_try(
    service: dict[str, Any], state: str | None
) -> None:
    service["state"] = state
    await trigger(stop_on_clear=True).on_kill()
    assert bool(service["stopped"]) is (STATES[state] or state is None)


async def test_the_run_of_a_task_that_was_deleted_is_stopped(service: dict[str, Any]) -> None:
    service["state"] = {}
    await trigger().on_kill()
    assert len(service["stopped"]) == 1


async def test_the_state_of_a_mapped_task_has_its_index_in_its_name(service: dict[str, Any]) -> None:
    service["state"] = {"r": {"t_3": "failed"}}
    one = trigger()
    one.task_instance.map_index = 3  # type: ignore[union-attr]
    await one.on_kill()
    assert (service["asked"]["map_index"], len(service["stopped"])) == (3, 1)


@pytest.mark.parametrize("changes", [{"stop_on_kill": False}, {"run_id": None}])
async def test_what_somebody_else_started_is_left_alone(service: dict[str, Any], changes: dict[str, Any]) -> None:
    await trigger(**changes).on_kill()
    assert service["stopped"] == []
    assert "asked" not in service


async def test_the_stop_goes_on_when_airflow_gives_up_waiting_for_it(service: dict[str, Any]) -> None:
    # Airflow cancels on_kill after about a second, again and again.
    service["seconds"] = 0.2
    one = trigger()
    killing = asyncio.create_task(one.on_kill())
    for _ in range(3):
        await asyncio.sleep(0.02)
        killing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killing
    assert service["stopped"] == []
    assert one._stopping is not None
    await one._stopping
    assert len(service["stopped"]) == 1


async def test_a_stop_that_fails_is_said_in_the_log(service: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    service["no_connection"] = True
    one, said = trigger(), []
    monkeypatch.setattr(type(one), "log", SimpleNamespace(exception=lambda text, *names: said.append(text % names)))
    await one.on_kill()
    assert "Run 42 of agent 7 may still be going" in said[0]


async def test_the_end_of_the_trigger_is_no_kill(service: dict[str, Any]) -> None:
    await trigger().cleanup()
    assert service["stopped"] == []


def test_who_is_over() -> None:
    assert {state for state, stopped in STATES.items() if stopped} == user_action.OVER
