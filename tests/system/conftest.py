"""One Airflow and one sandbox for all system tests of a session."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.system.stage import EXAMPLES, TEST_DAGS, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

# A SIGTERM, as from "timeout" or a cancelled job, ends the tests like Ctrl-C: what they started is stopped.
signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A running stage. ``SYSTEM_TEST_PYTHON`` names the interpreter of another environment to test."""
    python = os.environ.get("SYSTEM_TEST_PYTHON", sys.executable)
    with Stage(tmp_path_factory.mktemp("stage"), python=python, dags=[EXAMPLES, TEST_DAGS]) as running:
        yield running
