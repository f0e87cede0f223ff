"""How much a wait bears, and how much of the key's request budget it may use."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.errors import NotFound, RefusedByServer, SequentumError, UnexpectedAnswer

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run

FAULT_TOLERANCE = timedelta(minutes=10)
"""How long a wait bears that nothing usable is answered. The run goes on meanwhile."""

NOT_FOUND_TOLERANCE = timedelta(minutes=1)
"""How long a wait bears that the service doesn't know the run: it may just have been started."""

RESTART_GRACE = timedelta(minutes=1)
"""How long after a restart in place the old Failure may still be what is answered."""

WAITING_SHARE = 0.8
"""The part of the key's request budget that waiting may use, so that a start always finds room."""


def fault_tolerance(error: SequentumError) -> timedelta:
    """Return how long a wait bears ``error``: not at all, unless it can pass by itself."""
    if isinstance(error, NotFound):
        return NOT_FOUND_TOLERANCE
    passing = error.transient or (isinstance(error, UnexpectedAnswer) and not isinstance(error, RefusedByServer))
    return FAULT_TOLERANCE if passing else timedelta(0)


def may_be_the_old_failure(
    run: Run, restart_asked_at: datetime | None, failure_ended_at: datetime | None, now: datetime
) -> bool:
    """
    Whether a run in Failure may still be in the one that it was restarted from.

    :param restart_asked_at: when a restart in place was asked for, if it was.
    :param failure_ended_at: the end time of the Failure before it.
    """
    return (
        restart_asked_at is not None
        and now - restart_asked_at < RESTART_GRACE
        and run.end_time in (None, failure_ended_at)
    )
