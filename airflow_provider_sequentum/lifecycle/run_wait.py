"""Waiting for one run: a state machine fed with observations, the same for worker, triggerer and sensor."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.api.errors import NotFound, RateLimited, SequentumError
from airflow_provider_sequentum.api.run_status import status_name
from airflow_provider_sequentum.lifecycle.next_run import look_for_next_run
from airflow_provider_sequentum.lifecycle.phases import Phase, phase_of
from airflow_provider_sequentum.lifecycle.procedure import Procedure, now, say, send, sleep
from airflow_provider_sequentum.lifecycle.progress import RunProgress
from airflow_provider_sequentum.lifecycle.tolerance import (
    FAULT_TOLERANCE,
    WAITING_SHARE,
    fault_tolerance,
    may_be_the_old_failure,
)
from airflow_provider_sequentum.lifecycle.watch_schedule import lone_interval

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run

NOT_YET_FOUND_INTERVAL = 5.0
"""Seconds between two looks for a run that the service does not know yet."""


class WaitOutcome(Enum):
    """Why a wait is over."""

    ENDED = "ended"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWaitTerms:
    """
    What to wait for, and for how long.

    :param agent_id: the agent.
    :param run_id: the run; ``None`` waits for the agent's first one created at ``since`` or later.
    :param since: see ``run_id``.
    :param poll_interval: least seconds between two questions on behalf of this wait; ``None`` leaves that to the
        schedule. What is answered to others may be heard sooner.
    :param deadline: when to give up; ``None`` waits as long as it takes.
    :param failure_pause: seconds a Failure has to stand before it counts as the end. Somebody may restart the run
        meanwhile, and a restart in place should not follow at once.
    :param wait_for_restart: keep waiting through Failure, for as long as the run can be restarted.
    :param is_patient: bear passing faults of the service up to the deadline, and not just for :data:`FAULT_TOLERANCE`.
    :param restart_asked_at: when the run was restarted, if it was.
    :param failure_ended_at: the end time of the Failure it was restarted from.
    """

    agent_id: int
    run_id: int | None = None
    since: datetime | None = None
    poll_interval: float | None = None
    deadline: datetime | None = None
    failure_pause: float = 0.0
    wait_for_restart: bool = False
    is_patient: bool = False
    restart_asked_at: datetime | None = None
    failure_ended_at: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the terms as plain JSON values: what a trigger's arguments have to be."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunWaitTerms:
        """Read what :meth:`to_json` wrote."""
        times = {name: datetime.fromisoformat(values[name]) for name in _TIMES if values[name] is not None}
        return cls(**{**values, **times})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the terms."""
        return tuple(field.name for field in fields(cls))


