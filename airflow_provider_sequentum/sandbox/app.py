"""The sandbox's web application: the API, the admin API, the pages."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader
from starlette.exceptions import HTTPException

from airflow_provider_sequentum.sandbox import admin, pages
from airflow_provider_sequentum.sandbox.gate import API_PREFIX, STORAGE_PREFIX, problem_response
from airflow_provider_sequentum.sandbox.problems import Problem
from airflow_provider_sequentum.sandbox.routes import (
    agent_builder,
    agents,
    analytics,
    billing,
    files,
    runs,
    schedules,
    spaces,
)
from airflow_provider_sequentum.sandbox.services import services_of

if TYPE_CHECKING:
    from starlette.responses import Response

#: In the order in which paths are matched: fixed ones before those with an id.
API_ROUTERS: tuple[APIRouter, ...] = (
    agents.router,
    runs.router,
    files.router,
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
    app.include_router(admin.router)
    app.include_router(pages.router)
    app.add_exception_handler(Problem, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    return app


def known_routes() -> set[str]:
    """Every route a fault can strike, as ``METHOD path`` without the API's prefix."""
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
    return problem_response(problem, request.url.path, services_of(request).engine)
