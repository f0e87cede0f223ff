"""Answers that are wrong below JSON, straight from a socket: one of our errors, with both drivers, never the key."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from airflow_provider_sequentum.api import AsyncSequentumClient, ClientSettings, SequentumClient, files, runs
from airflow_provider_sequentum.api.errors import SequentumError

KEY = "sk-0123456789abcdef"
FILE = files.RunFile(id=3, name="prices.csv")
ANSWERS = {
    "no_http": b"220 mail.example ESMTP\r\n\r\n",
    "status_of_four_digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "endless_header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "length_of_5000_digits": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nabc",
    "body_cut": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc",
    "no_chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "no_gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "other_protocol": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "redirect_to_nowhere": b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
    "redirect_to_itself": b"HTTP/1.1 302 Found\r\nLocation: \xff\xfe\r\nContent-Length: 0\r\n\r\n",
    "nothing": b"",
}


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Answer every connection with the same bytes and close it; yields the base URL."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed: the test is over
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def ask(settings: ClientSettings, driver: str, what: str) -> None:
    destination = io.BytesIO()
    if driver == "sync":
        with SequentumClient(settings) as client:
            if what == "call":
                client.send(runs.list_runs(7))
            else:
                client.download(agent_id=7, run_id=42, file=FILE, destination=destination)
        return

    async def ask_async() -> None:
        async with AsyncSequentumClient(settings) as client:
            if what == "call":
                await client.send(runs.list_runs(7))
            else:
                await client.download(agent_id=7, run_id=42, file=FILE, destination=destination)

    asyncio.run(ask_async())


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("what", ["call", "download"])
@pytest.mark.parametrize("driver", ["sync", "async"])
def test_whatever_comes_out_of_the_socket_is_one_of_our_errors(driver: str, what: str, answer: str) -> None:
    with answering(ANSWERS[answer]) as base_url, pytest.raises(SequentumError) as caught:
        ask(ClientSettings(api_key=KEY, base_url=base_url, max_attempts=1), driver, what)

    assert KEY not in "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
