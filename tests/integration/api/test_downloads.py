"""Downloads over real HTTP, from a storage on another port that records whatever key reaches it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from airflow_provider_sequentum.api import AsyncSequentumClient, ClientSettings, SequentumClient, files, runs
from airflow_provider_sequentum.api.errors import DownloadError
from airflow_provider_sequentum.sandbox import Sandbox
from tests.integration.api.conftest import RECORDS, finished_run

Download = Callable[[int, int, files.RunFile], bytes]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.api.retry.FIRST_WAIT", 0.01)


@pytest.fixture(params=["sync", "async"])
def download(request: pytest.FixtureRequest, settings: ClientSettings) -> Download:
    """Download a file with one of the drivers."""

    def blocking(agent_id: int, run_id: int, file: files.RunFile) -> bytes:
        destination = io.BytesIO()
        with SequentumClient(settings) as client:
            client.download(agent_id=agent_id, run_id=run_id, file=file, destination=destination)
        return destination.getvalue()

    async def asynchronous(agent_id: int, run_id: int, file: files.RunFile) -> bytes:
        destination = io.BytesIO()
        async with AsyncSequentumClient(settings) as client:
            await client.download(agent_id=agent_id, run_id=run_id, file=file, destination=destination)
        return destination.getvalue()

    return blocking if request.param == "sync" else lambda *what: asyncio.run(asynchronous(*what))


@pytest.mark.parametrize("code", [200, 301, 302, 303, 307, 308])
def test_a_file_arrives_whole_and_no_key_reaches_storage(
    service: Sandbox, settings: ClientSettings, download: Download, code: int
) -> None:
    service.dialect.download = code  # type: ignore[assignment]
    agent_id, run_id, file = finished_run(service, settings)

    content = download(agent_id, run_id, file)

    assert len(content) == file.file_size
    assert content.count(b"\n") == len(RECORDS) + 1
    assert service.ledger.leaks == []


@pytest.mark.parametrize("times", [1, 4])
def test_a_broken_download_is_resumed(
    service: Sandbox, settings: ClientSettings, download: Download, times: int
) -> None:
    agent_id, run_id, file = finished_run(service, settings)
    whole = download(agent_id, run_id, file)
    service.fail_next("GET /storage/*", "truncated", after_bytes=1000, times=times)

    assert download(agent_id, run_id, file) == whole
    asked = [entry for entry in service.ledger.requests if entry.path.endswith("/download")]
    assert len(asked) == 2 + times
    assert service.ledger.leaks == []


@pytest.mark.parametrize("fault", ["reset_before", "reset_after", "status"])
def test_a_failing_api_or_storage_is_asked_again(
    service: Sandbox, settings: ClientSettings, download: Download, fault: str
) -> None:
    agent_id, run_id, file = finished_run(service, settings)
    service.fail_next("GET /storage/*", fault, times=2)  # type: ignore[arg-type]
    service.fail_next("GET /agent/{agent_id}/run/{run_id}/file/{file_id}/download", fault, times=1)  # type: ignore[arg-type]

    assert len(download(agent_id, run_id, file)) == file.file_size


def test_an_expired_address_is_replaced(
    service: Sandbox, settings: ClientSettings, download: Download, caplog: pytest.LogCaptureFixture
) -> None:
    agent_id, run_id, file = finished_run(service, settings)
    service.fail_next("GET /storage/*", "status", status=403, body="Signature expired", times=2)

    with caplog.at_level(logging.DEBUG):
        assert len(download(agent_id, run_id, file)) == file.file_size

    assert "/storage" not in caplog.text
    assert "signature" not in caplog.text.lower().replace("signature expired", "")


def test_an_address_that_is_always_expired_ends_in_an_error_without_it(
    service: Sandbox, settings: ClientSettings, download: Download
) -> None:
    agent_id, run_id, file = finished_run(service, settings)
    service.fail_next("GET /storage/*", "status", status=403, times=None)

    with pytest.raises(DownloadError) as error:
        download(agent_id, run_id, file)

    assert "/storage" not in str(error.value)


def test_a_large_file_is_read_in_large_pieces_and_arrives_unchanged(
    service: Sandbox, settings: ClientSettings, tmp_path: Path
) -> None:
    records = [{"number": number, "text": "x" * 1000} for number in range(20_000)]
    agent_id, run_id, file = finished_run(service, settings, records)
    assert file.file_size is not None
    assert file.file_size > 20_000_000
    pieces: list[int] = []
    digest = hashlib.sha256()

    class Destination:
        def write(self, data: bytes, /) -> None:
            pieces.append(len(data))
            digest.update(data)

    with SequentumClient(settings) as client:
        client.download(agent_id=agent_id, run_id=run_id, file=file, destination=Destination())
        target = tmp_path / "again"
        with target.open("wb") as destination:
            client.download(agent_id=agent_id, run_id=run_id, file=file, destination=destination)
        # The connection is fit for ordinary calls afterwards.
        assert client.send(runs.status(agent_id, run_id)).id == run_id

    assert hashlib.sha256(target.read_bytes()).digest() == digest.digest()
    assert max(pieces) > 65_536


def test_many_small_files_by_many_threads_of_one_client(service: Sandbox, settings: ClientSettings) -> None:
    agent_id, run_id, file = finished_run(service, settings)

    with SequentumClient(settings) as client, ThreadPoolExecutor(8) as threads:

        def fetch(_number: int) -> bytes:
            destination = io.BytesIO()
            client.download(agent_id=agent_id, run_id=run_id, file=file, destination=destination)
            return destination.getvalue()

        contents = list(threads.map(fetch, range(120)))

    assert {len(content) for content in contents} == {file.file_size}
    assert len(set(contents)) == 1


class _CountingHandler(BaseHTTPRequestHandler):
    """Redirects to a file on the same server, keeps connections open, and counts them."""

    protocol_version = "HTTP/1.1"
    connections = 0

    def setup(self) -> None:
        type(self).connections += 1
        super().setup()

    def do_GET(self) -> None:
        is_file = self.path == "/file"
        content = b"sku\nA1\n" if is_file else b"<p>Found here</p>"
        self.send_response(200 if is_file else 302)
        if not is_file:
            self.send_header("Location", "/file")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def test_the_connection_to_the_api_is_used_for_the_next_file() -> None:
    """With TLS a new one for each file would cost more than a small file itself."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _CountingHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = ClientSettings(api_key="sk-test", base_url=f"http://127.0.0.1:{server.server_port}")
        with SequentumClient(settings) as client:
            for number in range(1, 6):
                target = io.BytesIO()
                client.download(agent_id=7, run_id=42, file=files.RunFile(id=number, name="a.csv"), destination=target)
                assert target.getvalue() == b"sku\nA1\n"
        server.shutdown()
    assert _CountingHandler.connections == 1
