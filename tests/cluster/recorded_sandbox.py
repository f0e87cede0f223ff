"""The sandbox with a recorder: ``python -m tests.cluster.recorded_sandbox FILE`` and the sandbox's own options.

What is asked of the API is written down twice, each time as a line of JSON with the request's ``id``: behind the
faults, where the service answers (``status``, ``answer``), before the response is on its way; and in front of them,
when the exchange is over (``told``: the status that was sent, ``same``: whether the service's response was sent, and
all of it). So a record tells both what the service did and what its client could know of it, whoever dies in between.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.sandbox import cli, server
from airflow_provider_sequentum.sandbox.request_gate import RequestGate
from airflow_provider_sequentum.sandbox.settings import API_PREFIX

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from airflow_provider_sequentum.sandbox.service import Service

_exchange: ContextVar[_Exchange] = ContextVar("exchange")


class _Exchange:
    """One request: what is written down of it."""

    def __init__(self, scope: Scope, by: str | None) -> None:
        self.id = uuid.uuid4().hex
        path = str(scope["path"]).removeprefix(API_PREFIX)
        self.asked = {"id": self.id, "at": time.time(), "method": scope["method"], "path": path, "by": by}
        self.answered: tuple[int, bytes] | None = None


class _Answer:
    """Passes a response on and remembers it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.body = b""
        self.is_whole = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            self.is_whole = not message.get("more_body", False)
            if self.is_whole:
                self.on_end()
        await self._send(message)

    def on_end(self) -> None:
        """Called before the last piece is sent."""


class Recorder:
    """Writes lines into a file.

    :param path: the file, which is continued if it is there.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._lock = Lock()

    def write(self, **line: Any) -> None:
        """Write a line, at once."""
        with self._lock:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def gate(self, app: ASGIApp, service: Service, names: frozenset[str] = frozenset()) -> RequestGate:
        """Return what stands in front of the routes, with a recorder before and behind it."""
        return _RecordingGate(self, app, service, names)


class _RecordingGate(RequestGate):
    def __init__(self, recorder: Recorder, app: ASGIApp, service: Service, names: frozenset[str]) -> None:
        super().__init__(self._act, service, names)
        self._recorder, self._routes = recorder, app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if not scope["path"].startswith(API_PREFIX + "/"):
            await super().__call__(scope, receive, send)
            return
        exchange, answer = _Exchange(scope, self._key_name(scope)), _Answer(send)
        _exchange.set(exchange)
        try:
            await super().__call__(scope, receive, answer)
        finally:
            same = answer.is_whole and exchange.answered == (answer.status, answer.body)
            self._recorder.write(**exchange.asked, told=answer.status if answer.is_whole else None, same=same)

    async def _act(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _exchange.get(None)
        if exchange is None:  # the admin API
            await self._routes(scope, receive, send)
            return
        asked = b""

        async def listening() -> Message:
            nonlocal asked
            message = await receive()
            asked += message.get("body", b"")
            return message

        answer = _Answer(send)

        def answered() -> None:
            exchange.answered = (answer.status, answer.body)
            acted = {"acted_at": time.time(), "status": answer.status, "answer": _json(answer.body)}
            self._recorder.write(**exchange.asked, **acted, body=_json(asked))

        answer.on_end = answered  # type: ignore[method-assign]
        await self._routes(scope, listening, answer)


def _json(body: bytes) -> Any:
    """Return what a body says; ``None`` for one that says nothing in JSON."""
    try:
        return json.loads(body)
    except ValueError:
        return None


def main(arguments: Sequence[str]) -> int:
    """Serve until interrupted; return the exit code."""
    vars(server)["RequestGate"] = Recorder(Path(arguments[0])).gate
    return cli.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
