"""Schedules of Sequentum Cloud itself. An agent that has a schedule as well as a DAG runs twice.

Based on https://docs.sequentum.com/concepts/schedules and the pages below
https://docs.sequentum.com/api-reference/schedules.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import IntEnum
from typing import Any

from airflow_provider_sequentum.api.call import (
    QUEUE_READ_TIMEOUT,
    Call,
    Day,
    Id,
    as_id,
    as_json_text,
    only_given,
)
from airflow_provider_sequentum.api.parsing import (
    ApiCode,
    ApiId,
    ApiMessage,
    ApiModel,
    ApiRunStatus,
    ApiTime,
    ApiWhole,
    Page,
    read_list,
    read_nothing,
    read_one,
)


class ScheduleType(IntEnum):
    """When a schedule fires."""

    NONE = 0
    RUN_ONCE = 1
    """At ``start_time``, which must be at least a minute in the future."""
    RUN_EVERY = 2
    """Every ``run_every_count`` periods, first at ``start_time`` if given."""
    CRON = 3


class RunEveryPeriod(IntEnum):
    """Unit of ``run_every_count``. The text of the documentation counts from 0, the schema and the servers from 1."""

    MINUTES = 1
    HOURS = 2
    DAYS = 3
    WEEKS = 4
    MONTHS = 5


class _ScheduleFields(ApiModel):
    name: str | None = None
    schedule_type: ApiCode[ScheduleType] | None = None
    cron_expression: str | None = None
    local_schedule: str | None = None
    timezone: str | None = None
    run_every_count: int | None = None
    run_every_period: ApiCode[RunEveryPeriod] | None = None
    is_enabled: bool | None = None
    parallelism: int | None = None
    parallel_max_concurrency: int | None = None
    parallel_export: str | None = None
    proxy_pool_id: int | None = None
    server_group_id: int | None = None
    log_level: str | None = None
    log_mode: str | None = None
    is_exclusive: bool | None = None
    is_wait_on_failure: bool | None = None


class Schedule(_ScheduleFields):
    """A schedule of an agent. Times are UTC; ``schedule`` is the cron expression that the server uses."""

    id: ApiId
    config_id: int | None = None
    config_name: str | None = None
    schedule: str | None = None
    start_time: ApiTime | None = None
    next_run_time: ApiTime | None = None
    input_parameters: ApiWhole | None = None
    created: ApiTime | None = None
    updated: ApiTime | None = None
    tag: str | None = None


class ScheduleDefinition(_ScheduleFields):
    """The definition of a schedule, for :func:`create` and :func:`update`. Fields that are not set are not sent.

    :param name: name of the schedule.
    :param schedule_type: when it fires.
    :param cron_expression: five fields, for ``CRON``.
    :param timezone: IANA name; without one, the server uses UTC.
    :param start_time: first or only time to fire, for ``RUN_ONCE`` and ``RUN_EVERY``.
    :param run_every_count: number of periods between two runs, for ``RUN_EVERY``.
    :param run_every_period: the period, for ``RUN_EVERY``.
    :param input_parameters: the agent's input parameters, as a mapping or as JSON text.
    """

    name: str
    start_time: datetime | None = None
    input_parameters: Mapping[str, Any] | str | None = None

    def body(self) -> dict[str, Any]:
        """Return the JSON body for the API."""
        fields = self.model_dump(by_alias=True, exclude={"input_parameters"})
        return only_given(**fields, inputParameters=as_json_text(self.input_parameters))


class UpcomingRun(ApiModel):
    """A time at which a schedule will fire."""

    schedule_id: ApiId
    agent_id: int | None = None
    agent_name: str | None = None
    schedule_name: str | None = None
    next_run_time: ApiTime | None = None
    timezone: str | None = None
    is_enabled: bool | None = None
    space_id: int | None = None
    space_name: str | None = None
    last_run_id: int | None = None
    last_run_time: ApiTime | None = None
    last_run_status: ApiRunStatus | None = None
    last_run_message: ApiMessage | None = None


def list_schedules(agent_id: Id) -> Call[Page[Schedule]]:
    """List the schedules of an agent."""
    agent = as_id(agent_id, "agent_id")
    path = f"/agent/{agent}/schedules"
    return Call.get(f"list the schedules of agent {agent}", path, read_list(Schedule, configId=agent))


def get(agent_id: Id, schedule_id: Id) -> Call[Schedule]:
    """Read one schedule."""
    agent, schedule = as_id(agent_id, "agent_id"), as_id(schedule_id, "schedule_id")
    return Call.get(
        f"read schedule {schedule} of agent {agent}",
        f"/agent/{agent}/schedules/{schedule}",
        read_one(Schedule, id=schedule, configId=agent),
    )


def create(agent_id: Id, definition: ScheduleDefinition) -> Call[Schedule]:
    """Create a schedule of an agent. Not safe to repeat: two requests create two schedules."""
    agent = as_id(agent_id, "agent_id")
    return Call(
        f"create a schedule of agent {agent}",
        "POST",
        f"/agent/{agent}/schedules",
        read_one(Schedule, configId=agent),
        body=definition.body(),
        read_timeout=QUEUE_READ_TIMEOUT,
    )


def update(agent_id: Id, schedule_id: Id, definition: ScheduleDefinition) -> Call[Schedule]:
    """Replace the definition of a schedule."""
    agent, schedule = as_id(agent_id, "agent_id"), as_id(schedule_id, "schedule_id")
    return Call(
        f"update schedule {schedule} of agent {agent}",
        "PUT",
        f"/agent/{agent}/schedules/{schedule}",
        read_one(Schedule, id=schedule, configId=agent),
        body=definition.body(),
        safe_to_repeat=True,
    )


def delete(agent_id: Id, schedule_id: Id) -> Call[None]:
    """Delete a schedule."""
    agent, schedule = as_id(agent_id, "agent_id"), as_id(schedule_id, "schedule_id")
    # Not safe to repeat: a second delete could get a 404 because the first one succeeded.
    path = f"/agent/{agent}/schedules/{schedule}"
    return Call(f"delete schedule {schedule} of agent {agent}", "DELETE", path, read_nothing)


def enable(agent_id: Id, schedule_id: Id) -> Call[None]:
    """Enable a schedule."""
    return _switch("enable", agent_id, schedule_id)


def disable(agent_id: Id, schedule_id: Id) -> Call[None]:
    """Disable a schedule."""
    return _switch("disable", agent_id, schedule_id)


def upcoming(start_date: Day | None = None, end_date: Day | None = None) -> Call[Page[UpcomingRun]]:
    """List the times at which schedules will fire.

    :param start_date: start of the period; the server's default is today.
    :param end_date: end of the period; the server's default is 7 days from now.
    """
    path = "/analytics/schedules/upcoming"
    return Call.get("list upcoming runs", path, read_list(UpcomingRun), startDate=start_date, endDate=end_date)


def _switch(verb: str, agent_id: Id, schedule_id: Id) -> Call[None]:
    agent, schedule = as_id(agent_id, "agent_id"), as_id(schedule_id, "schedule_id")
    path = f"/agent/{agent}/schedules/{schedule}/{verb}"
    return Call(f"{verb} schedule {schedule} of agent {agent}", "POST", path, read_nothing, safe_to_repeat=True)
