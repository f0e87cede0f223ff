from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from airflow.providers.common.compat.sdk import XCom

from airflow_provider_sequentum.airflow_compat import trigger_life
from airflow_provider_sequentum.airflow_compat.trigger_life import MIN_TRIGGER_LIFETIME, OVER
from airflow_provider_sequentum.api.errors import HttpStatusError
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import SequentumConnectionException
from airflow_provider_sequentum.retry_rules import retry_after
from airflow_provider_sequentum.runs.stop import RunStopper
from airflow_provider_sequentum.runs.wait import PollOutcome, RunEvent, WaitSpec
from airflow_provider_sequentum.triggers import agent_run, remote_job
from airflow_provider_sequentum.triggers.agent_run import AgentRunTrigger
from airflow_provider_sequentum.watching import watcher

ARGUMENTS: dict[str, Any] = {
    "sequentum_conn_id": "my_conn",
    "agent_id": 7,
    "run_id": 42,
    "since": "2026-11-22T09:00:00Z",
    "clock_ahead": 1.5,
    "poll_interval": 15.0,
    "deadline": "2026-11-22T10:00:00Z",
    "failure_pause": 60.0,
    "wait_for_restart": True,
    "tolerate_outages": True,
    "restart_asked_at": "2026-11-22T09:30:00Z",
    "failure_ended_at": "2026-11-22T09:29:00Z",
    "stop_on_kill": True,
    "successor_may_join": False,
    "stop_grace": 5.0,
}
RUN = Run.model_validate({"id": 42, "configId": 7, "status": 10, "dataCount": 5})


def trigger(**changes: Any) -> AgentRunTrigger:
    made = AgentRunTrigger(**{**ARGUMENTS, **changes})
    made.task_instance = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)  # type: ignore[assignment]
    made.trigger_id = 1
    return made


# What travels through the database


def test_a_trigger_outlives_its_serialisation() -> None:
    path, arguments = trigger().serialize()
    assert path == "airflow_provider_sequentum.triggers.agent_run.AgentRunTrigger"
    assert arguments == ARGUMENTS
    assert json.loads(json.dumps(arguments)) == arguments
    assert AgentRunTrigger(**arguments).serialize() == (path, arguments)


def test_every_field_of_a_wait_reaches_the_trigger() -> None:
    assert set(WaitSpec.model_fields) <= set(ARGUMENTS)
    spec = WaitSpec.from_json(trigger().serialize()[1]).to_json()
    assert {name: spec[name] for name in WaitSpec.model_fields} == {
        name: ARGUMENTS[name] for name in WaitSpec.model_fields
    }


def test_what_another_version_hands_on_is_carried_along() -> None:
    # A deployment is upgraded, or rolled back, while tasks are deferred.
    later = AgentRunTrigger(sequentum_conn_id="c", agent_id=7, run_id=42, something_new=1)
    assert later.serialize()[1]["something_new"] == 1
    assert WaitSpec.from_json(later.serialize()[1]).run_id == 42


def test_no_trigger_touches_the_task_state_store() -> None:
    # Airflow never answers a trigger that asks for it, and the question blocks its whole triggerer.
    package = Path(agent_run.__file__).parents[1]
    touching = {path.relative_to(package) for path in package.rglob("*.py") if "task_state_store" in path.read_text()}
    # The API server reads it from Airflow's database.
    assert touching == {
        Path("airflow_compat/task_attempt.py"),
        Path("airflow_compat/task_state.py"),
        Path("ui/tasks.py"),
    }
    importing = {path for path in package.glob("triggers/*.py") if "task_state" in path.read_text()}
    assert importing == set()


