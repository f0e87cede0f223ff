"""The harness itself: what a test does to Airflow has to happen to Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.system.stage import Stage


def test_a_deferred_task_outlives_its_triggerer(stage: Stage) -> None:
    airflow = stage.airflow
    run = airflow.trigger("nap", {"seconds": 8})
    airflow.wait_for_task(run, "nap", {"deferred"})
    before = airflow.pids("triggerer")
    airflow.kill("triggerer")
    assert not airflow.pids("triggerer")
    airflow.start("triggerer")
    assert not set(before) & set(airflow.pids("triggerer"))
    assert airflow.wait(run).state == "success"
    assert airflow.xcom(run, "report") == "rested after a nap"
    assert "Awake" in airflow.log(run, "nap")


def test_a_deferred_task_can_be_cleared_and_marked(stage: Stage) -> None:
    airflow = stage.airflow
    run = airflow.trigger("nap", {"seconds": 600})
    airflow.wait_for_task(run, "nap", {"deferred"})
    airflow.clear(run, "nap")
    assert airflow.wait_for_task(run, "nap", {"deferred"}).try_number == 2
    airflow.mark(run, "nap", "failed")
    assert airflow.wait(run).state == "failed"
    assert airflow.states(run) == {"nap": "failed", "report": "upstream_failed"}
