"""Runs: start, status, list, stop, kill, restart, delete; and their files: list, download."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, RedirectResponse, Response

from airflow_provider_sequentum.sandbox.engine import Engine
from airflow_provider_sequentum.sandbox.presenter import run_response, wire_status
from airflow_provider_sequentum.sandbox.problems import Problem
from airflow_provider_sequentum.sandbox.routes import TheEngine, TheStorage, errors
from airflow_provider_sequentum.sandbox.run_files import render
from airflow_provider_sequentum.sandbox.run_plan import SUCCEEDED
from airflow_provider_sequentum.sandbox.runs import Run, RunOptions, observe
from airflow_provider_sequentum.sandbox.schemas import RunFileResponse, RunResponse, StartBody

router = APIRouter(prefix="/agent/{agent_id}")


@router.post(
    "/start",
    tags=["runs"],
    status_code=202,
    response_model=None,
    responses=errors(404, 409, 422, 504)
    | {200: {"description": "Records of a synchronous run"}, 202: {"model": RunResponse}},
)
async def start(agent_id: int, engine: TheEngine, body: StartBody | None = None) -> Response:
    """Start a run; a synchronous one is answered when it is over, with its records."""
    body = body or StartBody()
    if body.is_run_synchronously and (body.parallelism or 1) > 1:
        raise Problem(400, "parallelism must not exceed 1 in a synchronous run.")
    run = engine.start(agent_id, RunOptions.model_validate(body.model_dump(include=set(RunOptions.model_fields))))
    if body.is_run_synchronously:
        return await _synchronous_response(run, body.timeout, engine)
    record = run_response(run, engine, engine.settle(), just_started=True)
    return _answer(engine.dialect.start_response, record, engine.dialect.start_code)


@router.get("/run/{run_id}/status", tags=["runs"], responses=errors(404))
async def status(agent_id: int, run_id: int, engine: TheEngine) -> RunResponse:
    """One run, from the active table or from history."""
    run = engine.run(agent_id, run_id)
    return run_response(run, engine, engine.settle())


@router.get("/runs", tags=["runs"], responses=errors(404))
async def list_runs(
    agent_id: int, engine: TheEngine, max_records: Annotated[int, Query(alias="maxRecords", ge=1, le=1000)] = 50
) -> list[RunResponse]:
    """The agent's runs, active and archived, newest first."""
    engine.agent(agent_id)
    now = engine.settle()
    return [run_response(run, engine, now) for run in engine.runs_of(agent_id)[:max_records]]


@router.post("/run/{run_id}/stop", tags=["runs"], status_code=204, responses=errors(404, 409))
async def stop(agent_id: int, run_id: int, engine: TheEngine) -> None:
    """Stop gracefully."""
    engine.stop(agent_id, run_id)


@router.post("/run/{run_id}/kill", tags=["runs"], status_code=204, responses=errors(404, 409))
async def kill(agent_id: int, run_id: int, engine: TheEngine) -> None:
    """Stop; while stopping, force."""
    engine.kill(agent_id, run_id)


@router.post(
    "/run/{run_id}/restart",
    tags=["runs"],
    response_model=None,
    responses=errors(404, 409, 422) | {200: {"model": RunResponse}},
)
async def restart(agent_id: int, run_id: int, engine: TheEngine) -> Response:
    """Restart a Failure run in place. The path is inferred: no public page gives it."""
    run = engine.restart(agent_id, run_id)
    return _answer(engine.dialect.restart_response, run_response(run, engine, engine.settle()), 200)


@router.delete("/run/{run_id}", tags=["runs"], responses=errors(404), response_model=None)
async def delete(
    agent_id: int,
    run_id: int,
    engine: TheEngine,
    remove_method: Annotated[
        Literal["RemoveEntireRun", "RemoveAllFiles", "RemoveAllFilesAndAgentInput"], Query(alias="removeMethod")
    ] = "RemoveEntireRun",
) -> Response:
    """Delete a run's record, files or input."""
    engine.delete(agent_id, run_id, remove_method)
    return Response(status_code=200)


@router.get("/run/{run_id}/files", tags=["files"], responses=errors(404))
async def list_files(agent_id: int, run_id: int, engine: TheEngine, storage: TheStorage) -> list[RunFileResponse]:
    """The files of a run; none before it has ended."""
    run = engine.run(agent_id, run_id)
    return [
        RunFileResponse(
            id=file.id,
            name=file.name,
            file_type=file.file_type,
            file_size=storage.listed_size(run, file),
            created=engine.dialect.time(file.created) or "",
            region_id=None,
        )
        for file in storage.files(run)
    ]


@router.get(
    "/run/{run_id}/file/{file_id}/download",
    tags=["files"],
    response_model=None,
    status_code=302,
    responses=errors(404) | {302: {"description": "Redirect to a signed storage URL"}},
)
async def download(agent_id: int, run_id: int, file_id: int, engine: TheEngine, storage: TheStorage) -> Response:
    """Redirect to storage, or the bytes themselves when the dialect says so."""
    run = engine.run(agent_id, run_id)
    file = storage.file(run, file_id)
    if engine.dialect.download == 200:
        return storage.response(run, file)
    return RedirectResponse(storage.signed_url(run, file), engine.dialect.download)


def _answer(form: str, record: RunResponse, code: int) -> Response:
    bodies: dict[str, Any] = {
        "record": record.model_dump(by_alias=True),
        "run_id": {"runId": record.id, "status": record.status},
        "none": {},
    }
    return Response(status_code=code) if form == "empty" else JSONResponse(bodies[form], code)


async def _synchronous_response(run: Run, limit_seconds: float, engine: Engine) -> Response:
    deadline = run.created.timestamp() + limit_seconds
    while not (seen := observe(run, now := engine.settle())).terminal:
        if now.timestamp() >= deadline:
            raise Problem(504, f"Run {run.id} did not end within {limit_seconds:g} seconds.")
        await engine.clock.nap()
    if seen.status not in SUCCEEDED:
        raise Problem(422, f"Run {run.id} ended as {wire_status(seen.status, engine)}: {seen.message}")
    agent = engine.state.agents[run.agent_id]
    records = (run.records if run.records is not None else agent.records)[: seen.data_count]
    match engine.dialect.synchronous_response:
        case "text":
            return Response(render(records, "csv"), media_type="text/csv")
        case "array":
            return JSONResponse(records)
    return JSONResponse({agent.name: records})
