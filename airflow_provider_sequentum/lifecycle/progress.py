"""What the person who watches a waiting task reads, and when."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.api.run_status import status_name

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run

QUIET_INTERVALS = (30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds between two lines while nothing changes; the last one repeats."""


class RunProgress:
    """Decides which observations of a run are worth a line: a changed status at once, the rest ever more rarely."""

    __slots__ = ("_next_line", "_quiet", "_status")

    def __init__(self) -> None:
        self._status: object = None
        self._quiet = 0
        self._next_line: datetime | None = None

    def line(self, run: Run, now: datetime) -> str | None:
        """Return the line to log, or ``None``."""
        if run.status != self._status:
            self._status, self._quiet = run.status, 0
        elif self._next_line is not None and now < self._next_line:
            return None
        self._next_line = now + timedelta(seconds=QUIET_INTERVALS[min(self._quiet, len(QUIET_INTERVALS) - 1)])
        self._quiet += 1
        return f"Run {run.id} of agent {run.agent_id}: {describe_run(run, now)}."


def describe_run(run: Run, now: datetime | None = None) -> str:
    """
    Return a run's state in one line: status, pages, records, errors, time.

    :param now: the time, for a run that is still going.
    """
    records = f"{run.data_count or 0} records"
    if run.export_count:
        records += f" ({run.export_count} exported)"
    parts = [status_name(run.status), f"{run.page_count or 0} pages", records, f"{run.error_count or 0} errors"]
    begun = run.begun
    until = run.end_time or now
    if begun is not None and until is not None and until >= begun:
        parts.append(format_seconds((until - begun).total_seconds()))
    return ", ".join(parts)


def format_seconds(seconds: float) -> str:
    """Return a duration as people say it: ``45 s``, ``2 min 10 s``, ``3 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def run_summary(run: Run) -> dict[str, Any]:
    """Return what a downstream task may want to know of a run, as plain JSON values."""
    times = {"created": run.created, "started": run.start_time, "ended": run.end_time}
    return {
        "agent_id": run.agent_id,
        "run_id": run.id,
        "status": status_name(run.status),
        "records": run.data_count,
        "exported": run.export_count,
        "errors": run.error_count,
        "pages": run.page_count,
        "seconds": run.run_time_sec,
        "message": run.message,
        **{name: time and time.isoformat() for name, time in times.items()},
    }
