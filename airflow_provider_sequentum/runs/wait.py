"""Waiting for runs: one pure decision for worker, triggerer and sensor, and the loop of the worker around it."""

import logging
import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple, Self

from pydantic import model_validator

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.errors import SequentumError, UnexpectedAnswer
from airflow_provider_sequentum.api.parsing import time_between
from airflow_provider_sequentum.api.run_status import status_name
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.jobs.port import (
    FAULT_TOLERANCE,
    NOT_FOUND_TOLERANCE,
    WAITING_SHARE,
    Sender,
    fault_tolerance,
)
from airflow_provider_sequentum.jobs.record import JobEvent, Stored
from airflow_provider_sequentum.runs.describe import RunProgress, counted
from airflow_provider_sequentum.runs.phases import Phase, phase_of
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.runs.service_time import is_of_another_clock

RESTART_GRACE = timedelta(minutes=1)
"""How long after a restart in place the service may still answer with the old Failure."""

LONGEST_RUN_LIST = 1000
"""The longest list that the service gives; it lists the newest runs first and has no filter by time."""

NOT_YET_FOUND_INTERVAL = 5.0
"""Seconds between two looks for a run that the service does not know yet."""

MOST_NAMED = 5
"""How many runs an error names."""

LONGEST_INTERVAL = 60.0
"""The most seconds between two polls of a run, unless the DAG author asks for more."""

log = logging.getLogger(__name__)


class FirstRunUncertain(UnexpectedAnswer):
    """A list of runs that does not tell which run is the first since a moment: an earlier one may be unreadable."""


class PollOutcome(Enum):
    """Why a wait is over."""

    ENDED = "ended"
    DEADLINE = "deadline"


class WaitSpec(Stored):
    """What to wait for, and for how long. A wait can be resumed anywhere from it.

    The fields are parameters of :class:`~airflow_provider_sequentum.triggers.agent_run.AgentRunTrigger`.
    """

    agent_id: int
    run_id: int | None = None
    since: datetime | None = None
    poll_interval: float | None = None
    deadline: datetime | None = None
    failure_pause: float = 0.0
    wait_for_restart: bool = False
    tolerate_outages: bool = False
    restart_asked_at: datetime | None = None
    failure_ended_at: datetime | None = None

    @property
    def name(self) -> str:
        """How log lines name what is waited for."""
        if self.run_id is not None:
            return f"run {self.run_id} of agent {self.agent_id}"
        return f"a run of agent {self.agent_id} created at {self.since} or later"


class RunEvent(JobEvent):
    """What the trigger of a run tells the task that it resumes.

    :param outcome: why the wait is over; ``None`` if it could not go on.
    :param run: the run's last record; ``None`` if none was read before the deadline.
    """

    agent_id: int = 0
    run_id: int | None = None
    outcome: PollOutcome | None = None
    run: Run | None = None

    @model_validator(mode="after")
    def _says_what_happened(self) -> Self:
        if self.outcome is None and self.error is None:
            raise ValueError("It says neither how the wait ended nor why it did not")
        if self.run is None and self.outcome is PollOutcome.ENDED:
            raise ValueError("It says that the run ended and has no record of it")
        return self


class PollResult(NamedTuple):
    """What a poll means: the outcome if the wait is over, and a line for the log if there is news."""

    outcome: PollOutcome | None = None
    message: str | None = None
    level: int = logging.INFO


