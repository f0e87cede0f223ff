"""Finding the agent that a parameter names."""

from typing import Protocol, Self, TypeVar

from pydantic import model_validator

from airflow_provider_sequentum import api
from airflow_provider_sequentum.api.agents import Agent
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.jobs.record import Configuration, Id, Text
from airflow_provider_sequentum.parameters import check_one_agent
from airflow_provider_sequentum.runs.describe import counted

T = TypeVar("T")


class RequestSender(Protocol):
    """Sends requests: a port, or the hook."""

    def send(self, call: Call[T]) -> T:
        """Send a request and return the parsed response."""


class AgentConfig(Configuration):
    """The parameters of an operator whose agent is given by its id or by its name."""

    sequentum_conn_id: Text = "sequentum_default"
    agent_id: Id = 0
    agent_name: Text | None = None

    @model_validator(mode="after")
    def _has_one_agent(self) -> Self:
        check_one_agent(self.agent_id or None, self.agent_name)
        return self

    def with_agent_id(self, sender: RequestSender) -> Self:
        """Return the parameters with the id of the agent. If they have its name, this takes one request.

        :raises SequentumRequestRefused: see :func:`find_agent`.
        """
        if self.agent_name is None:
            return self
        return self.updated(agent_id=find_agent(sender, self.agent_name, self.fate).id, agent_name=None)


def find_agent(sender: RequestSender, name: str, fate: str) -> Agent:
    """Return the agent whose name is exactly ``name``.

    :param fate: the sentence on what became of the task's work, such as ``Nothing was copied.``.
    :raises SequentumRequestRefused: there is no such agent, or there are several, or some in the list cannot be read.
    """
    # The service returns all agents whose names contain the text, ignoring case; without paging, all at once.
    listed = sender.send(api.agents.list_agents(name=name))
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
