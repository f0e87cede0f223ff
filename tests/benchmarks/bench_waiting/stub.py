"""A service that answers three APIs (Sequentum Cloud's, dbt Cloud's, Airbyte's) in the same few lines, and counts."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

_TIME = "2026-11-22T09:00:00Z"


class Stub:
    """
    The service, in a thread. Every run it is asked for is still going.

    :param agents: how many agents the runs of Sequentum are spread over, in turn.
    :param runs: how many runs there are.
    """

    def __init__(self, agents: int, runs: int) -> None:
        self._agents, self._runs = agents, runs
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.connections = 0
        self.requests = 0

    def __enter__(self) -> Self:
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result()
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    url: str

    async def _serve(self) -> asyncio.Server:
        return await asyncio.start_server(self._converse, "127.0.0.1", 0, backlog=4096)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                body = json.dumps(self._answer(head.split(b" ", 2)[1].decode())).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-RateLimit-Limit: 100\r\n"
                    b"X-RateLimit-Window-Seconds: 60\r\nContent-Length: %d\r\n\r\n" % len(body) + body
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _answer(self, target: str) -> Any:
        parts = urlsplit(target)
        numbers = [int(number) for number in re.findall(r"/(\d+)", parts.path)]
        if "/accounts/" in parts.path:
            return {"data": {"id": numbers[-1], "status": 3, "job_id": 1, "created_at": _TIME}, "status": {"code": 200}}
        if "/jobs/" in parts.path:
            times = {"startTime": _TIME, "lastUpdatedAt": _TIME, "duration": "PT1M"}
            return {"jobId": numbers[-1], "status": "running", "jobType": "sync", "connectionId": "c", **times}
        if parts.path.endswith("/all"):
            return {
                "agents": [_agent(number) for number in range(1, self._agents + 1)],
                "totalRecordCount": self._agents,
            }
        agent_id = numbers[0]
        if parts.path.endswith("/status"):
            return _run(agent_id, numbers[1])
        most = int(parse_qs(parts.query)["maxRecords"][0])
        first = agent_id if agent_id <= self._agents else 1
        return [_run(agent_id, run_id) for run_id in range(first, self._runs + 1, self._agents)][::-1][:most]


def _agent(agent_id: int) -> dict[str, Any]:
    return {"id": agent_id, "name": f"Agent {agent_id}", "status": 1, "lastActivity": _TIME, "configType": 1}


def _run(agent_id: int, run_id: int) -> dict[str, Any]:
    """A record with all the members that the service documents."""
    counts = dict.fromkeys(
        ("actionCount", "pageCount", "dynamicPageCount", "requestCount", "dataCount", "errorCount", "traffic"), 17
    )
    empty = dict.fromkeys(("parallelism", "parallelSet", "endTime", "message", "inputCount", "exportCount", "tag"))
    return {
        "id": run_id, "configId": agent_id, "configName": f"Agent {agent_id}", "spaceId": 1, "organizationId": 1,
        "organizationName": "Benchmark", "sequence": run_id, "startTime": _TIME, "created": _TIME, "status": 1,
        "configVersion": 3, "runTimeSec": 60, "serverName": "server-1", "tableType": "run", **counts, **empty,
    }  # fmt: skip
