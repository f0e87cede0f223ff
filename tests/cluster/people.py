"""The people around an installation: they ask for work, and then they click."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Literal

import httpx

from tests.cluster.agenda import Agenda
from tests.cluster.facts import ENDED_TASK, Intervention
from tests.cluster.plan import Deed, Job
from tests.cluster.service import SandboxService, Somebody
from tests.system.harness import AirflowApiError, Cluster, DagRun

Population = Literal["provider", "plain"]
ROWS = 3
"""How many rows each run delivers."""
TASK = "run"
AGAIN = 0.5
"""Seconds until somebody looks again whether they can do what they want."""
ALREADY_THERE = 409
UNREACHABLE = (httpx.TransportError, httpx.HTTPStatusError, AirflowApiError)


@dataclass(frozen=True)
class Placed:
    """
    A job that was asked for, in one population.

    :param job: the job.
    :param population: who does it.
    :param agent_id: the agent, which is nobody else's.
    :param run: the DAG run.
    """

    job: Job
    population: Population
    agent_id: int
    run: DagRun


class People:
    """
    Whoever starts DAG runs, clears and marks tasks, and stops and restarts runs elsewhere.

    :param cluster: where they click.
    :param service: where the runs are.
    :param somebody: who has access to the service.
    :param marker: a word that goes with every job, to be found again.
    """

    def __init__(self, cluster: Cluster, service: SandboxService, somebody: Somebody, marker: str) -> None:
        self._cluster = cluster
        self._service = service
        self._somebody = somebody
        self._marker = marker
        self._agents: dict[tuple[str, Population], int] = {}
        self.asking, self.clicking = Agenda(), Agenda()
        self.placed: list[Placed] = []
        self.interventions: dict[tuple[str, str], list[Intervention]] = defaultdict(list)
        self.clicks: Counter[str] = Counter()

    def ask(self, job: Job, population: Population) -> float | None:
        """Ask for a job."""
        dag_id = "storm_plain" if population == "plain" else f"storm_{'deferred' if job.deferrable else 'worker'}"
        try:
            placed = Placed(job, population, self._agent_for(job, population), DagRun(dag_id, job.name, "queued"))
            self._trigger_once(placed)
        except (*UNREACHABLE, TimeoutError):
            return AGAIN
        self.placed.append(placed)
        if job.deed is not None:
            self.clicking.add(time.monotonic(), partial(self._wait_for_the_run, placed, job.deed))
        return None

    def _trigger_once(self, placed: Placed) -> None:
        conf = {"agent_id": placed.agent_id, "name": placed.job.name, "marker": self._marker}
        try:
            self._cluster.trigger(placed.run.dag_id, conf, run_id=placed.run.run_id)
        except AirflowApiError as error:
            if error.status_code != ALREADY_THERE:
                raise

    def _agent_for(self, job: Job, population: Population) -> int:
        known = self._agents.get((job.name, population))
        if known is None:
            known = self._service.add_agent(f"{job.name} {self._marker}", job.duration, ROWS, job.plans)
            self._agents[job.name, population] = known
        return known

    def _wait_for_the_run(self, placed: Placed, deed: Deed) -> float | None:
        try:
            begun = bool(self._service.runs(placed.agent_id))
        except UNREACHABLE:
            return AGAIN
        if not begun:
            return AGAIN
        self.clicking.add(time.monotonic() + placed.job.deed_after, partial(self._act, placed, deed))
        return None

    def _act(self, placed: Placed, deed: Deed) -> float | None:
        """Do it as soon as it can be done; it can't any more once the task is over."""
        asked = datetime.now(UTC)
        try:
            state = self._cluster.task_instance(placed.run, TASK).state
            if state in ENDED_TASK:
                return None
            if not self._do(placed, deed, state):
                return AGAIN
        except httpx.ConnectError:
            return AGAIN
        except UNREACHABLE:
            # It may have been done all the same.
            self._note(placed, deed, asked)
            return AGAIN
        self._note(placed, deed, asked)
        self.clicks[deed] += 1
        return None

    def _do(self, placed: Placed, deed: Deed, state: str | None) -> bool:
        """Return whether it could be done."""
        latest = self._service.runs(placed.agent_id)[-1]
        match deed:
            case "clear" | "mark failed" | "mark success":
                return state in ("running", "deferred") and self._click(placed.run, deed)
            case "stop":
                if latest.finished is None:
                    self._somebody.act("stop", placed.agent_id, latest.run_id)
                return latest.finished is None
            case "restart":
                if latest.status == "Failure":
                    self._somebody.act("restart", placed.agent_id, latest.run_id)
                return latest.status == "Failure"
            case "archive":
                if latest.status == "Failure":
                    self._service.archive(placed.agent_id, latest.run_id)
                return latest.status == "Failure"

    def _click(self, run: DagRun, deed: Literal["clear", "mark failed", "mark success"]) -> bool:
        if deed == "clear":
            self._cluster.clear(run, TASK)
        else:
            self._cluster.mark(run, TASK, "failed" if deed == "mark failed" else "success")
        return True

    def _note(self, placed: Placed, deed: Deed, asked: datetime) -> None:
        noted = Intervention(kind=deed, asked=asked, done=datetime.now(UTC))
        self.interventions[placed.job.name, placed.population].append(noted)
