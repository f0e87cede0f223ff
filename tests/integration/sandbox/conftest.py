from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_sequentum.sandbox import Sandbox
from tests.integration.sandbox.client import Api


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(rate_limit=100_000) as opened:
        yield opened


@pytest.fixture
def api(sandbox: Sandbox) -> Iterator[Api]:
    client = Api(sandbox)
    with client.http:
        yield client
