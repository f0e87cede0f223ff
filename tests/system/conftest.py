"""One Airflow and one sandbox for all system tests of a session."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.stage import EXAMPLES, TEST_DAGS, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

# A SIGTERM, as from "timeout" or a cancelled job, ends the tests like Ctrl-C: what they started is stopped.
signal.signal(signal.SIGTERM, signal.default_int_handler)
# A shell lets what it starts in the background ignore Ctrl-C, and so would the processes that these tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


POLICY = Path(__file__).parent / "policy.py"


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A running stage, on PostgreSQL as most installations of Airflow 3 are; on SQLite with another environment.

    ``SYSTEM_TEST_PYTHON`` names the interpreter of another environment to test, ``SYSTEM_TEST_DISTRIBUTED=1`` asks for
    Celery workers, several triggerers and PostgreSQL.
    """
    python = os.environ.get("SYSTEM_TEST_PYTHON")
    distributed = os.environ.get("SYSTEM_TEST_DISTRIBUTED") == "1"
    folder = tmp_path_factory.mktemp("stage")
    settings = folder / "airflow" / "config" / "airflow_local_settings.py"
    settings.parent.mkdir(parents=True)
    shutil.copy(POLICY, settings)
    with Stage(
        folder,
        python=python or sys.executable,
        dags=[EXAMPLES, TEST_DAGS],
        distributed=distributed,
        database="sqlite" if python else "postgres",
    ) as running:
        yield running
