"""What the tests of the client share: both drivers behind one face, in front of a scripted server."""

from __future__ import annotations

import asyncio
import io
import uuid
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from unittest.mock import patch

import httpx

from airflow_provider_sequentum import api
from airflow_provider_sequentum.api import AsyncSequentumClient, ClientSettings, SequentumClient
from airflow_provider_sequentum.api import client as client_module
from airflow_provider_sequentum.api.budget import RequestBudget
from airflow_provider_sequentum.api.call import Call, Response
from airflow_provider_sequentum.api.files import RunFile
from airflow_provider_sequentum.api.parsing import Page

T = TypeVar("T")

Reply = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


def fresh_settings(**changes: Any) -> ClientSettings:
    """Settings with a key of their own, so that no other test's requests count against its budget."""
    return ClientSettings(**{"api_key": f"sk-test-{uuid.uuid4().hex}", **changes})


def answer(content: bytes | str, status_code: int = 200, **headers: str) -> Response:
    """A response as the pipeline sees it; header names with underscores."""
    names = httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()})
    return Response(status_code, names, content if isinstance(content, bytes) else content.encode())


class ScriptedServer:
    """Gives its replies in order, the last one for ever, and remembers the requests."""

    def __init__(self, replies: Iterable[Reply]) -> None:
        self.requests: list[httpx.Request] = []
        self._replies = list(replies)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self._replies[min(len(self.requests), len(self._replies)) - 1]
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, httpx.Response):
            return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)
        return reply(request)


class Driver:
    """One of the two drivers, called in the same way. Time passes only while it sleeps."""

    def __init__(self, kind: str, replies: Iterable[Reply], settings: ClientSettings | None = None) -> None:
        self.server = ScriptedServer(replies)
        self.settings = settings or fresh_settings()
        self.slept: list[float] = []
        self._budget = RequestBudget(self.now)
        self._kind = kind

    def send(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> T:
        return self.exchange(call, budget_share=budget_share, within=within).value

    def exchange(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> api.Reply[T]:
        if self._kind == "sync":
            with self.client() as client:
                return client.exchange(call, budget_share=budget_share, within=within)

        async def exchange() -> api.Reply[T]:
            async with self.async_client() as client:
                return await client.exchange(call, budget_share=budget_share, within=within)

        return asyncio.run(exchange())

    def now(self) -> float:
        """Seconds that were slept."""
        return sum(self.slept)

    def records(self, call: Call[Page[T]]) -> list[T]:
        if self._kind == "sync":
            with self.client() as client:
                return list(client.records(call))

        async def records() -> list[T]:
            async with self.async_client() as client:
                return [record async for record in client.records(call)]

        return asyncio.run(records())

    def download(self, file: RunFile | None = None) -> bytes:
        destination = io.BytesIO()
        file = file or RunFile(id=3, name="prices.csv")
        if self._kind == "sync":
            with self.client() as client:
                length = client.download(agent_id=7, run_id=42, file=file, destination=destination)
        else:

            async def download() -> int:
                async with self.async_client() as client:
                    return await client.download(agent_id=7, run_id=42, file=file, destination=destination)

            # A download runs in a thread of its own, which sleeps in its own way.
            with patch.object(
                client_module._UntilCancelled, "sleep", lambda _self, seconds: self.slept.append(seconds)
            ):
                length = asyncio.run(download())
        assert length == len(destination.getvalue())
        return destination.getvalue()

    def client(self) -> SequentumClient:
        transport = httpx.MockTransport(self.server)
        client = SequentumClient(self.settings, transport=transport, sleep=self.slept.append, clock=self.now)
        client._budget = self._budget
        return client

    def async_client(self) -> AsyncSequentumClient:
        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        transport = httpx.MockTransport(self.server)
        client = AsyncSequentumClient(self.settings, transport=transport, sleep=sleep, clock=self.now)
        client._budget = self._budget
        return client
