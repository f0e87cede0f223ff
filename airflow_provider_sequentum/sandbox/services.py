"""What the routes of one open sandbox work with.

The web application is built once for a process and holds nothing; a request brings its sandbox along. That makes
opening a sandbox cheap enough for every test to have its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_sequentum.sandbox.builder_desk import BuilderDesk
from airflow_provider_sequentum.sandbox.engine import Engine
from airflow_provider_sequentum.sandbox.faults import Faults

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Scope

    from airflow_provider_sequentum.sandbox.server import Sandbox
    from airflow_provider_sequentum.sandbox.storage import Storage


@dataclass(frozen=True)
class Services:
    """The parts of one sandbox.

    :param closing: whether the server is shutting down, so that held calls end.
    """

    sandbox: Sandbox
    engine: Engine
    desk: BuilderDesk
    storage: Storage
    faults: Faults
    closing: Callable[[], bool]

    def ride(self, scope: Scope) -> None:
        """Put them on a request."""
        scope["state"]["services"] = self


def services_of(request: Request) -> Services:
    """The sandbox a request is for."""
    services: Services = request.state.services
    return services