# The event


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the shared watcher does, and with what it was asked."""
    situation: dict[str, Any] = {"seconds": 0.0, "result": (PollOutcome.ENDED, RUN)}

    async def wait_for_run(conn_id: str, spec: WaitSpec, log: Any) -> Any:
        situation["asked"] = (conn_id, spec)
        await asyncio.sleep(situation["seconds"])
        if isinstance(situation["result"], Exception):
            raise situation["result"]
        return situation["result"]

    monkeypatch.setattr(watcher, "wait_for_run", wait_for_run)
    monkeypatch.setattr(trigger_life, "MIN_TRIGGER_LIFETIME", 0.2)
    return situation


async def events(one: AgentRunTrigger) -> list[dict[str, Any]]:
    return [event.payload async for event in one.run()]


async def test_one_event_and_then_it_ends(wait: dict[str, Any]) -> None:
    fired = await events(trigger())
    assert len(fired) == 1
    assert json.loads(json.dumps(fired[0])) == fired[0]
    event = RunEvent.from_json(fired[0])
    assert (event.agent_id, event.run_id, event.outcome) == (7, 42, PollOutcome.ENDED)
    assert Run.model_validate(event.run) == RUN
    assert wait["asked"] == ("my_conn", WaitSpec.from_json(ARGUMENTS))


@pytest.mark.parametrize("run", [RUN, None])
async def test_a_deadline(wait: dict[str, Any], run: Run | None) -> None:
    wait["result"] = (PollOutcome.DEADLINE, run)
    event = RunEvent.from_json((await events(trigger()))[0])
    assert (event.outcome, event.run is not None, event.run_id) == (PollOutcome.DEADLINE, run is not None, 42)


@pytest.mark.parametrize(
    "error",
    [HttpStatusError("The key is wrong.", status_code=401), SequentumConnectionException("The connection is missing.")],
)
async def test_a_wait_that_cannot_go_on(wait: dict[str, Any], error: Exception) -> None:
    wait["result"] = error
    event = RunEvent.from_json((await events(trigger()))[0])
    assert (event.outcome, event.run_id) == (None, 42)
    assert isinstance(event.exception(), SequentumConnectionException)
    assert str(error) in str(event.exception())


@pytest.mark.parametrize("seconds", [None, 900.0])
async def test_how_long_the_service_asks_to_wait_reaches_the_task(wait: dict[str, Any], seconds: float | None) -> None:
    wait["result"] = HttpStatusError("Down for maintenance.", status_code=503, retry_after=seconds)
    event = json.loads(json.dumps((await events(trigger()))[0]))
    asked = retry_after(RunEvent.from_json(event).exception())
    assert asked == (None if seconds is None else timedelta(seconds=seconds))


async def test_an_error_no_one_foresaw_breaks_the_trigger(wait: dict[str, Any]) -> None:
    wait["result"] = RuntimeError("a bug")
    with pytest.raises(RuntimeError):
        await events(trigger())


# Airflow fails a task whose trigger fires in its first seconds


@pytest.mark.parametrize(
    ("seconds", "result"),
    [
        (0.0, (PollOutcome.ENDED, RUN)),
        (0.1, (PollOutcome.ENDED, RUN)),
        (0.0, (PollOutcome.DEADLINE, None)),
        (0.0, HttpStatusError("no", status_code=401)),
    ],
)
async def test_a_trigger_never_fires_in_its_first_seconds(wait: dict[str, Any], seconds: float, result: Any) -> None:
    wait.update(seconds=seconds, result=result)
    started_at = asyncio.get_running_loop().time()
    await events(trigger())
    assert asyncio.get_running_loop().time() - started_at >= 0.19


def test_the_first_seconds_are_more_than_those_in_which_it_was_seen_to_fail() -> None:
    assert MIN_TRIGGER_LIFETIME >= 8


# Ended by a person, cleared, or only moved


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The task's state and the XCom that names its run, as they are from second to second; which runs were stopped."""
    situation: dict[str, Any] = {"states": ["failed"], "xcoms": [{"run_id": 42}], "seconds": 0.0, "stopped": []}
    situation["no_connection"] = 0

    def next_of(name: str) -> Any:
        values = situation[name]
        return values.pop(0) if len(values) > 1 else values[0]

    def task_states(**which: Any) -> dict[str, dict[str, Any]]:
        situation["asked"] = which
        state = next_of("states")
        return state if isinstance(state, dict) else {"r": {"t": state}}

    class Client:
        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *exc_info: object) -> None:
            pass

    async def aget_client(hook: Any) -> Client:
        situation["no_connection"] -= 1
        if situation["no_connection"] >= 0:
            raise SequentumConnectionException("gone")
        return Client()

    async def astop_jobs(client: Any, stoppers: list[RunStopper]) -> None:
        await asyncio.sleep(situation["seconds"])
        for stopper in stoppers:
            record = stopper._record
            situation["stopped"].append((record.agent_id, record.run_id, stopper._stop_grace.total_seconds()))

    task_runner = pytest.importorskip("airflow.sdk.execution_time.task_runner", reason="on_kill needs Airflow 3.3")
    monkeypatch.setattr(task_runner.RuntimeTaskInstance, "get_task_states", staticmethod(task_states), raising=False)
    monkeypatch.setattr(XCom, "get_one", staticmethod(lambda **which: next_of("xcoms")))
    monkeypatch.setattr("airflow_provider_sequentum.hooks.connection.SequentumConnection.aget_client", aget_client)
    monkeypatch.setattr("airflow_provider_sequentum.jobs.stop.astop_jobs", astop_jobs)
    monkeypatch.setattr(trigger_life, "SUCCESSOR_POLL_INTERVAL", 0.01)
    monkeypatch.setattr(trigger_life, "SUCCESSOR_TIMEOUT", 0.3)
    monkeypatch.setattr(trigger_life, "WIPE_SECONDS", 0.05)
    return situation


