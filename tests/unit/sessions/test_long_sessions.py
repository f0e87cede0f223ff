"""A session with thousands of events and screenshots of many megabytes, through client and poller."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace

import httpx
import pytest

from airflow_provider_sequentum.api import AsyncSequentumClient, ClientSettings, SequentumClient
from airflow_provider_sequentum.api.agent_builder import MAX_PAGE_SIZE, SessionEvent
from airflow_provider_sequentum.hooks.port import ClientPort
from airflow_provider_sequentum.sessions.state import Session
from airflow_provider_sequentum.sessions.wait import SessionPoller, apoll, poll

EVENTS, SCREENSHOTS = 5000, 20
IMAGE = 10 * 1024 * 1024 * 4 // 3
BLOCK = b"A" * (64 * 1024)


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The answer to a request for all events after an index, made while it is read."""

    def __init__(self, after: int, image: int) -> None:
        self._after = after
        self._image = image

    def __iter__(self) -> Iterator[bytes]:
        yield b'{"lastEventIndex": %d, "events": [' % (EVENTS - 1)
        for index in range(self._after + 1, EVENTS):
            yield b"," if index > self._after + 1 else b""
            yield from self._event(index)
        yield b"]}"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk

    def _event(self, index: int) -> Iterator[bytes]:
        if index % (EVENTS // SCREENSHOTS):
            yield json.dumps({"type": "step_started", "eventIndex": index, "description": "Looking"}).encode()
            return
        yield b'{"type": "screenshot", "eventIndex": %d, "imageBase64": "' % index
        for start in range(0, self._image, len(BLOCK)):
            yield BLOCK[: self._image - start]
        yield b'"}'


class Server:
    """Answers with the status and the events of the session; one look at all of them is 280 MB."""

    def __init__(self, image: int = IMAGE) -> None:
        self.image = image
        self.pages = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/status"):
            return httpx.Response(200, json={"status": "processing", "lastEventIndex": EVENTS - 1})
        self.pages += 1
        return httpx.Response(200, stream=Body(int(request.url.params["lastEventIndex"]), self.image))


class Seen:
    """Takes the events, as the folder of screenshots does, and keeps nothing of them but numbers."""

    def __init__(self) -> None:
        self.indexes: list[int | None] = []
        self.images: list[int] = []

    def __call__(self, event: SessionEvent) -> None:
        self.indexes.append(event.event_index)
        if event.image_base64:
            self.images.append(len(event.image_base64))


def look(server: Server, kind: str, seen: Seen) -> Session:
    poller = SessionPoller(Session(session_id="s1"), take=seen)
    poller.begin()
    settings = ClientSettings(api_key=f"sk-test-{uuid.uuid4().hex}")
    transport = httpx.MockTransport(server)
    if kind == "sync":
        with SequentumClient(settings, transport=transport) as client:
            port = ClientPort(SimpleNamespace(client=client))  # type: ignore[arg-type]
            poll(port, poller)
            return poller.session

    async def alook() -> None:
        async with AsyncSequentumClient(settings, transport=transport) as client:
            await apoll(client, poller)

    asyncio.run(alook())
    return poller.session


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_5000_events_and_10_megabyte_screenshots_are_read_in_bounded_memory(kind: str) -> None:
    server, seen = Server(), Seen()
    look(Server(image=3), kind, Seen())  # so that what is imported on first use is not counted
    tracemalloc.start()
    session = look(server, kind, seen)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen.indexes == list(range(EVENTS))
    assert seen.images == [IMAGE] * SCREENSHOTS
    assert (session.cursor, session.last_index) == (EVENTS - 1, EVENTS - 1)
    assert peak < 6 * MAX_PAGE_SIZE < SCREENSHOTS * IMAGE / 2


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_event_that_is_longer_than_a_page_is_read_all_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.api.agent_builder.MAX_PAGE_SIZE", 100_000)
    server, seen = Server(image=1_000_000), Seen()
    assert look(server, kind, seen).cursor == EVENTS - 1
    assert seen.images == [1_000_000] * SCREENSHOTS


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_session_of_the_usual_size_is_read_at_once(kind: str) -> None:
    server, seen = Server(image=1000), Seen()
    assert look(server, kind, seen).cursor == EVENTS - 1
    assert server.pages == 1
