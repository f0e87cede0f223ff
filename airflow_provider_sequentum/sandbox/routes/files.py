"""Files of runs: list and download."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

from airflow_provider_sequentum.sandbox.routes import TheEngine, TheStorage, errors
from airflow_provider_sequentum.sandbox.schemas import RunFileAnswer

router = APIRouter(prefix="/agent/{agent_id}/run/{run_id}", tags=["files"])


@router.get("/files", responses=errors(404))
async def list_files(agent_id: int, run_id: int, engine: TheEngine, storage: TheStorage) -> list[RunFileAnswer]:
    """The files of a run; none before it has ended."""
    run = engine.run(agent_id, run_id)
    return [
        RunFileAnswer(
            id=file.id,
            name=file.name,
            file_type=file.file_type,
            file_size=storage.path(run, file).stat().st_size,
            created=engine.dialect.time(file.created) or "",
            region_id=None,
        )
        for file in storage.files(run)
    ]


@router.get(
    "/file/{file_id}/download",
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
