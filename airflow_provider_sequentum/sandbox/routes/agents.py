"""Agents: list, get, search, versions, restore."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from airflow_provider_sequentum.sandbox.agents import Agent, Version, in_order
from airflow_provider_sequentum.sandbox.engine import Engine
from airflow_provider_sequentum.sandbox.presenter import agent_response, version_response
from airflow_provider_sequentum.sandbox.problems import Problem, not_found
from airflow_provider_sequentum.sandbox.routes import TheEngine, errors
from airflow_provider_sequentum.sandbox.schemas import AgentResponse, ResponseBody, RestoreBody, VersionResponse

router = APIRouter(prefix="/agent", tags=["agents"])
_NEVER = datetime.min.replace(tzinfo=UTC)
SortColumn = Literal["name", "lastActivity", "created", "updated", "status", "configType"]


class AgentFilter(ResponseBody):
    """Query of the list of agents."""

    page_index: int | None = Field(None, ge=1)
    records_per_page: int | None = Field(None, ge=1, le=1000)
    sort_column: SortColumn = "name"
    sort_order: Literal["0", "1"] = "0"
    name: str | None = None
    status: int | None = Field(None, ge=0)
    space_id: int | None = None
    config_type: int | None = Field(None, ge=1, le=4)

    def accepts(self, agent: Agent, engine: Engine) -> bool:
        """Whether an agent is asked for."""
        return (
            not agent.archived
            and (self.name is None or self.name.casefold() in agent.name.casefold())
            and (self.space_id is None or agent.space_id == self.space_id)
            and (self.config_type is None or agent.config_type == self.config_type)
            and (self.status is None or engine.last_status(agent.id) == self.status)
        )


class AgentPage(ResponseBody):
    """A page of agents; the dialect chooses the key."""

    agents: list[AgentResponse] | None = None
    items: list[AgentResponse] | None = None
    total_record_count: int


@router.get("/all", responses=errors(), response_model_exclude_unset=True)
async def list_agents(engine: TheEngine, query: Annotated[AgentFilter, Query()]) -> list[AgentResponse] | AgentPage:
    """All agents that are not archived: an array, or a page when both paging parameters are there."""
    engine.settle()
    agents = [agent for agent in tuple(engine.state.agents.values()) if query.accepts(agent, engine)]
    agents.sort(key=lambda agent: _sort_key(agent, query.sort_column, engine), reverse=query.sort_order == "1")
    size = query.records_per_page
    if query.page_index is None or size is None:
        return [agent_response(agent, engine) for agent in agents]
    first = (query.page_index - 1) * size
    page = [agent_response(agent, engine) for agent in agents[first : first + size]]
    if engine.dialect.paged_key == "items":
        return AgentPage(items=page, total_record_count=len(agents))
    return AgentPage(agents=page, total_record_count=len(agents))


@router.get("/search", responses=errors())
async def search(
    engine: TheEngine,
    query: str,
    max_records: Annotated[int, Query(alias="maxRecords", ge=1, le=1000)] = 50,
) -> list[AgentResponse]:
    """Agents whose name or description contains the query."""
    agents = [agent for agent in tuple(engine.state.agents.values()) if not agent.archived]
    return [agent_response(agent, engine) for agent in in_order(agents, query, max_records)]


@router.get("/{agent_id}", responses=errors(404))
async def get(agent_id: int, engine: TheEngine) -> AgentResponse:
    """One agent."""
    return agent_response(engine.agent(agent_id), engine)


@router.get("/{agent_id}/versions", responses=errors(404))
async def versions(agent_id: int, engine: TheEngine) -> list[VersionResponse]:
    """An agent's versions, newest first."""
    return [version_response(version, engine) for version in reversed(engine.agent(agent_id).versions)]


@router.post("/{agent_id}/version/{version_number}/restore", status_code=204, responses=errors(404))
async def restore(
    agent_id: int, version_number: Annotated[int, Path()], engine: TheEngine, body: RestoreBody | None = None
) -> None:
    """Make a new version from an old one."""
    with engine.lock:
        agent = engine.agent(agent_id)
        old = next((version for version in agent.versions if version.version == version_number), None)
        if old is None:
            raise not_found("Version", version_number)
        if body is not None and body.content is not None and not body.content.strip():
            raise Problem(400, "content must say why, or be left out.")
        now = engine.settle()
        reason = body.content if body and body.content else f"Restored version {version_number}"
        agent.active_version = len(agent.versions) + 1
        agent.updated = now
        agent.versions.append(
            Version(
                version=agent.active_version, user_name="sandbox", created=now, comments=reason, file_size=old.file_size
            )
        )


def _sort_key(agent: Agent, column: SortColumn, engine: Engine) -> tuple[Any, ...]:
    match column:
        case "created":
            value: Any = agent.created
        case "updated":
            value = agent.updated
        case "configType":
            value = agent.config_type
        case "status":
            status = engine.last_status(agent.id)
            value = status if isinstance(status, int) else -1
        case "lastActivity":
            runs = engine.runs_of(agent.id)
            value = runs[0].created if runs else _NEVER
        case _:
            value = agent.name.casefold()
    return (value, agent.id)
