from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow_provider_sequentum.lifecycle.run_wait import RunWaitTerms, WaitOutcome
from airflow_provider_sequentum.triggers.run_event import read_space_event

from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import SequentumConnectionException, SequentumUnavailable
from airflow_provider_sequentum.triggers import run_watcher
from airflow_provider_sequentum.triggers.agent_run import AgentRunTrigger
from airflow_provider_sequentum.triggers.space_run import SpaceRunsTrigger

CARRIED = {"9": {"message": "Agent 9 was not started.", "is_retried": True}}


def wait_for(agent_id: int) -> dict[str, Any]:
    return AgentRunTrigger(
        sequentum_conn_id="c", agent_id=agent_id, run_id=100 + agent_id, stop_on_kill=True
    ).serialize()[1]


def trigger() -> SpaceRunsTrigger:
    made = SpaceRunsTrigger(waits=[wait_for(7), wait_for(8)], carried=CARRIED)
    made.task_instance = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)  # type: ignore[assignment]
    return made


def test_a_trigger_outlives_its_serialisation() -> None:
    path, arguments = trigger().serialize()
    assert path == "airflow_provider_sequentum.triggers.space_run.SpaceRunsTrigger"
    assert json.loads(json.dumps(arguments)) == arguments
    assert SpaceRunsTrigger(**arguments).serialize() == (path, arguments)


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait_for_run(conn_id: str, terms: RunWaitTerms, log: Any) -> Any:
        if terms.agent_id == 8:
            raise SequentumConnectionException("gone")
        run = Run.model_validate({"id": terms.run_id, "configId": terms.agent_id, "status": 10})
        return WaitOutcome.ENDED, run

    monkeypatch.setattr(run_watcher, "wait_for_run", wait_for_run)
    monkeypatch.setattr("airflow_provider_sequentum.triggers.timing.SHORTEST_TRIGGER_LIFE", 0.0)


@pytest.mark.usefixtures("wait")
async def test_one_event_tells_of_all_runs() -> None:
    fired = [event.payload async for event in trigger().run()]
    assert len(fired) == 1
    (first, second), carried = read_space_event(json.loads(json.dumps(fired[0])))
    assert (first.agent_id, first.run_id, first.outcome) == (7, 107, WaitOutcome.ENDED)
    assert (second.agent_id, str(second.error)) == (8, "gone")
    assert carried == CARRIED


@pytest.mark.usefixtures("wait")
async def test_a_trigger_never_fires_in_its_first_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.triggers.timing.SHORTEST_TRIGGER_LIFE", 0.2)
    begun = asyncio.get_running_loop().time()
    assert len([event async for event in trigger().run()]) == 1
    assert asyncio.get_running_loop().time() - begun >= 0.19


async def test_the_stops_go_on_when_airflow_gives_up_waiting_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    # Airflow cancels on_kill after about a second, again and again.
    stopped: list[int | None] = []

    async def try_to_stop(one: AgentRunTrigger) -> None:
        await asyncio.sleep(0.1)
        stopped.append(one.run_id)

    monkeypatch.setattr(AgentRunTrigger, "try_to_stop", try_to_stop)
    one = trigger()
    killing = asyncio.create_task(one.on_kill())
    for _ in range(3):
        await asyncio.sleep(0.01)
        killing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killing
    assert stopped == []
    assert one._stopping is not None
    await one._stopping
    assert stopped == [107, 108]


async def test_all_runs_are_stopped_when_the_task_was_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[tuple[int | None, object]] = []

    async def try_to_stop(one: AgentRunTrigger) -> None:
        stopped.append((one.run_id, one.task_instance))

    monkeypatch.setattr(AgentRunTrigger, "try_to_stop", try_to_stop)
    killed = trigger()
    await killed.on_kill()
    assert stopped == [(107, killed.task_instance), (108, killed.task_instance)]


@pytest.mark.parametrize(
    "event", [None, {}, {"events": []}, {"events": {}, "carried": {}}, {"events": [{}], "carried": {}}]
)
def test_what_cannot_be_understood_is_never_success(event: Any) -> None:
    with pytest.raises(SequentumUnavailable, match="can't be understood"):
        read_space_event(event)
