from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Self

import pytest

from airflow_provider_sequentum.airflow_compat import trigger_life
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import SequentumConnectionException
from airflow_provider_sequentum.hooks.connection import SequentumConnection
from airflow_provider_sequentum.jobs import stop
from airflow_provider_sequentum.runs.stop import RunStopper
from airflow_provider_sequentum.runs.wait import PollOutcome, RunEvent, WaitSpec
from airflow_provider_sequentum.spaces.attempt import SpaceEvent
from airflow_provider_sequentum.triggers import remote_job
from airflow_provider_sequentum.triggers.space_run import SpaceRunsTrigger
from airflow_provider_sequentum.watching import watcher


def trigger(**options: Any) -> SpaceRunsTrigger:
    waits = [WaitSpec(agent_id=agent, run_id=100 + agent).to_json() for agent in (7, 8)]
    made = SpaceRunsTrigger(sequentum_conn_id="c", space_id=1, waits=waits, **options)
    made.task_instance = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)  # type: ignore[assignment]
    made.trigger_id = 1
    return made


def test_a_trigger_outlives_its_serialisation() -> None:
    path, arguments = trigger(stop_grace=5, successor_may_join=True, of_a_later_version=1).serialize()
    assert path == "airflow_provider_sequentum.triggers.space_run.SpaceRunsTrigger"
    assert json.loads(json.dumps(arguments)) == arguments
    assert SpaceRunsTrigger(**arguments).serialize() == (path, arguments)


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait_for_run(conn_id: str, spec: WaitSpec, log: Any) -> Any:
        if spec.agent_id == 8:
            raise SequentumConnectionException("gone")
        run = Run.model_validate({"id": spec.run_id, "configId": spec.agent_id, "status": 10})
        return PollOutcome.ENDED, run

    monkeypatch.setattr(watcher, "wait_for_run", wait_for_run)
    monkeypatch.setattr(trigger_life, "MIN_TRIGGER_LIFETIME", 0.0)


@pytest.mark.usefixtures("wait")
async def test_one_event_tells_of_all_runs() -> None:
    fired = [event.payload async for event in trigger().run()]
    assert len(fired) == 1
    first, second = map(RunEvent.from_json, SpaceEvent.from_json(json.loads(json.dumps(fired[0]))).events)
    assert (first.agent_id, first.run_id, first.outcome) == (7, 107, PollOutcome.ENDED)
    assert (second.agent_id, second.error, second.message) == (8, "SequentumConnectionException", "gone")


@pytest.mark.usefixtures("wait")
async def test_a_trigger_never_fires_in_its_first_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trigger_life, "MIN_TRIGGER_LIFETIME", 0.2)
    started_at = asyncio.get_running_loop().time()
    assert len([event async for event in trigger().run()]) == 1
    assert asyncio.get_running_loop().time() - started_at >= 0.19


async def test_an_unforeseen_error_of_one_wait_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: list[int] = []

    async def wait_for_run(conn_id: str, spec: WaitSpec, log: Any) -> Any:
        if spec.agent_id == 8:
            raise RuntimeError
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(spec.agent_id)
            raise

    monkeypatch.setattr(watcher, "wait_for_run", wait_for_run)
    with pytest.raises(ExceptionGroup):
        await trigger().wait()
    assert cancelled == [7]


class Stops:
    """What was stopped, and how often Airflow was asked."""

    def __init__(self) -> None:
        self.questions = 0
        self.stopped: list[tuple[list[tuple[int, int | None]], float]] = []


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Stops:
    stops = Stops()

    async def aget_client(hook: SequentumConnection) -> Any:
        class Client:
            async def __aenter__(self) -> Self:
                return self

            async def __aexit__(self, *error: object) -> None:
                return None

        return Client()

    async def astop_jobs(client: Any, stoppers: Sequence[RunStopper]) -> None:
        await asyncio.sleep(0.1)
        [stop_grace] = {stopper._stop_grace.total_seconds() for stopper in stoppers}
        records = [stopper._record for stopper in stoppers]
        stops.stopped.append(([(record.agent_id, record.run_id) for record in records], stop_grace))

    async def job_is_abandoned(task_instance: Any, **options: Any) -> bool:
        stops.questions += 1
        return True

    monkeypatch.setattr(SequentumConnection, "aget_client", aget_client)
    monkeypatch.setattr(stop, "astop_jobs", astop_jobs)
    monkeypatch.setattr(remote_job, "job_is_abandoned", job_is_abandoned)
    return stops


async def test_airflow_is_asked_once_and_all_runs_are_stopped_at_once(stops: Stops) -> None:
    await trigger(stop_grace=5).on_kill()
    assert (stops.questions, stops.stopped) == (1, [([(7, 107), (8, 108)], 5)])


async def test_runs_that_are_not_waited_for_any_more_are_stopped_too(stops: Stops) -> None:
    await trigger(also_stop=[WaitSpec(agent_id=9, run_id=109).to_json()]).on_kill()
    assert stops.stopped[0][0] == [(7, 107), (8, 108), (9, 109)]


async def test_the_stops_go_on_when_airflow_gives_up_waiting_for_them(stops: Stops) -> None:
    # Airflow cancels on_kill after about a second, again and again.
    one = trigger()
    killing = asyncio.create_task(one.on_kill())
    for _ in range(3):
        await asyncio.sleep(0.01)
        killing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killing
    assert stops.stopped == []
    assert one._stopping is not None
    await one._stopping
    assert len(stops.stopped) == 1


@pytest.mark.parametrize(
    ("named", "is_own"),
    [
        ([{"agent_id": 7, "run_id": 107}, {"agent_id": 8, "run_id": 200}], True),
        ([{"agent_id": 7, "run_id": 201}, {"agent_id": 8, "run_id": 200}], False),
        ([{"agent_id": 7, "run_id": None}], False),
        ([], False),
        ([None, "x"], False),
        ({"run_id": 107}, False),
    ],
)
def test_the_runs_of_a_task_are_told_by_their_ids(named: Any, is_own: bool) -> None:
    assert trigger().is_own(named) is is_own
