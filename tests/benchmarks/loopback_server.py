"""The fastest honest counterpart for client benchmarks: a process that answers the status of a run, and a file.

It speaks just enough HTTP, so that what is measured is the client. ``/api/v1/...`` answers a run, a path that ends in
``/download`` redirects to the file, and ``/file`` sends it with ``sendfile``. Each answer can be made to take a while,
as from a service that isn't on this machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RUN = json.dumps(
    {
        "id": 42,
        "configId": 7,
        "configName": "Prices",
        "spaceId": 3,
        "organizationId": 1,
        "sequence": 12,
        "parallelism": 1,
        "startTime": "2026-09-30T23:59:59.1234567",
        "endTime": None,
        "created": "2026-09-30T23:59:58Z",
        "status": 1,
        "message": None,
        "configVersion": 5,
        "actionCount": 100,
        "pageCount": 40,
        "dataCount": 1234,
        "errorCount": 0,
        "exportCount": None,
        "traffic": 123456,
        "runTimeSec": 61,
        "serverName": "worker-1",
        "tableType": "run",
    }
).encode()
_HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nX-RateLimit-Limit: 1000000\r\n"
    f"X-RateLimit-Window-Seconds: 1\r\nContent-Length: {len(RUN)}\r\n\r\n"
).encode()
_RANGE = re.compile(rb"\r\nrange: bytes=(\d+)-", re.IGNORECASE)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, file: Path | None, delay: float) -> None:
    while head := await _head(reader):
        await asyncio.sleep(delay)
        path = head.split(b" ", 2)[1]
        if path == b"/file" and file is not None:
            await _send_file(writer, file, head)
        elif path.endswith(b"/download"):
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: /file\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.write(_HEAD + RUN)
        await writer.drain()
    writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def _send_file(writer: asyncio.StreamWriter, file: Path, head: bytes) -> None:
    wanted = _RANGE.search(head)
    start, size = int(wanted[1]) if wanted else 0, await asyncio.to_thread(lambda: file.stat().st_size)
    status = f"206 Partial Content\r\nContent-Range: bytes {start}-{size - 1}/{size}" if wanted else "200 OK"
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {size - start}\r\n\r\n".encode())
    with file.open("rb") as content:
        await asyncio.get_running_loop().sendfile(writer.transport, content, start)


async def _main(delay: float, file: Path | None) -> None:
    server = await asyncio.start_server(lambda reader, writer: _serve(reader, writer, file, delay), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def loopback_server(file: Path | None = None, delay: float = 0.0) -> Iterator[str]:
    """Run the server in a process of its own and yield its base URL; each answer takes ``delay`` seconds."""
    command = [sys.executable, "-m", "tests.benchmarks.loopback_server", str(delay)]
    command += [os.fspath(file)] if file else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(_main(float(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