class RunPoller:
    """Decides what each poll of a run means. It holds nothing that cannot be read again; ``now`` is passed in.

    :param spec: what to wait for.
    """

    def __init__(self, spec: WaitSpec) -> None:
        self.spec = spec
        self.run: Run | None = None
        self.is_missing = False
        """Whether the last poll left open whether there is such a run: a 404, or a list that does not tell."""
        self._progress = RunProgress()
        self._seen_restarted = spec.restart_asked_at is None
        self._running_since: datetime | None = None
        """By the clock that ``now`` comes from; without the service's time since the first look."""
        self._failure_since: datetime | None = None
        self._faults_since: datetime | None = None
        self._missing_since: datetime | None = None
        self._unknown_status: object = None

    def observe(self, run: Run, now: datetime, served_at: datetime | None = None) -> PollResult:
        """Take in the run's record as it was read.

        :param served_at: the service's time of the answer.
        """
        self.run = run
        if run.started_at is not None and served_at is not None:
            self._running_since = now - time_between(run.started_at, served_at)
        self._running_since = self._running_since or now
        self._faults_since, self._missing_since, self.is_missing = None, None, False
        phase = phase_of(run)
        ended = phase.is_over if phase is not Phase.RESTARTABLE else self._failure_counts(run, now)
        if phase is not Phase.RESTARTABLE:
            self._failure_since, self._seen_restarted = None, True
        if ended:
            return PollResult(PollOutcome.ENDED)
        if self.deadline_passed(now):
            return PollResult(PollOutcome.DEADLINE)
        if phase is Phase.UNKNOWN and run.status != self._unknown_status:
            self._unknown_status = run.status
            return PollResult(message=self._unknown_status_message(run), level=logging.WARNING)
        return PollResult(message=self._progress.line(run, now, served_at))

    def found(self, run: Run | None, now: datetime, served_at: datetime | None = None) -> PollResult:
        """Take in the result of a search for the run: from now on it is this one."""
        self._faults_since, self._missing_since, self.is_missing = None, None, False
        if run is not None:
            self.spec = self.spec.updated(run_id=run.id)
            result = self.observe(run, now, served_at)
            found = f"Found run {run.id} of agent {run.agent_id}, created {run.created}."
            return result._replace(message=found if result.message is None else f"{found} {result.message}")
        if self.deadline_passed(now):
            return PollResult(PollOutcome.DEADLINE)
        if not self._progress.is_due("not found", now):
            return PollResult()
        until = "" if self.spec.deadline is None else f" until {self.spec.deadline}"
        return PollResult(message=f"Waiting{until} for {self.spec.name}: none so far.")

    def failed(self, error: SequentumError, now: datetime) -> PollResult:
        """Take in that a poll failed.

        :raises SequentumError: ``error`` itself, when it cannot pass by itself or has lasted too long.
        """
        self.is_missing = error.status_code == 404 or isinstance(error, FirstRunUncertain)
        self._missing_since = (self._missing_since or now) if self.is_missing else None
        if self.deadline_passed(now):
            return PollResult(PollOutcome.DEADLINE)
        if error.status_code == 429:
            # The key is busy, which is no fault: the poll comes later, and all who wait for the key get their turn.
            return PollResult()
        first = self._faults_since is None
        self._faults_since = self._faults_since or now
        # A 404 in the middle of an outage is new: that the service does not know the run has to last by itself.
        lasted = now - (self._missing_since or self._faults_since)
        tolerance = NOT_FOUND_TOLERANCE if self.is_missing else fault_tolerance(error)
        if lasted >= tolerance and not (self.spec.tolerate_outages and tolerance >= FAULT_TOLERANCE):
            raise error
        if first:
            message = f"Could not check {self.spec.name}; trying again. ({error})"
            return PollResult(message=message, level=logging.WARNING)
        return PollResult()

    def pause(self, now: datetime) -> float:
        """Return the seconds until the next poll of a wait on a worker, which never lies beyond the deadline."""
        seconds = self.spec.poll_interval
        if seconds is None:
            age = now - (self._running_since or now)
            seconds = solo_interval(max(age.total_seconds(), 0.0))
        fixed = self.fixed_look(now)
        return max(seconds if fixed is None else min(seconds, fixed), 0.0)

    def fixed_look(self, now: datetime) -> float | None:
        """Return the seconds until the poll that no schedule may postpone; ``None`` if there is none."""
        moments = [self.spec.deadline]
        if self._failure_since is not None:
            moments.append(self._failure_since + timedelta(seconds=self.spec.failure_pause))
        return min(((moment - now).total_seconds() for moment in moments if moment is not None), default=None)

    def deadline_passed(self, now: datetime) -> bool:
        """Return whether the wait has to give up."""
        return self.spec.deadline is not None and now >= self.spec.deadline

    def _failure_counts(self, run: Run, now: datetime) -> bool:
        if self.spec.wait_for_restart or (not self._seen_restarted and may_be_the_old_failure(run, self.spec, now)):
            return False
        self._failure_since = self._failure_since or now
        return now - self._failure_since >= timedelta(seconds=self.spec.failure_pause)

    def _unknown_status_message(self, run: Run) -> str:
        return (
            f"Run {run.id} of agent {run.agent_id} has the status {status_name(run.status)!r}, which this version does "
            "not know. Waiting continues, up to the deadline."
        )


