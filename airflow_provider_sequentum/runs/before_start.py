"""The optional checks before a run is started."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_provider_sequentum import api
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.jobs.port import OPTIONAL_SHARE
from airflow_provider_sequentum.runs.describe import comma_list, counted, format_time

if TYPE_CHECKING:
    from airflow_provider_sequentum.jobs.port import Port, Sender
    from airflow_provider_sequentum.jobs.siblings import PlannedStart
    from airflow_provider_sequentum.runs.record import RunConfig

log = logging.getLogger(__name__)


def check_before_start(
    port: Port, config: RunConfig, made: tuple[PlannedStart, ...], *, is_first: bool
) -> tuple[PlannedStart, ...]:
    """Check credits, version, schedules and the credit limit, if the parameters ask for it.

    :param made: the starts that the task has made so far, if it has a credit limit.
    :param is_first: whether this is the task's first run.
    :return: these starts and the one that the task may make now.
    :raises CreditsTooLow: fewer credits are left than ``min_credits``.
    :raises AgentVersionChanged: the agent has another version than the expected one.
    :raises CreditLimitReached: the start would exceed ``credit_limit``.
    :raises SequentumRequestRefused: the service does not return what has to be checked.
    :raises SequentumError: the service could not be reached.
    """
    # Few tasks need a check, and the imports would slow down the process of every task.
    agent = f"Agent {config.agent_id}"
    if config.min_credits is not None:
        from airflow_provider_sequentum.runs.spend import check_credits

        check_credits(port, config.min_credits, agent)
    if config.version_to_run is not None:
        from airflow_provider_sequentum.runs.versions import check_active_version

        check_active_version(port, config)
    if config.check_schedules and is_first:
        warn_of_schedules(port, config.agent_id)
    if config.credit_limit is None:
        return made
    from airflow_provider_sequentum.runs.spend import reserve_credits

    return reserve_credits(port, config, [config.agent_id], agent, made)


def warn_of_schedules(port: Sender, agent_id: int) -> None:
    """Log a warning if the agent has an enabled schedule. A failure to check this is only logged."""
    try:
        listed = port.send(api.schedules.list_schedules(agent_id), budget_share=OPTIONAL_SHARE, within=30.0)
    except SequentumError as error:
        if error.status_code != 404:  # if the agent is unknown, the start fails anyway
            log.info("Could not check agent %s for schedules. (%s)", agent_id, error)
        return
    if listed.left_out:
        log.warning("%s of agent %s cannot be read.", counted(listed.left_out, "schedule").capitalize(), agent_id)
    enabled = [schedule for schedule in listed if schedule.is_enabled]
    if not enabled:
        return
    names = [
        f"{schedule.name or schedule.id!r} ({schedule.schedule or 'once'}"
        + (f", next at {format_time(schedule.next_run_time)})" if schedule.next_run_time else ")")
        for schedule in enabled
    ]
    log.warning(
        "Agent %s has %s enabled in Sequentum Cloud: %s. The agent may run twice; if that is not intended, pause the "
        "schedule or the DAG.",
        agent_id,
        counted(len(enabled), "schedule"),
        comma_list(names),
    )