STOPPED = [(7, 42, 5.0)]
OWN, OTHER = {"run_id": 42}, {"run_id": 43}


@pytest.mark.parametrize("may_join", [False, True])
@pytest.mark.parametrize("state", sorted(OVER))
async def test_the_run_is_stopped_if_the_task_is_over(airflow: dict[str, Any], state: str, may_join: bool) -> None:
    airflow["states"] = [state]
    await trigger(successor_may_join=may_join).on_kill()
    assert airflow["stopped"] == STOPPED
    assert airflow["asked"] == {"dag_id": "d", "task_ids": ["t"], "run_ids": ["r"], "map_index": -1}


@pytest.mark.parametrize("may_join", [False, True])
@pytest.mark.parametrize("xcom", [OWN, None], ids=["its XCom is there", "its XCom was deleted"])
async def test_a_trigger_that_moves_to_another_triggerer_stops_nothing(
    airflow: dict[str, Any], may_join: bool, xcom: Any
) -> None:
    """``airflow db clean``, a person, or an XCom backend that keeps only return values may have removed the XCom."""
    airflow.update(states=["deferred"], xcoms=[xcom])
    await trigger(successor_may_join=may_join).on_kill()
    assert airflow["stopped"] == []


@pytest.mark.parametrize("state", [None, "scheduled", "queued", "running", "restarting", "deferred"])
async def test_the_run_of_a_cleared_task_is_stopped_where_no_one_may_join_it(
    airflow: dict[str, Any], state: str | None
) -> None:
    """Whether Airflow kept the record or discarded it on the clear: the new attempt does not work with this run."""
    airflow.update(states=[state], xcoms=[OTHER if state == "deferred" else OWN])
    await trigger().on_kill()
    assert airflow["stopped"] == STOPPED


