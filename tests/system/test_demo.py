"""What ``make demo DAG=...`` does, for each example: an Airflow of its own, as the demo's is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.system.demo import Demo
from tests.system.stage import EXAMPLES, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SYSTEM_TEST_PYTHON" in os.environ, reason="the demo runs on the Airflow of this environment"),
]

SHOWS = {
    "build_once_run_daily": ["the run of today", "session", "Success"],
    "daily_to_postgres": ["All 50 rows equal those of the sandbox's data file"],
    "fan_out": ["gather", "'files': 4, 'records': 200"],
    "on_agent_run": ["A colleague starts run", "land_files[0]", "1 file"],
    "partial_results": ["run_agent          failed", "Failure", "land_partial_files"],
    "person_in_the_loop": ["Which of the tables do you want?", "answers in the person's place: Approve"],
    "quickstart": ["All 50 rows equal those of the sandbox's data file"],
    "start_then_wait": ["run", "Success"],
    "space_run": ["'agents': 2, 'files': 2, 'missing': {}"],
}


@pytest.fixture(scope="module")
def demo_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("demo")) as running:
        yield running


def test_what_is_shown_are_examples() -> None:
    assert set(SHOWS) <= {path.stem for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("dag_id", SHOWS)
def test_the_demo_of_each_example_passes(demo_stage: Stage, dag_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    passed = Demo(demo_stage, dag_id).run()
    shown = capsys.readouterr().out
    assert passed, shown
    for text in SHOWS[dag_id]:
        assert text in shown
