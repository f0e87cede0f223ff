"""Spaces: folders of agents with their own limits and files.

Rests on https://docs.sequentum.com/concepts/spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from airflow_provider_sequentum.api.agents import Agent
from airflow_provider_sequentum.api.call import (
    QUEUE_READ_TIMEOUT,
    Call,
    FileUpload,
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
    """A space. ``run_retention_hours`` is how long its runs are kept, ``None`` for the server's default."""

    id: ApiId
    name: str | None = None
    organization_id: int | None = None
    created: ApiTime | None = None
    is_default_access: bool | None = None
    scope: str | None = None
    run_retention_hours: int | None = None
    initiated_by: str | None = None
    access: list[Any] | None = None


class SpaceRunResult(ApiModel):
    """What became of one agent of a space. ``run_id`` is ``None`` when it was not started."""

    agent_id: ApiId
    agent_name: str | None = None
    success: bool = False
    run_id: int | None = None
    error_message: ApiMessage | None = None


class SpaceRun(ApiModel):
    """The answer to :func:`run_all`. Some agents started and some not is normal.

    Results that cannot be read are left out, so there may be fewer than ``total_agents``: compare the two before you
    take a run for not started.
    """

    space_id: int | None = None
    space_name: str | None = None
    total_agents: int | None = None
    agents_started: int | None = None
    agents_failed: int | None = None
    results: list[SpaceRunResult] = Field(default_factory=list)


def list_spaces() -> Call[Page[Space]]:
    """List the spaces the key has access to."""
    return Call(purpose="list spaces", method="GET", path="/spaces", parse=read_list(Space), safe_to_repeat=True)


def get(space_id: int | str) -> Call[Space]:
    """Read one space."""
    space = as_id(space_id, "space_id")
    return Call(
        purpose=f"read space {space}",
        method="GET",
        path=f"/spaces/{space}",
        parse=read_one(Space, id=space),
        safe_to_repeat=True,
    )


def search(name: str) -> Call[Space]:
    """Find a space by its name, in any case."""
    return Call(
        purpose="search a space by name",
        method="GET",
        path="/spaces/search",
        query={"name": name},
        parse=read_one(Space),
        safe_to_repeat=True,
    )


def list_agents(space_id: int | str) -> Call[Page[Agent]]:
    """List the agents of a space."""
    space = as_id(space_id, "space_id")
    return Call(
        purpose=f"list the agents of space {space}",
        method="GET",
        path=f"/spaces/{space}/agents",
        parse=read_list(Agent, spaceId=space),
        safe_to_repeat=True,
    )


def run_all(space_id: int | str, *, input_parameters: Mapping[str, Any] | str | None = None) -> Call[SpaceRun]:
    """Start every agent of a space. Not safe to repeat. Look at each result: a part may fail.

    :param space_id: the space.
    :param input_parameters: input parameters given to every agent, as a mapping or as JSON text.
    """
    space = as_id(space_id, "space_id")
    return Call(
        purpose=f"run all agents of space {space}",
        method="POST",
        path=f"/spaces/{space}/run-all",
        body=only_given(inputParameters=as_json_text(input_parameters)),
        parse=read_one(SpaceRun, spaceId=space),
        read_timeout=QUEUE_READ_TIMEOUT,
    )


def upload_input_file(space_id: int | str, file_name: str, content: bytes) -> Call[None]:
    """Store an input file in a space. A file of the same name is overwritten; the API cannot delete one.

    :param space_id: the space.
    :param file_name: name of the file in the space.
    :param content: the bytes.
    """
    space = as_id(space_id, "space_id")
    return Call(
        purpose=f"upload an input file to space {space}",
        method="POST",
        path=f"/input-files/space/{space}",
        body=FileUpload(field_name="files", file_name=file_name, content=content),
        parse=read_nothing,
        safe_to_repeat=True,
    )
