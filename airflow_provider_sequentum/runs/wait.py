"""Waiting for runs: the decisions that worker, triggerer and sensor share, and the loop of the worker."""

import logging
import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple, Self

from pydantic import model_validator

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.errors import SequentumError, UnexpectedResponse
from airflow_provider_sequentum.api.parsing import Page, time_between
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
from airflow_provider_sequentum.runs.describe import (
    LogIntervals,
    OutageProgress,
    counted,
    describe_run,
    format_time,
    id_list,
)
from airflow_provider_sequentum.runs.phases import Phase, phase_of
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.runs.service_time import clock_ahead, is_of_another_clock

RESTART_GRACE = timedelta(minutes=1)
"""How long after a restart in place the service may still return the old Failure."""

MAX_LISTED_RUNS = 1000
"""The longest list that the service returns. It lists the newest runs first and has no filter by time."""

NOT_YET_FOUND_INTERVAL = 5.0
"""Seconds between two polls of a run that the service does not know yet."""

MAX_INTERVAL = 60.0
"""Maximum number of seconds between two polls of a run, unless the DAG author asks for more."""

log = logging.getLogger(__name__)


class FirstRunUncertain(UnexpectedResponse):
    """It is uncertain which run in a list is the first since a point in time: an earlier one may be unreadable."""


class PollOutcome(Enum):
    """Why a wait has ended."""

    ENDED = "ended"
    DEADLINE = "deadline"


class WaitSpec(Stored):
    """What to wait for, and for how long. Any process can resume a wait from it.

    The fields are parameters of :class:`~airflow_provider_sequentum.triggers.agent_run.AgentRunTrigger`.
    """

    agent_id: int
    run_id: int | None = None
    since: datetime | None = None
    clock_ahead: float | None = None
    poll_interval: float | None = None
    deadline: datetime | None = None
    failure_pause: float = 0.0
    wait_for_restart: bool = False
    tolerate_outages: bool = False
    restart_asked_at: datetime | None = None
    failure_ended_at: datetime | None = None

    @property
    def name(self) -> str:
        """The name, in log lines, of the run that is waited for."""
        if self.run_id is not None:
            return f"run {self.run_id} of agent {self.agent_id}"
        return f"a run of agent {self.agent_id} created at {format_time(self.since)} or later"

    def service_time(self, now: datetime, served_at: datetime | None) -> datetime | None:
        """Return the time by the clock of the runs' times.

        :param served_at: the time by a response's ``Date``, which is used until the clocks have been compared.
        """
        return served_at if self.clock_ahead is None else now + timedelta(seconds=self.clock_ahead)


class RunEvent(JobEvent):
    """The event of the trigger that waits for a run.

    :param outcome: why the wait has ended; ``None`` if it ended with an error.
    :param run: the latest record of the run; ``None`` if none was read before the deadline.
    """

    agent_id: int = 0
    run_id: int | None = None
    outcome: PollOutcome | None = None
    run: Run | None = None

    @model_validator(mode="after")
    def _says_what_happened(self) -> Self:
        if self.outcome is None and self.error is None:
            raise ValueError("It has neither an outcome nor an error")
        if self.run is None and self.outcome is PollOutcome.ENDED:
            raise ValueError("It states that the run ended, but has no record of the run")
        return self


class PollResult(NamedTuple):
    """The result of a poll: the outcome if the wait has ended, and a message if there is something to log."""

    outcome: PollOutcome | None = None
    message: str | None = None
    level: int = logging.INFO


