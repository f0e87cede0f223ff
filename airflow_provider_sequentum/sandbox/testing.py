"""A pytest fixture for users who test their own DAGs.

Import it in a ``conftest.py``::

    from airflow_provider_sequentum.sandbox.testing import sandbox
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_sequentum.sandbox.server import Sandbox


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox of the test's own, which is also Airflow's connection ``sequentum_default``."""
    # Time is real: a task that looks for a lost run compares how long ago its start was sent with how old the run is.
    with Sandbox(rate_limit=10_000) as opened:
        monkeypatch.setenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT", opened.connection_uri)
        yield opened
