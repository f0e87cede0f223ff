from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_sequentum.sandbox import Sandbox
from airflow_provider_sequentum.sandbox.app import api_app
from airflow_provider_sequentum.sandbox.request_gate import RequestGate

if TYPE_CHECKING:
    from starlette.types import Message


class CountingSandbox(Sandbox):
    """A sandbox that counts how often it is saved."""

    saves = 0

    def save(self) -> None:
        self.saves += 1


class Requests:
    """Requests to a gate, without a network; notes what was already known when the response started."""

    def __init__(self) -> None:
        self.sandbox = CountingSandbox()
        self.gate = RequestGate(api_app(), self.sandbox)
        self.status = 0
        self.known_before: tuple[int, int] = (0, 0)

    async def __call__(self, method: str, path: str) -> None:
        headers = [(b"host", b"localhost"), (b"authorization", f"ApiKey {self.sandbox.api_key}".encode())]
        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
            "state": {},
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "scheme": "http",
            "http_version": "1.1",
            "root_path": "",
        }
        await self.gate(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.known_before = (len(self.sandbox.ledger.requests), self.sandbox.saves)


@pytest.fixture
def ask() -> Requests:
    return Requests()


async def test_a_request_is_in_the_ledger_and_on_disk_before_it_is_answered(ask: Requests) -> None:
    agent = ask.sandbox.add_agent("Prices")
    await ask("POST", f"/api/v1/agent/{agent.id}/start")
    assert (ask.status, ask.known_before) == (202, (1, 1))
    assert len(ask.sandbox.ledger.starts()) == 1


async def test_a_question_changes_nothing_on_disk(ask: Requests) -> None:
    await ask("GET", "/api/v1/spaces")
    assert (ask.status, ask.known_before) == (200, (1, 0))


async def test_every_request_is_written_down_once(ask: Requests) -> None:
    ask.sandbox.fail_next("GET /spaces", fault="html")
    ask.sandbox.fail_next("GET /spaces", fault="status_after", status=500)
    for _ in range(3):
        await ask("GET", "/api/v1/spaces")
    assert [(entry.number, entry.status) for entry in ask.sandbox.ledger.requests] == [(1, 200), (2, 500), (3, 200)]
