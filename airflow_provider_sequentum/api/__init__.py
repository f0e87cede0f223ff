"""The Sequentum Cloud REST API for Python: typed, sync and async, without Airflow.

An endpoint is a function that describes a request; a client sends it::

    from airflow_provider_sequentum.api import ClientSettings, SequentumClient, runs

    with SequentumClient(ClientSettings(api_key="sk-...")) as client:
        run = client.send(runs.status(agent_id=7, run_id=42))

Names are loaded on first use, so importing this package costs almost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import (
        agent_builder,
        agents,
        analytics,
        billing,
        errors,
        files,
        runs,
        schedules,
        spaces,
    )
    from airflow_provider_sequentum.api.call import Call, Reply
    from airflow_provider_sequentum.api.client import AsyncSequentumClient, SequentumClient
    from airflow_provider_sequentum.api.run_status import RunStatus
    from airflow_provider_sequentum.api.settings import ClientSettings

_HOMES = {
    "AsyncSequentumClient": "client",
    "Call": "call",
    "ClientSettings": "settings",
    "Reply": "call",
    "RunStatus": "run_status",
    "SequentumClient": "client",
}
"""The module of each exported name that is not itself a module."""

__all__ = [
    "AsyncSequentumClient",
    "Call",
    "ClientSettings",
    "Reply",
    "RunStatus",
    "SequentumClient",
    "agent_builder",
    "agents",
    "analytics",
    "billing",
    "errors",
    "files",
    "runs",
    "schedules",
    "spaces",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOMES.get(name, name)}")
    return getattr(module, name) if name in _HOMES else module


def __dir__() -> list[str]:
    return __all__
