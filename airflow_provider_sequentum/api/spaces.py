"""Spaces: folders of agents, with their own limits and files.

Based on https://docs.sequentum.com/concepts/spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from airflow_provider_sequentum.api.agents import Agent
from airflow_provider_sequentum.api.call import (
    QUEUE_READ_TIMEOUT,
    Call,
    Id,
    as_id,
    as_json_text,
    only_given,
)
from airflow_provider_sequentum.api.parsing import (
    ApiId,
    ApiMessage,
    ApiModel,
    ApiTime,
    Page,
    read_list,
    read_nothing,
    read_one,
)


class Space(ApiModel):
    """A space. Its runs are kept for ``run_retention_hours``; ``None`` means the server's default."""

    id: ApiId
    name: str | None = None
    organization_id: int | None = None
    created: ApiTime | None = None
    scope: str | None = None
    run_retention_hours: int | None = None
    access: list[Any] | None = None


class SpaceRunResult(ApiModel):
    """The result of starting one agent of a space. ``run_id`` is ``None`` if it was not started.

    ``success`` is ``None`` if the response does not state it: then a run may have been started.
    """

    agent_id: ApiId
    agent_name: str | None = None
    success: bool | None = None
    run_id: ApiId | None = None
    error_message: ApiMessage | None = None


class SpaceRun(ApiModel):
    """The response to :func:`run_all`. It is normal that only some of the agents were started.

    Results that cannot be read are omitted, so there may be fewer than ``total_agents``: compare both before you assume
    that an agent was not started.
    """

    space_id: int | None = None
    space_name: str | None = None
    total_agents: int | None = None
    agents_started: int | None = None
    agents_failed: int | None = None
    results: list[SpaceRunResult] = Field(default_factory=list)


def list_spaces() -> Call[Page[Space]]:
    """List the spaces that the key has access to."""
    return Call.get("list spaces", "/spaces", read_list(Space))


def get(space_id: Id) -> Call[Space]:
    """Read one space."""
    space = as_id(space_id, "space_id")
    return Call.get(f"read space {space}", f"/spaces/{space}", read_one(Space, id=space))


def search(name: str) -> Call[Space]:
    """Find a space by its name, case-insensitively."""
    return Call.get("search a space by name", "/spaces/search", read_one(Space), name=name)


def list_agents(space_id: Id) -> Call[Page[Agent]]:
    """List the agents of a space."""
    space = as_id(space_id, "space_id")
    path = f"/spaces/{space}/agents"
    return Call.get(f"list the agents of space {space}", path, read_list(Agent, spaceId=space))


def run_all(space_id: Id, *, input_parameters: Mapping[str, Any] | str | None = None) -> Call[SpaceRun]:
    """Start all agents of a space. Not safe to repeat. Check each result, because some agents may not start.

    :param input_parameters: input parameters for all agents, as a mapping or as JSON text.
    """
    space = as_id(space_id, "space_id")
    return Call(
        f"run all agents of space {space}",
        "POST",
        f"/spaces/{space}/run-all",
        read_one(SpaceRun, spaceId=space),
        body=only_given(inputParameters=as_json_text(input_parameters)),
        read_timeout=QUEUE_READ_TIMEOUT,
    )


def upload_input_file(space_id: Id, file_name: str, content: bytes) -> Call[None]:
    """Upload an input file to a space. A file of the same name is overwritten; the API cannot delete files."""
    space = as_id(space_id, "space_id")
    return Call(
        f"upload an input file to space {space}",
        "POST",
        f"/input-files/space/{space}",
        read_nothing,
        files={"files": (file_name, content)},
        safe_to_repeat=True,
    )
