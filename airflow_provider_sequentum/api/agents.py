"""Agents: list, get, search, versions.

Based on https://docs.sequentum.com/api-reference/agents/list and https://docs.sequentum.com/concepts/agents.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, Literal

from airflow_provider_sequentum.api.call import Call, Id, as_id
from airflow_provider_sequentum.api.parsing import (
    DEFAULT_RECORDS_PER_PAGE,
    ApiCode,
    ApiId,
    ApiModel,
    ApiRunStatus,
    ApiText,
    ApiTime,
    ApiUrl,
    Page,
    Text,
    read_list,
    read_nothing,
    read_one,
)
from airflow_provider_sequentum.api.text import MAX_WHOLE_LENGTH

AgentSortColumn = Literal["name", "lastActivity", "created", "updated", "status", "configType"]


class ConfigType(IntEnum):
    """What an agent record represents."""

    AGENT = 1
    SHARED_FILE = 2
    TEMPLATE = 3
    COMMAND = 4


class ValidationStatus(IntEnum):
    """Whether the service considers an agent fit to run."""

    UNKNOWN = 1
    INVALID = 2
    VALID = 3


class ApprovalStatus(IntEnum):
    """The state of an agent's approval."""

    NOT_APPROVED = 0
    PENDING_APPROVAL = 1
    APPROVED = 2


class Label(ApiModel):
    """A label of an agent."""

    id: int | None = None
    name: str | None = None


class Agent(ApiModel):
    """An agent; the API also calls it a config.

    ``status`` is the status of its last run, ``None`` if it never ran. ``space_id`` is ``None`` for a personal agent.
    ``input_parameters`` maps the names of its input parameters to their defaults. ``config_type``,
    ``validation_status`` and ``approval_status`` are plain integers if the code is unknown. Lists, and the agents of a
    space, omit some fields.
    """

    id: ApiId
    name: str | None = None
    description: ApiText | None = None
    start_url: ApiUrl | None = None
    config_type: ApiCode[ConfigType] | None = None
    input_parameters: Annotated[dict[str, Any], Text(MAX_WHOLE_LENGTH, lines=True)] | None = None
    is_active: bool | None = None
    is_archived: bool | None = None
    status: ApiRunStatus | None = None
    validation_status: ApiCode[ValidationStatus] | None = None
    approval_status: ApiCode[ApprovalStatus] | None = None
    version: int | None = None
    proxy_pool_id: int | None = None
    space_id: int | None = None
    labels: list[Label] | None = None
    created: ApiTime | None = None
    updated: ApiTime | None = None
    last_activity: ApiTime | None = None


class AgentVersion(ApiModel):
    """A stored version of an agent. ``file_size`` is in bytes."""

    version: int
    user_name: str | None = None
    created: ApiTime | None = None
    comments: ApiText | None = None
    file_size: int | None = None


def list_agents(
    *,
    name: str | None = None,
    status: int | None = None,
    space_id: Id | None = None,
    config_type: int | None = None,
    sort_column: AgentSortColumn | None = None,
    descending: bool | None = None,
    page: int | None = None,
    records_per_page: int = DEFAULT_RECORDS_PER_PAGE,
) -> Call[Page[Agent]]:
    """List the organization's agents and the user's own ones.

    Without ``page`` the server returns all of them in one response. ``client.pages(...)`` and
    ``client.records(...)`` iterate over the pages of the call.

    :param name: part of the name, case-insensitive.
    :param status: status of the last run.
    :param space_id: only agents of this space.
    :param config_type: a :class:`ConfigType`.
    :param sort_column: what to sort by; the server's default is the name.
    :param descending: sort in descending order.
    :param page: number of the page, from 1.
    :param records_per_page: number of records per page, only used with ``page``.
    """
    space = None if space_id is None else as_id(space_id, "space_id")
    return Call.get(
        "list agents",
        "/agent/all",
        read_list(Agent, spaceId=space),
        pageIndex=page,
        recordsPerPage=None if page is None else records_per_page,
        sortColumn=sort_column,
        sortOrder=None if descending is None else int(descending),
        name=name,
        status=status,
        spaceId=space,
        configType=config_type,
    )


def get(agent_id: Id) -> Call[Agent]:
    """Read one agent."""
    agent = as_id(agent_id, "agent_id")
    return Call.get(f"read agent {agent}", f"/agent/{agent}", read_one(Agent, id=agent))


def search(query: str, max_records: int = 50) -> Call[Page[Agent]]:
    """Find agents by a part of their name or description.

    :param query: the text to look for.
    :param max_records: 1 to 1000.
    """
    count = as_id(max_records, "max_records")
    return Call.get("search agents", "/agent/search", read_list(Agent), query=query, maxRecords=count)


def list_versions(agent_id: Id) -> Call[Page[AgentVersion]]:
    """List the stored versions of an agent. The highest is active unless an older one was restored."""
    agent = as_id(agent_id, "agent_id")
    return Call.get(f"list the versions of agent {agent}", f"/agent/{agent}/versions", read_list(AgentVersion))


def restore_version(agent_id: Id, version: Id, reason: str) -> Call[None]:
    """Create a new version from an old one. Active runs are not affected.

    :param version: number of the version to restore.
    :param reason: comment stored with the new version.
    """
    agent, number = as_id(agent_id, "agent_id"), as_id(version, "version")
    purpose = f"restore version {number} of agent {agent}"
    return Call(purpose, "POST", f"/agent/{agent}/version/{number}/restore", read_nothing, body={"content": reason})
