"""Stopping runs: stop, wait, kill, and see them stopped.

A request that was accepted is not yet a stop, and a 404 is not an end: a run counts as stopped when the service shows
it as over, or has not known it for as long as a wait tolerates. What is not confirmed is repeated within the time there
is (a stop and a kill are harmless to repeat), and then said.

A first kill equals a stop, and a kill of a run that is already stopping forces its end, so a kill follows a stop, and a
second one the first (https://docs.sequentum.com/api-reference/agents/kill-run).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.api.errors import (
    SequentumError,
)
from airflow_provider_sequentum.api.run_status import RunStatus, status_name
from airflow_provider_sequentum.jobs.port import NOT_FOUND_TOLERANCE, Port
from airflow_provider_sequentum.runs.phases import phase_of
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.runs.wait import may_be_the_old_failure

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import AsyncSequentumClient, Call
    from airflow_provider_sequentum.api.runs import Run

KILL_GRACE = timedelta(seconds=20)
"""How long a run gets to end after a kill."""

POLL_INTERVAL = timedelta(seconds=3)
"""Time between two looks at a run that is being stopped."""

FIRST_LOOK = timedelta(seconds=1)
"""Time between a request and the first look at what became of it."""

MOST_KILLS = 2

LONGEST_REQUEST = 10.0
"""Seconds after which a request is given up, its repetitions included: other runs wait to be stopped."""

REPEAT_INTERVAL = timedelta(seconds=15)
"""Time after which a stop is repeated that the run shows no sign of."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StopResult:
    """What became of a run that was to be stopped.

    :param confirmed: whether the service was seen to have ended it, or not to know it any more.
    :param run: its last record, where one was read.
    """

    confirmed: bool
    run: Run | None = None

    @property
    def sentence(self) -> str:
        """What the reader of the task's error has to know."""
        if not self.confirmed:
            seen = f" (last seen: {status_name(self.run.status)})" if self.run is not None else ""
            return (
                f"It could not be confirmed to have stopped{seen}. It may still be running and costing credits: look "
                "at it in Sequentum Cloud."
            )
        if self.run is None:
            return "The service no longer knows it."
        if self.run.status is RunStatus.STOPPED:
            return "It has been stopped."
        return f"By then it had ended as {status_name(self.run.status)}."


class RunStopper:
    """Decides how one run is stopped: which request comes next, and what the answers mean. ``now`` is passed in.

    :param record: the run. If it was restarted in place a moment ago, a Failure may still be the old one.
    :param stop_grace: seconds it gets to wind down before it is killed.
    :param now: the time.
    """

    def __init__(self, record: RunRecord, stop_grace: float, now: datetime) -> None:
        self.name = record.name
        self._ids = record.agent_id, record.run_id or 0
        self._record = record
        self._was_accepted = False
        self._was_refused = False
        self._stop_grace = timedelta(seconds=stop_grace)
        self._stop_at: datetime | None = now
        self._kill_at: datetime | None = None
        self._kills = 0
        self._poll_at = now
        self._gives_up_at: datetime | None = None
        self._missing_since: datetime | None = None
        self._run: Run | None = None
        self.result: StopResult | None = None

    def due(self) -> datetime:
        """Return when the next request is to be sent."""
        return min(filter(None, (self._poll_at, self._stop_at, self._kill_at)))

    def check_time(self, now: datetime) -> None:
        """Give up when the time is over."""
        # While the service says that it does not know the run, the time goes on until that counts.
        is_late = self._gives_up_at is not None and now >= self._gives_up_at
        if self.result is None and is_late and self._missing_since is None:
            self.result = StopResult(confirmed=False, run=self._run)

    def next_call(self, now: datetime) -> Call[Any]:
        """Return the request to send now: a kill, a stop, or a look."""
        from airflow_provider_sequentum.api import runs

        if self._stop_at is not None and now >= self._stop_at:
            log.info("%s: stopping it.", self.name)
            return runs.stop(*self._ids)
        if self._kill_at is not None and now >= self._kill_at:
            state = status_name(self._run.status) if self._run is not None else "not answering"
            log.warning("%s is still %s; killing it.", self.name, state)
            return runs.kill(*self._ids)
        return runs.status(*self._ids)

    def answered(self, call: Call[Any], run: Run | None, now: datetime) -> None:
        """Take in the answer to a request."""
        if call.changes_something:
            self._was_accepted = True
            self._sent(call, now)
            return
        self._missing_since, self._run = None, run
        self._poll_at = now + POLL_INTERVAL
        if run is None:
            return
        if phase_of(run).is_over and not self._may_be_the_old_failure(run, now):
            self.result = StopResult(confirmed=True, run=run)
        elif run.status is not RunStatus.STOPPING and self._stop_at is None:
            self._stop_at = now + REPEAT_INTERVAL

    def failed(self, call: Call[Any], error: SequentumError, now: datetime) -> None:
        """Take in that a request failed."""
        if call.changes_something:
            log.warning("A request to stop %s failed. (%s)", self.name, error)
            is_refusal = error.status_code in (400, 409, 422)
            self._was_refused = self._was_refused or (is_refusal and not self._was_accepted)
            # What never arrived does not count.
            self._sent(call, now, arrived=not error.transient or error.may_have_acted)
            return
        self._poll_at = now + POLL_INTERVAL
        self._missing_since = (self._missing_since or now) if error.status_code == 404 else None
        if self._missing_since is not None and now - self._missing_since >= NOT_FOUND_TOLERANCE:
            self.result = StopResult(confirmed=True)

    def _sent(self, call: Call[Any], now: datetime, *, arrived: bool = True) -> None:
        # The look comes before a repetition: it may tell that none is needed.
        self._poll_at, again_at = now + FIRST_LOOK, now + POLL_INTERVAL
        if not call.path.endswith("/kill"):
            self._stop_at = None if arrived else again_at
            if self._gives_up_at is None:
                # With many runs, the request may be sent long after it was due.
                self._kill_at = now + max(self._stop_grace, FIRST_LOOK)
                self._gives_up_at = self._kill_at + 2 * KILL_GRACE
        elif not arrived:
            self._kill_at = again_at
        else:
            self._kills += 1
            self._kill_at = now + KILL_GRACE if self._kills < MOST_KILLS else None
            self._gives_up_at = max(self._gives_up_at or now, now + KILL_GRACE)

    def _may_be_the_old_failure(self, run: Run, now: datetime) -> bool:
        """Whether this may be the Failure that the run was restarted from, still shown although it runs again."""
        if self._was_refused:
            return False  # the service refuses to stop what is over
        # What can be stopped was not over, however long ago the restart was.
        return may_be_the_old_failure(run, self._record, None if self._was_accepted else now)