_TIMES = ("since", "deadline", "restart_asked_at", "failure_ended_at")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an observation means: the outcome if the wait is over, and a line for the log if there is news."""

    outcome: WaitOutcome | None = None
    message: str | None = None
    level: int = logging.INFO


class RunWait:
    """
    The state of one wait. It holds nothing that can't be learnt again, so a wait can be resumed anywhere from its
    terms.

    :param terms: what to wait for.
    """

    __slots__ = (
        "_failure_since",
        "_faults_since",
        "_missing_since",
        "_progress",
        "_seen_restarted",
        "_unknown_status",
        "is_missing",
        "run",
        "terms",
    )

    def __init__(self, terms: RunWaitTerms) -> None:
        self.terms = terms
        self.run: Run | None = None
        self.is_missing = False
        """Whether the service did not know the run when it was last asked."""
        self._progress = RunProgress()
        self._seen_restarted = terms.restart_asked_at is None
        self._failure_since: datetime | None = None
        self._faults_since: datetime | None = None
        self._missing_since: datetime | None = None
        self._unknown_status: object = None

    def observe(self, run: Run, now: datetime) -> Verdict:
        """Take in the run's record as it was read at ``now``."""
        self.run = run
        self._faults_since, self._missing_since, self.is_missing = None, None, False
        phase = phase_of(run)
        ended = phase.is_over if phase is not Phase.RESTARTABLE else self._failure_counts(run, now)
        if phase is not Phase.RESTARTABLE:
            self._failure_since, self._seen_restarted = None, True
        if ended:
            return Verdict(WaitOutcome.ENDED)
        if self._deadline_passed(now):
            return Verdict(WaitOutcome.DEADLINE)
        if phase is Phase.UNKNOWN and run.status != self._unknown_status:
            self._unknown_status = run.status
            return Verdict(message=self._unknown_status_message(run), level=logging.WARNING)
        return Verdict(message=self._progress.line(run, now))

    def found(self, run: Run | None, now: datetime) -> Verdict:
        """Take in the outcome of a look for the run: from now on it is this one."""
        if run is not None:
            self.terms = replace(self.terms, run_id=run.id)
            return self.observe(run, now)
        return Verdict(WaitOutcome.DEADLINE if self._deadline_passed(now) else None)

    def fault(self, error: SequentumError, now: datetime) -> Verdict:
        """
        Take in that a look at the run failed at ``now``.

        :raises SequentumError: ``error`` itself, when it can't pass by itself or has lasted too long.
        """
        self.is_missing = isinstance(error, NotFound)
        self._missing_since = (self._missing_since or now) if self.is_missing else None
        if self._deadline_passed(now):
            return Verdict(WaitOutcome.DEADLINE)
        if isinstance(error, RateLimited):
            # The key is busy, which is no fault: the look comes later, and all who wait for the key come to it.
            return Verdict()
        first = self._faults_since is None
        self._faults_since = self._faults_since or now
        # A 404 in the middle of an outage is new: that the service does not know the run has to last by itself.
        lasted = now - (self._missing_since or self._faults_since)
        tolerance = fault_tolerance(error)
        if lasted >= tolerance and not (self.terms.is_patient and tolerance >= FAULT_TOLERANCE):
            raise error
        if first:
            what = f"at run {self.terms.run_id}" if self.terms.run_id is not None else "for the run"
            return Verdict(message=f"Could not look {what}, will look again: {error}", level=logging.WARNING)
        return Verdict()

    def pause(self, now: datetime) -> float:
        """Return the seconds until somebody who waits alone looks next, which never lies beyond the deadline."""
        seconds = self.terms.poll_interval
        if seconds is None:
            seconds = lone_interval(_age(self.run, now))
        fixed = self.fixed_look(now)
        return max(seconds if fixed is None else min(seconds, fixed), 0.0)

    def fixed_look(self, now: datetime) -> float | None:
        """Return the seconds until the look that no schedule may put off, ``None`` if there is none."""
        moments = [self.terms.deadline]
        if self._failure_since is not None:
            moments.append(self._failure_since + timedelta(seconds=self.terms.failure_pause))
        return min(((moment - now).total_seconds() for moment in moments if moment is not None), default=None)

    def _failure_counts(self, run: Run, now: datetime) -> bool:
        asked_at, ended_at = self.terms.restart_asked_at, self.terms.failure_ended_at
        if not self._seen_restarted and may_be_the_old_failure(run, asked_at, ended_at, now):
            return False
        if self.terms.wait_for_restart:
            return False
        self._failure_since = self._failure_since or now
        return now - self._failure_since >= timedelta(seconds=self.terms.failure_pause)

    def _deadline_passed(self, now: datetime) -> bool:
        return self.terms.deadline is not None and now >= self.terms.deadline

    def _unknown_status_message(self, run: Run) -> str:
        return (
            f"Run {run.id} of agent {run.agent_id} has the status {status_name(run.status)!r}, which this version does "
            "not know. Waiting goes on, up to the deadline."
        )


def _age(run: Run | None, now: datetime) -> float:
    begun = run.begun if run is not None else None
    return (now - begun).total_seconds() if begun is not None else 0.0


def look(wait: RunWait) -> Procedure[Verdict]:
    """
    Look at the run once, or for it, say what is new, and return what it means.

    :raises SequentumError: looking failed in a way that can't pass, or for too long. The run goes on.
    """
    from airflow_provider_sequentum.api import runs

    terms = wait.terms
    if terms.run_id is None:
        run = (yield from look_for_next_run(terms.agent_id, terms.since)) if terms.since else None
        verdict = wait.found(run, (yield from now()))
    else:
        try:
            run = yield from send(runs.status(terms.agent_id, terms.run_id), WAITING_SHARE)
        except SequentumError as error:
            verdict = wait.fault(error, (yield from now()))
        else:
            verdict = wait.observe(run, (yield from now()))
    if verdict.message is not None:
        yield from say(verdict.message, verdict.level)
    return verdict


def look_until_known(wait: RunWait) -> Procedure[Verdict]:
    """
    Look at the run; where the service does not know it, look again until it does, or for as long as a wait bears that.

    For a waiter who remembers nothing between two looks and would else bear it for ever. Raises what :func:`look` does.
    """
    while True:
        verdict = yield from look(wait)
        if verdict.outcome is not None or not wait.is_missing:
            return verdict
        yield from sleep(NOT_YET_FOUND_INTERVAL)


def first_look(agent_id: int, run_id: int) -> Procedure[Run]:
    """
    Return the run's record, bearing as a wait does that it can't be read at once.

    :raises SequentumError: it can't be read for good, or for too long. The run goes on.
    """
    wait = RunWait(RunWaitTerms(agent_id=agent_id, run_id=run_id))
    while True:
        yield from look(wait)
        if wait.run is not None:
            return wait.run
        yield from sleep(NOT_YET_FOUND_INTERVAL)


def wait_for_end(terms: RunWaitTerms) -> Procedure[tuple[WaitOutcome, Run | None]]:
    """
    Wait until the run has ended or the deadline has passed.

    :return: why the wait is over, and the run's last record, which is ``None`` only if the deadline passed before any
        was read.
    :raises SequentumError: looking at the run failed in a way that can't pass, or for too long. The run goes on.
    """
    wait = RunWait(terms)
    while True:
        verdict = yield from look(wait)
        if verdict.outcome is not None:
            return verdict.outcome, wait.run
        yield from sleep(wait.pause((yield from now())))
