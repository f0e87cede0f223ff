"""The routes of the sandbox's API, one module per resource."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from airflow_provider_sequentum.sandbox.builder_desk import BuilderDesk
from airflow_provider_sequentum.sandbox.engine import Engine
from airflow_provider_sequentum.sandbox.schemas import ProblemAnswer
from airflow_provider_sequentum.sandbox.services import services_of
from airflow_provider_sequentum.sandbox.storage import Storage


async def _engine(request: Request) -> Engine:
    return services_of(request).engine


async def _storage(request: Request) -> Storage:
    return services_of(request).storage


async def _desk(request: Request) -> BuilderDesk:
    return services_of(request).desk


TheEngine = Annotated[Engine, Depends(_engine)]
TheStorage = Annotated[Storage, Depends(_storage)]
TheDesk = Annotated[BuilderDesk, Depends(_desk)]


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route for its OpenAPI document; 401 and 429 are every route's."""
    return {
        code: {"model": ProblemAnswer, "content": {"application/problem+json": {}}}
        for code in sorted({400, 401, 429, *codes})
    }
