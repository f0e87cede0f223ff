from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_sequentum.sandbox import Sandbox
from tests.unit.operators.conftest import task_log


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """As the one for users, and faster."""
    with Sandbox(time_scale=20.0, rate_limit=10_000) as opened:
        monkeypatch.setenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT", opened.connection_uri)
        yield opened


__all__ = ["sandbox", "task_log"]
