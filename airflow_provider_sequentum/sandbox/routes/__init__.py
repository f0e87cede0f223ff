"""The routes of the sandbox's API, one module per resource."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from airflow_provider_sequentum.sandbox.engine import Engine
from airflow_provider_sequentum.sandbox.schemas import ProblemResponse
from airflow_provider_sequentum.sandbox.service import Service, service_of
from airflow_provider_sequentum.sandbox.session_service import SessionService
from airflow_provider_sequentum.sandbox.storage import Storage


async def _service(request: Request) -> Service:
    return service_of(request)


async def _engine(request: Request) -> Engine:
    return service_of(request).engine


async def _storage(request: Request) -> Storage:
    return service_of(request).storage


async def _sessions(request: Request) -> SessionService:
    return service_of(request).sessions


TheService = Annotated[Service, Depends(_service)]
TheEngine = Annotated[Engine, Depends(_engine)]
TheStorage = Annotated[Storage, Depends(_storage)]
TheSessions = Annotated[SessionService, Depends(_sessions)]


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route for its OpenAPI document; 401 and 429 are every route's."""
    return {
        code: {"model": ProblemResponse, "content": {"application/problem+json": {}}}
        for code in sorted({400, 401, 429, *codes})
    }
