"""A bare HTTP client for the sandbox: the provider's own client must not explain away what the sandbox does."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Any

import httpx

from airflow_provider_sequentum.sandbox import Sandbox

# Without certificates to load, which would cost more than most tests; and nothing kept open between tests.
plain = httpx.Client(verify=False, timeout=30, limits=httpx.Limits(max_keepalive_connections=0))

TERMINAL = {6, 7, 8, 9, 10, 11}


class Api:
    """The API of a sandbox, with its first key."""

    def __init__(self, sandbox: Sandbox, key: str | None = None) -> None:
        self.sandbox = sandbox
        self.http = httpx.Client(
            base_url=f"{sandbox.base_url}/api/v1",
            headers={"Authorization": f"ApiKey {key or sandbox.api_key}"},
            timeout=30,
            verify=False,
        )

    def get(self, path: str, **params: Any) -> Any:
        """The JSON of a successful GET."""
        return self.http.get(path, params=params).raise_for_status().json()

    def post(self, path: str, body: Any = None) -> httpx.Response:
        """The response to a POST."""
        return self.http.post(path, json=body) if body is not None else self.http.post(path)

    def start(self, agent_id: int, **body: Any) -> int:
        """Start a run; its id."""
        answer = self.post(f"/agent/{agent_id}/start", body).raise_for_status().json()
        return int(answer["id"])

    def status(self, agent_id: int, run_id: int) -> Any:
        """The run as it is."""
        return self.get(f"/agent/{agent_id}/run/{run_id}/status")

    def finished(self, agent_id: int, seconds: float = 5, **body: Any) -> int:
        """Start a run and let ``seconds`` pass; its id."""
        run_id = self.start(agent_id, **body)
        self.sandbox.advance(seconds)
        assert self.status(agent_id, run_id)["status"] in TERMINAL
        return run_id


def until(condition: Any, seconds: float = 10) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def send(origin: str, target: str, headers: Sequence[str], method: str = "GET", version: str = "1.1") -> httpx.Response:
    """Send a request of which nothing is corrected on the way."""
    url = httpx.URL(origin)
    lines = [f"{method} {target} HTTP/{version}", *headers, "Connection: close", "", ""]
    with socket.create_connection((url.host, url.port or 80), timeout=10) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1"))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    pairs = [(name, value.strip()) for name, _, value in (field.partition(":") for field in fields)]
    encoded = [(name, value) for name, value in pairs if name.lower() != "transfer-encoding"]
    return httpx.Response(int(status.split()[1]), headers=encoded, content=body)
