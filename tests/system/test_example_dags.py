"""The example DAGs on a real Airflow, with a real PostgreSQL; the quickstart and the builds have files of their own."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from airflow_provider_sequentum.api import ClientSettings, SequentumClient, runs
from airflow_provider_sequentum.assets.agent_run import SETTLING_SECONDS
from airflow_provider_sequentum.sandbox.run_plan import RunPlan
from tests.system.quickstart import read_data_file

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_sequentum.sandbox import Sandbox
    from tests.system.harness import DagRun
    from tests.system.stage import Stage

pytestmark = pytest.mark.slow


@pytest.fixture
def sandbox(stage: Stage) -> Sandbox:
    assert stage.sandbox is not None
    return stage.sandbox


@pytest.fixture
def agent_id(stage: Stage) -> int:
    return int(stage.example_agent_id)


def finished(stage: Stage, run: DagRun, state: str = "success") -> DagRun:
    run = stage.airflow.wait(run, timeout=240)
    if run.state != state:
        logs = [
            stage.airflow.log(run, task.task_id, task.try_number, task.map_index)
            for task in stage.airflow.task_instances(run)
            if task.state == "failed"
        ]
        raise AssertionError("\n".join([str(stage.airflow.states(run)), *logs]))
    return run


def wait_until(condition: Callable[[], bool], timeout: float = 180) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.25)


class TestDailyToPostgres:
    def rows(self, stage: Stage) -> list[tuple[Any, ...]]:
        with psycopg.connect(stage.warehouse_dsn) as connection:
            found = connection.execute("SELECT state, abbreviation, capital, admitted::text FROM states ORDER BY 1")
            return found.fetchall()

    def test_rows_are_never_doubled(self, stage: Stage, sandbox: Sandbox, agent_id: int) -> None:
        """A run, the same run's load once more, and a run of the next day."""
        stage.airflow.wait_for_dag("daily_to_postgres")
        stage.airflow.api.patch("/dags/daily_to_postgres", {"is_paused": False})
        run = finished(stage, stage.airflow.trigger("daily_to_postgres"))
        expected = sorted(read_data_file()[1])
        assert self.rows(stage) == expected
        stage.airflow.clear(run, "fill_staging")
        finished(stage, run)
        assert self.rows(stage) == expected
        finished(stage, stage.airflow.trigger("daily_to_postgres"))
        assert self.rows(stage) == expected
        stage.airflow.api.patch("/dags/daily_to_postgres", {"is_paused": True})


class TestFanOut:
    def test_every_input_has_its_run_and_only_the_failed_one_is_retried(
        self, stage: Stage, sandbox: Sandbox, agent_id: int
    ) -> None:
        before = len(sandbox.ledger.starts(agent_id))
        inputs = [{"region": name} for name in ("north", "east", "south")]
        inputs[1]["sandbox_outcome"] = "Failure"
        run = finished(stage, stage.airflow.trigger("fan_out", {"inputs": inputs}))
        tries = [stage.airflow.task_instance(run, "run_agent", number).try_number for number in range(3)]
        assert tries == [1, 2, 1]
        mine = sandbox.ledger.starts(agent_id)[before:]
        regions = sorted(json.loads(effect.input_parameters or "{}")["region"] for effect in mine)
        assert regions == ["east", "north", "south"], "the retry restarted the failed run and started none"
        retried = int(stage.airflow.xcom(run, "run_agent", map_index=1))
        assert [effect.run_id for effect in sandbox.ledger.restarts if effect.run_id == retried] == [retried]

    def test_all_files_are_gathered(self, stage: Stage, sandbox: Sandbox, agent_id: int) -> None:
        run = finished(stage, stage.airflow.trigger("fan_out"))
        records = len(read_data_file()[1])
        assert stage.airflow.xcom(run, "gather") == {"files": 4, "records": 4 * records}


class TestPartialResults:
    def folder(self, stage: Stage, kind: str, run_id: int) -> Path:
        return stage.lake / kind / f"run-{run_id}"

    def test_a_run_that_recovers_is_landed_whole(self, stage: Stage, sandbox: Sandbox, agent_id: int) -> None:
        sandbox.plan_runs(agent_id, [RunPlan(outcome="Failure"), RunPlan()])
        run = finished(stage, stage.airflow.trigger("partial_results"))
        run_id = int(stage.airflow.xcom(run, "run_agent"))
        with (self.folder(stage, "complete", run_id) / "output.csv").open(newline="") as file:
            assert list(csv.reader(file))[1:] == [list(row) for row in read_data_file()[1]]
        assert not self.folder(stage, "partial", run_id).exists()

    def test_what_a_failed_run_found_is_landed_apart(self, stage: Stage, sandbox: Sandbox, agent_id: int) -> None:
        sandbox.plan_runs(agent_id, [RunPlan(outcome="Failure")] * 3)
        run = stage.airflow.wait(stage.airflow.trigger("partial_results"), timeout=240)
        states = stage.airflow.states(run)
        assert (states["run_agent"], states["land_files"]) == ("failed", "upstream_failed")
        assert states["land_partial_files"] == "success", stage.airflow.log(run, "land_partial_files")
        run_id = int(stage.airflow.xcom(run, "run_agent", "run")["run_id"])
        names = {path.name for path in self.folder(stage, "partial", run_id).iterdir()}
        assert {"output.csv", "log.txt"} <= names
        assert "Failure" in stage.airflow.xcom(run, "tell")


class TestOnAgentRun:
    def test_a_run_started_elsewhere_wakes_the_dag_once_also_across_a_triggerer_restart(
        self, stage: Stage, sandbox: Sandbox, agent_id: int
    ) -> None:
        stage.airflow.wait_for_dag("on_agent_run")
        # Runs that had ended when the watcher first looked are no news.
        wait_until(lambda: self._looks(sandbox, agent_id) > 1)
        first = self._run_elsewhere(sandbox, agent_id)
        wait_until(lambda: self._landed(stage, first))
        time.sleep(SETTLING_SECONDS + 3)
        stage.airflow.kill("triggerer")
        second = self._run_elsewhere(sandbox, agent_id)
        stage.airflow.start("triggerer")
        wait_until(lambda: self._landed(stage, second))
        woken = [run_id for event in self._events(stage) if (run_id := event["extra"]["payload"]["run_id"])]
        assert woken.count(first) == 1
        assert woken.count(second) == 1

    def _looks(self, sandbox: Sandbox, agent_id: int) -> int:
        return sum(entry.path.endswith(f"/agent/{agent_id}/runs") for entry in sandbox.ledger.requests)

    def _run_elsewhere(self, sandbox: Sandbox, agent_id: int) -> int:
        settings = ClientSettings(api_key=sandbox.api_key, base_url=sandbox.base_url)
        with SequentumClient(settings) as client:
            run_id = client.send(runs.start(agent_id)).id
            wait_until(lambda: client.send(runs.status(agent_id, run_id)).end_time is not None)
        return run_id

    def _landed(self, stage: Stage, run_id: int) -> bool:
        return (stage.lake / "events" / f"run-{run_id}" / "output.csv").exists()

    def _events(self, stage: Stage) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = stage.airflow.api.get("/assets/events", limit=100)["asset_events"]
        return [event for event in events if event["extra"].get("from_trigger")]
