"""The quickstart on a real Airflow: scheduler, triggerer, API server, and the sandbox over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.system import quickstart

if TYPE_CHECKING:
    from tests.system.harness import DagRun
    from tests.system.stage import Stage


@pytest.fixture(scope="module")
def finished_run(stage: Stage) -> DagRun:
    run = stage.airflow.wait(stage.airflow.trigger("quickstart"), timeout=240)
    assert run.state == "success", _report(stage, run)
    return run


def test_every_record_is_in_the_table(stage: Stage, finished_run: DagRun) -> None:
    assert not quickstart.differences(quickstart.read_data_file(), quickstart.read_table(stage.table))


def test_one_run_is_started_and_the_key_leaves_for_the_service_only(stage: Stage, finished_run: DagRun) -> None:
    assert stage.sandbox is not None
    agent_id = int(stage.airflow.xcom(finished_run, "build_agent"))
    assert len(stage.sandbox.ledger.starts(agent_id)) == 1
    assert not stage.sandbox.ledger.leaks


def test_the_waits_were_deferred(stage: Stage, finished_run: DagRun) -> None:
    for task_id in ("build_agent", "run_agent"):
        assert "Pausing task as DEFERRED" in stage.airflow.log(finished_run, task_id)


def test_the_key_is_in_no_file_of_airflow(stage: Stage, finished_run: DagRun) -> None:
    assert stage.sandbox is not None
    key = stage.sandbox.api_key.encode()
    files = [path for path in stage.airflow.home.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if key in path.read_bytes()]


def _report(stage: Stage, run: DagRun) -> str:
    logs = [
        stage.airflow.log(run, task.task_id, task.try_number)
        for task in stage.airflow.task_instances(run)
        if task.state == "failed"
    ]
    return "\n".join([str(stage.airflow.states(run)), *logs])
