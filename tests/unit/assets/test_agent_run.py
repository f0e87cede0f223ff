from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import timedelta
from pkgutil import resolve_name
from typing import Any

import pytest

from airflow_provider_sequentum.api.errors import HttpStatusError
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.assets import agent_run as module
from airflow_provider_sequentum.assets.agent_run import PAUSE_AFTER_FAULT, AgentRunCompletedTrigger
from airflow_provider_sequentum.watching.polls import Listing


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
    monkeypatch.setattr(module, "SCHEDULER_SECONDS", 0)


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


async def test_each_run_fires_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    looks = [[run(1)], [run(2, 1), run(1)], [run(2), run(1)], [run(3), run(2), run(1)], [run(3), run(2), run(1)]]
    assert await fired(AgentRunCompletedTrigger(agent_id=7), *looks) == [2, 3]
    assert caplog.messages == [
        "Watching agent 7. Does not fire for 1 run that ended before.",
        "Run 2 of agent 7 has ended.",
        "Run 3 of agent 7 has ended.",
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 10])
async def test_no_run_of_several_that_end_together_waits_for_the_end_of_another_run(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Airflow 3.3 does: a DAG run is given the events up to the one that queued it."""
    events: list[int] = []
    queued_at, given = 0, 0

    def schedule() -> None:
        nonlocal queued_at, given
        given, queued_at = max(given, queued_at), 0

    async def sleep(seconds: float) -> None:
        if seconds >= 7:
            schedule()

    monkeypatch.setattr(module, "SCHEDULER_SECONDS", 7)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    ended = [run(number) for number in range(1, count + 1)]
    async for event in AgentRunCompletedTrigger(agent_id=7).filter_shared_stream(stream([], ended)):
        events.append(event.payload["run_id"])
        queued_at = queued_at or len(events)
    schedule()
    assert events == [each.id for each in ended]
    assert given == count


async def test_a_trigger_that_dies_between_the_events_of_runs_that_end_together_repeats_none_that_is_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store()
    first, second = AgentRunCompletedTrigger(agent_id=7), AgentRunCompletedTrigger(agent_id=7)
    first.asset_state_store = second.asset_state_store = store  # type: ignore[assignment]
    events = first.filter_shared_stream(stream([], [run(1), run(2), run(3)]))
    assert [(await anext(events)).payload["run_id"] for _ in range(3)] == [1, 2, 3]
    await events.aclose()  # type: ignore[attr-defined]
    assert await fired(second, [run(1), run(2), run(3)]) == [3]


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


@pytest.mark.parametrize("stored", ["gone", 7, [], {"format": 99}, {"run_ids": "all"}, {"floor": None}])
async def test_a_stored_value_that_cannot_be_read_is_replaced(stored: Any, caplog: pytest.LogCaptureFixture) -> None:
    store, trigger = Store(), AgentRunCompletedTrigger(agent_id=7)
    trigger.asset_state_store = store  # type: ignore[assignment]
    store.values[trigger._state_key] = stored
    assert await fired(trigger, [run(1)], [run(2), run(1)]) == [2]
    assert "Runs that have ended until now do not fire" in caplog.text
    assert store.values[trigger._state_key]["run_ids"] == [1, 2]


async def test_runs_that_the_service_no_longer_lists_are_said(caplog: pytest.LogCaptureFixture) -> None:
    async def stream() -> AsyncIterator[Listing]:
        yield Listing([run(number) for number in range(10, 0, -1)], is_full=False)
        yield Listing([run(number) for number in range(1500, 500, -1)], is_full=True)

    trigger = AgentRunCompletedTrigger(agent_id=7)
    assert len([event async for event in trigger.filter_shared_stream(stream())]) == 1000
    assert "Agent 7 had more than 1000 runs since the last poll" in caplog.text


async def test_what_goes_wrong_is_said_and_the_agent_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked, ended, pauses = [], [], []

    async def listen(*arguments: Any) -> AsyncGenerator[Listing]:
        asked.append(arguments)
        try:
            if len(asked) == 1:
                raise HttpStatusError("The service is down.", status_code=503)
            yield Listing([run(1)], is_full=False)
        finally:
            ended.append(arguments)

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("airflow_provider_sequentum.watching.watcher.listen", listen)
    monkeypatch.setattr(asyncio, "sleep", pause)
    _, arguments = AgentRunCompletedTrigger(agent_id=7, sequentum_conn_id="c", poll_interval=5).serialize()
    stream = AgentRunCompletedTrigger.open_shared_stream(arguments)
    assert [found.id for found in (await anext(stream)).runs] == [1]
    await stream.aclose()
    assert asked == ended == [("c", 7, 5.0), ("c", 7, 5.0)]
    assert pauses == [PAUSE_AFTER_FAULT]
    assert "Could not check the runs of agent 7, trying again in 60 s: The service is down." in caplog.text


@pytest.mark.parametrize("value", [None, "", " "])
def test_an_unset_connection_is_the_default_one(value: Any) -> None:
    assert AgentRunCompletedTrigger(agent_id=7, sequentum_conn_id=value).sequentum_conn_id == "sequentum_default"
