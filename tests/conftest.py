"""Settings for all tests. They have to be in place before anything imports Airflow."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING

from hypothesis import settings

if TYPE_CHECKING:
    import pytest

_AIRFLOW_HOME = tempfile.mkdtemp(prefix="airflow-home-")


def _isolate_environment() -> None:
    """Neither touch the developer's own Airflow nor let its settings or keys change what is tested."""
    for name in list(os.environ):
        if name.startswith(("AIRFLOW_", "SEQUENTUM_")):
            del os.environ[name]
    os.environ["AIRFLOW_HOME"] = _AIRFLOW_HOME
    os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "True"
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


_isolate_environment()

# How long an example takes is the machine's affair: a test asserts what is computed.
settings.register_profile("untimed", deadline=None)
settings.register_profile("thorough", max_examples=10_000, deadline=None)
settings.register_profile("quick", max_examples=25, deadline=None)
settings.load_profile("untimed")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the Airflow home made for this session."""
    shutil.rmtree(_AIRFLOW_HOME, ignore_errors=True)
