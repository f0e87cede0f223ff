from __future__ import annotations

import asyncio
import json
from typing import Any, Self

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow_provider_sequentum.triggers.timing import SHORTEST_TRIGGER_LIFE

from airflow_provider_sequentum.api import ClientSettings
from airflow_provider_sequentum.api.errors import Forbidden, SequentumError, Unauthorized
from airflow_provider_sequentum.exceptions import (
    SequentumConnectionException,
    SequentumConnectionNotFound,
    SequentumUnavailable,
)
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.lifecycle.builder_record import SessionRecord
from airflow_provider_sequentum.lifecycle.builder_session import BuilderSession, SessionState
from airflow_provider_sequentum.lifecycle.builder_speak import session_of
from airflow_provider_sequentum.triggers.agent_builder import AgentBuilderTrigger
from airflow_provider_sequentum.triggers.session_event import read_session_event, turn_event
from tests.unit.lifecycle.builder_service import FakeBuilder, FakeSession

SETTINGS = ClientSettings(api_key="sk")
RECORD = SessionRecord(fingerprint="f", max_tries=0, session=BuilderSession(session_id="s1")).to_json()


class Client:
    """The async client of the fake service; every request takes so many seconds."""

    def __init__(self, service: FakeBuilder, seconds: float = 0.0, settings: ClientSettings = SETTINGS) -> None:
        self.service, self.seconds, self.settings = service, seconds, settings
        self.is_open = False

    async def __aenter__(self) -> Self:
        self.is_open = True
        return self

    async def __aexit__(self, *error: object) -> None:
        self.is_open = False

    async def send(self, call: Any, *, budget_share: float = 1.0) -> Any:
        await asyncio.sleep(self.seconds)
        return self.service.answer(call)


def trigger(**fields: Any) -> AgentBuilderTrigger:
    return AgentBuilderTrigger(**{"sequentum_conn_id": "c", "record": RECORD, "poll_interval": 0.01, **fields})


@pytest.fixture
def service() -> FakeBuilder:
    fake = FakeBuilder()
    fake.sessions["s1"] = FakeSession(looks_left=3)
    return fake


@pytest.fixture
def clients(service: FakeBuilder, monkeypatch: pytest.MonkeyPatch) -> list[Client]:
    """The clients that were made."""
    made: list[Client] = []

    async def aget_client(hook: SequentumHook) -> Client:
        made.append(Client(service))
        return made[-1]

    monkeypatch.setattr(SequentumHook, "aget_client", aget_client)
    return made


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let triggers fire as early as they like."""
    monkeypatch.setattr("airflow_provider_sequentum.triggers.timing.SHORTEST_TRIGGER_LIFE", 0.0)


async def fired(waiting: AgentBuilderTrigger) -> list[Any]:
    return [event.payload async for event in waiting.run()]


def test_the_arguments_are_primitives_and_make_the_same_trigger() -> None:
    waiting = trigger(deadline="2026-11-22T09:00:00+00:00", cancel_on_kill=True)
    path, arguments = waiting.serialize()
    assert path == "airflow_provider_sequentum.triggers.agent_builder.AgentBuilderTrigger"
    assert AgentBuilderTrigger(**json.loads(json.dumps(arguments))).serialize() == (path, arguments)


@pytest.mark.usefixtures("_quick")
async def test_it_fires_once_when_the_session_is_ready_and_ends(clients: list[Client]) -> None:
    events = await fired(trigger())
    assert len(events) == 1
    news = read_session_event(json.loads(json.dumps(events[0])))
    assert session_of(news.record).state is SessionState.READY
    assert news.error is None
    assert not clients[0].is_open


async def test_it_never_fires_in_the_first_seconds_of_its_life(
    clients: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SHORTEST_TRIGGER_LIFE >= 8
    naps: list[float] = []
    sleep = asyncio.sleep

    async def noting(seconds: float) -> None:
        naps.append(seconds)
        await sleep(0)

    monkeypatch.setattr("airflow_provider_sequentum.triggers.timing.asyncio.sleep", noting)
    await fired(trigger())
    assert SHORTEST_TRIGGER_LIFE - 1 < naps[-1] <= SHORTEST_TRIGGER_LIFE
    assert len(clients) == 1


@pytest.mark.usefixtures("_quick")
async def test_it_can_be_run_again_from_the_start(clients: list[Client]) -> None:
    waiting = trigger()
    first, second = await fired(waiting), await fired(waiting)
    assert (
        session_of(read_session_event(first[0]).record).cursor
        == session_of(read_session_event(second[0]).record).cursor
    )
    assert len(clients) == 2


@pytest.mark.usefixtures("_quick", "clients")
async def test_a_deadline_is_a_point_in_time(service: FakeBuilder) -> None:
    service.sessions["s1"].looks_left = 1_000_000
    events = await fired(trigger(deadline="2026-01-01T00:00:00+00:00"))
    assert session_of(read_session_event(events[0]).record).state is SessionState.PROCESSING


@pytest.mark.usefixtures("_quick", "clients")
async def test_an_error_that_can_not_pass_is_handed_over_with_its_kind(service: FakeBuilder) -> None:
    def forbidden(purpose: str) -> SequentumError:
        return Forbidden("This key may not.", purpose=purpose, status_code=403)

    service.broken["status"] = forbidden
    news = read_session_event((await fired(trigger()))[0])
    assert isinstance(news.error, SequentumConnectionException)
    assert news.record == news.before


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(("keys", "is_over"), [(["sk-old", "sk-new"], True), (["sk-old", "sk-old"], False)])
async def test_a_refused_key_is_looked_up_again(
    keys: list[str], is_over: bool, service: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection has the first key, and the second from the first refusal on."""

    class RefusedClient(Client):
        async def send(self, call: Any, *, budget_share: float = 1.0) -> Any:
            if self.settings.api_key == "sk-old":
                connection.append(keys[1])
                raise Unauthorized("Revoked.", purpose=call.purpose, status_code=401)
            return await super().send(call, budget_share=budget_share)

    async def aget_settings(hook: SequentumHook) -> ClientSettings:
        return ClientSettings(api_key=connection[-1])

    async def aget_client(hook: SequentumHook) -> Client:
        made.append(RefusedClient(service, settings=await aget_settings(hook)))
        return made[-1]

    connection, made = keys[:1], list[Client]()
    monkeypatch.setattr(SequentumHook, "aget_settings", aget_settings)
    monkeypatch.setattr(SequentumHook, "aget_client", aget_client)
    news = read_session_event((await fired(trigger()))[0])
    if is_over:
        assert news.error is None
        assert session_of(news.record).state is SessionState.READY
    else:
        assert isinstance(news.error, SequentumConnectionException)
    assert [client.is_open for client in made] == [False] * len(set(keys))


