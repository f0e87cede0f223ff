"""Stopping runs: request a stop, wait, request a kill, and confirm that the runs have ended.

On Airflow 3, the process of a killed task ends about five seconds later, so usually only the stop is sent. Kills are
sent by triggers, and by tasks that stop the run without being killed themselves.

A first kill request is the same as a stop, and a kill of a run that is already stopping forces its end. So a kill
follows the stop, and a second kill follows the first (https://docs.sequentum.com/api-reference/agents/kill-run).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.run_status import RunStatus, status_name
from airflow_provider_sequentum.jobs.port import Sender
from airflow_provider_sequentum.jobs.stop import JobStopper, is_rate_limited, stop_jobs
from airflow_provider_sequentum.runs.phases import phase_of
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.runs.wait import may_be_the_old_failure

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Call
    from airflow_provider_sequentum.api.errors import SequentumError
    from airflow_provider_sequentum.api.runs import Run

GRACE_AFTER_KILL = timedelta(seconds=20)
"""How long a run may take to end after a kill."""

POLL_INTERVAL = timedelta(seconds=3)
"""Time between two polls of a run that is being stopped."""

FIRST_LOOK = timedelta(seconds=1)
"""Time between a request and the first poll after it."""

MAX_KILLS = 2

log = logging.getLogger(__name__)


class RunStopper(JobStopper["Run"]):
    """Decides how one run is stopped.

    :param record: the run. If it has just been restarted in place, a Failure may still be the old one.
    :param stop_grace: seconds between the stop and the kill.
    """

    poll_interval = POLL_INTERVAL
    repeat_interval = timedelta(seconds=15)
    stopped = "stopped"

    def __init__(self, record: RunRecord, stop_grace: float) -> None:
        super().__init__(record.name)
        self._record = record
        self._stop_grace = timedelta(seconds=stop_grace)
        self._kill_at: datetime | None = None
        self._is_killing = False
        """Whether the last request to stop the run was a kill."""
        self._kills = 0
        self._was_accepted = False
        self._was_refused = False

    def due(self) -> datetime:
        """Return when the next request is to be sent."""
        return min(filter(None, (self._poll_at, self._request_at, self._kill_at)))

    def next_call(self, now: datetime) -> Call[Any]:
        """Return the request to send now: a stop, a kill or a poll."""
        ids = self._record.agent_id, self._record.run_id or 0
        if self._request_at is not None and now >= self._request_at:
            log.info("%s: requesting a stop.", self.name)
            self._is_killing = False
            return runs.stop(*ids)
        if self._kill_at is not None and now >= self._kill_at:
            state = self.status_of(self.seen) if self.seen is not None else "status unknown"
            log.warning("%s has not stopped yet (%s). Requesting a kill.", self.name, state)
            self._is_killing = True
            return runs.kill(*ids)
        return runs.status(*ids)

    def status_of(self, seen: Run) -> str:
        """Return the run's status."""
        return status_name(seen.status)

    def _sent(self, error: SequentumError | None, now: datetime) -> None:
        is_refusal = error is not None and error.status_code in (400, 409, 422)
        self._was_accepted = self._was_accepted or error is None
        self._was_refused = self._was_refused or (is_refusal and not self._was_accepted)
        pause = self._pause_before_repetition(error)
        again_at = None if pause is None else now + pause
        # Poll before repeating the request: the repetition may not be needed.
        self._poll_at = now + FIRST_LOOK
        if not self._is_killing:
            self._request_at = again_at
            if self._gives_up_at is None and not is_rate_limited(error):
                # With many runs, the request may be sent long after it was due.
                self._kill_at = now + max(self._stop_grace, FIRST_LOOK)
                self._gives_up_at = self._kill_at + 2 * GRACE_AFTER_KILL
        elif again_at is not None:
            self._kill_at = again_at
        else:
            self._kills += 1
            self._kill_at = now + GRACE_AFTER_KILL if self._kills < MAX_KILLS else None
            self._gives_up_at = max(self._gives_up_at or now, now + GRACE_AFTER_KILL)

    def _has_ended(self, seen: Run, now: datetime) -> bool:
        if phase_of(seen).is_over and not self._may_be_the_old_failure(seen, now):
            return True
        if seen.status is RunStatus.STOPPING:
            self._request_at = None
        elif self._request_at is None:
            self._request_at = now + self.repeat_interval
        return False

    def _may_be_the_old_failure(self, run: Run, now: datetime) -> bool:
        """Whether this may be the Failure from before a restart, still shown although the run is active again."""
        if self._was_refused:
            return False  # the service refuses to stop a run that has ended
        # A run that accepted a stop was active, no matter how long ago the restart was.
        return may_be_the_old_failure(run, self._record, None if self._was_accepted else now)


def stop_run(port: Sender, record: RunRecord, stop_grace: float) -> RunStopper:
    """Stop one run; see :func:`stop_runs`."""
    return stop_runs(port, [record], stop_grace)[0]


def stop_runs(port: Sender, records: Sequence[RunRecord], stop_grace: float) -> list[RunStopper]:
    """Stop runs; see :func:`.stop_jobs`.

    :param records: the runs.
    :param stop_grace: seconds between the stop and the kill of each.
    :return: the results, in the order of the runs.
    """
    stoppers = [RunStopper(record, stop_grace) for record in records]
    stop_jobs(port, stoppers)
    return stoppers
