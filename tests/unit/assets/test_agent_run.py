from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pkgutil import resolve_name
from typing import Any, Self

import pytest

from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.assets import agent_run as module
from airflow_provider_sequentum.assets.agent_run import AgentRunCompletedTrigger, Listing
from airflow_provider_sequentum.hooks.connection import SequentumConnection


def run(number: int, status: int = 10) -> Run:
    return Run.model_validate({"id": number, "configId": 7, "status": status, "dataCount": number})


class Store:
    """Airflow's asset state store."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        self.values[key] = value


async def stream(*looks: list[Run], then: Callable[[], None] | None = None) -> AsyncIterator[Listing]:
    for look in looks:
        yield Listing(look, is_full=False)
    if then:
        then()


async def fired(trigger: AgentRunCompletedTrigger, *looks: list[Run]) -> list[int]:
    return [event.payload["run_id"] async for event in trigger.filter_shared_stream(stream(*looks))]


@pytest.fixture(autouse=True)
def _no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLING_SECONDS", 0)


def test_serialisation_round_trip() -> None:
    trigger = AgentRunCompletedTrigger(agent_id="7", ending="any", poll_interval=5, sequentum_conn_id="other")
    path, arguments = trigger.serialize()
    assert resolve_name(path)(**arguments).serialize() == (path, arguments)
    assert arguments["agent_id"] == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("agent_id", "prices"),
        ("agent_id", True),
        ("ending", "perhaps"),
        ("poll_interval", True),
        ("poll_interval", -1),
        ("poll_interval", "often"),
    ],
)
def test_arguments_are_checked(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be"):
        AgentRunCompletedTrigger(**{"agent_id": 7, name: value})


@pytest.mark.parametrize(
    ("value", "seconds"), [(0, 0.0), ("", 60.0), (None, 60.0), ("5", 5.0), (timedelta(minutes=2), 120.0)]
)
def test_zero_is_zero_and_what_is_unset_has_its_default(value: Any, seconds: float) -> None:
    trigger = AgentRunCompletedTrigger(agent_id=7, poll_interval=value, ending="")
    assert (trigger.poll_interval, trigger.ending) == (seconds, "succeeded")


def test_watchers_of_one_agent_share_a_poll_whatever_ending_they_wait_for() -> None:
    succeeded = AgentRunCompletedTrigger(agent_id=7)
    assert succeeded.shared_stream_key() == AgentRunCompletedTrigger(agent_id=7, ending="any").shared_stream_key()
    assert succeeded.shared_stream_key() != AgentRunCompletedTrigger(agent_id=8).shared_stream_key()
    assert (
        succeeded.shared_stream_key() != AgentRunCompletedTrigger(agent_id=7, sequentum_conn_id="b").shared_stream_key()
    )


async def test_each_run_fires_once() -> None:
    looks = [[run(1)], [run(2, 1), run(1)], [run(2), run(1)], [run(3), run(2), run(1)], [run(3), run(2), run(1)]]
    assert await fired(AgentRunCompletedTrigger(agent_id=7), *looks) == [2, 3]


async def test_after_a_restart_what_ended_meanwhile_fires_and_nothing_twice() -> None:
    store = Store()
    first, second = AgentRunCompletedTrigger(agent_id=7), AgentRunCompletedTrigger(agent_id=7)
    first.asset_state_store = second.asset_state_store = store  # type: ignore[assignment]
    assert await fired(first, [run(1)], [run(2), run(1)]) == [2]
    assert await fired(second, [run(3), run(2), run(1)], [run(4), run(3), run(2), run(1)]) == [3, 4]
    assert next(iter(store.values.values()))["run_ids"] == [1, 2, 3, 4]


async def test_a_trigger_that_dies_before_its_event_is_stored_fires_again() -> None:
    store = Store()
    trigger = AgentRunCompletedTrigger(agent_id=7)
    trigger.asset_state_store = store  # type: ignore[assignment]
    events = trigger.filter_shared_stream(stream([], [run(1)]))
    assert (await anext(events)).payload["run_id"] == 1
    await events.aclose()  # type: ignore[attr-defined]
    second = AgentRunCompletedTrigger(agent_id=7)
    second.asset_state_store = store  # type: ignore[assignment]
    assert await fired(second, [run(1)]) == [1]


async def test_the_payload_is_the_runs_summary() -> None:
    events = AgentRunCompletedTrigger(agent_id=7).filter_shared_stream(stream([], [run(5)]))
    payload = (await anext(events)).payload
    assert (payload["agent_id"], payload["run_id"], payload["status"], payload["records"]) == (7, 5, "Success", 5)


async def test_a_trigger_of_several_assets_goes_on_without_a_store() -> None:
    class Ambiguous(Store):
        async def aget(self, key: str, default: Any = None) -> Any:
            raise ValueError("Task has 2 concrete inlets and outlets")

    trigger = AgentRunCompletedTrigger(agent_id=7)
    trigger.asset_state_store = Ambiguous()  # type: ignore[assignment]
    assert await fired(trigger, [run(1)], [run(2), run(1)]) == [2]


# Lists that are cut


class Client:
    """A client for which an agent's runs are all that is there."""

    def __init__(self, looks: list[list[Run]]) -> None:
        self.looks = looks
        self.sizes: list[int] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, call: Any, *, budget_share: float) -> list[Run]:
        size = call.query["maxRecords"]
        self.sizes.append(size)
        return self.looks[0][:size]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Look at an agent whose runs are those of the next look, each time."""

    async def look(*looks: list[Run]) -> tuple[list[Listing], Client]:
        client = Client(list(looks))

        async def aget_client(hook: SequentumConnection) -> Client:
            return client

        async def next_look(seconds: float) -> None:
            client.looks.pop(0)

        monkeypatch.setattr(SequentumConnection, "aget_client", aget_client)
        monkeypatch.setattr(asyncio, "sleep", next_look)
        _, arguments = AgentRunCompletedTrigger(agent_id=7).serialize()
        stream = AgentRunCompletedTrigger.open_shared_stream(arguments)
        return [await anext(stream) for _ in looks], client

    return look


def runs(newest: int, count: int, *, running: int = 0) -> list[Run]:
    return [run(number, 1 if number == running else 10) for number in range(newest, newest - count, -1)]


async def test_a_list_that_is_cut_is_asked_for_again_in_full(listed: Callable[..., Any]) -> None:
    looks, client = await listed(runs(300, 300), runs(700, 700))
    assert client.sizes == [1000, 200, 1000]
    assert [len(look.runs) for look in looks] == [300, 700]
    assert not looks[1].is_full


async def test_a_run_that_is_still_running_stays_in_view(listed: Callable[..., Any]) -> None:
    looks, _ = await listed(
        runs(300, 300, running=150), runs(420, 420, running=150), runs(500, 500, running=150), runs(501, 501)
    )
    assert all(any(found.id == 150 for found in look.runs) for look in looks)


async def test_what_the_longest_list_cannot_show_is_said(
    listed: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    looks, _ = await listed(runs(10, 10), runs(1500, 1490))
    assert looks[1].is_full
    found = await fired_by(AgentRunCompletedTrigger(agent_id=7), *looks)
    assert len(found) == 1000
    assert "Agent 7 had more than 1000 runs since the last look" in caplog.text


async def fired_by(trigger: AgentRunCompletedTrigger, *looks: Listing) -> list[int]:
    async def stream() -> AsyncIterator[Listing]:
        for look in looks:
            yield look

    return [event.payload["run_id"] async for event in trigger.filter_shared_stream(stream())]
