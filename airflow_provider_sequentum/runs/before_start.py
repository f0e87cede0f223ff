"""What comes before a run is started, where the task asks for it: finding its agent by name, and checks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_provider_sequentum import api
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.jobs.port import DECORATION_SHARE
from airflow_provider_sequentum.runs.describe import counted

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agents import Agent
    from airflow_provider_sequentum.jobs.port import Port, Sender
    from airflow_provider_sequentum.jobs.siblings import PlannedStart
    from airflow_provider_sequentum.runs.record import RunConfig

MOST_NAMED = 5
"""How many schedules a message names."""

log = logging.getLogger(__name__)


def find_agent(port: Sender, name: str) -> Agent:
    """Return the agent called ``name``, letter for letter.

    :raises SequentumRequestRefused: no agent, or several, are called that, or some in the list cannot be read.
    """
    # The service filters by "contains, in any case"; without paging it answers with all of them at once.
    listed = port.send(api.agents.list_agents(name=name))
    if listed.left_out:
        raise SequentumRequestRefused(
            f"{counted(listed.left_out, 'agent')} whose names may be {name!r} cannot be read in the service's list. "
            "Nothing was started. Give the agent's id."
        )
    named = [agent for agent in listed if agent.name == name]
    if not named:
        raise SequentumRequestRefused(
            f"No agent is called {name!r}. Nothing was started. Check the name, or give the agent's id."
        )
    if len(named) > 1:
        ids = ", ".join(str(agent.id) for agent in named)
        raise SequentumRequestRefused(
            f"{len(named)} agents are called {name!r}: {ids}. Nothing was started. Give the agent's id."
        )
    return named[0]


def check_before_start(
    port: Port, config: RunConfig, made: tuple[PlannedStart, ...], *, is_first: bool
) -> tuple[PlannedStart, ...]:
    """Check credits, version, schedules and the credit limit, as far as the task asks for it.

    :param made: the starts that the task has made so far, if it has a credit limit.
    :param is_first: whether the task has had no run before.
    :return: these starts and the one that it may make now.
    :raises CreditsTooLow: fewer credits are left than ``min_credits``.
    :raises AgentVersionChanged: the agent has another version than the expected one.
    :raises CreditLimitReached: with the start, ``credit_limit`` would be passed.
    :raises SequentumRequestRefused: the service does not tell what is to be checked.
    :raises SequentumError: the service could not be asked.
    """
    # Few tasks ask for a check, and each process of a task would pay for the imports.
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
    """Warn if the service runs the agent by a schedule of its own. That this cannot be checked is no reason to fail."""
    try:
        listed = port.send(api.schedules.list_schedules(agent_id), budget_share=DECORATION_SHARE, within=30.0)
    except SequentumError as error:
        if error.status_code != 404:  # an unknown agent: the start says so
            log.info("Could not check agent %s for schedules. (%s)", agent_id, error)
        return
    if listed.left_out:
        log.warning("%s of agent %s cannot be read.", counted(listed.left_out, "schedule").capitalize(), agent_id)
    enabled = [schedule for schedule in listed if schedule.is_enabled]
    if not enabled:
        return
    names = ", ".join(
        f"{schedule.name or schedule.id!r} ({schedule.schedule or 'once'}"
        + (f", next at {schedule.next_run_time})" if schedule.next_run_time else ")")
        for schedule in enabled[:MOST_NAMED]
    )
    log.warning(
        "Agent %s has %s enabled in Sequentum Cloud: %s. It may run twice; disable one if that is not intended.",
        agent_id,
        counted(len(enabled), "schedule"),
        names,
    )
