"""What all triggers of remote jobs do when their wait is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_sequentum.sessions.state import Session
from airflow_provider_sequentum.triggers.agent_builder import AgentBuilderTrigger
from airflow_provider_sequentum.triggers.agent_run import AgentRunTrigger
from airflow_provider_sequentum.triggers.remote_job import RemoteJobTrigger
from airflow_provider_sequentum.triggers.space_run import SpaceRunsTrigger

TRIGGERS: dict[str, Callable[..., RemoteJobTrigger]] = {
    "run": lambda **more: AgentRunTrigger(sequentum_conn_id="c", agent_id=7, run_id=42, **more),
    "space": lambda **more: SpaceRunsTrigger(
        sequentum_conn_id="c", waits=[{"agent_id": 7, "run_id": 42}, {"agent_id": 8, "run_id": 43}], **more
    ),
    "session": lambda **more: AgentBuilderTrigger(
        sequentum_conn_id="c", session=Session(session_id="s1").to_json(), **more
    ),
    "given session": lambda **more: AgentBuilderTrigger(
        sequentum_conn_id="c", session=Session(session_id="s1").to_json(), successor_may_join=True, **more
    ),
}
JOBS = {"run": 1, "space": 2, "session": 1, "given session": 1}


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the jobs that were stopped. Every wait lasts for ever."""
    names: list[str] = []

    class Client:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *error: object) -> None:
            pass

    async def aget_client(hook: object) -> Client:
        return Client()

    async def astop_jobs(client: object, stoppers: list[Any]) -> None:
        names.extend(stopper.name for stopper in stoppers)

    monkeypatch.setattr("airflow_provider_sequentum.hooks.connection.SequentumConnection.aget_client", aget_client)
    monkeypatch.setattr("airflow_provider_sequentum.jobs.stop.astop_jobs", astop_jobs)
    return names


async def cancel(trigger: RemoteJobTrigger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancel a trigger in the middle of its wait, as Ctrl-C and a triggerer do."""
    begun = asyncio.Event()

    async def wait() -> Any:
        begun.set()
        await asyncio.sleep(3600)

    monkeypatch.setattr(trigger, "wait", wait)

    async def first_event() -> Any:
        return await anext(trigger.run(), None)

    running = asyncio.create_task(first_event())
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("kind", TRIGGERS)
async def test_ctrl_c_in_dag_test_stops_what_a_deferred_task_waits_for(
    stopped: list[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    await cancel(TRIGGERS[kind](stop_on_kill=True), monkeypatch)
    assert len(stopped) == JOBS[kind]


@pytest.mark.parametrize("kind", TRIGGERS)
async def test_a_triggerer_that_cancels_a_wait_stops_nothing(
    stopped: list[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # It is shut down, or has lost the trigger to another one.
    trigger = TRIGGERS[kind](stop_on_kill=True)
    trigger.trigger_id = 1
    await cancel(trigger, monkeypatch)
    assert stopped == []


@pytest.mark.parametrize("kind", TRIGGERS)
async def test_ctrl_c_leaves_what_the_task_does_not_own(
    stopped: list[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    await cancel(TRIGGERS[kind](stop_on_kill=False), monkeypatch)
    assert stopped == []
