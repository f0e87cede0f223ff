"""Bursts on a key with 100 requests per window, from tasks and threads. The window is short so that the tests are."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Literal

import pytest

from airflow_provider_sequentum.api import ClientSettings
from airflow_provider_sequentum.sandbox import Sandbox
from tests.integration.api.burst import burst_of_tasks, burst_of_threads


@pytest.mark.parametrize(
    ("count", "window"),
    [
        (100, "fixed"),
        (100, "sliding"),
        pytest.param(1000, "fixed", marks=pytest.mark.slow),
        pytest.param(1000, "sliding", marks=pytest.mark.slow),
    ],
)
def test_a_burst_alone_on_the_key_meets_no_429(count: int, window: Literal["fixed", "sliding"]) -> None:
    with Sandbox(rate_limit=100, rate_window_seconds=0.5, rate_queue=0, rate_window=window) as service:
        settings = ClientSettings(api_key=service.api_key, base_url=service.base_url)

        assert asyncio.run(burst_of_tasks(settings, count)) == count
        assert burst_of_threads(settings, count) == count

        assert service.ledger.rate_limited == []
        assert len(service.ledger.requests) == 2 * count


@pytest.mark.slow
def test_two_processes_on_one_key_get_every_call_answered() -> None:
    with Sandbox(rate_limit=100, rate_window_seconds=1) as service:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.integration.api.burst", service.base_url, "200", kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for kind in ("threads", "tasks")
        ]
        answered = [process.communicate(service.api_key + "\n")[0].strip() for process in processes]

        assert answered == ["200", "200"]
        assert len([entry for entry in service.ledger.requests if entry.status == 200]) == 400
