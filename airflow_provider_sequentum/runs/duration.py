"""How long the runs of an agent usually take, and when to stop one that takes much longer."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.jobs.port import OPTIONAL_SHARE
from airflow_provider_sequentum.runs.describe import counted, format_seconds
from airflow_provider_sequentum.runs.phases import Phase, phase_of

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.jobs.port import Sender
    from airflow_provider_sequentum.runs.record import RunRecord

MAX_SAMPLES = 20
"""Maximum number of the agent's last runs that determine the usual duration."""

MIN_DURATIONS = 3
"""Minimum number of successful runs that determine a usual duration."""

OVERDUE_FACTOR = 3
"""A run is overdue when it has taken this many times its usual duration."""

RUNS_LISTED = 100
"""How many of the agent's runs are listed to determine the usual duration."""

log = logging.getLogger(__name__)


def last_durations(listed: Iterable[Run], run_id: int) -> list[float]:
    """Return how many seconds the last successful runs took, including the time in the queue.

    Runs with a duration of zero are ignored: the times are not precise enough, and three times zero is no limit.

    :param listed: the agent's runs, newest first.
    :param run_id: a run to leave out.
    """
    return [
        (run.end_time - since).total_seconds()
        for run in listed
        if run.id != run_id and phase_of(run) is Phase.SUCCEEDED and run.end_time is not None
        if (since := run.created or run.start_time) is not None and run.end_time > since
    ][:MAX_SAMPLES]


def find_overdue_time(port: Sender, record: RunRecord, run: Run) -> datetime | None:
    """Return when the run will have taken three times its usual duration, by the worker's clock; ``None`` if unknown.

    If the list of runs cannot be read, there is no such limit for the run.
    """
    try:
        reply = port.exchange(runs.list_runs(run.agent_id, RUNS_LISTED), budget_share=OPTIONAL_SHARE, within=30.0)
    except SequentumError as error:
        log.warning(
            "%s will not be stopped if it takes too long: the agent's runs could not be listed. (%s)",
            record.name,
            error,
        )
        return None
    durations = last_durations(reply.value, run.id)
    if len(durations) < MIN_DURATIONS:
        log.warning(
            "%s will not be stopped if it takes too long: the usual duration is unknown, because fewer than %s runs of "
            "the agent have succeeded with a known duration.",
            record.name,
            MIN_DURATIONS,
        )
        return None
    now = port.now()
    since = record.restart_asked_at or now
    if record.restart_asked_at is None and run.created is not None and reply.served_at is not None:
        # If a gateway's clock is ahead, the run seems to be older than its request.
        longest = now - record.requested_at if record.has_request_time else timedelta.max
        since = now - max(min(reply.served_at - run.created, longest), timedelta())
    usual = median(durations)
    allowed = OVERDUE_FACTOR * usual
    log.info(
        "%s will be stopped if it takes longer than %s: %s times the median of %s, from %s that succeeded.",
        record.name,
        format_seconds(allowed),
        OVERDUE_FACTOR,
        format_seconds(usual),
        counted(len(durations), "run"),
    )
    return since + timedelta(seconds=allowed)
