from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from airflow_provider_sequentum.api import AsyncSequentumClient, ClientSettings, SequentumClient, files, runs
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.sandbox import Sandbox

T = TypeVar("T")

Send = Callable[[Call[Any]], Any]


@pytest.fixture
def service() -> Iterator[Sandbox]:
    """A sandbox whose time stands almost still unless a test moves it."""
    with Sandbox(rate_limit=100_000) as opened:
        yield opened


@pytest.fixture
def settings(service: Sandbox) -> ClientSettings:
    """Settings of a client of that sandbox."""
    return ClientSettings(api_key=service.api_key, base_url=service.base_url)


@pytest.fixture(params=["sync", "async"])
def send(request: pytest.FixtureRequest, settings: ClientSettings) -> Iterator[Send]:
    """Send a call with one of the drivers."""
    if request.param == "sync":
        with SequentumClient(settings) as client:
            yield client.send
        return
    with asyncio.Runner() as runner:
        asynchronous = AsyncSequentumClient(settings)
        yield lambda call: runner.run(asynchronous.send(call))
        runner.run(asynchronous.close())


RECORDS = [{"sku": f"A{number}", "name": "laptop " * 10} for number in range(100)]


def finished_run(
    service: Sandbox, settings: ClientSettings, records: list[dict[str, Any]] | None = None
) -> tuple[int, int, files.RunFile]:
    """Let a run end; return agent id, run id and the delivered file."""
    agent = service.add_agent("Prices", records=records or RECORDS, duration=1)
    with SequentumClient(settings) as client:
        run = client.send(runs.start(agent.id))
        service.advance(30)
        listed = client.send(files.list_files(agent.id, run.id))
    return agent.id, run.id, next(file for file in listed if file.file_type is files.FileType.DELIVERED_FILE)
