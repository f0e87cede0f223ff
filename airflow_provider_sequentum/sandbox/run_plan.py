"""What will become of a run, and its state at any time: pure functions of a plan and a moment.

Nothing runs in the background. A run is a plan plus the few moments at which something was done to it
(requested, admitted, stopped); its status and counts are computed on request.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator


class RunStatus(IntEnum):
    """The service's run statuses (API page "concepts/runs"; 13 is known from its official client only)."""

    Invalid = 0
    Running = 1
    Exporting = 2
    Starting = 3
    Queuing = 4
    Stopping = 5
    Failure = 6
    Failed = 7
    Stopped = 8
    Completed = 9
    Success = 10
    Skipped = 11
    Waiting = 12
    UpdatingDataSet = 13


TERMINAL = frozenset(
    {
        RunStatus.Failure,
        RunStatus.Failed,
        RunStatus.Stopped,
        RunStatus.Completed,
        RunStatus.Success,
        RunStatus.Skipped,
    }
)
SUCCEEDED = frozenset({RunStatus.Completed, RunStatus.Success})

# Shares of a run's duration at which it leaves Starting and Running.
_STARTED, _EXTRACTED = 0.1, 0.9


class RunPlan(BaseModel):
    """What is to become of one run (or of one restart of it). Seconds are sandbox seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outcome: str = Field(
        "Success",
        description="Name of the status the run comes to rest in. A status that is not terminal "
        "(Running, Waiting, ...) means that the run never ends by itself.",
    )
    duration: float = Field(3.0, ge=0, description="From leaving the queue to the end.")
    queue_seconds: float = Field(0.0, ge=0, description="Spent in Queuing although there is a free slot.")
    records: list[dict[str, Any]] | None = Field(None, description="Data of this run; default the agent's.")
    record_count: int | None = Field(
        None, ge=0, description="How many records are extracted; default all, or half when the outcome is bad."
    )
    error_count: int | None = Field(None, ge=0, description="Default 0, or 1 when the outcome is bad.")
    message: str | None = Field(None, description="The run's message; default one that fits a bad outcome.")
    stop_delay: float = Field(
        0.0, ge=0, description="How long a stop or kill that was accepted has no effect: the run continues to work."
    )
    stop_seconds: float = Field(1.0, ge=0, description="Spent in Stopping after a stop.")
    ignores_stop: bool = Field(False, description="Stay in Stopping until killed a second time.")
    working_status: int | str | None = Field(
        None, description="Shown in place of Running; any value, to see what a client makes of unknown ones."
    )
    credits: float = Field(1.0, ge=0, description="Price of the run.")

    @field_validator("outcome")
    @classmethod
    def _known_outcome(cls, value: str) -> str:
        if value not in RunStatus.__members__:
            raise ValueError(f"unknown outcome {value!r}; one of {', '.join(RunStatus.__members__)}")
        return value

    @property
    def rest(self) -> RunStatus:
        """The status the run comes to rest in."""
        return RunStatus[self.outcome]


class Attempt(BaseModel):
    """One execution of a run: the first, or one after an in-place restart."""

    plan: RunPlan
    requested: datetime
    hold: RunStatus = RunStatus.Queuing
    """Shown while the attempt waits for a slot: Queuing, or Waiting behind an exclusive run."""
    admitted: datetime | None = None
    stop_requested: datetime | None = None
    """From when on it is stopping, unless it ends before."""
    killed: datetime | None = None
    failure_wait: float = 0.0
    """Seconds in Waiting between a failure and its Failure status (isWaitOnFailure)."""

    @property
    def ready(self) -> datetime:
        """From when on it may be given a slot."""
        return self.requested + timedelta(seconds=self.plan.queue_seconds)

    @property
    def held(self) -> bool:
        """Whether it still waits for a slot."""
        return self.admitted is None and self.stop_requested is None

    def stop(self, now: datetime) -> None:
        """Accept a stop, which takes effect after the plan's delay."""
        self.stop_requested = now + timedelta(seconds=self.plan.stop_delay)

    def stopping(self, now: datetime) -> bool:
        """Whether a stop has taken effect by ``now``."""
        return self.stop_requested is not None and self.stop_requested <= now

    def end(self) -> datetime | None:
        """When it ends as things stand, or ``None`` when it does not."""
        if self.stop_requested is None or self._finished_before(self.stop_requested):
            return self._finished()
        if self.killed is not None:
            return self.killed
        return None if self.plan.ignores_stop else self.stop_requested + timedelta(seconds=self.plan.stop_seconds)

    def _finished(self) -> datetime | None:
        """When it ends unless it is stopped."""
        if self.admitted is None or self.plan.rest not in TERMINAL:
            return None
        if self.plan.rest is RunStatus.Skipped:
            return self.admitted
        return self.admitted + timedelta(seconds=self.plan.duration + self.failure_wait)

    def status(self, now: datetime) -> RunStatus | int | str:
        """Its status at ``now``, before any archiving."""
        end = self.end()
        over = end is not None and end <= now
        if self.stop_requested is not None and self.stopping(now) and not self._finished_before(self.stop_requested):
            return RunStatus.Stopped if over else RunStatus.Stopping
        if over:
            return self.plan.rest
        if self.admitted is None or now < self.admitted:
            return self.hold
        return self._working_status(self.admitted, now)

    def _finished_before(self, moment: datetime) -> bool:
        finished = self._finished()
        return finished is not None and finished <= moment

    def _working_status(self, admitted: datetime, now: datetime) -> RunStatus | int | str:
        def after(share: float) -> datetime:
            return admitted + timedelta(seconds=self.plan.duration * share)

        if now < after(_STARTED):
            return RunStatus.Starting
        if self.plan.rest not in TERMINAL:
            return self.plan.rest
        if now < after(_EXTRACTED):
            return RunStatus.Running if self.plan.working_status is None else self.plan.working_status
        return RunStatus.Exporting if now < after(1.0) else RunStatus.Waiting

    def started(self, now: datetime) -> datetime | None:
        """When work began, or ``None`` when it has not."""
        if self.admitted is None or self.plan.rest is RunStatus.Skipped:
            return None
        return self.admitted if self.admitted <= now else None

    def extracted_share(self, now: datetime) -> float:
        """Which part of the planned records has been extracted, 0.0 to 1.0."""
        return self._share(now, _STARTED, _EXTRACTED)

    def exported_share(self, now: datetime) -> float:
        """Which part of the planned records has been exported, 0.0 to 1.0."""
        return self._share(now, _EXTRACTED, 1.0)

    def _share(self, now: datetime, start: float, end: float) -> float:
        admitted = self.started(now)
        if admitted is None:
            return 0.0
        until = min(now, self.stop_requested or now)
        worked = (until - admitted).total_seconds()
        first, last = self.plan.duration * start, self.plan.duration * end
        if last <= first:
            return 1.0 if worked >= first else 0.0
        return max(0.0, min(1.0, (worked - first) / (last - first)))