@pytest.mark.usefixtures("_quick")
async def test_a_missing_connection_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def missing(conn_id: str, hook: object = None) -> None:
        raise AirflowNotFoundException(conn_id)

    monkeypatch.setattr("airflow.providers.common.compat.connection.get_async_connection", missing)
    news = read_session_event((await fired(trigger(sequentum_conn_id="nowhere")))[0])
    assert isinstance(news.error, SequentumConnectionNotFound)
    assert "nowhere" in str(news.error)


def changed(**session: Any) -> dict[str, Any]:
    """The record with other fields of its session; without one if there are none."""
    return {**RECORD, "session": {**RECORD["session"], **session} if session else None}


@pytest.mark.parametrize(
    ("record", "before", "complaint"),
    [
        (changed(), RECORD, "holds no session"),
        (RECORD, changed(), "holds no session"),
        (changed(session_id="s2"), RECORD, "speaks of another session"),
    ],
)
def test_an_event_of_no_session_or_of_another_is_not_believed(
    record: dict[str, Any], before: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(SequentumUnavailable, match=complaint):
        read_session_event(turn_event(record, {"record": before}))


async def killed(waiting: AgentBuilderTrigger, *, task_was_ended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the trigger as Airflow does: ``on_kill`` is cancelled almost at once."""

    async def answer(task_instance: object) -> bool:
        await asyncio.sleep(0.05)
        return task_was_ended

    monkeypatch.setattr("airflow_provider_sequentum.triggers.user_action.task_was_ended", answer)
    killing = asyncio.create_task(waiting.on_kill())
    await asyncio.sleep(0.01)
    killing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killing
    if waiting._cancelling is not None:
        await waiting._cancelling


async def test_a_user_who_ends_the_task_cancels_the_session_although_on_kill_is_cut_short(
    service: FakeBuilder, clients: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    await killed(trigger(cancel_on_kill=True), task_was_ended=True, monkeypatch=monkeypatch)
    assert service.sessions["s1"].status == "cancelled"
    assert not clients[0].is_open


@pytest.mark.usefixtures("clients")
async def test_a_trigger_that_is_moved_leaves_the_session_alone(
    service: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await killed(trigger(cancel_on_kill=True), task_was_ended=False, monkeypatch=monkeypatch)
    assert service.sessions["s1"].status == "processing"


async def test_keep_session_leaves_it_alone_in_any_case(service: FakeBuilder) -> None:
    await trigger(cancel_on_kill=False).on_kill()
    assert service.sessions["s1"].status == "processing"
