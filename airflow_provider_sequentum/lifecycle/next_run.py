"""Finding the run that something else started: an agent's first one since a moment."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.lifecycle.procedure import Procedure, say, send, warn
from airflow_provider_sequentum.lifecycle.tolerance import FAULT_TOLERANCE, WAITING_SHARE, fault_tolerance

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run

MOST_RUNS_LISTED = 1000
"""The longest list the service gives; it lists the newest first and has no filter by time."""


def first_run_since(listed: list[Run], since: datetime) -> Run | None:
    """Return the first of the listed runs that was created at ``since`` or later."""
    later = [run for run in listed if run.created is not None and run.created >= since]
    return min(later, key=lambda run: (run.created, run.id), default=None)


def look_for_next_run(agent_id: int, since: datetime) -> Procedure[Run | None]:
    """
    Look once for the agent's first run since a moment. A passing fault of the service is said, and counts as "not yet".

    :raises SequentumError: looking failed in a way that can't pass by itself.
    """
    from airflow_provider_sequentum.api import runs

    try:
        listed = yield from send(runs.list_runs(agent_id, MOST_RUNS_LISTED), WAITING_SHARE)
    except SequentumError as error:
        if fault_tolerance(error) < FAULT_TOLERANCE:
            raise
        yield from warn(f"Could not look for a run of agent {agent_id}, will look again: {error}")
        return None
    run = first_run_since(listed, since)
    if run is not None:
        yield from say(f"Found run {run.id} of agent {agent_id}, created {run.created}.")
    return run