@pytest.mark.parametrize(
    ("states", "xcoms", "stopped"),
    [
        (["queued", "running", "deferred"], [OWN, None, OWN], False),  # joined, and deferred again
        (["queued", "running"], [OWN, OWN], False),  # joined, and waiting on the worker
        (["running"], [None, None, OTHER], True),  # the record was discarded: another run was started
        (["running", "deferred"], [OWN, OTHER], True),  # seen before Airflow removed the old XCom
        (["queued", "running", "failed"], [OWN, None], True),  # the new attempt failed before it had a run
        (["running", "success"], [None], True),
        ([None], [OWN], True),  # its upstream tasks never end: no one takes the run over in time
    ],
)
async def test_the_run_of_a_cleared_task_that_may_be_joined(
    airflow: dict[str, Any], states: list[str | None], xcoms: list[Any], stopped: bool
) -> None:
    airflow.update(states=states, xcoms=xcoms)
    await trigger(successor_may_join=True).on_kill()
    assert airflow["stopped"] == (STOPPED if stopped else [])


async def test_the_run_of_a_task_that_was_deleted_is_stopped(airflow: dict[str, Any]) -> None:
    airflow["states"] = [{}]
    await trigger().on_kill()
    assert airflow["stopped"] == STOPPED


async def test_the_state_of_a_mapped_task_has_its_index_in_its_name(airflow: dict[str, Any]) -> None:
    airflow["states"] = [{"r": {"t_3": "failed"}}]
    one = trigger()
    one.task_instance.map_index = 3  # type: ignore[union-attr]
    await one.on_kill()
    assert (airflow["asked"]["map_index"], airflow["stopped"]) == (3, STOPPED)


async def test_the_run_of_a_task_that_only_watches_is_left_alone(airflow: dict[str, Any]) -> None:
    await trigger(stop_on_kill=False).on_kill()
    assert airflow["stopped"] == []
    assert "asked" not in airflow


async def test_nothing_is_stopped_while_the_run_to_wait_for_was_not_found_yet(airflow: dict[str, Any]) -> None:
    await trigger(run_id=None).on_kill()
    assert airflow["stopped"] == []


async def test_the_stop_goes_on_when_airflow_gives_up_waiting_for_it(airflow: dict[str, Any]) -> None:
    # Airflow cancels on_kill after about a second, again and again.
    airflow["seconds"] = 0.2
    one = trigger()
    killing = asyncio.create_task(one.on_kill())
    for _ in range(3):
        await asyncio.sleep(0.02)
        killing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killing
    assert airflow["stopped"] == []
    assert one._stopping is not None
    await one._stopping
    assert airflow["stopped"] == STOPPED


@pytest.mark.parametrize("failures", range(len(remote_job.PAUSES) + 1))
@pytest.mark.parametrize("what", ["connection", "state", "XCom"])
async def test_what_airflow_cannot_say_in_passing_does_not_keep_the_run_going(
    airflow: dict[str, Any], monkeypatch: pytest.MonkeyPatch, what: str, failures: int
) -> None:
    monkeypatch.setattr(remote_job, "PAUSES", (0.0,) * len(remote_job.PAUSES))
    if what == "connection":
        airflow["no_connection"] = failures
    else:
        answers = iter([RuntimeError("the API server is down")] * failures)

        def next_answer(*_: Any) -> Any:
            if (error := next(answers, None)) is not None:
                raise error
            return "failed" if what == "state" else OWN

        monkeypatch.setattr(trigger_life, "state_of" if what == "state" else "_xcom", next_answer)
        airflow["states"] = [None]
    await trigger().on_kill()
    assert airflow["stopped"] == STOPPED


async def test_a_stop_that_fails_is_logged(airflow: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_job, "PAUSES", (0.0,) * len(remote_job.PAUSES))
    airflow["no_connection"] = 99
    one, said, warned = trigger(), [], []
    log = SimpleNamespace(
        exception=lambda text, *names: said.append(text % names),
        warning=lambda text, *names: warned.append(text % names),
    )
    monkeypatch.setattr(type(one), "log", log)
    await one.on_kill()
    assert "Run 42 of agent 7 may be running" in said[0]
    assert len(warned) == len(remote_job.PAUSES)
    assert airflow["stopped"] == []


async def test_the_end_of_the_trigger_is_no_kill(airflow: dict[str, Any]) -> None:
    await trigger().cleanup()
    assert airflow["stopped"] == []