class RunPoller:
    """Decides what each poll of a run means. It has no state that cannot be read again; ``now`` is passed in.

    :param spec: what to wait for.
    """

    def __init__(self, spec: WaitSpec) -> None:
        self.spec = spec
        self.run: Run | None = None
        self.is_missing = False
        """Whether it is uncertain, after the last poll, that the run exists: a 404, or an inconclusive list."""
        self._intervals = LogIntervals()
        self._seen_restarted = spec.restart_asked_at is None
        self._running_since: datetime | None = None
        """By the clock of ``now``. If the service's time is unknown, the time of the first poll."""
        self._failure_since: datetime | None = None
        self._outage = OutageProgress()
        self._missing_since: datetime | None = None
        self._unknown_status: object = None

    def observe(self, run: Run, now: datetime, served_at: datetime | None = None) -> PollResult:
        """Process the record of the run.

        :param served_at: the service's time of the response.
        """
        self.run = run
        if run.started_at is not None and served_at is not None:
            self._running_since = now - time_between(run.started_at, served_at)
        self._running_since = self._running_since or now
        back = self._end_outage(now)
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
        if self._intervals.is_due(run.status, now):
            back = f"{back or ''} Run {run.id} of agent {run.agent_id}: {describe_run(run, served_at)}.".lstrip()
        return PollResult(message=back)

    def found(self, run: Run | None, now: datetime, served_at: datetime | None = None) -> PollResult:
        """Process the result of a search for the run. A run that was found is polled from then on."""
        if run is not None:
            self.spec = self.spec.updated(run_id=run.id)
            result = self.observe(run, now, served_at)
            found = f"Found run {run.id} of agent {run.agent_id}, created at {format_time(run.created)}."
            return result._replace(message=found if result.message is None else f"{found} {result.message}")
        back = self._end_outage(now)
        if self.deadline_passed(now):
            return PollResult(PollOutcome.DEADLINE)
        if not self._intervals.is_due("not found", now):
            return PollResult(message=back)
        until = "" if self.spec.deadline is None else f" until {format_time(self.spec.deadline)}"
        waiting = f"Waiting{until} for {self.spec.name}: none so far."
        return PollResult(message=waiting if back is None else f"{back} {waiting}")

    def failed(self, error: SequentumError, now: datetime) -> PollResult:
        """Process the failure of a poll.

        :raises SequentumError: ``error`` itself, if it is not temporary or has lasted too long.
        """
        self.is_missing = error.status_code == 404 or isinstance(error, FirstRunUncertain)
        self._missing_since = (self._missing_since or now) if self.is_missing else None
        if self.deadline_passed(now):
            return PollResult(PollOutcome.DEADLINE)
        if error.status_code == 429:
            # The rate limit is exceeded, which is not a fault: the run is polled again later.
            return PollResult()
        message = self._outage.failed(self.spec.name, error, now)
        # A 404 during an outage is a new condition, so its tolerance starts now.
        lasted = now - (self._missing_since or self._outage.since or now)
        tolerance = NOT_FOUND_TOLERANCE if self.is_missing else fault_tolerance(error)
        if lasted >= tolerance and not (self.spec.tolerate_outages and tolerance >= FAULT_TOLERANCE):
            raise error
        return PollResult(message=message, level=logging.WARNING)

    def pause(self, now: datetime) -> float:
        """Return the seconds until the next poll of a wait on a worker, but not beyond the deadline."""
        seconds = self.spec.poll_interval
        if seconds is None:
            age = now - (self._running_since or now)
            seconds = solo_interval(max(age.total_seconds(), 0.0))
        fixed = self.fixed_look(now)
        return max(seconds if fixed is None else min(seconds, fixed), 0.0)

    def fixed_look(self, now: datetime) -> float | None:
        """Return the seconds until a poll that must not be postponed; ``None`` if there is none."""
        moments = [self.spec.deadline]
        if self._failure_since is not None:
            moments.append(self._failure_since + timedelta(seconds=self.spec.failure_pause))
        return min(((moment - now).total_seconds() for moment in moments if moment is not None), default=None)

    def deadline_passed(self, now: datetime) -> bool:
        """Return whether the wait has to give up."""
        return self.spec.deadline is not None and now >= self.spec.deadline

    def _end_outage(self, now: datetime) -> str | None:
        """Note that the service has responded; return the line to log if it had not before."""
        self._missing_since, self.is_missing = None, False
        return self._outage.answered(self.spec.name, now)

    def _failure_counts(self, run: Run, now: datetime) -> bool:
        if self.spec.wait_for_restart or (not self._seen_restarted and may_be_the_old_failure(run, self.spec, now)):
            return False
        self._failure_since = self._failure_since or now
        return now - self._failure_since >= timedelta(seconds=self.spec.failure_pause)

    def _unknown_status_message(self, run: Run) -> str:
        return (
            f"Run {run.id} of agent {run.agent_id} has the status {status_name(run.status)!r}, which this version does "
            "not know. The task keeps waiting until its deadline."
        )


def solo_interval(age: float) -> float:
    """Return the seconds between two polls of a run that is waited for on a worker.

    The interval grows with the square root of the run's age: 10 s at the start, 30 s after five minutes, a minute after
    twenty. This minimizes the sum of waiting time and requests if a run of age t lasts another t seconds with a
    probability of one half.
    """
    return min(math.sqrt(3 * (age + 30)), MAX_INTERVAL)


def may_be_the_old_failure(run: Run, restarted: RunRecord | WaitSpec, now: datetime | None) -> bool:
    """Return whether the service may still show the Failure from before a restart.

    :param restarted: states when a restart in place was requested, if at all, and when the Failure before it ended.
    :param now: the time; ``None`` if it does not matter how long ago the restart was.
    """
    asked_at = restarted.restart_asked_at
    return (
        asked_at is not None
        and phase_of(run) is Phase.RESTARTABLE
        and (now is None or now - asked_at < RESTART_GRACE)
        and run.end_time in (None, restarted.failure_ended_at)
    )


def is_cut(listed: Page[Run], size: int) -> bool:
    """Return whether there may be older runs than the listed ones. The newest come first.

    :param size: how many were requested. The service may list fewer, and state how many there are.
    """
    return listed.length >= size or (listed.total_record_count or 0) > listed.length


