from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_sequentum.airflow_compat import trigger_life
from airflow_provider_sequentum.airflow_compat.trigger_life import MIN_TRIGGER_LIFETIME
from airflow_provider_sequentum.api import ClientSettings
from airflow_provider_sequentum.api.errors import HttpStatusError
from airflow_provider_sequentum.hooks.connection import SequentumConnection
from airflow_provider_sequentum.sessions.state import Session, SessionState
from airflow_provider_sequentum.sessions.wait import TurnEvent
from airflow_provider_sequentum.triggers.agent_builder import AgentBuilderTrigger
from tests.support.builder import BuilderClient, FakeBuilder, FakeSession, use_builder
from tests.support.service import START, bad_request, server_error, unauthorized
from tests.support.worker import Worker

SESSION = Session(session_id="s1", state_since=START)


def trigger(**fields: Any) -> AgentBuilderTrigger:
    made = AgentBuilderTrigger(**{"sequentum_conn_id": "c", "session": SESSION.to_json(), "poll_interval": 5, **fields})
    made.task_instance = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)  # type: ignore[assignment]
    made.trigger_id = 1
    return made


@pytest.fixture
def service() -> FakeBuilder:
    fake = FakeBuilder()
    fake.sessions["s1"] = FakeSession(looks_left=3)
    return fake


@pytest.fixture
def worker(service: FakeBuilder) -> Worker:
    return Worker(service)


