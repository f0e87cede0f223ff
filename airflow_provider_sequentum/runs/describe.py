"""Descriptions of a run: in progress lines, in errors, and in the XCom for downstream tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.api.parsing import time_between
from airflow_provider_sequentum.api.run_status import status_name

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run

QUIET_INTERVALS = (30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds between two log lines while nothing changes; the last one repeats."""

MAX_LISTED = 10
"""Maximum number of things that a sentence names."""

MAX_LISTED_IDS = 20
"""Maximum number of ids that a sentence names."""


class LogIntervals:
    """Decides which polls to log: a changed status immediately, otherwise at increasing intervals."""

    __slots__ = ("_next_line", "_quiet", "_status")

    def __init__(self) -> None:
        self._status: object = None
        self._quiet = 0
        self._next_line: datetime | None = None

    def is_due(self, status: object, now: datetime) -> bool:
        """Return whether to log a status that was just read."""
        if status != self._status:
            self._status, self._quiet = status, 0
        elif self._next_line is not None and now < self._next_line:
            return False
        self._next_line = now + timedelta(seconds=QUIET_INTERVALS[min(self._quiet, len(QUIET_INTERVALS) - 1)])
        self._quiet += 1
        return True


class OutageProgress:
    """Decides what to log of an outage: its start, then a line at increasing intervals, and its end."""

    __slots__ = ("_intervals", "since")

    def __init__(self) -> None:
        self.since: datetime | None = None
        """When the outage began; ``None`` if there is none."""
        self._intervals = LogIntervals()

    def failed(self, name: str, error: object, now: datetime) -> str | None:
        """Return the line to log for a failed poll of ``name``, or ``None``."""
        lasted = "" if self.since is None else f" for {format_seconds((now - self.since).total_seconds())}"
        self.since = self.since or now
        if not self._intervals.is_due("failed", now):
            return None
        return f"Could not check {name}{lasted}; trying again. ({error})"

    def answered(self, name: str, now: datetime) -> str | None:
        """Return the line to log for a poll of ``name`` that succeeded, if there was an outage."""
        if self.since is None:
            return None
        lasted = format_seconds((now - self.since).total_seconds())
        self._intervals, self.since = LogIntervals(), None
        return f"The checks of {name} succeed again, after {lasted}."


def describe_run(run: Run, served_at: datetime | None = None) -> str:
    """Return a run's state in one line: status, pages, records, errors, duration.

    :param served_at: the service's time of the response, for an active run. Times of the service are only compared with
        its own clock.
    """
    records = counted(run.data_count or 0, "record")
    if run.export_count and run.export_count != run.data_count:
        records += f" ({run.export_count} exported)"
    parts = [status_name(run.status), counted(run.page_count or 0, "page"), records]
    if run.error_count:
        # Only if there are any, because the UI of Airflow 2 shows every line with the word "error" in red.
        parts.append(counted(run.error_count, "error"))
    until = run.end_time or served_at
    if run.started_at is not None and until is not None and until >= run.started_at:
        parts.append(format_seconds(time_between(run.started_at, until).total_seconds()))
    return ", ".join(parts)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return ``1 page`` or ``2 pages``."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def format_credits(amount: Decimal | float) -> str:
    """Return ``1 credit`` or ``2.5 credits``."""
    return f"{float(amount):.10g} {'credit' if amount == 1 else 'credits'}"


def comma_list(things: Iterable[object], most: int = MAX_LISTED) -> str:
    """Return ``a, b and 3 more``: the first things, and the number of others."""
    texts = list(map(str, things))
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def id_list(ids: Iterable[int]) -> str:
    """Return ``[7, 8 and 3 more]``."""
    return f"[{comma_list(ids, MAX_LISTED_IDS)}]"


def format_seconds(seconds: float) -> str:
    """Return a duration for people to read: ``45 s``, ``2 min 10 s``, ``3 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_time(moment: datetime | None) -> str:
    """Return a time for people to read, to the second: ``2026-01-31 06:00:00+00:00``."""
    return "an unknown time" if moment is None else moment.isoformat(" ", "seconds")


def format_size(size: float) -> str:
    """Return a number of bytes for people to read: ``869 bytes``, ``1.5 KiB``, ``2.0 GiB``."""
    if size < 1024:
        return counted(round(size), "byte")
    exponent = min(int(math.log(size, 1024)), 3)
    return f"{size / 1024**exponent:.1f} {('KiB', 'MiB', 'GiB')[exponent - 1]}"


def run_summary(run: Run, **more: Any) -> dict[str, Any]:
    """Return a summary of the run for downstream tasks, as plain JSON values.

    :param more: fields that the task adds: ``link``, ``cost``, ``note``, ``map_index``.
    """
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
        **more,
    }