def stop_run(port: Port, record: RunRecord, stop_grace: float) -> StopResult:
    """Stop one run; see :func:`stop_runs`."""
    return stop_runs(port, [record], stop_grace)[0]


def stop_runs(port: Port, records: Sequence[RunRecord], stop_grace: float) -> list[StopResult]:
    """Stop runs: ask all of them to stop, then watch all of them end.

    No error is raised: what cannot be confirmed is in the results and in the log, with the run's id.

    :param records: the runs.
    :param stop_grace: seconds each gets to wind down before it is killed.
    :return: what became of each, in their order.
    """
    # A deadline bounds what comes before a stop and not the stop itself.
    deadline, port.deadline = port.deadline, None
    stoppers = [RunStopper(record, stop_grace, port.now()) for record in records]
    while (stopper := _next(stoppers, port.now())) is not None:
        port.sleep(max((stopper.due() - port.now()).total_seconds(), 0.0))
        call = stopper.next_call(port.now())
        try:
            answer = port.send(call, within=LONGEST_REQUEST)
        except SequentumError as error:
            stopper.failed(call, error, port.now())
        else:
            stopper.answered(call, answer, port.now())
    port.deadline = deadline
    return _results(stoppers)


async def astop_runs(client: AsyncSequentumClient, records: Sequence[RunRecord], stop_grace: float) -> list[StopResult]:
    """Do what :func:`stop_runs` does, on the event loop of a triggerer."""
    stoppers = [RunStopper(record, stop_grace, _now()) for record in records]
    while (stopper := _next(stoppers, _now())) is not None:
        await asyncio.sleep(max((stopper.due() - _now()).total_seconds(), 0.0))
        call = stopper.next_call(_now())
        try:
            answer = await client.send(call, within=LONGEST_REQUEST)
        except SequentumError as error:
            stopper.failed(call, error, _now())
        else:
            stopper.answered(call, answer, _now())
    return _results(stoppers)


def _next(stoppers: Sequence[RunStopper], now: datetime) -> RunStopper | None:
    for stopper in stoppers:
        stopper.check_time(now)
    return min((stopper for stopper in stoppers if stopper.result is None), key=RunStopper.due, default=None)


def _results(stoppers: Sequence[RunStopper]) -> list[StopResult]:
    results = []
    for stopper in stoppers:
        result = stopper.result or StopResult(confirmed=False)
        log.log(logging.INFO if result.confirmed else logging.WARNING, "%s: %s", stopper.name, result.sentence)
        results.append(result)
    return results


def _now() -> datetime:
    return datetime.now(UTC)