def first_run_since(listed: Page[Run], since: datetime, now: datetime, served_at: datetime | None) -> Run | None:
    """Return the first of an agent's listed runs that was created at ``since`` or later.

    :param since: by Airflow's clock.
    :param now: the time of the response, by the same clock.
    :param served_at: the time of the response by the service's clock, which is also that of ``created``. If the runs
        show that it comes from another clock, Airflow's clock is used.
    :raises SequentumRequestRefused: the list is cut, and the first run may be missing from it.
    :raises FirstRunUncertain: an unreadable run may be an earlier one.
    """
    if served_at is None or is_of_another_clock(served_at, listed):
        served_at = now
    # A second of tolerance, because the service states the time of a response in whole seconds.
    by_service = since + (served_at - now) - timedelta(seconds=1)
    if abs((by_service - since).total_seconds()) < 2:
        by_service = since  # the clocks agree, as far as is known
    known = [run for run in listed if run.created is not None]
    later = [run for run in known if run.created is not None and run.created >= by_service]
    if is_cut(listed, MAX_LISTED_RUNS) and len(later) == len(known):
        agent = f"agent {listed[0].agent_id}" if listed else "the agent"
        raise SequentumRequestRefused(
            f"The service lists only the newest {listed.length} runs of {agent}. All of them may have been created "
            f"since {format_time(since)}, so the first one cannot be determined. Set a later time, or run_id."
        )
    first = min(later, key=lambda run: (run.created, run.id), default=None)
    if hidden := _what_may_be_earlier(listed, first, by_service):
        raise FirstRunUncertain(
            f"{hidden}, so it is unknown which run of agent {listed[0].agent_id} is the first one created at "
            f"{format_time(since)} or later. Set run_id."
        )
    return first


def _what_may_be_earlier(listed: Page[Run], first: Run | None, since: datetime) -> str:
    """Return as a clause which runs of a list may have been created between ``since`` and the first one."""
    old = [place for place, run in enumerate(listed) if run.created is not None and run.created < since]
    first_place = listed.index(first) if first is not None else -1
    # The list goes from the newest to the oldest, and ids increase.
    harmless = sum(gap <= first_place or gap > min(old, default=len(listed)) for gap in listed.gaps)
    unreadable = listed.unreadable - harmless
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
        f"it is not stated when runs {id_list(sorted(undated))} were created" if undated else "",
    )
    return " and ".join(filter(None, clauses)).capitalize()


def poll(port: Sender, poller: RunPoller) -> PollResult:
    """Poll the run once, or search for it; log any news, and return the result.

    :raises SequentumError: polling failed with an error that is not temporary, or for too long. The run may be active.
    :raises SequentumRequestRefused: see :func:`first_run_since`.
    """
    spec = poller.spec
    try:
        if spec.run_id is not None:
            reply = port.exchange(runs.status(spec.agent_id, spec.run_id), budget_share=WAITING_SHARE)
            result = poller.observe(reply.value, port.now(), reply.served_at)
        elif (since := spec.since) is not None:
            listed = port.exchange(runs.list_runs(spec.agent_id, MAX_LISTED_RUNS), budget_share=WAITING_SHARE)
            if spec.clock_ahead is None:
                ahead = clock_ahead(port, listed.served_at)
                poller.spec = spec = spec.updated(clock_ahead=ahead.total_seconds())
            now = port.now()
            run = first_run_since(listed.value, since, now, spec.service_time(now, listed.served_at))
            result = poller.found(run, port.now(), listed.served_at)
        else:
            raise ValueError("A wait needs the id of a run or a point in time.")
    except SequentumError as error:
        result = poller.failed(error, port.now())
    if result.message is not None:
        log.log(result.level, "%s", result.message)
    return result


def poll_until_known(port: Sender, poller: RunPoller) -> PollResult:
    """Poll the run. While the service does not know it, poll it again, for as long as a wait tolerates that.

    For a sensor in reschedule mode, which stores nothing between two pokes and would otherwise tolerate a 404 forever.
    Raises the same as :func:`poll`.
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

    :param on_end: called as soon as the wait for a run has ended, with its index in ``specs``.
    :return: for each run, why the wait has ended (an error if the run can no longer be polled; it may be active), and
        the latest record of the run.
    """
    pollers = [RunPoller(spec) for spec in specs]
    ends: dict[int, PollOutcome | SequentumError] = {}
    next_polls = dict.fromkeys(range(len(pollers)), port.now())
    while next_polls:
        number = min(next_polls, key=lambda number: (next_polls[number], number))
        port.sleep(max((next_polls[number] - port.now()).total_seconds(), 0.0))
        try:
            outcome = poll(port, pollers[number]).outcome
        except SequentumError as error:
            outcome = None
            ends[number] = error
        if outcome is not None:
            ends[number] = outcome
        if number in ends:
            del next_polls[number]
            on_end(number, ends[number], pollers[number].run)
        else:
            now = port.now()
            next_polls[number] = now + timedelta(seconds=pollers[number].pause(now))
    return [(ends[number], poller.run) for number, poller in enumerate(pollers)]
