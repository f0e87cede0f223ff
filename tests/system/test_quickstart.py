"""The quickstart on a real Airflow: scheduler, triggerer, API server, and the sandbox over HTTP."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

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
    files = [stage.lineage, *(path for path in stage.airflow.home.rglob("*") if path.is_file())]
    assert not [path for path in files if key in path.read_bytes()]


def test_openlineage_is_told_what_was_read_and_written(stage: Stage, finished_run: DagRun) -> None:
    agent_id, run_id = (int(stage.airflow.xcom(finished_run, task)) for task in ("build_agent", "run_agent"))
    agent = {"namespace": "sequentum", "name": f"agents/{agent_id}"}

    ran = _told_at_the_end(stage, "quickstart.run_agent")
    [page] = ran["inputs"]
    assert (page["namespace"], page["name"]) == ("https://example.com", "/us_states")
    [data] = ran["outputs"]
    assert {"namespace": data["namespace"], "name": data["name"]} == agent
    assert data["facets"]["version"]["datasetVersion"] == str(run_id)
    assert data["outputFacets"]["outputStatistics"]["rowCount"] == len(quickstart.read_data_file()[1])
    code = ran["job"]["facets"]["sourceCodeLocation"]
    assert (code["type"], code["url"].rpartition("/api/")[2]) == ("sequentum", f"v1/agent/{agent_id}")
    assert ran["run"]["facets"]["externalQuery"]["externalQueryId"] == f"agents/{agent_id}/runs/{run_id}"

    landed = _told_at_the_end(stage, "quickstart.land_files")
    [source] = landed["inputs"]
    assert {"namespace": source["namespace"], "name": source["name"]} == agent
    assert source["facets"]["version"]["datasetVersion"] == str(run_id)
    file = stage.lake / f"run-{run_id}" / "output.csv"
    [written] = landed["outputs"]
    assert (written["namespace"], written["name"]) == ("file", str(file))
    statistics = written["outputFacets"]["outputStatistics"]
    assert (statistics["rowCount"], statistics["size"]) == (len(quickstart.read_data_file()[1]), file.stat().st_size)


def _told_at_the_end(stage: Stage, job: str, timeout: float = 30) -> dict[str, Any]:
    """Return the event by which OpenLineage's own transport told that a task ended; it comes from another process."""
    deadline = time.monotonic() + timeout
    while True:
        told = [json.loads(line) for line in stage.lineage.read_text().splitlines()]
        ends = [event for event in told if event["job"]["name"] == job and event["eventType"] == "COMPLETE"]
        if ends:
            return ends[-1]  # type: ignore[no-any-return]
        assert time.monotonic() < deadline, sorted({(event["job"]["name"], event["eventType"]) for event in told})
        time.sleep(0.5)


def _report(stage: Stage, run: DagRun) -> str:
    logs = [
        stage.airflow.log(run, task.task_id, task.try_number)
        for task in stage.airflow.task_instances(run)
        if task.state == "failed"
    ]
    return "\n".join([str(stage.airflow.states(run)), *logs])
