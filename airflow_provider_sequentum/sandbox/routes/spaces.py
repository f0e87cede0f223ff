"""Spaces: list, get, search, agents, run-all; and input files of a space."""

from __future__ import annotations

import hashlib

from fastapi import APIRouter, UploadFile

from airflow_provider_sequentum.sandbox.account_schemas import (
    AgentSummary,
    RunAllBody,
    RunAllResponse,
    RunAllResult,
    SpaceResponse,
    UploadedFile,
)
from airflow_provider_sequentum.sandbox.agents import Agent
from airflow_provider_sequentum.sandbox.engine import Engine, parse_input_parameters
from airflow_provider_sequentum.sandbox.presenter import agent_response
from airflow_provider_sequentum.sandbox.problems import Problem, not_found
from airflow_provider_sequentum.sandbox.routes import TheEngine, errors
from airflow_provider_sequentum.sandbox.runs import RunOptions
from airflow_provider_sequentum.sandbox.state import DEFAULT_SPACE_ID, ORGANIZATION_ID, InputFile, Space

router = APIRouter(tags=["spaces"])


@router.get("/spaces", responses=errors())
async def list_spaces(engine: TheEngine) -> list[SpaceResponse]:
    """All spaces."""
    return [_answer(space, engine) for space in tuple(engine.state.spaces.values())]


@router.get("/spaces/search", responses=errors(404))
async def search(engine: TheEngine, name: str) -> SpaceResponse:
    """The space of this name, in any case."""
    for space in tuple(engine.state.spaces.values()):
        if space.name.casefold() == name.casefold():
            return _answer(space, engine)
    raise not_found("Space", name)


@router.get("/spaces/{space_id}", responses=errors(404))
async def get(space_id: int, engine: TheEngine) -> SpaceResponse:
    """One space."""
    return _answer(engine.space(space_id), engine)


@router.get("/spaces/{space_id}/agents", responses=errors(404))
async def agents(space_id: int, engine: TheEngine) -> list[AgentSummary]:
    """The agents of a space."""
    return [_summary(agent, engine) for agent in _agents(space_id, engine)]


@router.post("/spaces/{space_id}/run-all", responses=errors(404))
async def run_all(space_id: int, engine: TheEngine, body: RunAllBody | None = None) -> RunAllResponse:
    """Start every agent of a space; some may fail to start."""
    space, parameters = engine.space(space_id), body.input_parameters if body else None
    parse_input_parameters(parameters)
    chosen = [agent for agent in _agents(space_id, engine) if not agent.archived]
    results = [_start(agent, parameters, engine) for agent in chosen]
    started = sum(result.success for result in results)
    return RunAllResponse(
        space_id=space.id,
        space_name=space.name,
        total_agents=len(results),
        agents_started=started,
        agents_failed=len(results) - started,
        results=results,
    )


@router.post("/input-files/space/{space_id}", tags=["input files"], responses=errors(404))
async def upload(space_id: int, files: list[UploadFile], engine: TheEngine) -> list[UploadedFile]:
    """Store input files of a space; one of the same name is overwritten."""
    engine.space(space_id)
    stored: list[InputFile] = []
    for file in files:
        content = await file.read()
        digest = hashlib.sha256(content).hexdigest()
        stored.append(
            InputFile(
                space_id=space_id, name=file.filename or "", size=len(content), sha256=digest, uploaded=engine.settle()
            )
        )
    names = {file.name for file in stored}
    with engine.lock:
        kept = [old for old in engine.state.input_files if old.space_id != space_id or old.name not in names]
        engine.state.input_files[:] = [*kept, *stored]
    return [UploadedFile(name=file.name, size=file.size) for file in stored]


def _start(agent: Agent, parameters: str | None, engine: Engine) -> RunAllResult:
    try:
        run = engine.start(agent.id, RunOptions(input_parameters=parameters))
    except Problem as problem:
        return RunAllResult(
            agent_id=agent.id, agent_name=agent.name, success=False, run_id=None, error_message=problem.detail
        )
    return RunAllResult(agent_id=agent.id, agent_name=agent.name, success=True, run_id=run.id, error_message=None)


def _agents(space_id: int, engine: Engine) -> list[Agent]:
    engine.space(space_id)
    engine.settle()
    return [agent for agent in tuple(engine.state.agents.values()) if agent.space_id == space_id]


def _answer(space: Space, engine: Engine) -> SpaceResponse:
    return SpaceResponse(
        id=space.id,
        name=space.name,
        organization_id=ORGANIZATION_ID,
        created=engine.dialect.time(space.created, first=True),
        is_default_access=space.id == DEFAULT_SPACE_ID,
        scope=space.scope,
    )


def _summary(agent: Agent, engine: Engine) -> AgentSummary:
    shared = set(AgentSummary.model_fields) - {"is_archived", "approval_status", "labels"}
    return AgentSummary(
        **agent_response(agent, engine).model_dump(include=shared, by_alias=False), is_archived=agent.archived
    )
