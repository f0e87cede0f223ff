"""Finding an agent by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_sequentum.lifecycle.procedure import Procedure, send

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agents import Agent


def find_agent(name: str) -> Procedure[Agent]:
    """
    Return the agent called ``name``, letter for letter.

    :raises LookupError: no agent, or several, are called that.
    """
    from airflow_provider_sequentum.api import agents

    # The service filters by "contains, in any case"; without paging it answers with all of them at once.
    named = [agent for agent in (yield from send(agents.list_agents(name=name))) if agent.name == name]
    if not named:
        raise LookupError(f"No agent is called {name!r}. Nothing was started. Check the name, or give the agent's id.")
    if len(named) > 1:
        ids = ", ".join(str(agent.id) for agent in named)
        raise LookupError(f"{len(named)} agents are called {name!r}: {ids}. Nothing was started. Give the agent's id.")
    return named[0]
