"""A wire that lies: what the sandbox answers is changed on its way, or never arrives.

Requests go to a real sandbox, so what they do is in its ledger, whatever the client is told of it.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from airflow_provider_sequentum.api.budget import RequestBudget
from airflow_provider_sequentum.api.client import SequentumClient
from airflow_provider_sequentum.sandbox import Sandbox

MAX_LIES = 12
"""After so many changed answers a wire is honest, so that every task comes to an end."""

MAX_REQUESTS = 600

FRAMING = (b"content-length", b"content-encoding")

HEADERS: dict[str, tuple[str | bytes, ...]] = {
    "date": (
        "Fri, 31 Dec 2100 23:59:59 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "yesterday",
        b"\xff\xfe",
        "Sun, 99 Foo 2026 99:99:99 GMT",
    ),
    "retry-after": ("nan", "-1", "1e999", "inf", "9" * 400, "Fri, 31 Dec 9999 23:59:59 -2359", b"\xe9", "0", "121"),
    "content-length": ("-1", "0", "9" * 30, "nan", "1", b"\xb2"),
    "content-encoding": ("gzip", "br", "gzip, gzip", "zstd", "deflate", "identity", "KEY", b"\xff"),
    "content-type": ("text/html", "application/json; charset=utf-16", "KEY", b"\xff", "image/png"),
    "content-disposition": ("attachment; filename=../../../etc/passwd", "KEY", b"\xff"),
    "content-range": ("bytes 0-9/10", "bytes 5-1/*", "bytes 9999999-9999999/99999999", "KEY"),
    "etag": ("KEY", '"1"', b"\xff"),
    "x-ratelimit-limit": ("0", "-1", "nan", "1e999", "9" * 400, "KEY"),
    "x-ratelimit-window-seconds": ("0", "-1", "nan", "1e999", "KEY"),
    "x-ratelimit-remaining": ("0", "-1", "nan", "KEY"),
    "location": (
        "https://evil.example/KEY",
        "//evil.example/x",
        "javascript:alert(1)",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "",
        "/api/v1/agent/1/stop",
        b"https://\xff/",
        "https://user:KEY@evil.example/",
        "http://[::1",
    ),
}
STATUSES = (200, 201, 204, 206, 301, 302, 307, 400, 401, 403, 404, 405, 409, 410, 418, 422, 429, 500, 502, 503, 599)
SCALARS: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    -0.5,
    "",
    "0",
    "7",
    "NaN",
    "null",
    "KEY",
    "the key KEY, and more",
    "\ud800",
    "\x00",
    "\u202egpj.exe",
    "../../../../tmp/evil",
    "C:\\evil",
    "x" * 70_000,
    "0001-01-01T00:00:00",
    "9999-12-31T23:59:59-23:59",
    "2026-13-45T99:99:99",
    "1969-12-31T23:59:59Z",
    "2099-01-01T00:00:00Z",
    "Success",
    "Failure",
    "Running",
    "Stopped",
    "=1+1",
    [],
    {},
    [[]],
    {"id": "KEY"},
    ["KEY"],
)


class HostileWire:
    """
    What is between a client and a sandbox.

    :param sandbox: the honest service.
    :param seed: decides what is changed.
    """

    def __init__(self, sandbox: Sandbox, seed: int) -> None:
        self.sandbox = sandbox
        self.random = random.Random(seed)
        self.share = self.random.choice([0.2, 0.4, 0.7])
        self.is_honest = True
        self.lies: list[str] = []
        self.requests = 0
        self.leaks: list[str] = []
        self.refused_falsely = False
        """Whether something was done that the response says was refused: then nothing can know of it."""
        self.ids: list[int] = []
        """Ids that answers name, to be mistaken for one another."""
        self.interrupt: tuple[int, Callable[[], None]] | None = None
        """The number of a request in the middle of which something happens, and what: a signal, say."""
        self.foreign_ids: list[int] = []
        """Ids of what belongs to others."""

    def answer(self, request: httpx.Request, send: Callable[[httpx.Request], httpx.Response]) -> httpx.Response:
        """Answer a request, in the sandbox's place or with what it says."""
        origin = f"{request.url.scheme}://{request.url.host}:{request.url.port}"
        if origin != self.sandbox.base_url:
            self._check_secrecy(request, origin)
            if origin != self.sandbox.storage.origin:
                return httpx.Response(200, content=b"evil", request=request)
        if self.is_honest:
            return send(request)
        self.requests += 1
        assert self.requests < MAX_REQUESTS, f"it asks for ever: {self.lies}"
        if self.interrupt is not None and self.requests == self.interrupt[0]:
            if self.random.random() < 0.5:
                send(request)  # it arrives, and its response does not
            self.interrupt[1]()
        if len(self.lies) >= MAX_LIES or self.random.random() > self.share:
            return send(request)
        return self._lie(request, send)

    @property
    def lied_about_status(self) -> bool:
        """Whether a response about a status said something else than the service did: then nothing can know it."""
        return any("/status" in lie and ("body" in lie or "->" in lie or "raw" in lie) for lie in self.lies)

    def _check_secrecy(self, request: httpx.Request, origin: str) -> None:
        """Note whether the key goes elsewhere. An address that holds it was made by the server itself."""
        request.read()
        if self.sandbox.api_key in f"{request.headers.multi_items()} {request.content!r}":
            self.leaks.append(f"to {origin}")

    def _lie(self, request: httpx.Request, send: Callable[[httpx.Request], httpx.Response]) -> httpx.Response:
        where = f"{request.method} {request.url.path.removeprefix('/api/v1')}"
        kind = self.random.choice([*["body"] * 4, "header", "header", "status", "lost", "unsent", "raw", "echo"])
        if kind == "unsent":
            self.lies.append(f"{where}: not sent")
            if self.random.random() < 0.5:
                raise httpx.ConnectError("no connection", request=request)
            return self._made(request, self.random.choice(STATUSES), [], b"{}")
        response = send(request)
        content = b"".join(response.stream)  # type: ignore[arg-type]
        response.close()
        if kind == "lost":
            self.lies.append(f"{where}: lost")
            error = self.random.choice([httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError])
            raise error("lost", request=request)
        headers = [(name, value) for name, value in response.headers.raw if name.lower() not in FRAMING]
        if response.headers.get("content-encoding") == "gzip":
            content = gzip.decompress(content)
        status, headers, content = self._changed(kind, where, response.status_code, headers, content)
        is_refusal = 400 <= status < 500 or b'"success": false' in content.replace(b"\0", b"")
        if request.method == "POST" and response.is_success and is_refusal:
            self.refused_falsely = True
        return self._made(request, status, headers, content)

    def _changed(
        self, kind: str, where: str, status: int, headers: list[tuple[bytes, bytes]], content: bytes
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        if kind == "body":
            return status, headers, self._mutated(content, where)
        if kind == "status":
            status = self.random.choice(STATUSES)
            headers = [*headers, *[self._header() for _ in range(self.random.choice([0, 2]))]]
        elif kind == "header":
            name, value = self._header()
            headers = [*[each for each in headers if each[0].lower() != name], (name, value)]
            where = f"{where}: {name!r} {value!r:.60}"
            if name == b"location" and self.random.random() < 0.7:
                status = 302
        elif kind == "raw":
            content = self._raw(content)
        else:
            status, content = self.random.choice([status, 400, 404, 409, 500]), self._echo()
        self.lies.append(f"{where}: {kind} {status} {content[:40]!r}")
        return status, headers, content

    def _made(
        self, request: httpx.Request, status: int, headers: list[tuple[bytes, bytes]], content: bytes
    ) -> httpx.Response:
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(content), request=request)

    def _header(self) -> tuple[bytes, bytes]:
        name = self.random.choice(sorted(HEADERS))
        value = self.random.choice(HEADERS[name])
        if name == "date" and self.random.random() < 0.7:
            seconds = self.random.choice([-90_000, -7200, -301, -62, 62, 301, 7200, 90_000])
            value = format_datetime(self.sandbox.now + timedelta(seconds=seconds), usegmt=True)
        raw = value if isinstance(value, bytes) else value.encode()
        return name.encode(), raw.replace(b"KEY", self.sandbox.api_key.encode())

    def _echo(self) -> bytes:
        key = self.sandbox.api_key
        text = self.random.choice(
            [
                json.dumps({"title": key, "detail": f"Key {key} is wrong", "success": False, "error": key}),
                f"Bad key {key}",
                f"<html>{key}</html>",
                json.dumps("".join(f"\\u{ord(c):04x}" for c in key)).replace("\\\\", "\\"),
                json.dumps({"message": "x", "detail": [key], "errors": {key: key}}),
            ]
        )
        return text.encode(self.random.choice(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]))

    def _raw(self, content: bytes) -> bytes:
        return self.random.choice(
            [
                b"",
                b" ",
                b"null",
                b"[]",
                b"{}",
                b"0",
                b'"text"',
                b"true",
                b"\xff\xfe\x00",
                b"<!doctype html><html><body>login</body></html>",
                b"[" * 100_000,
                b'{"a":' * 5000,
                content[: len(content) // 2],
                content + content,
                b"\xef\xbb\xbf" + content,
                gzip.compress(content),
            ]
        )

    def _mutated(self, content: bytes, where: str) -> bytes:
        try:
            value = json.loads(content)
        except ValueError:
            return self._raw(content)
        places = list(_places(value))
        self.ids += [v for path, v in places if path and str(path[-1]).lower().endswith("id") and type(v) is int]
        for _ in range(self.random.choice([1, 1, 1, 2, 4])):
            places = list(_places(value))
            path, old = self.random.choice(places)
            new = self._replacement(path, old)
            self.lies.append(f"{where}: {'.'.join(map(str, path))} {old!r:.40} -> {new!r:.40}")
            value = _with(value, path, new)
        text = json.dumps(value, ensure_ascii=self.random.random() < 0.7)
        text = text.replace("KEY", self.sandbox.api_key)
        encoding = "utf-16" if self.random.random() < 0.1 else "utf-8"
        return text.encode(encoding, errors="surrogatepass")

    def _replacement(self, path: tuple[Any, ...], old: Any) -> Any:
        draw = self.random.random()
        if isinstance(old, list) and draw < 0.7:
            return self.random.choice(
                [[], old + old, old[:-1], old[1:], list(reversed(old)), {"items": old}, [None, *old], [old]]
            )
        if isinstance(old, dict) and draw < 0.5:
            return self.random.choice([[old], {}, list(old.values()), _DROP, {"item": old}])
        if draw < 0.15:
            return _DROP
        if type(old) is int and draw < 0.6:
            others = [old + 1, old - 1, -old, str(old), f" {old} ", old * 1000, f"{old}.0", f"{old}x"]
            return self.random.choice([*others, *self.ids[-10:], *self.foreign_ids * 2])
        if isinstance(old, str) and draw < 0.3:
            return self.random.choice([old + "KEY", old.upper(), [old], {"value": old}, old * 50])
        return self.random.choice(SCALARS)


_DROP = object()


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from _places(inner, (*path, name))


def _with(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return None if new is _DROP else new
    first, *rest = path
    changed: Any = dict(value) if isinstance(value, dict) else list(value)
    if not rest and new is _DROP:
        del changed[first]
    else:
        changed[first] = _with(value[first], tuple(rest), new)
    return changed


@contextmanager
def hostile(wire: HostileWire) -> Iterator[HostileWire]:
    """Let all blocking clients of this process talk over the wire, and the sandbox's time pass for time to sleep."""
    sandbox, original = wire.sandbox, httpx.HTTPTransport.handle_request

    def clock() -> float:
        return sandbox.now.timestamp()

    def sleep(seconds: float) -> None:
        sandbox.advance(min(max(seconds, 0.0), 200_000.0))

    def handle(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        return wire.answer(request, lambda asked: original(transport, asked))

    defaults: Any = SequentumClient.__init__.__kwdefaults__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx.HTTPTransport, "handle_request", handle)
        patch.setitem(defaults, "sleep", sleep)
        patch.setitem(defaults, "clock", clock)
        budget = RequestBudget(clock=clock)
        patch.setattr("airflow_provider_sequentum.api.client.budget_of", lambda origin, key: budget)
        patch.setattr("airflow_provider_sequentum.hooks.port.time", SimpleNamespace(sleep=sleep))
        patch.setattr("airflow_provider_sequentum.hooks.port.steady_clock", lambda: lambda: sandbox.now)
        yield wire
