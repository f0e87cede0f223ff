"""How much a wait bears, and how much of the key's request budget it may use."""

from __future__ import annotations

from datetime import timedelta

from airflow_provider_sequentum.api.errors import NotFound, RefusedByServer, SequentumError, UnexpectedAnswer

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
