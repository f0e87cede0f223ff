"""What stands in front of the routes: whom the sandbox answers, keys, the rate limit, faults and the ledger.

It is plain ASGI, because a fault has to be able to cut a connection after the routes have done their work.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_provider_sequentum.sandbox.faults import BEFORE, Fault
from airflow_provider_sequentum.sandbox.ledger import Leak, RequestEntry, serving
from airflow_provider_sequentum.sandbox.problems import Problem, html_page, problem_response
from airflow_provider_sequentum.sandbox.rate_limit import RateLimiter
from airflow_provider_sequentum.sandbox.request_checks import check_admin, check_target
from airflow_provider_sequentum.sandbox.service import Service
from airflow_provider_sequentum.sandbox.settings import ADMIN_PREFIX, API_PREFIX, STORAGE_PREFIX, Dialect

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class CuttableProtocol(H11Protocol):
    """Uvicorn's HTTP protocol, which gives the application its transport so that it can cut the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note the transport among what every request of the connection carries."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


@dataclass
class _Exchange:
    """A request that is being served, and what the ledger will say about it."""

    scope: Scope
    path: str
    number: int
    key_name: str | None
    status: int | None = None
    fault: Fault | None = None
    held: float = 0.0
    cut: bool = False
    headers: Headers = field(init=False)

    def __post_init__(self) -> None:
        self.headers = Headers(scope=self.scope)

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def for_storage(self) -> bool:
        return self.path.startswith(STORAGE_PREFIX + "/")


