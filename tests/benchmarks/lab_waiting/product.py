"""The product's own watcher, client and budget in virtual time, in several processes on one key."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

from airflow_provider_sequentum.api import AsyncSequentumClient, ClientSettings, runs
from airflow_provider_sequentum.api.budget import RequestBudget
from airflow_provider_sequentum.api.call import Call, Reply
from airflow_provider_sequentum.api.client import _Client
from airflow_provider_sequentum.api.errors import HttpStatusError, SequentumError
from airflow_provider_sequentum.hooks.connection import SequentumConnection
from airflow_provider_sequentum.runs.phases import phase_of
from airflow_provider_sequentum.runs.wait import PollOutcome, WaitSpec
from airflow_provider_sequentum.watching import watcher
from airflow_provider_sequentum.watching.watch_list import Moment
from tests.benchmarks.lab_waiting import virtual_time
from tests.benchmarks.lab_waiting.service import LIMIT, WINDOW, LabService, LimitedResponse
from tests.benchmarks.lab_waiting.virtual_time import VirtualLoop
from tests.benchmarks.lab_waiting.workloads import SETTLED, PlannedRun, Workload

T = TypeVar("T")

HEADERS = {"x-ratelimit-limit": str(LIMIT), "x-ratelimit-window-seconds": f"{WINDOW:g}"}

log = logging.getLogger("lab")
log.setLevel(logging.ERROR)


@dataclass
class Figures:
    """What came of one workload.

    :param delays: how long after its end each run was heard of.
    :param start_waits: seconds that each start waited for its turn.
    :param refused: requests answered with 429.
    :param requests: how often each kind was sent.
    :param news: how long after its end each run of an agent that is watched was heard of.
    :param per_minute: requests in a minute of the hour in which such runs start.
    """

    delays: list[float]
    start_waits: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0
    requests: dict[str, int] = field(default_factory=dict)
    news: list[float] = field(default_factory=list)
    per_minute: float = 0.0


class LabClient(AsyncSequentumClient):
    """The product's client; only what goes over the wire is the laboratory's."""

    service: LabService
    budgets: dict[str, RequestBudget]
    is_warm: bool
    """Whether the triggerers have polled with the key before, and had it for themselves."""

    def __init__(self, settings: ClientSettings, budget: RequestBudget | None = None) -> None:
        _Client.__init__(self, settings, virtual_time.now)
        self._sleep = asyncio.sleep
        process = settings.api_key
        self._budget = budget or self.budgets.setdefault(process, RequestBudget(virtual_time.now))
        if budget is None and self.is_warm:
            self._budget.pace.level = 1.0

    async def close(self) -> None:
        pass

    async def _attempt(self, call: Call[T], budget_share: float, deadline: Any) -> Reply[T]:
        while (wait := self._seconds_until_turn(call, budget_share, deadline)) > 0:
            await self._sleep(wait)
        return await self.poll(call, budget_share=budget_share)

    async def poll(self, call: Call[T], *, budget_share: float) -> Reply[T]:
        response: Any = None
        sent_at = virtual_time.now()
        try:
            value = await self.service.exchange(call)
            response = SimpleNamespace(status_code=200, headers=HEADERS)
        except LimitedResponse as refusal:
            retry_after = f"{refusal.retry_after:.3f}"
            response = SimpleNamespace(status_code=429, headers={**HEADERS, "retry-after": retry_after})
            raise HttpStatusError("Too many.", status_code=429, retry_after=refusal.retry_after) from None
        except SequentumError:
            response = SimpleNamespace(status_code=400, headers=HEADERS)
            raise
        finally:
            self._settle(response, self._took(sent_at, call, budget_share))
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return Reply(value, loop.utc().replace(microsecond=0))


def measure(workload: Workload, seed: int, per_minute: int | None = None, *, is_warm: bool = False) -> Figures:
    """Wait for a workload with the product.

    :param per_minute: the ``requests_per_minute`` of each triggerer's connection.
    :param is_warm: whether the triggerers have polled with the key before, and had it for themselves.
    """
    planned = workload.runs(seed)
    watched = workload.watched_runs(seed)
    service = LabService([*planned, *watched], seed, workload.listed_agents)
    random.seed(seed)
    LabClient.is_warm = is_warm
    with _in_the_laboratory(service, per_minute):
        return virtual_time.run(_observe(workload, planned, watched, service))


@contextmanager
def _in_the_laboratory(service: LabService, per_minute: int | None) -> Iterator[None]:
    async def settings(hook: SequentumConnection) -> ClientSettings:
        return ClientSettings(api_key=hook.sequentum_conn_id, requests_per_minute=per_minute)

    async def here(function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    def present() -> Moment:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return Moment(loop.time(), loop.utc())

    LabClient.service, LabClient.budgets = service, {}
    with (
        mock.patch.object(SequentumConnection, "aget_settings", settings),
        mock.patch("airflow_provider_sequentum.api.AsyncSequentumClient", LabClient),
        mock.patch.object(asyncio, "to_thread", here),
        mock.patch.object(watcher, "present", present),
    ):
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


async def _observe(
    workload: Workload, planned: list[PlannedRun], watched: list[PlannedRun], service: LabService
) -> Figures:
    heard: dict[int, float] = {}

    async def wait(run: PlannedRun) -> None:
        await asyncio.sleep(run.began)
        spec = WaitSpec(agent_id=run.agent_id, run_id=run.run_id)
        outcome, _ = await watcher.wait_for_run(f"triggerer-{run.triggerer}", spec, log)
        assert outcome is PollOutcome.ENDED
        heard[run.run_id] = virtual_time.now()

    async def listen(agent_id: int) -> None:
        async for listing in watcher.listen("triggerer-0", agent_id, 60.0):
            for run in listing.runs:
                if phase_of(run).is_over:
                    heard.setdefault(run.id, virtual_time.now())

    starts = _Starts()
    tasks = [asyncio.create_task(wait(run)) for run in planned]
    others = [asyncio.create_task(starts.go_on(workload.starts_per_minute))] if workload.starts_per_minute else []
    others += [asyncio.create_task(listen(agent_id)) for agent_id in {run.agent_id for run in watched}]
    ended, unheard = await _wait(tasks, None if workload.minutes is None else workload.minutes * 60)
    for task in ended:
        task.result()
    for task in (*others, *starts.tasks, *unheard):
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*others, *starts.tasks, *unheard, return_exceptions=True)
    until = virtual_time.now()
    delays = [heard.get(run.run_id, until) - run.end for run in planned if run.end < until]
    news = [heard.get(run.run_id, until) - run.end for run in watched if run.began >= SETTLED and run.end < until]
    in_hour = sum(SETTLED <= at < SETTLED + 3600 for at in service.sent)
    return Figures(delays, starts.waits, service.refused, starts.failed, dict(service.requests), news, in_hour / 60)


class _Starts:
    """Starts by workers, each a process of its own."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.failed = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def go_on(self, per_minute: float) -> None:
        while True:
            self.tasks.append(asyncio.create_task(self._start()))
            await asyncio.sleep(60.0 / per_minute)

    async def _start(self) -> None:
        asked_at = virtual_time.now()
        client = LabClient(ClientSettings(api_key="worker"), RequestBudget(virtual_time.now))
        try:
            await client.send(runs.start(1))
        except SequentumError:
            self.failed += 1
        self.waits.append(max(virtual_time.now() - asked_at - 0.2, 0.0))


async def _wait(
    tasks: list[asyncio.Task[None]], seconds: float | None
) -> tuple[set[asyncio.Task[None]], set[asyncio.Task[None]]]:
    if tasks:
        return await asyncio.wait(tasks, timeout=seconds)
    await asyncio.sleep(seconds or 0.0)
    return set(), set()
