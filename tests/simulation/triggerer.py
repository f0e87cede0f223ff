"""A triggerer in virtual time: the real triggers and the real watcher, at the fake service and on its clock."""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import Coroutine
from functools import cache
from typing import TYPE_CHECKING, Any, Self, TypeVar

from airflow_provider_sequentum import api
from airflow_provider_sequentum.airflow_compat import dag_run, trigger_life
from airflow_provider_sequentum.api import ClientSettings
from airflow_provider_sequentum.api.call import Call, Reply
from airflow_provider_sequentum.hooks.connection import SequentumConnection
from airflow_provider_sequentum.jobs import stop
from airflow_provider_sequentum.watching import watcher
from airflow_provider_sequentum.watching.watch_list import Moment
from tests.support.airflow import FakeTask
from tests.support.service import Clock
from tests.support.worker import Worker

if TYPE_CHECKING:
    import pytest

T = TypeVar("T")


class _ClockSelector(selectors.SelectSelector):
    """Waits for nothing but the time, which it lets pass on the service's clock."""

    clock: Clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("Nothing will ever happen: everything waits for something else.")
        if timeout > 0:
            self.clock.sleep(timeout + 1e-6)  # timers are compared with a resolution
        return []


class ClockLoop(asyncio.SelectorEventLoop):
    """An event loop on a fake service's clock: one for all worlds, one at a time, since to open one costs time."""

    def __init__(self) -> None:
        self.selector = _ClockSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.clock.monotonic()


@cache
def _loop() -> ClockLoop:
    return ClockLoop()


SETTINGS = ClientSettings(api_key="sk")


class NoStats:
    """Metrics that no one reads."""

    @staticmethod
    def incr(name: str, count: int = 1, *, tags: dict[str, str]) -> None: ...

    @staticmethod
    def gauge(name: str, value: float, *, tags: dict[str, str]) -> None: ...

    @staticmethod
    def timing(name: str, milliseconds: float, *, tags: dict[str, str]) -> None: ...


class Client:
    """The client of a triggerer, without a budget."""

    refusals = 0

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.settings = SETTINGS

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        pass

    def poll_turn(self, budget_share: float, *, is_hinted: bool = False) -> float:
        return 0.0

    async def exchange(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> Reply[T]:
        return self.worker.exchange(call, budget_share=budget_share, within=within)

    async def poll(self, call: Call[T], *, budget_share: float) -> Reply[T]:
        return await self.exchange(call, budget_share=budget_share)

    async def send(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> T:
        return (await self.exchange(call, budget_share=budget_share, within=within)).value


class Triggerer:
    """Runs the trigger of one deferred task.

    :param worker: the port to the fake service.
    :param task: whose trigger it is.
    :param monkeypatch: puts the fakes in place.
    """

    def __init__(self, worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
        self.worker = worker
        self.state = "deferred"
        self.loop = _loop()
        self.loop.selector.clock = worker.service.clock

        async def here(function: Any, *arguments: Any) -> Any:
            return function(*arguments)

        async def aget_client(hook: SequentumConnection) -> Client:
            return Client(worker)

        async def aget_settings(hook: SequentumConnection) -> ClientSettings:
            return SETTINGS

        def present() -> Moment:
            return Moment(self.loop.time(), worker.now())

        monkeypatch.setattr(asyncio, "to_thread", here)
        monkeypatch.setattr(SequentumConnection, "settings", SETTINGS)  # Airflow needs a ms
        monkeypatch.setattr(SequentumConnection, "aget_client", aget_client)
        monkeypatch.setattr(SequentumConnection, "aget_settings", aget_settings)
        monkeypatch.setattr(api, "AsyncSequentumClient", lambda settings: Client(worker))
        monkeypatch.setattr(watcher, "present", present)
        monkeypatch.setattr(watcher, "Stats", NoStats)  # Airflow looks each name up, to send nothing
        monkeypatch.setattr(stop, "steady_clock", lambda: worker.now)
        for module in (trigger_life, dag_run):
            monkeypatch.setattr(module, "state_of", lambda task_instance: self.state)
        monkeypatch.setattr(trigger_life, "_xcom", lambda task_instance, key: task.ti.pushed(key))

    def fire(self, trigger: Any) -> dict[str, Any]:
        """Run a trigger to its only event, from its serialized form, as a triggerer does."""

        async def event() -> Any:
            [payload] = [event.payload async for event in rebuilt.run()]
            return payload

        rebuilt = self._rebuilt(trigger)
        return json.loads(json.dumps(self._run(event())))  # type: ignore[no-any-return]

    def kill(self, trigger: Any, state: str) -> None:
        """Do what Airflow 3.3 does with the trigger of a task that a person gave another state."""
        rebuilt = self._rebuilt(trigger)
        self.state = state
        try:
            self._run(rebuilt.on_kill())
        finally:
            self.state = "deferred"

    def _rebuilt(self, trigger: Any) -> Any:
        path, arguments = trigger.serialize()
        rebuilt = type(trigger)(**json.loads(json.dumps(arguments)))
        assert rebuilt.serialize() == (path, arguments)
        rebuilt.task_instance, rebuilt.trigger_id = None, 1
        return rebuilt

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        self.worker.deadline = None
        try:
            return self.loop.run_until_complete(work)
        finally:
            # The watcher ends when no one waits any more.
            others = asyncio.all_tasks(self.loop)
            if others:
                self.loop.run_until_complete(asyncio.gather(*others, return_exceptions=True))
