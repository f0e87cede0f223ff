from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_sequentum.sandbox.run_plan import RunPlan
from airflow_provider_sequentum.sandbox.runs import RunOptions, observe
from airflow_provider_sequentum.sandbox.schedules import Period, Schedule, ScheduleType
from tests.unit.sandbox.world import NOON, World


def schedule(kind: ScheduleType, **fields: object) -> Schedule:
    return Schedule.model_validate(
        {
            "id": 1,
            "agent_id": 1,
            "name": "s",
            "schedule_type": kind,
            "options": RunOptions(),
            "created": NOON,
            "updated": NOON,
        }
        | fields
    )


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


def test_cron_fires_in_its_time_zone_across_summer_time() -> None:
    nine = schedule(ScheduleType.Cron, cron_expression="0 9 * * *", timezone="Europe/Berlin")
    assert nine.after(utc(2026, 3, 27, 12)) == utc(2026, 3, 28, 8)
    assert nine.after(utc(2026, 3, 28, 12)) == utc(2026, 3, 29, 7)


@pytest.mark.parametrize(
    ("count", "period", "first"),
    [
        (30, Period.Minutes, NOON + timedelta(minutes=30)),
        (2, Period.Hours, NOON + timedelta(hours=2)),
        (1, Period.Days, NOON + timedelta(days=1)),
        (1, Period.Weeks, NOON + timedelta(weeks=1)),
        (1, Period.Months, utc(2026, 4, 2, 12)),
    ],
)
def test_run_every_counts_from_its_creation(count: int, period: Period, first: datetime) -> None:
    every = schedule(ScheduleType.RunEvery, run_every_count=count, run_every_period=period)
    assert every.after(NOON) == first
    assert every.after(first) == first + (first - NOON) or period is Period.Months


def test_periods_count_from_one() -> None:
    assert [period.value for period in Period] == [1, 2, 3, 4, 5]


def test_months_keep_to_the_end_of_short_months() -> None:
    monthly = schedule(
        ScheduleType.RunEvery, run_every_count=1, run_every_period=Period.Months, start_time=utc(2026, 1, 31)
    )
    assert monthly.between(utc(2026, 1, 1), utc(2026, 4, 1)) == [utc(2026, 1, 31), utc(2026, 2, 28), utc(2026, 3, 31)]


def test_run_once_fires_once() -> None:
    once = schedule(ScheduleType.RunOnce, start_time=NOON + timedelta(hours=1))
    assert once.between(NOON, NOON + timedelta(days=9)) == [NOON + timedelta(hours=1)]


@pytest.mark.parametrize(
    ("kind", "fields", "problem"),
    [
        (ScheduleType.RunOnce, {}, "one minute ahead"),
        (ScheduleType.RunOnce, {"start_time": NOON + timedelta(seconds=59)}, "one minute ahead"),
        (ScheduleType.RunEvery, {"run_every_count": 3}, "required"),
        (ScheduleType.Cron, {"cron_expression": "* * * *"}, "five valid fields"),
        (ScheduleType.Cron, {"cron_expression": "* * * * * *"}, "five valid fields"),
        (ScheduleType.Cron, {"cron_expression": "0 99 * * *"}, "five valid fields"),
        (ScheduleType.Manual, {"timezone": "Mars/Olympus"}, "IANA"),
        (ScheduleType.Manual, {"timezone": "../etc/passwd"}, "IANA"),
    ],
)
def test_what_cannot_fire_is_refused(kind: ScheduleType, fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        schedule(kind, **fields).check(NOON)


def test_due_schedules_start_runs_and_skip_archived_agents(world: World) -> None:
    agent = world.agent(RunPlan(duration=1))
    every = schedule(ScheduleType.RunEvery, agent_id=agent.id, run_every_count=1, run_every_period=Period.Hours)
    every.next_run = every.after(NOON)
    world.engine.state.schedules[1] = every
    world.engine.touch()
    world.clock.advance(2.5 * 3600)
    runs = world.engine.runs_of(agent.id)
    assert [run.created for run in runs] == [NOON + timedelta(hours=2), NOON + timedelta(hours=1)]
    assert world.engine.ledger.starts() == []
    agent.archived = True
    world.clock.advance(3600)
    newest = world.engine.runs_of(agent.id)[0]
    assert observe(newest, world.engine.settle()).status_name == "Skipped"
