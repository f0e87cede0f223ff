"""Schedules: create, list, get, update, delete, enable, disable, upcoming."""

from __future__ import annotations

from datetime import datetime, timedelta

from fastapi import APIRouter

from airflow_provider_sequentum.sandbox.account_schemas import ScheduleBody, ScheduleResponse, UpcomingResponse
from airflow_provider_sequentum.sandbox.engine import Engine, parse_input_parameters
from airflow_provider_sequentum.sandbox.presenter import wire_status
from airflow_provider_sequentum.sandbox.problems import Problem, not_found
from airflow_provider_sequentum.sandbox.routes import TheEngine, errors
from airflow_provider_sequentum.sandbox.routes.dates import EndDate, StartDate, day_of, period
from airflow_provider_sequentum.sandbox.runs import RunOptions, observe
from airflow_provider_sequentum.sandbox.schedules import Schedule
from airflow_provider_sequentum.sandbox.settings import Dialect

router = APIRouter(tags=["schedules"])


@router.get("/agent/{agent_id}/schedules", responses=errors(404))
async def list_schedules(agent_id: int, engine: TheEngine) -> list[ScheduleResponse]:
    """The agent's schedules."""
    engine.agent(agent_id)
    return [_answer(schedule, engine) for schedule in _of_agent(agent_id, engine)]


@router.post("/agent/{agent_id}/schedules", status_code=201, responses=errors(404))
async def create(agent_id: int, body: ScheduleBody, engine: TheEngine) -> ScheduleResponse:
    """Create a schedule."""
    with engine.lock:
        engine.agent(agent_id)
        now, state = engine.settle(), engine.state
        schedule = Schedule(
            id=state.next_schedule_id, agent_id=agent_id, created=now, updated=now, **_fields(body, engine.dialect)
        )
        _arm(schedule, engine)
        state.next_schedule_id += 1
        state.schedules[schedule.id] = schedule
        return _answer(schedule, engine)


@router.get("/agent/{agent_id}/schedules/{schedule_id}", responses=errors(404))
async def get(agent_id: int, schedule_id: int, engine: TheEngine) -> ScheduleResponse:
    """One schedule."""
    return _answer(_schedule(agent_id, schedule_id, engine), engine)


@router.put("/agent/{agent_id}/schedules/{schedule_id}", responses=errors(404))
async def update(agent_id: int, schedule_id: int, body: ScheduleBody, engine: TheEngine) -> ScheduleResponse:
    """Replace a schedule."""
    with engine.lock:
        old = _schedule(agent_id, schedule_id, engine)
        schedule = Schedule(
            id=old.id, agent_id=agent_id, created=old.created, updated=engine.settle(), **_fields(body, engine.dialect)
        )
        _arm(schedule, engine)
        engine.state.schedules[old.id] = schedule
        return _answer(schedule, engine)


@router.delete("/agent/{agent_id}/schedules/{schedule_id}", status_code=204, responses=errors(404))
async def delete(agent_id: int, schedule_id: int, engine: TheEngine) -> None:
    """Delete a schedule."""
    with engine.lock:
        del engine.state.schedules[_schedule(agent_id, schedule_id, engine).id]


@router.post("/agent/{agent_id}/schedules/{schedule_id}/enable", status_code=204, responses=errors(404))
async def enable(agent_id: int, schedule_id: int, engine: TheEngine) -> None:
    """Let a schedule fire."""
    _switch(agent_id, schedule_id, engine, on=True)


@router.post("/agent/{agent_id}/schedules/{schedule_id}/disable", status_code=204, responses=errors(404))
async def disable(agent_id: int, schedule_id: int, engine: TheEngine) -> None:
    """Keep a schedule from firing."""
    _switch(agent_id, schedule_id, engine, on=False)


@router.get("/analytics/schedules/upcoming", responses=errors())
async def upcoming(engine: TheEngine, start_date: StartDate = None, end_date: EndDate = None) -> list[UpcomingResponse]:
    """When schedules will fire, soonest first; by default in the next seven days."""
    now = engine.settle()
    week = timedelta(days=8, microseconds=-1)
    wanted = period(start_date, end_date, day_of(now), day_of(now) + week, engine.dialect)
    fires = [
        (moment, schedule)
        for schedule in tuple(engine.state.schedules.values())
        if schedule.is_enabled
        for moment in schedule.between(max(wanted.start, now), wanted.end)
    ]
    return [_upcoming(moment, schedule, engine) for moment, schedule in sorted(fires, key=lambda f: (f[0], f[1].id))]


