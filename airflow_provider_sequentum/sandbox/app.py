"""The sandbox's web applications: the API with the admin API and the pages, and storage."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from fastapi import APIRouter, FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader
from starlette.exceptions import HTTPException
from starlette.responses import Response

from airflow_provider_sequentum.sandbox.problems import Problem, problem_response
from airflow_provider_sequentum.sandbox.routes import (
    admin,
    agent_builder,
    agents,
    analytics,
    billing,
    pages,
    runs,
    schedules,
    spaces,
)
from airflow_provider_sequentum.sandbox.service import service_of
from airflow_provider_sequentum.sandbox.settings import ADMIN_PREFIX, API_PREFIX, STORAGE_PREFIX

# In the order in which paths are matched: fixed ones before those with an id.
API_ROUTERS: tuple[APIRouter, ...] = (
    agents.router,
    runs.router,
    agent_builder.router,
    schedules.router,
    spaces.router,
    analytics.router,
    billing.router,
)

_KEY = APIKeyHeader(name="Authorization", scheme_name="ApiKey", description="`ApiKey sk-...`", auto_error=False)


@cache
def api_app() -> FastAPI:
    """The application of the API's port."""
    app = FastAPI(
        title="Sequentum sandbox",
        description="A local stand-in for the Sequentum Cloud REST API, for development and tests.",
        version="1",
    )
    for router in API_ROUTERS:
        app.include_router(router, prefix=API_PREFIX, dependencies=[Security(_KEY)])
    app.include_router(admin.router, prefix=ADMIN_PREFIX)
    app.include_router(pages.router)
    app.add_exception_handler(Problem, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    return app


def known_routes() -> set[str]:
    """Every route a fault can apply to, as ``METHOD path`` without the API's prefix."""
    return {f"GET {STORAGE_PREFIX}/{{agent_id}}/{{run_id}}/{{file_id}}", *_templates()}


def _templates() -> Iterator[str]:
    for router in API_ROUTERS:
        for route in router.routes:
            if isinstance(route, APIRoute):
                yield from (f"{method} {route.path}" for method in route.methods)


async def _refused(request: Request, error: Exception) -> Response:
    match error:
        case Problem():
            problem = error
        case RequestValidationError():
            first = error.errors()[0]
            problem = Problem(400, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")
        case HTTPException():
            problem = Problem(error.status_code, str(error.detail), dict(error.headers or {}))
        case _:
            raise error
    return problem_response(problem, request.url.path, service_of(request).engine.dialect)


@cache
def storage_app() -> FastAPI:
    """The application of storage's port. Its errors are XML, as those of object stores are."""
    app = FastAPI(title="Sequentum sandbox storage", openapi_url=None, docs_url=None, redoc_url=None)

    @app.get(STORAGE_PREFIX + "/{agent_id}/{run_id}/{file_id}")
    async def download(request: Request, agent_id: int, run_id: int, file_id: int) -> Response:
        """Hand out a file; an ``Authorization`` header next to the signature is refused."""
        if "authorization" in request.headers:
            raise Problem(400, "Only one auth mechanism allowed")
        service = service_of(request)
        service.storage.check(request.url.path, request.query_params)
        run = service.engine.run(agent_id, run_id)
        return service.storage.response(run, service.storage.file(run, file_id))

    @app.exception_handler(Problem)
    async def refuse(_: Request, problem: Problem) -> Response:
        body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{problem.detail}</Code></Error>'
        return Response(body, problem.status, media_type="application/xml")

    return app