class RequestGate:
    """ASGI middleware around the API or around storage. It only ever gets HTTP requests: its server serves nothing
    else.

    :param app: the routes.
    :param service: the service that requests are for.
    :param names: what the ``Host`` header may name beside loopback, see :func:`~.request_checks.own_names`.
    """

    def __init__(self, app: ASGIApp, service: Service, names: frozenset[str] = frozenset()) -> None:
        self._app, self._service, self._names = app, service, names
        self._engine, self._faults = service.engine, service.faults
        self._limiters: dict[str, RateLimiter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        self._service.attach(scope)
        send = self._dated_send(send)
        path = scope["path"]
        try:
            check_target(scope, self._names)
            for_admin = path == ADMIN_PREFIX or path.startswith(ADMIN_PREFIX + "/")
            if for_admin:
                check_admin(scope)
        except Problem as problem:
            # Not the service's response: always in a form that a person can read.
            await problem_response(problem, path, Dialect())(scope, receive, send)
            return
        if path.startswith((API_PREFIX + "/", STORAGE_PREFIX + "/")):
            exchange = _Exchange(
                scope, path.removeprefix(API_PREFIX), self._engine.ledger.next_number(), self._key_name(scope)
            )
            with serving(exchange.number, exchange.key_name):
                await self._serve(exchange, receive, send)
            return
        changes = for_admin and scope["method"] != "GET"
        await self._app(scope, receive, self._saving_send(send) if changes else send)

    async def _serve(self, exchange: _Exchange, receive: Receive, send: Send) -> None:
        if exchange.method != "GET":
            send = self._saving_send(send)
        send = self._noting_send(exchange, send)
        if not await self._admitted(exchange, receive, send):
            return
        fault = exchange.fault = self._faults.take(exchange.method, exchange.path)
        if fault is not None:
            await asyncio.sleep(0 if fault.fault == "late" else fault.delay)
            if fault.fault in BEFORE:
                await _read_body(receive)
                await self._apply_fault(exchange, fault, receive, send, _CollectedResponse())
                return
        if exchange.for_storage:
            self._note_leak(exchange)
        elif exchange.key_name is None:
            await self._refuse(exchange, Problem(401, "The API key is missing or not valid."), receive, send)
            return
        if fault is None or fault.fault == "delay":
            await self._app(exchange.scope, receive, send)
        elif fault.fault == "truncated":
            await self._app(exchange.scope, receive, self._truncating_send(exchange, fault, send))
        else:
            response = _CollectedResponse()
            await self._app(exchange.scope, receive, response)
            await self._apply_fault(exchange, fault, receive, send, response)

    async def _admitted(self, exchange: _Exchange, receive: Receive, send: Send) -> bool:
        """Whether the rate limit lets a request through, perhaps after holding it; if not, it has been answered."""
        if exchange.for_storage or exchange.key_name is None:
            return True
        verdict = self._limiter(exchange.key_name).admit(time.monotonic())
        if verdict.retry_after is not None:
            wait = self._engine.dialect.wait(verdict.retry_after, self._engine.clock.now())
            await self._refuse(exchange, Problem(429, "Rate limit exceeded.", {"Retry-After": wait}), receive, send)
            return False
        exchange.held = verdict.wait
        await asyncio.sleep(verdict.wait)
        return True

    async def _apply_fault(
        self, exchange: _Exchange, fault: Fault, receive: Receive, send: Send, response: _CollectedResponse
    ) -> None:
        """Answer as a fault says, in place of ``response``, which is empty when the action was not done."""
        match fault.fault:
            case "reset_before" | "reset_after":
                self._write_down(exchange)
                self._service.save()
                await _reset(exchange.scope)
            case "never":
                self._write_down(exchange)
                self._service.save()
                await _wait_for_disconnect(receive)
            case "late":
                self._service.save()
                await asyncio.sleep(fault.delay)
                await response.forward(send, response.body)
            case "altered":
                await response.forward(send, fault.alter(response.body))
            case "status" | "status_after" if fault.body is None:
                problem = Problem(fault.status or 503, "A fault was added for this request.", fault.headers)
                await self._refuse(exchange, problem, receive, send)
            case _:
                await _faulty_response(fault, response.status)(exchange.scope, receive, send)

    async def _refuse(self, exchange: _Exchange, problem: Problem, receive: Receive, send: Send) -> None:
        path = exchange.scope["path"]
        await problem_response(problem, path, self._engine.dialect)(exchange.scope, receive, send)

    def _limiter(self, key_name: str) -> RateLimiter:
        settings, limiter = self._engine.settings, self._limiters.get(key_name)
        wanted = (settings.rate_limit, settings.rate_window_seconds, settings.rate_queue, settings.rate_window)
        if limiter is None or (limiter.limit, limiter.window, limiter.queue, limiter.kind) != wanted:
            limiter = self._limiters[key_name] = RateLimiter(*wanted)
        return limiter

    def _key_name(self, scope: Scope) -> str | None:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        return self._engine.account.key_name(key.strip()) if scheme.lower() == "apikey" and key.strip() else None

    def _dated_send(self, send: Send) -> Send:
        """Give every response the ``Date`` of the service's clock, which may be skewed, unless it has one."""

        async def dated(message: Message) -> None:
            dialect = self._engine.dialect
            if message["type"] == "http.response.start" and dialect.date_header:
                MutableHeaders(raw=message["headers"]).setdefault("Date", dialect.http_date(self._engine.clock.now()))
            await send(message)

        return dated

    def _noting_send(self, exchange: _Exchange, send: Send) -> Send:
        settings = self._engine.settings

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                self._write_down(exchange)
                if not exchange.for_storage:
                    headers = MutableHeaders(raw=message["headers"])
                    headers["X-RateLimit-Limit"] = str(settings.rate_limit)
                    headers["X-RateLimit-Window-Seconds"] = f"{settings.rate_window_seconds:g}"
            await send(message)

        return noting

    def _saving_send(self, send: Send) -> Send:
        """Save before answering: what a client knows survives a crash of the sandbox."""

        async def saving(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._service.save()
            await send(message)

        return saving

    @staticmethod
    def _truncating_send(exchange: _Exchange, fault: Fault, send: Send) -> Send:
        left = fault.after_bytes or 0

        async def truncating(message: Message) -> None:
            nonlocal left
            if exchange.cut:
                return
            if message["type"] == "http.response.start":
                length = int(Headers(raw=message["headers"]).get("content-length", "0"))
                left = length // 2 if fault.after_bytes is None else min(left, max(0, length - 1))
                await send(message)
                return
            body = message.get("body", b"")
            if len(body) <= left and message.get("more_body"):
                left -= len(body)
                await send(message)
                return
            await send({"type": "http.response.body", "body": body[:left], "more_body": True})
            exchange.cut = True
            exchange.scope["state"]["transport"].close()

        return truncating

    def _note_leak(self, exchange: _Exchange) -> None:
        value = exchange.headers.get("authorization")
        if value is not None:
            scheme, _, key = value.partition(" ")
            known = self._engine.account.key_name(key.strip() or scheme) is not None
            now = self._engine.clock.now()
            self._engine.ledger.leaks.append(Leak(at=now, path=exchange.path, scheme=scheme[:20], known_key=known))

    def _write_down(self, exchange: _Exchange) -> None:
        """Enter a request into the ledger, before it is answered: a client that has the response finds the entry."""
        ledger, fault = self._engine.ledger, exchange.fault
        ledger.requests.append(
            RequestEntry(
                number=exchange.number,
                at=self._engine.clock.now(),
                method=exchange.method,
                path=exchange.path,
                query=_query_to_keep(exchange),
                key_name=exchange.key_name,
                status=exchange.status,
                fault=fault.fault if fault else None,
                user_agent=exchange.headers.get("user-agent"),
                held_seconds=exchange.held,
            )
        )


class _CollectedResponse:
    """A response that is kept instead of sent."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], message["headers"]
        else:
            self.body += message.get("body", b"")

    async def forward(self, send: Send, body: bytes) -> None:
        """Send it, with this body."""
        headers = [(name, value) for name, value in self.headers if name != b"content-length"]
        if self.status not in (204, 304):
            headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _faulty_response(fault: Fault, status: int) -> Response:
    """The response of a fault that replaces the body; ``status`` is that of the response it replaces."""
    media_type = "application/json"
    match fault.fault:
        case "status" | "status_after":
            status, body, media_type = fault.status or 503, b"", "text/plain; charset=utf-8"
        case "html":
            body, media_type = html_page("Gateway", "Please sign in."), "text/html; charset=utf-8"
        case "garbage":
            body = b"\x00\xff{]"
        case _:
            return Response(b"", status, {"Content-Type": media_type, **fault.headers})
    if fault.body is not None:
        body = fault.body.encode("utf-8", "surrogatepass")
    return Response(body, status, {"Content-Type": media_type, **fault.headers})


def _query_to_keep(exchange: _Exchange) -> str:
    """The query string, but not that of a signed URL, which is a secret while it lasts."""
    query: Any = exchange.scope["query_string"]
    return "" if exchange.for_storage else bytes(query).decode("latin-1")


async def _read_body(receive: Receive) -> None:
    """Take the whole request first: a client that is still writing sees a broken pipe instead of a reset."""
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        continue


async def _wait_for_disconnect(receive: Receive) -> None:
    """Return once the client has given up, or the server shuts down."""
    while (await receive())["type"] != "http.disconnect":
        continue


async def _reset(scope: Scope) -> None:
    """Cut the connection so that the peer sees a reset and not an orderly end."""
    transport: asyncio.Transport = scope["state"]["transport"]
    connection: socket.socket = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await asyncio.sleep(0)  # lets uvicorn see that the peer is gone, so that it does not answer in our place