def solo_interval(age: float) -> float:
    """Return the seconds between two polls of a wait that knows nothing of others.

    It grows with the root of the run's age, as does the least sum of waiting and requests when a run of age t is as
    likely to last t more seconds as not: 10 s at the start, 30 s after five minutes, a minute after twenty.
    """
    return min(math.sqrt(3 * (age + 30)), LONGEST_INTERVAL)


def may_be_the_old_failure(run: Run, restarted: RunRecord | WaitSpec, now: datetime | None) -> bool:
    """Return whether the run may still be shown in the Failure that it was restarted from.

    :param restarted: says when a restart in place was asked for, if it was, and when the Failure before it ended.
    :param now: the time; ``None`` however long ago the restart was.
    """
    asked_at = restarted.restart_asked_at
    return (
        asked_at is not None
        and phase_of(run) is Phase.RESTARTABLE
        and (now is None or now - asked_at < RESTART_GRACE)
        and run.end_time in (None, restarted.failure_ended_at)
    )


def length_of(listed: Sequence[object]) -> int:
    """Return how long a list is with what could not be read in it: that decides whether it may have been cut."""
    return getattr(listed, "length", len(listed))


def is_cut(listed: Sequence[object], size: int) -> bool:
    """Return whether there may be more than what is listed: older runs, since the newest come first.

    :param size: how many were asked for. The service may list fewer, and state how many there are.
    """
    return length_of(listed) >= size or (getattr(listed, "total_record_count", None) or 0) > length_of(listed)


def first_run_since(listed: Sequence[Run], since: datetime, now: datetime, served_at: datetime | None) -> Run | None:
    """Return the first of an agent's listed runs that was created at ``since`` or later.

    :param since: by the clock of Airflow.
    :param now: the time of the answer by the same clock.
    :param served_at: the time of the answer by the service's clock, which ``created`` is a time of. If the runs show
        that it is another one's, Airflow's has to do.
    :raises SequentumRequestRefused: the list is cut and may lack the first one.
    :raises FirstRunUncertain: an earlier run may be among those of which too little can be read.
    """
    if served_at is None or is_of_another_clock(served_at, listed):
        served_at = now
    # A second of tolerance, because the service's time of an answer comes in whole seconds.
    by_service = since + (served_at - now) - timedelta(seconds=1)
    if abs((by_service - since).total_seconds()) < 2:
        by_service = since  # the clocks agree, as far as is known
    known = [run for run in listed if run.created is not None]
    later = [run for run in known if run.created is not None and run.created >= by_service]
    if is_cut(listed, LONGEST_RUN_LIST) and len(later) == len(known):
        agent = f"agent {listed[0].agent_id}" if listed else "the agent"
        raise SequentumRequestRefused(
            f"The service lists only the newest {length_of(listed)} runs of {agent}. All of them may have been created "
            f"since {since}, so the first one cannot be found. Give a later time, or the run's id."
        )
    first = min(later, key=lambda run: (run.created, run.id), default=None)
    if hidden := _what_may_be_earlier(listed, first, by_service):
        raise FirstRunUncertain(
            f"{hidden}, so it is not known which run of agent {listed[0].agent_id} is the first one created at {since} "
            "or later. Give the run's id."
        )
    return first


