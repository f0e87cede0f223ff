"""Who waits: our triggers, and the pattern of the other providers, each in a process of its own."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import re
import tempfile
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from tests.benchmarks.bench_waiting.scaled_time import ScaledTime, prepare
from tests.benchmarks.bench_waiting.service import StartedRun

CONN_ID = "bench"
PATIENCE_FOR_AN_ANSWER = 60.0
"""Seconds that a single poller waits for one."""


@dataclass
class Heard:
    """
    What a process of waiters heard.

    :param at: when each run's end was heard of, by run id.
    :param errors: waits that ended with an error.
    :param unanswered: questions of single pollers that got no response.
    :param cpu_seconds: processor time while waiting, real seconds.
    """

    at: dict[int, datetime] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    unanswered: int = 0
    cpu_seconds: float = 0.0


class WaiterProcess:
    """
    A process that runs one of the coroutines below in scaled time.

    :param connection: the Airflow connection of the service.
    :param target: the coroutine function; it is given the time and then the arguments of :meth:`begin`.
    """

    def __init__(self, connection: str, target: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, connection, target), daemon=True)
        self._process.start()

    def wait_until_ready(self) -> None:
        """Return when everything is imported."""
        if not self._pipe.poll(120):
            raise RuntimeError("the waiters do not come up")
        self._pipe.recv()

    def begin(self, time: ScaledTime, *arguments: Any, **options: Any) -> None:
        """Let it begin."""
        self._pipe.send((time, arguments, options))

    def result(self, timeout: float) -> Any:
        """Return what the coroutine returned; the time-out is in real seconds."""
        if not self._pipe.poll(timeout):
            raise RuntimeError("the waiters did not come back")
        result = self._pipe.recv()
        self._process.join()
        if isinstance(result, BaseException):
            raise result
        return result


def _work(pipe: Any, connection: str, target: Any) -> None:
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-home-")
    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = connection
    # A triggerer's log goes to files of its own; the lines are made here too, and thrown away.
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    prepare()
    from airflow_provider_sequentum.api import AsyncSequentumClient  # noqa: F401 - so that it is there
    from airflow_provider_sequentum.watching import watcher  # noqa: F401

    pipe.send("ready")
    time, arguments, options = pipe.recv()
    time.begin()
    try:
        pipe.send(time.run(target(time, *arguments, **options)))
    except BaseException as error:  # noqa: BLE001 - it is raised again where the result is asked for
        pipe.send(RuntimeError(repr(error)))


async def our_triggers(time: ScaledTime, runs: list[StartedRun], seconds: float, *, is_warm: bool) -> Heard:
    """
    Wait with one trigger for each run, as a triggerer does.

    :param is_warm: whether it has polled with the key before, and had it for itself, as in the laboratory.
    """
    from airflow_provider_sequentum.api import ClientSettings, budget
    from airflow_provider_sequentum.triggers.agent_run import AgentRunTrigger
    from airflow_provider_sequentum.watching import watcher as run_watcher
    from airflow_provider_sequentum.watching.watch_list import Moment

    run_watcher.present = lambda: Moment(time.monotonic(), time.utc())
    if is_warm:
        connection = json.loads(os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"])
        settings = ClientSettings(api_key=connection["password"], base_url=connection["host"])
        budget.budget_of(settings.origin, settings.api_key).pace.level = 1.0
    heard = Heard()

    async def wait(run: StartedRun) -> None:
        trigger = AgentRunTrigger(sequentum_conn_id=CONN_ID, agent_id=run.agent_id, run_id=run.run_id)
        async for event in trigger.run():
            if event.payload["outcome"] == "ended":
                heard.at[run.run_id] = time.utc()
            else:
                heard.errors.append(str(event.payload))

    await _all_within(seconds, [wait(run) for run in runs], heard)
    return heard


async def single_pollers(time: ScaledTime, runs: list[StartedRun], seconds: float, interval: float) -> Heard:
    """
    Wait as the other providers do: each waiter asks by itself, at a fixed interval, and retries on 429.

    Each poll is a connection of its own, as it is with them. The requests are written by hand, because with a
    client's pool a thousand pollers in scaled time would measure the pool.
    """
    connection = json.loads(os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"])
    address = urlsplit(connection["host"])
    head = f"Host: {address.netloc}\r\nAuthorization: ApiKey {connection['password']}\r\nConnection: close\r\n\r\n"
    heard, ended = Heard(), {6, 7, 8, 9, 10, 11}

    async def ask(run: StartedRun) -> tuple[int, float, Any]:
        """Return the status code, seconds to wait after a refusal, and the response."""
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            writer.write(f"GET /api/v1/agent/{run.agent_id}/run/{run.run_id}/status HTTP/1.1\r\n{head}".encode())
            top, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        retry_after = re.search(rb"(?i)^retry-after: *([0-9.]+)", top, re.MULTILINE)
        return int(top.split(b" ", 2)[1]), float(retry_after[1]) if retry_after else 0.0, json.loads(body)

    async def wait(run: StartedRun) -> None:
        await asyncio.sleep(random.uniform(0, interval))
        while True:
            try:
                async with asyncio.timeout(PATIENCE_FOR_AN_ANSWER):
                    status, retry_after, answer = await ask(run)
            except (OSError, TimeoutError):
                heard.unanswered += 1
                await asyncio.sleep(interval)
                continue
            if status == 429:
                await asyncio.sleep(retry_after + random.uniform(0, 1))
                continue
            if answer["status"] in ended:
                heard.at[run.run_id] = time.utc()
                return
            await asyncio.sleep(interval)

    await _all_within(seconds, [wait(run) for run in runs], heard)
    return heard


async def starts(time: ScaledTime, agent_id: int, per_minute: float, count: int) -> tuple[int, list[str]]:
    """Start runs at a steady rate, each like a worker of its own: with a budget that knows nothing of the others."""
    from airflow_provider_sequentum.api import AsyncSequentumClient, ClientSettings, budget, runs
    from airflow_provider_sequentum.api.errors import SequentumError

    connection = json.loads(os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"])
    settings = ClientSettings(api_key=connection["password"], base_url=connection["host"])
    failures: list[str] = []

    async def start() -> None:
        budget._budgets.clear()
        async with AsyncSequentumClient(settings) as client:
            try:
                await client.send(runs.start(agent_id))
            except SequentumError as error:
                failures.append(str(error))

    tasks = []
    for _ in range(count):
        tasks.append(asyncio.create_task(start()))
        await asyncio.sleep(60 / per_minute)
    await asyncio.gather(*tasks)
    return count, failures


async def _all_within(seconds: float, waits: list[Any], heard: Heard) -> None:
    process = psutil.Process()
    before = sum(process.cpu_times()[:2])
    tasks = [asyncio.create_task(wait) for wait in waits]
    done, pending = await asyncio.wait(tasks, timeout=seconds)
    heard.cpu_seconds = sum(process.cpu_times()[:2]) - before
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    heard.errors += [repr(error) for task in done if (error := task.exception()) is not None]
