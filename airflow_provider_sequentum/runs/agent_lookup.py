"""Finding the agent that a parameter names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from airflow_provider_sequentum import api
from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.parameters import is_unset, parse_id, parse_named, parse_text
from airflow_provider_sequentum.runs.describe import counted

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Call
    from airflow_provider_sequentum.api.agents import Agent

T = TypeVar("T")


class Asker(Protocol):
    """Sends requests: a port, or the hook."""

    def send(self, call: Call[T]) -> T:
        """Send a request and return the parsed response."""


def agent_id_of(asker: Asker, parameters: Any, fate: str) -> int:
    """Return the id of the agent of an operator, which has ``agent_id`` or ``agent_name``. A name takes one request.

    :param parameters: the operator.
    :param fate: the sentence on what became of the task's work, such as ``Nothing was copied.``.
    :raises ValueError: the id is invalid, or the name is no text.
    :raises SequentumRequestRefused: not exactly one of them is given; or see :func:`find_agent`.
    """
    if is_unset(parameters.agent_id) == is_unset(parameters.agent_name):
        raise SequentumRequestRefused(f"Give either agent_id or agent_name. {fate}")
    if is_unset(parameters.agent_name):
        return parse_named("agent_id", parse_id, parameters.agent_id)
    return find_agent(asker, parse_named("agent_name", parse_text, parameters.agent_name), fate).id


def find_agent(asker: Asker, name: str, fate: str) -> Agent:
    """Return the agent whose name is exactly ``name``.

    :param fate: see :func:`agent_id_of`.
    :raises SequentumRequestRefused: there is no such agent, or there are several, or some in the list cannot be read.
    """
    # The service returns all agents whose names contain the text, ignoring case; without paging, all at once.
    listed = asker.send(api.agents.list_agents(name=name))
    if listed.left_out:
        raise SequentumRequestRefused(
            f"{counted(listed.left_out, 'agent')} in the service's list cannot be read and may have the name {name!r}. "
            f"{fate} Set agent_id."
        )
    named = [agent for agent in listed if agent.name == name]
    if not named:
        raise SequentumRequestRefused(
            f"There is no agent with the name {name!r}. {fate} Check the name, or set agent_id."
        )
    if len(named) > 1:
        ids = ", ".join(str(agent.id) for agent in named)
        raise SequentumRequestRefused(f"{len(named)} agents have the name {name!r}: {ids}. {fate} Set agent_id.")
    return named[0]
