"""What stands before the routes: keys, the rate limit, faults and the ledger.

It is plain ASGI, because a fault has to be able to cut a connection after the routes have done their work.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_provider_sequentum.sandbox.engine import Engine
from airflow_provider_sequentum.sandbox.faults import BEFORE, Fault
from airflow_provider_sequentum.sandbox.ledger import Leak, RequestEntry
from airflow_provider_sequentum.sandbox.problems import Problem, html_page, problem_body
from airflow_provider_sequentum.sandbox.rate_limit import RateLimiter, Verdict
from airflow_provider_sequentum.sandbox.services import Services

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

API_PREFIX = "/api/v1"
ADMIN_PREFIX = "/sandbox"
STORAGE_PREFIX = "/storage"


class CuttableProtocol(H11Protocol):
    """Uvicorn's HTTP protocol, which tells the application its transport so that it can cut the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note the transport among what every request of the connection carries."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


@dataclass
class _Exchange:
    """A request on its way, and what will be written about it."""

    scope: Scope
    path: str
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


class Gate:
    """ASGI middleware around the API or around storage. It is only ever given HTTP requests: its server speaks
    nothing else.

    :param app: the routes.
    :param services: the sandbox that requests are for.
    :param after_change: called when a request may have changed something, before it is answered.
    """

    def __init__(self, app: ASGIApp, services: Services, after_change: Callable[[], None]) -> None:
        self._app, self._services, self._after_change = app, services, after_change
        self._engine, self._faults = services.engine, services.faults
        self._limiters: dict[str, RateLimiter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        self._services.ride(scope)
        path = scope["path"]
        if not path.startswith((API_PREFIX + "/", STORAGE_PREFIX + "/")):
            changes = path.startswith(ADMIN_PREFIX) and scope["method"] != "GET"
            await self._app(scope, receive, self._saving_send(send) if changes else send)
            return
        await self._serve(_Exchange(scope, path.removeprefix(API_PREFIX), self._key_name(scope)), receive, send)

    async def _serve(self, exchange: _Exchange, receive: Receive, send: Send) -> None:
        storage = exchange.path.startswith(STORAGE_PREFIX + "/")
        if exchange.method != "GET":
            send = self._saving_send(send)
        send = self._noting_send(exchange, send, limited=not storage)
        if not storage and exchange.key_name is not None:
            verdict = self._limiter(exchange.key_name).admit(time.monotonic())
            if verdict.retry_after is not None:
                headers = {"Retry-After": self._engine.dialect.wait(verdict.retry_after)}
                await self._refuse(exchange, Problem(429, "Rate limit exceeded.", headers), receive, send)
                return
            await self._hold(exchange, verdict)
        fault = exchange.fault = self._faults.take(exchange.method, exchange.path)
        if fault is not None:
            await asyncio.sleep(fault.delay)
            if fault.fault in BEFORE:
                await _read_body(receive)
                await self._strike(exchange, fault, receive, send)
                return
        if storage:
            self._note_leak(exchange)
        elif exchange.key_name is None:
            await self._refuse(exchange, Problem(401, "No API key, or one that is not valid."), receive, send)
            return
        if fault is None or fault.fault == "delay":
            await self._app(exchange.scope, receive, send)
        elif fault.fault == "truncated":
            await self._app(exchange.scope, receive, self._truncating_send(exchange, fault, send))
        else:
            answer = _Collected()
            await self._app(exchange.scope, receive, answer)
            await self._strike(exchange, fault, receive, send, answer)

    async def _strike(
        self, exchange: _Exchange, fault: Fault, receive: Receive, send: Send, answer: _Collected | None = None
    ) -> None:
        status = answer.status if answer else 200
        match fault.fault:
            case "reset_before" | "reset_after":
                self._write_down(exchange)
                self._after_change()
                await _reset(exchange.scope)
                return
            case "status" | "status_after":
                status = fault.status or 503
                if fault.body is None:
                    problem = Problem(status, "This is a fault that was asked for.", fault.headers)
                    await self._refuse(exchange, problem, receive, send)
                    return
                body, kind = fault.body.encode(), "text/plain; charset=utf-8"
            case "garbage":
                body, kind = b"\x00\xff{]" if fault.body is None else fault.body.encode(), "application/json"
            case "html":
                body, kind = html_page("Gateway", "Please sign in."), "text/html; charset=utf-8"
                body = fault.body.encode() if fault.body is not None else body
            case _:
                body, kind = b"", "application/json"
        response = Response(body, status, {"Content-Type": kind, **fault.headers})
        await response(exchange.scope, receive, send)

    async def _refuse(self, exchange: _Exchange, problem: Problem, receive: Receive, send: Send) -> None:
        path = exchange.scope["path"]
        await problem_response(problem, path, self._engine)(exchange.scope, receive, send)

    async def _hold(self, exchange: _Exchange, verdict: Verdict) -> None:
        exchange.held = verdict.wait
        if verdict.wait:
            await asyncio.sleep(verdict.wait)

    def _limiter(self, key_name: str) -> RateLimiter:
        settings, limiter = self._engine.settings, self._limiters.get(key_name)
        wanted = (settings.rate_limit, settings.rate_window_seconds, settings.rate_queue, settings.rate_window)
        if limiter is None or (limiter.limit, limiter.window, limiter.queue, limiter.kind) != wanted:
            limiter = self._limiters[key_name] = RateLimiter(*wanted)
        return limiter

    def _key_name(self, scope: Scope) -> str | None:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        return self._engine.account.key_name(key.strip()) if scheme.lower() == "apikey" and key.strip() else None

    def _noting_send(self, exchange: _Exchange, send: Send, *, limited: bool) -> Send:
        settings = self._engine.settings

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                self._write_down(exchange)
                if limited:
                    headers = MutableHeaders(raw=message["headers"])
                    headers["X-RateLimit-Limit"] = str(settings.rate_limit)
                    headers["X-RateLimit-Window-Seconds"] = f"{settings.rate_window_seconds:g}"
            await send(message)

        return noting

    def _saving_send(self, send: Send) -> Send:
        """What a client was told is on disk before it is told."""

        async def saving(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._after_change()
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
        """Enter a request into the ledger, before it is answered: who has the answer finds the entry."""
        ledger, fault = self._engine.ledger, exchange.fault
        ledger.requests.append(
            RequestEntry(
                number=len(ledger.requests) + 1,
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


def problem_response(problem: Problem, path: str, engine: Engine) -> Response:
    """A refusal in the form the dialect asks for."""
    body, content_type = problem_body(problem.status, problem.detail, path, engine.dialect)
    return Response(body, problem.status, {"Content-Type": content_type, **problem.headers})


class _Collected:
    """An answer that is kept instead of sent."""

    def __init__(self) -> None:
        self.status = 500

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]


def _query_to_keep(exchange: _Exchange) -> str:
    """The query string, but not that of a signed URL, which is a secret while it lasts."""
    query: Any = exchange.scope["query_string"]
    return "" if exchange.path.startswith(STORAGE_PREFIX + "/") else bytes(query).decode("latin-1")


async def _read_body(receive: Receive) -> None:
    """Take the whole request first: who is still writing sees a reset as a broken pipe and not as a reset."""
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        continue


async def _reset(scope: Scope) -> None:
    """Cut the connection so that the peer sees a reset and not an orderly end."""
    transport: asyncio.Transport = scope["state"]["transport"]
    connection: socket.socket = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await asyncio.sleep(0)  # lets uvicorn see that the peer is gone, so that it does not answer in our place


def asked_from_here(request: Request) -> bool:
    """Whether a request comes from this machine and was meant for it.

    The second guards against a web page whose name was made to resolve to this machine.
    """
    client = request.client.host if request.client else ""
    return all(host in {"::1", "localhost"} or host.startswith("127.") for host in (client, _host(request)))


def _host(request: Request) -> str:
    return request.url.hostname or ""