def _fields(body: ScheduleBody, dialect: Dialect) -> dict[str, object]:
    parse_input_parameters(body.input_parameters)
    fields = body.model_dump()
    fields["timezone"] = body.timezone or "UTC"
    fields["start_time"] = _start_time(body.start_time, dialect)
    return fields | {"options": RunOptions.model_validate(body.model_dump(include=set(RunOptions.model_fields)))}


def _start_time(moment: datetime | None, dialect: Dialect) -> datetime | None:
    """A start time of the service's clock by the sandbox's.

    :raises Problem: 400 when it is out of the range of times.
    """
    try:
        return None if moment is None else dialect.by_sandbox_clock(moment)
    except OverflowError as error:
        raise Problem(400, "startTime is out of range.") from error


def _arm(schedule: Schedule, engine: Engine) -> None:
    now = engine.settle()
    try:
        schedule.check(now)
        schedule.next_run = schedule.after(now)
    except ValueError as error:
        raise Problem(400, str(error)) from error
    engine.touch()


def _switch(agent_id: int, schedule_id: int, engine: Engine, *, on: bool) -> None:
    with engine.lock:
        schedule = _schedule(agent_id, schedule_id, engine)
        if on and not schedule.is_enabled:
            schedule.next_run = schedule.after(engine.settle())
        schedule.is_enabled, schedule.updated = on, engine.settle()
        engine.touch()


def _of_agent(agent_id: int, engine: Engine) -> list[Schedule]:
    return [schedule for schedule in tuple(engine.state.schedules.values()) if schedule.agent_id == agent_id]


def _schedule(agent_id: int, schedule_id: int, engine: Engine) -> Schedule:
    engine.agent(agent_id)
    schedule = engine.state.schedules.get(schedule_id)
    if schedule is None or schedule.agent_id != agent_id:
        raise not_found("Schedule", schedule_id)
    return schedule


def _answer(schedule: Schedule, engine: Engine) -> ScheduleResponse:
    write = engine.dialect.time
    return ScheduleResponse(
        **schedule.options.model_dump(),
        **schedule.model_dump(
            include={
                "id",
                "name",
                "schedule_type",
                "cron_expression",
                "local_schedule",
                "timezone",
                "run_every_count",
                "run_every_period",
                "is_enabled",
                "proxy_pool_id",
                "server_group_id",
            }
        ),
        config_id=schedule.agent_id,
        config_name=engine.state.agents[schedule.agent_id].name,
        schedule=schedule.cron_expression,
        start_time=write(schedule.start_time, first=True),
        next_run_time=write(schedule.next_run if schedule.is_enabled else None, first=True),
        created=write(schedule.created, first=True),
        updated=write(schedule.updated),
    )


def _upcoming(moment: datetime, schedule: Schedule, engine: Engine) -> UpcomingResponse:
    agent = engine.state.agents[schedule.agent_id]
    runs = engine.runs_of(agent.id)
    last = observe(runs[0], engine.clock.now()) if runs else None
    write = engine.dialect.time
    return UpcomingResponse(
        schedule_id=schedule.id,
        agent_id=agent.id,
        agent_name=agent.name,
        schedule_name=schedule.name,
        next_run_time=write(moment, first=True),
        timezone=schedule.timezone,
        is_enabled=schedule.is_enabled,
        schedule=schedule.cron_expression,
        schedule_type=schedule.schedule_type,
        run_every_count=schedule.run_every_count,
        run_every_period=schedule.run_every_period,
        space_id=agent.space_id,
        space_name=engine.state.spaces[agent.space_id].name,
        approval_status=2,
        last_run_id=runs[0].id if runs else None,
        last_run_time=write(runs[0].created) if runs else None,
        last_run_status=wire_status(last.status, engine) if last else None,
        last_run_message=last.message if last else None,
    )
