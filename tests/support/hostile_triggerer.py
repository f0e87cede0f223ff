"""A triggerer in virtual time whose requests go over a wire that lies: the real triggers, watcher and client."""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from airflow_provider_sequentum.airflow_compat import trigger_life
from airflow_provider_sequentum.api.client import AsyncSequentumClient
from airflow_provider_sequentum.hooks import connection
from airflow_provider_sequentum.jobs import stop
from airflow_provider_sequentum.sessions import wait as session_wait
from airflow_provider_sequentum.watching import watcher
from airflow_provider_sequentum.watching.watch_list import Moment
from tests.support.airflow import FakeTask
from tests.support.hostile_wire import HostileWire


class _SandboxSelector(selectors.SelectSelector):
    """Waits for nothing but the time, which it lets pass for the sandbox."""

    def __init__(self, wire: HostileWire) -> None:
        super().__init__()
        self._wire = wire

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("Nothing will ever happen: everything waits for something else.")
        if timeout > 0:
            self._wire.sandbox.advance(min(timeout + 1e-6, 200_000.0))
        return []


class _SandboxLoop(asyncio.SelectorEventLoop):
    def __init__(self, wire: HostileWire) -> None:
        self._wire = wire
        super().__init__(_SandboxSelector(wire))

    def time(self) -> float:
        return self._wire.sandbox.now.timestamp()


class HostileTriggerer:
    """
    Runs the trigger of a deferred task.

    :param wire: what it talks over.
    """

    def __init__(self, wire: HostileWire) -> None:
        self.wire = wire
        self.state = "deferred"
        self.task: FakeTask | None = None
        self.loop = _SandboxLoop(wire)
        self.unexpected: list[str] = []
        """What would have been a traceback in the triggerer's log, or the end of its process."""
        self.loop.set_exception_handler(lambda _, context: self.unexpected.append(repr(context)))

    def fire(self, trigger: Any) -> Any:
        """Run a trigger to its only event, as Airflow's database keeps it."""

        async def event() -> Any:
            [payload] = [event.payload async for event in rebuilt.run()]
            return payload

        rebuilt = self._rebuilt(trigger)
        return stored(self._run(event()))

    def kill(self, trigger: Any, seconds: float, state: str) -> Any:
        """End a deferred task after some seconds, as Airflow does; return the event if it was faster."""

        async def killed() -> Any:
            async def event() -> Any:
                [payload] = [event.payload async for event in rebuilt.run()]
                return payload

            running = asyncio.create_task(event())
            done, _ = await asyncio.wait([running], timeout=seconds)
            if done:
                return running.result()
            self.state = state
            ending = asyncio.create_task(rebuilt.on_kill())
            await asyncio.wait([ending], timeout=1)
            ending.cancel()
            running.cancel()
            await asyncio.wait([ending, running])
            return None

        rebuilt = self._rebuilt(trigger)
        try:
            return stored(self._run(killed()))
        finally:
            self.state = "deferred"

    def listen(self, trigger: Any, seconds: float) -> list[Any]:
        """Return what a trigger that never ends fires in some seconds."""
        heard: list[Any] = []

        async def listening() -> None:
            async for event in rebuilt.run():
                heard.append(event.payload)  # noqa: PERF401 - it never ends

        async def for_a_while() -> None:
            running = asyncio.create_task(listening())
            done, _ = await asyncio.wait([running], timeout=seconds)
            assert not done, "it ended"
            running.cancel()

        rebuilt = self._rebuilt(trigger)
        self._run(for_a_while())
        return heard

    def _rebuilt(self, trigger: Any) -> Any:
        path, arguments = trigger.serialize()
        rebuilt = type(trigger)(**stored(arguments))
        assert rebuilt.serialize() == (path, arguments)
        rebuilt.task_instance, rebuilt.trigger_id = None, 1
        return rebuilt

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return self.loop.run_until_complete(work)
        finally:
            while others := asyncio.all_tasks(self.loop):
                self.loop.run_until_complete(asyncio.gather(*others, return_exceptions=True))


def stored(value: Any) -> Any:
    """Return what PostgreSQL gives back of a JSON value; it refuses what is no JSON, NUL and half characters."""
    text = json.dumps(value, allow_nan=False)
    assert "\\u0000" not in text
    text.encode().decode("unicode_escape").encode("utf-16", errors="surrogatepass").decode("utf-16")
    assert len(text) < 1_000_000
    return json.loads(text)


@contextmanager
def hostile_triggerer(wire: HostileWire) -> Iterator[HostileTriggerer]:
    """Let all clients of an event loop talk over the wire. To be entered before :func:`.hostile`."""
    triggerer = HostileTriggerer(wire)
    direct, send = httpx.HTTPTransport(), httpx.HTTPTransport.handle_request

    async def handle(transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        content = await request.aread()
        plain = httpx.Request(request.method, request.url, headers=request.headers, content=content)
        response = wire.answer(plain, lambda asked: send(direct, asked))
        body = b"".join(response.stream)  # type: ignore[arg-type]
        response.close()
        return httpx.Response(
            response.status_code, headers=response.headers.raw, stream=httpx.ByteStream(body), request=request
        )

    async def here(function: Any, *arguments: Any, **more: Any) -> Any:
        return function(*arguments, **more)

    async def aget_connection(hook: Any, conn_id: str) -> Any:
        found = hook.get_connection(conn_id)
        return found, found.extra_dejson

    def xcom(task_instance: object, key: str) -> Any:
        return None if triggerer.task is None else triggerer.task.ti.pushed(key)

    with pytest.MonkeyPatch.context() as patch, direct:
        patch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
        patch.setattr(asyncio, "to_thread", here)
        patch.setattr(connection, "aget_connection", aget_connection)
        patch.setitem(AsyncSequentumClient.__init__.__kwdefaults__, "clock", triggerer.loop.time)  # type: ignore[arg-type]
        patch.setattr(watcher, "present", lambda: Moment(triggerer.loop.time(), wire.sandbox.now))
        patch.setattr(stop, "steady_clock", lambda: lambda: wire.sandbox.now)
        patch.setattr(session_wait, "_now", lambda: wire.sandbox.now)
        patch.setattr(trigger_life, "state_of", lambda task_instance: triggerer.state)
        patch.setattr(trigger_life, "_xcom", xcom)
        patch.setattr("airflow_provider_sequentum.airflow_compat.dag_run.state_of", lambda ti: triggerer.state)
        yield triggerer
        triggerer.loop.close()