def _what_may_be_earlier(listed: Sequence[Run], first: Run | None, since: datetime) -> str:
    """Return which runs of a list may have been created between ``since`` and the first one, as a clause."""
    old = [place for place, run in enumerate(listed) if run.created is not None and run.created < since]
    first_place = listed.index(first) if first is not None else -1
    # The list goes from the newest to the oldest, and ids grow.
    gaps = getattr(listed, "gaps", ())
    harmless = sum(gap <= first_place or gap > min(old, default=len(listed)) for gap in gaps)
    unreadable = getattr(listed, "unreadable", 0) - harmless
    newest_old = max((listed[place].id for place in old), default=0)
    undated = [
        run.id
        for run in listed
        if run.created is None
        and newest_old < run.id
        and (first is None or run.id < first.id)
        and (run.start_time is None or run.start_time >= since)
    ]
    clauses = (
        f"{counted(unreadable, 'run')} in the service's list cannot be read" if unreadable > 0 else "",
        f"it is not stated when runs {sorted(undated)[:MOST_NAMED]} were created" if undated else "",
    )
    return " and ".join(filter(None, clauses)).capitalize()


def poll(port: Sender, poller: RunPoller) -> PollResult:
    """Poll the run once, or search for it; log what is new, and return what it means.

    :raises SequentumError: checking failed in a way that cannot pass, or for too long. The run may still be active.
    :raises SequentumRequestRefused: see :func:`first_run_since`.
    """
    spec = poller.spec
    try:
        if spec.run_id is not None:
            reply = port.exchange(runs.status(spec.agent_id, spec.run_id), budget_share=WAITING_SHARE)
            result = poller.observe(reply.value, port.now(), reply.served_at)
        elif spec.since is not None:
            listed = port.exchange(runs.list_runs(spec.agent_id, LONGEST_RUN_LIST), budget_share=WAITING_SHARE)
            run = first_run_since(listed.value, spec.since, port.now(), listed.served_at)
            result = poller.found(run, port.now(), listed.served_at)
        else:
            raise ValueError("A wait needs the id of a run or a point in time.")
    except SequentumError as error:
        result = poller.failed(error, port.now())
    if result.message is not None:
        log.log(result.level, "%s", result.message)
    return result


def poll_until_known(port: Sender, poller: RunPoller) -> PollResult:
    """Poll the run, repeatedly while the service does not know it, for as long as a wait tolerates that.

    For a rescheduled sensor: it remembers nothing between two polls, and would otherwise tolerate this forever. Raises
    what :func:`poll` does.
    """
    while True:
        result = poll(port, poller)
        if result.outcome is not None or not poller.is_missing:
            return result
        port.sleep(NOT_YET_FOUND_INTERVAL)


def wait_for_runs(
    port: Sender,
    specs: Sequence[WaitSpec],
    on_end: Callable[[int, PollOutcome | SequentumError, Run | None], None] = lambda *_: None,
) -> list[tuple[PollOutcome | SequentumError, Run | None]]:
    """Wait on the worker until every run has ended or its deadline has passed.

    :param on_end: is called as soon as the wait for one is over, with its place among ``specs``.
    :return: for each, why its wait is over (an error if it could not be checked any more; it may still run), and the
        run's last record.
    """
    pollers = [RunPoller(spec) for spec in specs]
    ends: dict[int, PollOutcome | SequentumError] = {}
    looks = dict.fromkeys(range(len(pollers)), port.now())
    while looks:
        number = min(looks, key=lambda number: (looks[number], number))
        port.sleep(max((looks[number] - port.now()).total_seconds(), 0.0))
        try:
            outcome = poll(port, pollers[number]).outcome
        except SequentumError as error:
            outcome = None
            ends[number] = error
        if outcome is not None:
            ends[number] = outcome
        if number in ends:
            del looks[number]
            on_end(number, ends[number], pollers[number].run)
        else:
            now = port.now()
            looks[number] = now + timedelta(seconds=pollers[number].pause(now))
    return [(ends[number], poller.run) for number, poller in enumerate(pollers)]
