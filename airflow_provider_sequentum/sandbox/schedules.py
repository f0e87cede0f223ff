"""Schedules of agents: what they say and when they fire (API pages "schedules")."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import croniter  # type: ignore[import-untyped]
from pydantic import BaseModel

from airflow_provider_sequentum.sandbox.runs import RunOptions


class ScheduleType(IntEnum):
    """How a schedule fires."""

    Manual = 0
    RunOnce = 1
    RunEvery = 2
    Cron = 3


class Period(IntEnum):
    """Unit of ``runEveryPeriod``. One page counts from 0; the schema and the official client count from 1."""

    Minutes = 1
    Hours = 2
    Days = 3
    Weeks = 4
    Months = 5


class Schedule(BaseModel):
    """A schedule of an agent."""

    id: int
    agent_id: int
    name: str
    schedule_type: ScheduleType
    cron_expression: str | None = None
    local_schedule: str | None = None
    timezone: str = "UTC"
    start_time: datetime | None = None
    run_every_count: int | None = None
    run_every_period: Period | None = None
    is_enabled: bool = True
    proxy_pool_id: int | None = None
    server_group_id: int | None = None
    options: RunOptions
    created: datetime
    updated: datetime
    next_run: datetime | None = None

    def check(self, now: datetime) -> None:
        """Find what is wrong with the schedule.

        :raises ValueError: saying what is missing or not understood.
        """
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"timezone {self.timezone!r} is not an IANA time zone.") from error
        match self.schedule_type:
            case ScheduleType.RunOnce:
                if self.start_time is None or self.start_time < now + timedelta(minutes=1):
                    raise ValueError("startTime must be at least one minute ahead.")
            case ScheduleType.RunEvery:
                if not self.run_every_count or self.run_every_count < 1 or self.run_every_period is None:
                    raise ValueError("runEveryCount and runEveryPeriod are required.")
            case ScheduleType.Cron:
                expression = self.cron_expression or ""
                if len(expression.split()) != 5 or not croniter.is_valid(expression):
                    raise ValueError("cronExpression must have five valid fields.")

    def after(self, moment: datetime) -> datetime | None:
        """The first time it fires after ``moment``, whether or not it is enabled."""
        match self.schedule_type:
            case ScheduleType.RunOnce:
                return self.start_time if self.start_time and self.start_time > moment else None
            case ScheduleType.RunEvery:
                return self._after_every(moment)
            case ScheduleType.Cron:
                local = moment.astimezone(ZoneInfo(self.timezone))
                fires: datetime = croniter(self.cron_expression, local).get_next(datetime)
                return fires.astimezone(UTC)
        return None

    def between(self, start: datetime, end: datetime, at_most: int = 1000) -> list[datetime]:
        """The times it fires from ``start`` to ``end``."""
        times: list[datetime] = []
        moment = self.after(start - timedelta(microseconds=1))
        while moment is not None and moment <= end and len(times) < at_most:
            times.append(moment)
            moment = self.after(moment)
        return times

    def _after_every(self, moment: datetime) -> datetime:
        count, period = self.run_every_count or 1, self.run_every_period or Period.Days
        first = self.start_time or self.created
        if self.start_time is not None and first > moment:
            return first
        if period is Period.Months:
            steps = count
            while (fires := _add_months(first, steps)) <= moment:
                steps += count
            return fires
        step = timedelta(**{_UNITS[period]: count})
        return first + step * ((moment - first) // step + 1)


_UNITS: dict[Period, Literal["minutes", "hours", "days", "weeks"]] = {
    Period.Minutes: "minutes",
    Period.Hours: "hours",
    Period.Days: "days",
    Period.Weeks: "weeks",
}


def _add_months(moment: datetime, months: int) -> datetime:
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    for day in range(moment.day, 27, -1):
        try:
            return moment.replace(year=year, month=month + 1, day=day)
        except ValueError:  # the month is shorter
            continue
    return moment.replace(year=year, month=month + 1)
