"""A model of Sequentum Cloud in virtual time: it answers calls, and limits the requests of a key."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import HttpStatusError
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.sandbox.rate_limit import RateLimiter
from tests.benchmarks.lab_waiting.virtual_time import START
from tests.benchmarks.lab_waiting.workloads import PlannedRun

LIMIT, WINDOW, QUEUE = 100, 60.0, 10
EXPORTING_FROM = 0.9
"""The part of its time after which a run exports, as in the sandbox."""
LATENCY = (0.05, 0.35)
"""Least and most seconds of a response."""


class LimitedResponse(Exception):
    """The request was refused with 429."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


class LabService:
    """Agents, their runs and the limit of one key.

    :param runs: the runs there are.
    :param seed: of the latencies.
    :param listed_agents: how many agents the account has.
    :param largest_page: larger pages of agents are refused.
    :param lists_agents: whether the key may list agents.
    """

    def __init__(
        self,
        runs: Iterable[PlannedRun],
        seed: int,
        listed_agents: int | None = None,
        largest_page: int = 100,
        lists_agents: bool = True,
    ) -> None:
        self.runs: dict[int, PlannedRun] = {run.run_id: run for run in runs}
        self.of_agent: dict[int, list[PlannedRun]] = {}
        for run in self.runs.values():
            self.of_agent.setdefault(run.agent_id, []).append(run)
        for known in self.of_agent.values():
            known.sort(key=lambda run: -run.run_id)
        # Listed by name: those that are waited for are spread over all pages.
        self.agents = sorted(
            set(range(1, (listed_agents or 0) + 1)) | set(self.of_agent), key=lambda agent: hash((agent, 7))
        )
        self.largest_page, self.lists_agents = largest_page, lists_agents
        self.requests: Counter[str] = Counter()
        self.sent: list[float] = []
        self.refused = 0
        self._in_order = sorted(self.runs.values(), key=lambda run: run.began)
        self._sorted_when, self._sorted = 0, self.agents
        self._latency = random.Random(seed)
        self._limiter = RateLimiter(LIMIT, WINDOW, QUEUE)

    def latency(self) -> float:
        """Return how long the next answer takes."""
        return self._latency.uniform(*LATENCY)

    async def exchange(self, call: Call[Any]) -> Any:
        """Answer a call after its latency, and after the queue of the limiter.

        :raises LimitedResponse: it is refused with 429.
        """
        loop = asyncio.get_running_loop()
        latency = self.latency()
        await asyncio.sleep(latency / 2)
        self.sent.append(loop.time())
        verdict = self._limiter.admit(loop.time())
        if verdict.retry_after is not None:
            self.refused += 1
            await asyncio.sleep(latency / 2)
            raise LimitedResponse(verdict.retry_after)
        await asyncio.sleep(verdict.wait)
        value = self.answer(call, loop.time())
        await asyncio.sleep(latency / 2)
        return value

    def answer(self, call: Call[Any], now: float) -> Any:
        """Return the value of a call as of a moment."""
        names = call.path.strip("/").split("/")
        kind = names[-1]
        self.requests[kind] += 1
        if names[1] == "all":
            return self._page(int(call.query["pageIndex"]), int(call.query["recordsPerPage"]), now)
        agent_id = int(names[1])
        if kind == "start":
            return Run.model_construct(
                id=10_000_000 + self.requests["start"], config_id=agent_id, status=RunStatus.STARTING
            )
        if kind == "runs":
            started = [run for run in self.of_agent.get(agent_id, []) if run.began <= now]
            return Page([Record(run, now) for run in started[: int(call.query["maxRecords"])]])
        run = self.runs.get(int(names[3]))
        if run is None or run.agent_id != agent_id:
            raise HttpStatusError("There is no such run.", status_code=404)
        return Record(run, now)

    def _page(self, page: int, size: int, now: float) -> Page[Any]:
        if not self.lists_agents:
            raise HttpStatusError("The key may not list agents.", status_code=403)
        if size > self.largest_page:
            raise HttpStatusError("The page is too large.", status_code=400)
        listed: list[Any] = []
        for agent_id in self._by_activity(now)[(page - 1) * size : page * size]:
            last = next((run for run in self.of_agent.get(agent_id, ()) if run.began <= now), None)
            created = START + timedelta(seconds=last.began) if last is not None else None
            status = status_of(last, now) if last is not None else None
            listed.append(SimpleNamespace(id=agent_id, status=status, last_activity=created))
        return Page(listed, len(self.agents))

    def _by_activity(self, now: float) -> list[int]:
        """Return the agents, those whose last run was started last first."""
        begun = bisect_right(self._in_order, now, key=lambda run: run.began)
        if begun != self._sorted_when:
            self._sorted_when = begun
            last = {run.agent_id: run.began for run in self._in_order[:begun]}
            self._sorted = sorted(self.agents, key=lambda agent: last.get(agent, -1.0), reverse=True)
        return self._sorted


def status_of(run: PlannedRun, now: float) -> RunStatus:
    """Return a run's status at a moment."""
    if now >= run.end:
        return RunStatus.SUCCESS
    return RunStatus.EXPORTING if now >= run.began + EXPORTING_FROM * run.seconds else RunStatus.RUNNING


class Record:
    """A run's record as far as a wait reads it. The product's own is checked field by field, which takes its time."""

    __slots__ = ("config_id", "created", "end_time", "id", "status")

    table_type = "run"
    data_count = page_count = error_count = export_count = run_time_sec = message = None

    def __init__(self, run: PlannedRun, now: float) -> None:
        self.id, self.config_id, self.status = run.run_id, run.agent_id, status_of(run, now)
        self.created = START + timedelta(seconds=run.began)
        self.end_time = self.created + timedelta(seconds=run.seconds) if now >= run.end else None

    @property
    def agent_id(self) -> int:
        return self.config_id

    @property
    def started_at(self) -> datetime:
        return self.created
