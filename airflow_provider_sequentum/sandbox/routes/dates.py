"""Periods in query strings: dates or times of the service's clock, UTC, both ends included."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Annotated

from fastapi import Query

from airflow_provider_sequentum.sandbox.problems import Problem
from airflow_provider_sequentum.sandbox.settings import Dialect

StartDate = Annotated[str | None, Query(alias="startDate", description="A date or a time, UTC.")]
EndDate = Annotated[str | None, Query(alias="endDate", description="A date or a time, UTC; included.")]


@dataclass(frozen=True)
class DatePeriod:
    """From a moment to a moment, both included."""

    start: datetime
    end: datetime

    def __contains__(self, moment: datetime) -> bool:
        return self.start <= moment <= self.end


def period(
    start: str | None, end: str | None, default_start: datetime, default_end: datetime, dialect: Dialect
) -> DatePeriod:
    """The period of a request, by the sandbox's clock.

    :raises Problem: 400 for a text that is neither a date nor a time, or a period that ends before it starts.
    """
    first = default_start if start is None else _moment(start, time.min, dialect)
    last = default_end if end is None else _moment(end, time.max, dialect)
    if last < first:
        raise Problem(400, "endDate is before startDate.")
    return DatePeriod(first, last)


def required(text: str | None, name: str) -> str:
    """A date that has to be there.

    :raises Problem: 400 when it is not.
    """
    if text is None:
        raise Problem(400, f"{name} is required.")
    return text


def day_of(moment: datetime) -> datetime:
    """Midnight of a moment's day, UTC."""
    return datetime.combine(moment.date(), time.min, UTC)


def end_of_day(moment: datetime) -> datetime:
    """The last microsecond of a moment's day, UTC."""
    return day_of(moment) + timedelta(days=1, microseconds=-1)


def _moment(text: str, time_of_a_date: time, dialect: Dialect) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        if len(text) <= len("2026-11-22"):
            moment = datetime.combine(moment.date(), time_of_a_date)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        return dialect.by_sandbox_clock(moment)
    except (ValueError, OverflowError) as error:
        raise Problem(400, f"{text!r} is neither a date nor a time.") from error
