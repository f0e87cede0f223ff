"""
A process that hosts many triggers, as a triggerer does, and measures what they cost it. Runs in real time.

    python -m tests.benchmarks.bench_waiting.host <kind> <waits> <agents> <service url>

Prints one line of JSON. It imports nothing of this project but the trigger it is asked for, because the triggers of
other providers live in an environment of their own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil

WAITS_PER_SECOND = 50
"""How many triggers a triggerer takes up in a second ([triggerer] max_trigger_to_select_per_loop)."""
SETTLING = 20.0
"""Seconds between the last trigger's start and the measurement."""
MEASURED = 120.0
"""Seconds that are measured: each of those who poll every minute asks twice."""
PROBE_INTERVAL = 0.01

KEY = "sk-benchmark"


class Lag:
    """
    Looks every ten milliseconds how late the event loop is.

    Processor time is told apart, because on a busy machine a process waits for its turn as well; and the pauses of
    Python's garbage collector, which grow with the objects of the whole process and hit whoever runs just then.
    """

    def __init__(self) -> None:
        self.worst = self.worst_own = self.worst_pause = 0.0
        self._paused = self._pause_began = 0.0
        gc.callbacks.append(self._note_pause)

    async def probe(self) -> None:
        while True:
            began, own, paused = time.monotonic(), time.thread_time(), self._paused
            await asyncio.sleep(PROBE_INTERVAL)
            self.worst = max(self.worst, time.monotonic() - began - PROBE_INTERVAL)
            self.worst_own = max(self.worst_own, time.thread_time() - own - (self._paused - paused))

    def reset(self) -> None:
        self.worst = self.worst_own = self.worst_pause = 0.0

    def figures(self, name: str) -> dict[str, float]:
        return {f"lag_{name}": self.worst, f"own_lag_{name}": self.worst_own, f"gc_pause_{name}": self.worst_pause}

    def _note_pause(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._pause_began = time.thread_time()
        else:
            pause = time.thread_time() - self._pause_began
            self._paused += pause
            self.worst_pause = max(self.worst_pause, pause)


def sleeping(url: str, agents: int) -> Callable[[int], Any]:
    """Triggers that only sleep: what Airflow itself takes."""
    from airflow.triggers.base import BaseTrigger, TriggerEvent

    class SleepingTrigger(BaseTrigger):
        def __init__(self, number: int) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.number = number

        def serialize(self) -> tuple[str, dict[str, Any]]:
            return "tests.SleepingTrigger", {"number": self.number}

        async def run(self) -> AsyncIterator[TriggerEvent]:
            await asyncio.sleep(86_400)
            yield TriggerEvent(self.number)  # type: ignore[no-untyped-call]

    return SleepingTrigger


def ours(url: str, agents: int) -> Callable[[int], Any]:
    """The trigger of this project."""
    from airflow_provider_sequentum.triggers.agent_run import AgentRunTrigger

    connection = {"conn_type": "sequentum", "host": url, "password": os.environ.get("BENCH_KEY", KEY)}
    os.environ["AIRFLOW_CONN_BENCH"] = json.dumps(connection)
    named = os.environ.get("BENCH_RUNS")
    runs = json.loads(Path(named).read_text()) if named else None

    def make(number: int) -> AgentRunTrigger:
        agent_id, run_id = runs[number] if runs else (1 + number % agents, 1 + number)
        return AgentRunTrigger(
            sequentum_conn_id="bench",
            agent_id=agent_id,
            run_id=run_id,
            deadline="2100-01-01T00:00:00+00:00",
            stop_on_kill=True,
            carried={"own": "2100-01-01T00:00:00+00:00", "execution": None, "restarts_done": 0},
        )

    return make


def dbt_cloud(url: str, agents: int) -> Callable[[int], Any]:
    """The trigger of apache-airflow-providers-dbt-cloud, with the operator's default interval of a minute."""
    from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook  # type: ignore[import-not-found]
    from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger  # type: ignore[import-not-found]

    def plain_http(tenant: str, endpoint: str, *_: Any, **__: Any) -> tuple[str, dict[str, Any]]:
        return f"{url}/api/v2/accounts/{endpoint}", {}

    # The hook insists on https. Without it, it is spared the handshakes.
    DbtCloudHook.get_request_url_params = staticmethod(plain_http)
    connection = {"conn_type": "dbt_cloud", "host": "stub.invalid", "login": "1", "password": KEY}
    os.environ["AIRFLOW_CONN_BENCH"] = json.dumps(connection)
    return lambda number: DbtCloudRunJobTrigger(
        conn_id="bench", run_id=1 + number, end_time=time.time() + 86_400, poll_interval=60, account_id=1
    )


def airbyte(url: str, agents: int) -> Callable[[int], Any]:
    """The trigger of apache-airflow-providers-airbyte, with the operator's default interval of a minute."""
    from airflow.providers.airbyte.triggers.airbyte import AirbyteSyncTrigger  # type: ignore[import-not-found]

    os.environ["AIRFLOW_CONN_BENCH"] = json.dumps({"conn_type": "airbyte", "host": f"{url}/airbyte"})
    return lambda number: AirbyteSyncTrigger(
        job_id=1 + number, conn_id="bench", end_time=time.time() + 86_400, poll_interval=60
    )


KINDS = {"floor": sleeping, "ours": ours, "dbt": dbt_cloud, "airbyte": airbyte}


async def host(make: Callable[[int], Any], waits: int) -> dict[str, float]:
    """Host so many triggers; return the figures."""
    lag, process = Lag(), psutil.Process()
    events: list[Any] = []

    async def run_trigger(trigger: Any) -> None:
        async for event in trigger.run():
            events.append(event)  # noqa: PERF401 - while they come

    tasks = [asyncio.create_task(run_trigger(make(0)))]  # loads what is loaded at first use
    await asyncio.sleep(5)
    gc.collect()
    memory = process.memory_full_info().uss
    probe = asyncio.create_task(lag.probe())
    per_second = max(WAITS_PER_SECOND, waits // 20)
    for number in range(1, waits):
        tasks.append(asyncio.create_task(run_trigger(make(number))))
        if number % per_second == 0:
            await asyncio.sleep(1)
    await asyncio.sleep(SETTLING)
    while_coming = lag.figures("coming")
    lag.reset()
    cpu, began = sum(process.cpu_times()[:2]), time.monotonic()
    await asyncio.sleep(MEASURED)
    minutes = (time.monotonic() - began) / 60
    cpu = sum(process.cpu_times()[:2]) - cpu
    while_waiting = lag.figures("waiting")
    lag.reset()
    gc.collect()
    result = {
        "waits": waits,
        "bytes_per_wait": (process.memory_full_info().uss - memory) / waits,
        "cpu_seconds_per_minute": cpu / minutes,
        "full_collection": lag.worst_pause,
        "events": len(events),
        **while_coming,
        **while_waiting,
    }
    for task in [*tasks, probe]:
        task.cancel()
    await asyncio.gather(*tasks, probe, return_exceptions=True)
    return result


def main() -> None:
    """Measure one kind of trigger."""
    kind, waits, agents, url = sys.argv[1:]
    os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))
    # Log lines are made, as in a triggerer, and thrown away.
    out = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    result = asyncio.run(host(KINDS[kind](url, int(agents)), int(waits)))
    os.write(out, json.dumps(result).encode())


if __name__ == "__main__":
    main()
