"""A run as the service knows it, and which of the waiting runs is given a slot when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush
from typing import Any, Literal

from pydantic import BaseModel

from airflow_provider_sequentum.sandbox.run_plan import SUCCEEDED, TERMINAL, Attempt, RunStatus


class RunOptions(BaseModel):
    """What the caller of start chose; names as in the API page "start a run"."""

    input_parameters: str | None = None
    parallelism: int | None = None
    parallel_max_concurrency: int | None = None
    parallel_export: Literal["Combined", "Separated"] | None = None
    is_exclusive: bool | None = None
    is_wait_on_failure: bool | None = None
    log_level: str | None = None
    log_mode: str | None = None


class Run(BaseModel):
    """A run: its options, and its attempts (one, plus one for every restart)."""

    id: int
    agent_id: int
    space_id: int
    sequence: int
    agent_version: int
    created: datetime
    exclusive: bool
    options: RunOptions
    records: list[dict[str, Any]] | None = None
    """Data that belongs to the run itself; ``None`` when it is the agent's."""
    total_records: int
    attempts: list[Attempt]
    archive_seconds: float
    archived: datetime | None = None
    restart_shown: datetime | None = None
    """Until then, the status before the last restart is still shown."""
    files_removed: bool = False

    @property
    def attempt(self) -> Attempt:
        """The attempt that counts: the newest."""
        return self.attempts[-1]

    def planned_records(self, attempt: Attempt | None = None) -> int:
        """How many records an attempt extracts if it is let finish."""
        attempt = attempt or self.attempt
        count = attempt.plan.record_count
        if count is None:
            good = attempt.plan.rest in SUCCEEDED or attempt.plan.rest not in TERMINAL
            count = self.total_records if good else self.total_records // 2
        return 0 if attempt.plan.rest is RunStatus.Skipped else min(count, self.total_records)


@dataclass(frozen=True)
class Observation:
    """What can be seen of a run at a moment."""

    status: RunStatus | int | str
    attempt: Attempt
    start_time: datetime | None
    end_time: datetime | None
    data_count: int
    export_count: int | None
    error_count: int
    message: str | None
    table_type: Literal["run", "history"]

    @property
    def terminal(self) -> bool:
        """Whether the run is over."""
        return self.status in TERMINAL

    @property
    def status_name(self) -> str:
        """The status by name, or the raw value of one that has none."""
        return self.status.name if isinstance(self.status, RunStatus) else str(self.status)


def observe(run: Run, now: datetime, *, lagging: bool = True) -> Observation:
    """The run's state at ``now``.

    :param lagging: whether the status before the last restart is shown for as long as the dialect asks.
    """
    attempt = run.attempt
    if lagging and run.restart_shown is not None and now < run.restart_shown:
        attempt = run.attempts[-2]
    status = attempt.status(now)
    end = attempt.end()
    over = status in TERMINAL
    if status is RunStatus.Failure and _archived(run, end, now):
        status = RunStatus.Failed
    planned = run.planned_records(attempt)
    data = int(planned * attempt.extracted_share(now))
    exported = int(data * attempt.exported_share(now)) if attempt.exported_share(now) > 0 else None
    bad = status in (RunStatus.Failure, RunStatus.Failed)
    return Observation(
        status=status,
        attempt=attempt,
        start_time=attempt.started(now),
        end_time=end if over else None,
        data_count=data,
        export_count=exported,
        error_count=attempt.plan.error_count if attempt.plan.error_count is not None and over else int(bad),
        message=attempt.plan.message if over and attempt.plan.message else _message(status),
        table_type="history" if over and status is not RunStatus.Failure else "run",
    )


def _archived(run: Run, end: datetime | None, now: datetime) -> bool:
    if run.archived is not None and run.archived <= now:
        return True
    return end is not None and end + timedelta(seconds=run.archive_seconds) <= now


def _message(status: RunStatus | int | str) -> str | None:
    match status:
        case RunStatus.Failure | RunStatus.Failed:
            return "The success criteria were not met."
        case RunStatus.Stopped:
            return "The run was stopped."
        case RunStatus.Skipped:
            return "The run was not executed."
    return None


def admissions(
    runs: Iterable[Run], since: datetime, now: datetime, space_concurrency: int
) -> Iterator[tuple[Run, datetime]]:
    """Which waiting runs get a slot, and when, in the time from ``since`` to ``now``.

    Stepping from moment to moment makes the result independent of how often it is computed: a run that ended an
    hour ago made room an hour ago. The caller notes each admission on the run before it takes the next one.

    :param runs: the runs that are not over at ``since``.
    :param since: up to here, admissions are settled.
    :param space_concurrency: how many runs of one space may work at once.
    """
    runs = list(runs)
    slots = _Slots(space_concurrency)
    for run in runs:
        slots.take(run, since)
    waiting = sorted((run for run in runs if run.attempt.held), key=lambda run: (run.attempt.requested, run.id))
    moments = [since, *(run.attempt.ready for run in waiting if run.attempt.ready > since), *slots.ends()]
    heapify(moments)
    while moments and waiting and (moment := heappop(moments)) <= now:
        slots.free_until(moment)
        for run in waiting:
            if run.attempt.ready <= moment and slots.fits(run):
                yield run, moment
                end = slots.take(run, moment)
                if end is not None:
                    heappush(moments, end)
        waiting = [run for run in waiting if run.attempt.held]


class _Slots:
    """Who works at a moment that only moves forward."""

    def __init__(self, space_concurrency: int) -> None:
        self._limit = space_concurrency
        self._in_space: Counter[int] = Counter()
        self._of_agent: Counter[int] = Counter()
        self._exclusive_of_agent: Counter[int] = Counter()
        self._ends: list[tuple[datetime, int, Run]] = []

    def take(self, run: Run, moment: datetime) -> datetime | None:
        """Count a run that works at ``moment``; returns when it will free its slot."""
        end = run.attempt.end()
        if run.attempt.admitted is None or (end is not None and end <= moment):
            return None
        self._count(run, 1)
        if end is not None:
            heappush(self._ends, (end, run.id, run))
        return end

    def free_until(self, moment: datetime) -> None:
        """Free the slots of runs that have ended by ``moment``."""
        while self._ends and self._ends[0][0] <= moment:
            self._count(heappop(self._ends)[2], -1)

    def fits(self, run: Run) -> bool:
        """Whether there is room for a run."""
        if self._in_space[run.space_id] >= self._limit:
            return False
        return not (self._of_agent if run.exclusive else self._exclusive_of_agent)[run.agent_id]

    def ends(self) -> list[datetime]:
        """When slots will be freed."""
        return [end for end, _, _ in self._ends]

    def _count(self, run: Run, change: int) -> None:
        self._in_space[run.space_id] += change
        self._of_agent[run.agent_id] += change
        self._exclusive_of_agent[run.agent_id] += change * run.exclusive


def blocked_by_exclusive(agent_id: int, exclusive: bool, active: Iterable[Run]) -> bool:
    """Whether a run of the agent has to wait because it, or an active one of the same agent, is exclusive."""
    return any(other.agent_id == agent_id and (exclusive or other.exclusive) for other in active)