@pytest.fixture
def clients(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> list[BuilderClient]:
    """The clients that were made."""
    return use_builder(monkeypatch, worker)


async def fired(waiting: AgentBuilderTrigger) -> list[Any]:
    return [json.loads(json.dumps(event.payload)) async for event in waiting.run()]


def test_the_arguments_are_primitives_and_make_the_same_trigger() -> None:
    waiting = trigger(
        deadline="2026-11-22T09:00:00+00:00", stop_on_kill=True, successor_may_join=True, mood="of a later version"
    )
    path, arguments = waiting.serialize()
    assert path == "airflow_provider_sequentum.triggers.agent_builder.AgentBuilderTrigger"
    assert AgentBuilderTrigger(**json.loads(json.dumps(arguments))).serialize() == (path, arguments)


async def test_it_fires_once_when_the_session_is_ready_and_ends(clients: list[BuilderClient]) -> None:
    [event] = await fired(trigger())
    seen = TurnEvent.from_json(event)
    assert seen.session is not None
    assert (seen.session.state, seen.error, seen.is_deadline) == (SessionState.READY, None, False)
    assert not clients[0].is_open


async def test_it_never_fires_in_the_first_seconds_of_its_life(
    clients: list[BuilderClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MIN_TRIGGER_LIFETIME >= 8
    monkeypatch.setattr(trigger_life, "MIN_TRIGGER_LIFETIME", MIN_TRIGGER_LIFETIME)
    naps: list[float] = []

    async def noting(seconds: float) -> None:
        naps.append(seconds)

    monkeypatch.setattr("airflow_provider_sequentum.airflow_compat.trigger_life.asyncio.sleep", noting)
    await fired(trigger())
    assert MIN_TRIGGER_LIFETIME - 1 < naps[-1] <= MIN_TRIGGER_LIFETIME
    assert len(clients) == 1


async def test_it_can_be_run_again_from_the_start(clients: list[BuilderClient]) -> None:
    waiting = trigger()
    [first], [second] = await fired(waiting), await fired(waiting)
    assert first["session"]["cursor"] == second["session"]["cursor"]
    assert len(clients) == 2


@pytest.mark.usefixtures("clients")
async def test_a_deadline_is_a_point_in_time(service: FakeBuilder) -> None:
    service.sessions["s1"].looks_left = 1_000_000
    [event] = await fired(trigger(deadline="2026-01-01T00:00:00+00:00"))
    assert TurnEvent.from_json(event).is_deadline
    service.broken["status"] = server_error
    before = service.clock.now
    [event] = await fired(trigger(deadline=(before.replace(second=20)).isoformat()))
    assert TurnEvent.from_json(event).is_deadline
    assert (service.clock.now - before).total_seconds() < 30


@pytest.mark.usefixtures("clients")
async def test_an_error_that_cannot_pass_is_handed_over_with_its_kind(service: FakeBuilder) -> None:
    service.broken["status"] = bad_request
    seen = TurnEvent.from_json((await fired(trigger()))[0])
    assert (seen.error, seen.session) == ("SequentumRequestRefused", SESSION)


@pytest.mark.parametrize(("keys", "is_over"), [(["sk-old", "sk-new"], True), (["sk-old", "sk-old"], False)])
async def test_a_refused_key_is_looked_up_again(
    keys: list[str], is_over: bool, clients: list[BuilderClient], worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection has the first key, and the second from the first refusal on."""

    class RefusedClient(BuilderClient):
        async def exchange(self, call: Any, **options: Any) -> Any:
            if self.settings.api_key == "sk-old":
                connection.append(keys[1])
                raise HttpStatusError("Revoked.", purpose=call.purpose, status_code=401)
            return await super().exchange(call, **options)

    async def aget_settings(hook: SequentumConnection) -> ClientSettings:
        return ClientSettings(api_key=connection[-1])

    async def aget_client(hook: SequentumConnection) -> BuilderClient:
        clients.append(RefusedClient(worker, await aget_settings(hook)))
        return clients[-1]

    connection = keys[:1]
    monkeypatch.setattr(SequentumConnection, "aget_settings", aget_settings)
    monkeypatch.setattr(SequentumConnection, "aget_client", aget_client)
    seen = TurnEvent.from_json((await fired(trigger()))[0])
    assert seen.error == (None if is_over else "SequentumConnectionException")
    assert [client.is_open for client in clients] == [False] * len(set(keys))


async def test_a_missing_connection_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def missing(hook: object, conn_id: str) -> None:
        raise AirflowNotFoundException(conn_id)

    monkeypatch.setattr(trigger_life, "MIN_TRIGGER_LIFETIME", 0.0)
    monkeypatch.setattr("airflow_provider_sequentum.hooks.connection.LOOKUP_PAUSES", (0.0,))
    monkeypatch.setattr("airflow_provider_sequentum.hooks.connection.aget_connection", missing)
    seen = TurnEvent.from_json((await fired(trigger(sequentum_conn_id="nowhere")))[0])
    assert seen.error == "SequentumConnectionNotFound"
    assert "nowhere" in seen.message


# Ended by a person, cleared, or only moved


@pytest.fixture
def situation(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Airflow says of the task, one answer after the other: its state and the XCom ``session_id``."""
    says: dict[str, Any] = {"answers": [("failed", "s1")]}

    def state(task_instance: object) -> str | None:
        return says["answers"][0][0]  # type: ignore[no-any-return]

    def xcom(task_instance: object, key: str) -> Any:
        assert key == "session_id"
        return says["answers"].pop(0)[1] if len(says["answers"]) > 1 else says["answers"][0][1]

    monkeypatch.setattr(trigger_life, "state_of", state)
    monkeypatch.setattr("airflow_provider_sequentum.airflow_compat.dag_run.state_of", state)
    monkeypatch.setattr(trigger_life, "_xcom", xcom)
    monkeypatch.setattr(trigger_life, "SUCCESSOR_POLL_INTERVAL", 0.0)
    monkeypatch.setattr(trigger_life, "WIPE_SECONDS", 0.0)
    monkeypatch.setattr(trigger_life, "SUCCESSOR_TIMEOUT", 0.2)
    return says


async def killed(waiting: AgentBuilderTrigger) -> None:
    """End the trigger as Airflow does: ``on_kill`` is cancelled almost at once."""
    killing = asyncio.create_task(waiting.on_kill())
    while waiting._stopping is None:
        await asyncio.tasks.__sleep0()  # type: ignore[attr-defined]
    killing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killing
    await waiting._stopping


@pytest.mark.usefixtures("clients")
@pytest.mark.parametrize("is_given", [False, True])
@pytest.mark.parametrize("state", ["failed", "success", "skipped", "removed"])
async def test_a_person_who_ends_the_task_cancels_the_session(
    service: FakeBuilder, situation: dict[str, Any], state: str, is_given: bool
) -> None:
    situation["answers"] = [(state, "s1")]
    await killed(trigger(stop_on_kill=True, successor_may_join=is_given))
    assert service.sessions["s1"].status == "cancelled"


@pytest.mark.usefixtures("clients")
@pytest.mark.parametrize("is_given", [False, True])
async def test_a_trigger_that_is_moved_leaves_the_session_alone(
    service: FakeBuilder, situation: dict[str, Any], is_given: bool
) -> None:
    situation["answers"] = [("deferred", "s1")]
    await killed(trigger(stop_on_kill=True, successor_may_join=is_given))
    assert service.sessions["s1"].status == "processing"


@pytest.mark.usefixtures("clients")
@pytest.mark.parametrize(
    "answers",
    [
        [(None, "s1"), ("queued", "s1"), ("running", None), ("running", "s2")],
        [("scheduled", None)],
        [("deferred", "s2")],
    ],
)
async def test_a_cleared_task_starts_over_so_its_session_is_cancelled_whatever_the_store_kept(
    service: FakeBuilder, situation: dict[str, Any], answers: list[Any]
) -> None:
    situation["answers"] = answers
    await killed(trigger(stop_on_kill=True))
    assert service.sessions["s1"].status == "cancelled"


@pytest.mark.usefixtures("clients")
@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ([("queued", "s1"), ("running", None), ("running", "s1"), ("running", "s1")], "processing"),
        ([("queued", None)], "processing"),  # its new attempt waits for a slot
        ([("running", "s9")], "cancelled"),  # it was given another one in the meantime
    ],
)
async def test_a_cleared_task_continues_the_session_that_it_was_given(
    service: FakeBuilder, situation: dict[str, Any], answers: list[Any], status: str
) -> None:
    situation["answers"] = answers
    await killed(trigger(stop_on_kill=True, successor_may_join=True))
    assert service.sessions["s1"].status == status


@pytest.mark.usefixtures("clients")
async def test_a_cancellation_that_fails_is_repeated_and_then_logged(
    service: FakeBuilder, situation: dict[str, Any], worker: Worker
) -> None:
    service.faults["cancel"] = [(server_error, False)] * 2
    await killed(trigger(stop_on_kill=True))
    assert service.sessions["s1"].status == "cancelled"
    service.sessions["s1"] = FakeSession(looks_left=1000)
    service.broken = {"cancel": unauthorized, "stop": unauthorized, "status": unauthorized}
    await killed(trigger(stop_on_kill=True))
    assert "s1" in worker.warned[-1]
    assert "may be running and costing credits" in worker.warned[-1]


async def test_keep_session_leaves_it_alone_in_any_case(service: FakeBuilder) -> None:
    await trigger(stop_on_kill=False).on_kill()
    assert service.sessions["s1"].status == "processing"


def test_it_knows_its_own_session() -> None:
    assert trigger().is_own("s1")
    assert not trigger().is_own("s2")
    assert not trigger().is_own(None)
