"""The people around an installation: they ask for work, and then they click."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal

import httpx
import psutil
import psycopg

from tests.cluster.agenda import Agenda
from tests.cluster.facts import ENDED_TASK
from tests.cluster.plan import Deed, Job
from tests.cluster.service import DashboardUser, SandboxService
from tests.system.harness import AirflowApiError, Cluster, DagRun

Population = Literal["provider", "plain"]
ROWS = 3
"""How many rows each run delivers."""
TASK = "run"
AGAIN = 0.5
"""Seconds until a person looks again whether they can do what they want."""
UNCHANGED = 60.0
"""Seconds until a person who cleared a task looks whether the run it had is over."""
ALREADY_THERE = 409
UNREACHABLE = (httpx.TransportError, httpx.HTTPStatusError, AirflowApiError)


@dataclass(frozen=True)
class Placed:
    """
    A job that was asked for, in one population.

    :param job: the job.
    :param population: who does it.
    :param agent_id: the agent, which no other job uses.
    :param run: the DAG run.
    """

    job: Job
    population: Population
    agent_id: int
    run: DagRun


@dataclass(frozen=True)
class Lifetime:
    """
    When a process of Airflow gave signs of life.

    :param kind: Airflow's name of what it does, ``TriggererJob`` for example.
    :param first: the first one.
    :param last: the last one.
    """

    kind: str
    first: datetime
    last: datetime


HEARING = timedelta(seconds=5)
"""How long a triggerer has to live after a click to hear of it, ask Airflow what has become of the task, and act."""


@dataclass(frozen=True)
class Click:
    """
    What a person did to a job.

    :param placed: the job.
    :param deed: what they did.
    :param asked: when they asked for it.
    :param done: when it was answered.
    :param triggerer: the triggerer that had the task, if one had it.
    :param worker_lived: whether the process of a running task was there.
    """

    placed: Placed
    deed: Deed
    asked: datetime
    done: datetime
    triggerer: int | None = None
    worker_lived: bool = False

    def is_heard(self, lifetimes: Mapping[int, Lifetime]) -> bool:
        """Whether who had the task lived long enough afterwards, and for a clear a scheduler before that."""
        if self.triggerer is None:
            return self.worker_lived
        own = lifetimes.get(self.triggerer)
        if own is None or own.last <= self.asked + HEARING:
            return False
        if self.deed not in ("clear", "clear and wipe"):
            return True
        # A cleared task has no state until a scheduler gives it one, and a trigger is cancelled by another state.
        schedulers = (each for each in lifetimes.values() if each.kind == "SchedulerJob")
        return any(each.last > self.asked and each.first < own.last for each in schedulers)


class People:
    """
    Whoever starts DAG runs, clears and marks tasks, and stops and restarts runs elsewhere.

    :param cluster: where they click.
    :param service: where the runs are.
    :param dashboard_user: a person who has access to the service.
    :param holder: tells who has a task, see :meth:`~.evidence.Database.holder`.
    :param marker: a word that goes with every job, to be found again.
    """

    def __init__(
        self,
        cluster: Cluster,
        service: SandboxService,
        dashboard_user: DashboardUser,
        holder: Callable[[DagRun, str], Mapping[str, int | None]],
        marker: str,
    ) -> None:
        self._cluster = cluster
        self._holder = holder
        self._service = service
        self._dashboard_user = dashboard_user
        self._marker = marker
        self._agents: dict[tuple[str, Population], int] = {}
        self.asking, self.clicking = Agenda(), Agenda()
        self.placed: list[Placed] = []
        self.clicks: list[Click] = []
        self.deeds: Counter[str] = Counter()

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
            has_run = bool(self._service.runs(placed.agent_id))
        except UNREACHABLE:
            return AGAIN
        if not has_run:
            return AGAIN
        self.clicking.add(time.monotonic() + placed.job.deed_after, partial(self._act, placed, deed))
        return None

    def _act(self, placed: Placed, deed: Deed) -> float | None:
        """Do it as soon as it can be done; it no longer can once the task is over."""
        try:
            state = self._cluster.task_instance(placed.run, TASK).state
            if state in ENDED_TASK:
                return None
            holder = self._holder(placed.run, TASK)
            latest = self._service.runs(placed.agent_id)[-1].run_id
        except (*UNREACHABLE, psycopg.OperationalError):
            return AGAIN
        asked = datetime.now(UTC)
        try:
            done = self._do(placed, deed, state)
        except httpx.ConnectError:
            return AGAIN
        except UNREACHABLE:
            # It may have been done all the same.
            self._note(placed, deed, asked, state, holder)
            return AGAIN
        if not done:
            return AGAIN
        self._note(placed, deed, asked, state, holder)
        self.deeds[deed] += 1
        if deed in ("clear", "clear and wipe"):
            self.clicking.add(time.monotonic() + UNCHANGED, partial(self._clear_again, placed, deed, latest))
        return None

    def _clear_again(self, placed: Placed, deed: Deed, run_id: int) -> float | None:
        """Clear the task once more if the same run goes on: no process was there to hear of the clear."""
        try:
            latest = self._service.runs(placed.agent_id)[-1]
        except UNREACHABLE:
            return AGAIN
        goes_on = latest.run_id == run_id and latest.finished is None
        return self._act(placed, deed) if goes_on else None

    def _do(self, placed: Placed, deed: Deed, state: str | None) -> bool:
        """Return whether it could be done."""
        latest = self._service.runs(placed.agent_id)[-1]
        match deed:
            case "clear" | "clear and wipe" | "mark failed" | "mark success":
                return state in ("running", "deferred") and self._click(placed.run, deed)
            case "stop":
                if latest.finished is None:
                    self._dashboard_user.act("stop", placed.agent_id, latest.run_id)
                return latest.finished is None
            case "restart":
                if latest.status == "Failure":
                    self._dashboard_user.act("restart", placed.agent_id, latest.run_id)
                return latest.status == "Failure"
            case "archive":
                if latest.status == "Failure":
                    self._service.archive(placed.agent_id, latest.run_id)
                return latest.status == "Failure"

    def _click(self, run: DagRun, deed: Literal["clear", "clear and wipe", "mark failed", "mark success"]) -> bool:
        match deed:
            case "clear":
                self._cluster.clear(run, TASK)
            case "clear and wipe":
                self._cluster.clear(run, TASK)
                self._wipe(run)
            case _:
                self._cluster.mark(run, TASK, "failed" if deed == "mark failed" else "success")
        return True

    def _wipe(self, run: DagRun) -> None:
        """Discard what the task has kept, as later versions of Airflow do with a clear.

        It is not tried again: a second try would come too late, and take what the new attempt keeps.
        """
        try:
            self._cluster.wipe_state_store(run, TASK)
        except UNREACHABLE:
            self.deeds["clear and wipe, not answered"] += 1

    def _note(
        self, placed: Placed, deed: Deed, asked: datetime, state: str | None, holder: Mapping[str, int | None]
    ) -> None:
        pid, triggerer = holder["pid"], holder["triggerer_id"]
        lived = state == "running" and pid is not None and psutil.pid_exists(pid)
        self.clicks.append(Click(placed, deed, asked, datetime.now(UTC), triggerer, lived))
