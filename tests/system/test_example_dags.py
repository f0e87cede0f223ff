"""The example DAGs on a real Airflow, with a real PostgreSQL; the quickstart and the builds have files of their own."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import psycopg
import pytest

from airflow_provider_sequentum.airflow_compat.trigger_life import MIN_TRIGGER_LIFETIME
from airflow_provider_sequentum.api import ClientSettings, SequentumClient, agents, files, runs, schedules
from airflow_provider_sequentum.assets.agent_run import SETTLING_SECONDS
from airflow_provider_sequentum.sandbox.run_plan import RunPlan
from tests.system.harness import DagRun
from tests.system.quickstart import read_data_file

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_sequentum.sandbox import Sandbox
    from airflow_provider_sequentum.sandbox.agents import Agent
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


class TestCheckedRecords:
    def test_only_what_passed_is_loaded(self, stage: Stage, sandbox: Sandbox, agent_id: int) -> None:
        run = finished(stage, stage.airflow.trigger("checked_records"))
        assert stage.airflow.xcom(run, "load") == len(read_data_file()[1])
        report = stage.airflow.xcom(run, "check_records", key="records_check")
        assert (report["verdict"], report["breaches"]) == ("passed", [])


class TestTryCandidate:
    @pytest.fixture
    def candidates(self, sandbox: Sandbox) -> Iterator[tuple[int, int]]:
        """A good one, and one that finds half of the records."""
        records = sandbox.engine.data_set("us_states")
        good, bad = (sandbox.add_agent(name, records=records, duration=1).id for name in ("Good", "Bad"))
        sandbox.break_runs(bad, "half_missing")
        yield good, bad
        sandbox.repair_runs(bad)

    def in_use(self, stage: Stage) -> str:
        value: str = stage.airflow.api.get("/variables/sequentum_agent_in_use")["value"]
        return value

    def test_the_id_changes_if_the_records_pass(
        self, stage: Stage, sandbox: Sandbox, agent_id: int, candidates: tuple[int, int]
    ) -> None:
        good, bad = candidates
        agents, records = (agent_id, good, bad), len(read_data_file()[1])
        before = [len(sandbox.ledger.starts(agent)) for agent in agents]
        run = finished(stage, stage.airflow.trigger("try_candidate", {"candidate": good}))
        assert (stage.airflow.xcom(run, "load"), self.in_use(stage)) == (records, str(good))

        run = finished(stage, stage.airflow.trigger("try_candidate", {"candidate": bad}), "failed")
        states = stage.airflow.states(run)
        assert (states["check_candidate"], states["change_agent"]) == ("failed", "upstream_failed")
        assert (stage.airflow.xcom(run, "load"), self.in_use(stage)) == (records, str(good))
        assert stage.airflow.xcom(run, "run_in_use", "run")["agent_id"] == good
        started = [len(sandbox.ledger.starts(agent)) - then for agent, then in zip(agents, before, strict=True)]
        assert started == [1, 2, 1]


class TestRecordChanges:
    def test_only_changes_are_loaded(self, stage: Stage, sandbox: Sandbox, agent_id: int) -> None:
        """A first run, one that finds the same, and one where half of the records are missing."""
        records = len(read_data_file()[1])
        run = finished(stage, stage.airflow.trigger("record_changes"))
        assert stage.airflow.xcom(run, "load") == {"added": records, "changed": 0, "removed": 0}
        run = finished(stage, stage.airflow.trigger("record_changes"))
        assert stage.airflow.states(run) == {
            "run_agent": "success",
            "land_files": "success",
            "find_changes": "skipped",
            "load": "skipped",
        }
        sandbox.break_runs(agent_id, "half_missing")
        try:
            run = finished(stage, stage.airflow.trigger("record_changes"))
        finally:
            sandbox.repair_runs(agent_id)
        assert stage.airflow.xcom(run, "load") == {"added": 0, "changed": 0, "removed": records // 2}


class TestApprovedRecords:
    @pytest.fixture(autouse=True)
    def _required_actions(self, stage: Stage) -> None:
        if stage.airflow.api.major < 3:
            pytest.skip("Airflow 2.11 has no required actions")

    def answered(self, stage: Stage, choice: str) -> DagRun:
        """Run the DAG until a person is asked, and answer as the UI does."""
        run = stage.airflow.trigger("approved_records")
        stage.airflow.wait_for_task(run, "ask", {"awaiting_input", "deferred"}, timeout=240)
        path = f"{run.path}/taskInstances/ask/-1/hitlDetails"
        question = stage.airflow.api.get(path)
        assert question["subject"] == "Records break their contract"
        assert "    fail: records: " in question["body"], question["body"]
        time.sleep(MIN_TRIGGER_LIFETIME)  # Airflow can fail a task that is answered sooner
        stage.airflow.api.patch(path, {"chosen_options": [choice]})
        return run

    def verdict(self, stage: Stage, run: DagRun) -> str:
        run_id = stage.airflow.xcom(run, "run_agent")
        profile = json.loads((stage.lake / "approved" / "profiles" / f"run-{run_id}.json").read_text())
        return str(profile["verdict"])

    def test_a_person_is_asked_when_the_contract_is_broken(self, stage: Stage, sandbox: Sandbox, agent_id: int) -> None:
        """A good run loads its changes without a question, an approved one too, and a rejected one does not."""
        records = len(read_data_file()[1])
        run = finished(stage, stage.airflow.trigger("approved_records"))
        assert stage.airflow.xcom(run, "load") == {"added": records, "changed": 0, "removed": 0}
        assert stage.airflow.states(run)["ask"] == stage.airflow.states(run)["accept"] == "skipped"
        [path] = stage.airflow.xcom(run, "land_files")
        assert path.endswith("/output.parquet")
        sandbox.break_runs(agent_id, "half_missing")
        try:
            run = finished(stage, self.answered(stage, "Approve"))
            assert stage.airflow.xcom(run, "load") == {"added": 0, "changed": 0, "removed": records // 2}
            assert self.verdict(stage, run) == "accepted"
            run = finished(stage, self.answered(stage, "Reject"), "failed")
        finally:
            sandbox.repair_runs(agent_id)
        states = stage.airflow.states(run)
        assert {states[task] for task in ("accept", "find_changes", "load")} == {"upstream_failed"}
        assert self.verdict(stage, run) == "failed"


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


class TestTaskflowFanOut:
    def test_thirty_inputs_of_which_two_fail(self, stage: Stage, sandbox: Sandbox) -> None:
        """Each is named by its input, and all others are loaded, whatever place they have among the thirty."""
        records = sandbox.engine.data_set("us_states")
        sandbox.add_agent("Pages", records=records, outcome="Failure", duration=1)
        inputs: list[dict[str, Any]] = [
            {"page": number, "sandbox_outcome": "Success"} if number not in (5, 21) else {"page": number}
            for number in range(1, 31)
        ]
        conf = {"agent": "Pages", "inputs": inputs}
        run = stage.airflow.wait(stage.airflow.trigger("taskflow_fan_out", conf), timeout=600)
        states = [stage.airflow.task_instance(run, "run_agent", number).state for number in range(30)]
        assert [number for number, state in enumerate(states) if state == "failed"] == [4, 20]
        assert stage.airflow.xcom(run, "report") == {
            "pages": 28,
            "records": 28 * len(read_data_file()[1]),
            "failed": {str(number): {"input": inputs[number], "status": "Failure"} for number in (4, 20)},
        }
        landed = [stage.airflow.xcom(run, "load", map_index=number)["page"] for number in range(28)]
        assert landed == [number for number in range(1, 31) if number not in (5, 21)]


class TestHourlyIncremental:
    def rows(self, stage: Stage) -> list[tuple[Any, ...]]:
        query = "SELECT strftime(hour AT TIME ZONE 'UTC', '%H:%M'), count(*) FROM records GROUP BY 1 ORDER BY 1"
        with duckdb.connect(str(stage.folder / "incremental.duckdb"), read_only=True) as connection:
            return connection.sql(query).fetchall()

    def test_every_run_has_an_hour_and_none_is_doubled(self, stage: Stage, sandbox: Sandbox, agent_id: int) -> None:
        """A run that a person triggers, its load once more, and the backfill of two hours."""
        before = len(sandbox.ledger.starts(agent_id))
        stage.airflow.wait_for_dag("hourly_incremental")
        stage.airflow.api.patch("/dags/hourly_incremental", {"is_paused": False})
        run = finished(stage, stage.airflow.trigger("hourly_incremental"))
        stage.airflow.clear(run, "replace_hour")
        finished(stage, run)
        hour = stage.airflow.xcom(run, "window")
        start, end = (datetime.fromisoformat(hour[name]) for name in ("from", "to"))
        assert end - start == timedelta(hours=1)
        assert end <= datetime.now(UTC)
        effects = sandbox.ledger.starts(agent_id)[before:]
        asked = [json.loads(effect.input_parameters or "{}") for effect in effects]
        assert hour in asked
        records = len(read_data_file()[1])
        assert (f"{start:%H:%M}", records) in self.rows(stage)
        if stage.airflow.api.major >= 3:
            self._backfill(stage, start - timedelta(hours=3), start - timedelta(hours=2))
            wanted = [(f"{start - timedelta(hours=back):%H:%M}", records) for back in (3, 2)]
            wait_until(lambda: all(row in self._rows_or_none(stage) for row in wanted))
        assert {count for _, count in self.rows(stage)} == {records}
        stage.airflow.api.patch("/dags/hourly_incremental", {"is_paused": True})

    def _backfill(self, stage: Stage, first: datetime, last: datetime) -> None:
        body = {
            "dag_id": "hourly_incremental",
            "from_date": first.isoformat(),
            "to_date": last.isoformat(),
            "reprocess_behavior": "failed",
            "max_active_runs": 1,
        }
        stage.airflow.api.post("/backfills", body)

    def _rows_or_none(self, stage: Stage) -> list[tuple[Any, ...]]:
        try:
            return self.rows(stage)
        except duckdb.IOException:  # a task is writing
            return []


class TestSensorToAsset:
    def test_the_run_of_a_schedule_wakes_the_other_dag(self, stage: Stage, sandbox: Sandbox, agent_id: int) -> None:
        if stage.airflow.api.major < 3:
            pytest.skip("DAG runs of Airflow 2 have no run_after")
        for dag_id in ("sensor_to_asset", "load_on_asset"):
            stage.airflow.wait_for_dag(dag_id)
        stage.airflow.api.patch("/dags/sensor_to_asset", {"is_paused": False})
        stage.airflow.api.patch("/dags/load_on_asset", {"is_paused": False})
        waiting = stage.airflow.trigger("sensor_to_asset")
        wait_until(lambda: stage.airflow.task_instance(waiting, "wait_for_run").state == "deferred")
        settings = ClientSettings(api_key=sandbox.api_key, base_url=sandbox.base_url)
        with SequentumClient(settings) as client:
            started = client.send(runs.start(agent_id)).id
        run = finished(stage, waiting)
        assert int(stage.airflow.xcom(run, "wait_for_run")) == started
        wait_until(lambda: self._loaded(stage).get(str(started)) == len(read_data_file()[1]))
        for dag_id in ("sensor_to_asset", "load_on_asset"):
            stage.airflow.api.patch(f"/dags/{dag_id}", {"is_paused": True})

    def _loaded(self, stage: Stage) -> dict[str, int]:
        listed = stage.airflow.api.get("/dags/load_on_asset/dagRuns", limit=100)["dag_runs"]
        loaded: dict[str, int] = {}
        for entry in listed:
            if entry["state"] == "success":
                loaded |= stage.airflow.xcom(DagRun("load_on_asset", entry["dag_run_id"], "success"), "load")
        return loaded


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


class TestProductsToPrices:
    @pytest.fixture
    def agent(self, sandbox: Sandbox) -> Agent:
        return sandbox.add_agent("Shop", records=[{"sku": "A1", "price": "2.50"}], duration=1, space_id=1)

    def test_the_run_has_the_products_the_pinned_version_and_a_limit(
        self, stage: Stage, sandbox: Sandbox, agent: Agent
    ) -> None:
        """A first run pins the version and its bill is the forecast of the next; then a limit and a new version."""
        run = finished(stage, stage.airflow.trigger("products_to_prices", {"agent_id": agent.id}))
        [start] = sandbox.ledger.starts(agent.id)
        assert json.loads(start.input_parameters or "{}") == {"products": stage.airflow.xcom(run, "upload_products")}
        [file] = [one for one in sandbox.engine.state.input_files if one.name.startswith("products_to_prices")]
        assert file.size > 250 * len("A1,https://shop.example/a1")
        assert stage.airflow.xcom(run, "run_agent", "run")["cost"] > 0

        low = stage.airflow.trigger("products_to_prices", {"agent_id": agent.id, "credit_limit": 0.01})
        assert "Raise the limit" in self.error(stage, low)
        with SequentumClient(ClientSettings(api_key=sandbox.api_key, base_url=sandbox.base_url)) as client:
            client.send(agents.restore_version(agent.id, 1, "shop moved"))
        changed = stage.airflow.trigger("products_to_prices", {"agent_id": agent.id})
        assert "shop moved" in self.error(stage, changed)
        assert len(sandbox.ledger.starts(agent.id)) == 1
        assert len([one for one in sandbox.engine.state.input_files if one.name == file.name]) == 1

    def error(self, stage: Stage, run: DagRun) -> str:
        """Return the log of the run's task, which has failed without a retry."""
        finished(stage, run, "failed")
        task = stage.airflow.task_instance(run, "run_agent")
        assert (task.state, task.try_number) == ("failed", 1)
        log: str = stage.airflow.log(run, "run_agent", 1)
        return log


class TestRestoreVersion:
    def test_the_version_is_restored_and_expected_from_then_on(self, stage: Stage, sandbox: Sandbox) -> None:
        agent = sandbox.add_agent("Moved", records=[{"name": "Tea"}], duration=1)
        conf = {"agent_id": agent.id, "version": 1, "reason": "Prices were missing."}
        with SequentumClient(ClientSettings(api_key=sandbox.api_key, base_url=sandbox.base_url)) as client:
            client.send(agents.restore_version(agent.id, 1, "a user's change"))
            run = finished(stage, stage.airflow.trigger("restore_version", conf))
            versions = client.send(agents.list_versions(agent.id))
        newest = max(versions, key=lambda version: version.version)
        assert newest.version == stage.airflow.xcom(run, "restore_version") == 3
        assert (newest.comments or "").startswith("Prices were missing.")
        assert stage.airflow.api.get(f"/variables/sequentum_pinned_version_sequentum_default_{agent.id}")["value"]
        [start] = sandbox.ledger.starts(agent.id)
        assert start.run_id == int(stage.airflow.xcom(run, "run_agent"))


class TestDeleteOldRuns:
    def test_only_what_is_landed_is_deleted(self, stage: Stage, sandbox: Sandbox) -> None:
        agent = sandbox.add_agent("Old", records=[{"name": "Tea"}], duration=1, space_id=1)
        landed = int(
            stage.airflow.xcom(
                finished(stage, stage.airflow.trigger("products_to_prices", {"agent_id": agent.id})), "run_agent"
            )
        )
        with SequentumClient(ClientSettings(api_key=sandbox.api_key, base_url=sandbox.base_url)) as client:
            unlanded = client.send(runs.start(agent.id)).id
            wait_until(lambda: not sandbox.ledger.going)
            stage.airflow.wait_for_dag("delete_old_runs")
            stage.airflow.api.patch("/dags/delete_old_runs", {"is_paused": False})
            conf = {"agent_id": agent.id, "older_than_days": 0}
            run = finished(stage, stage.airflow.trigger("delete_old_runs", conf))
            assert stage.airflow.xcom(run, "delete_old_runs") == [landed]
            assert self.files(client, agent, landed), "a dry run deletes nothing"
            run = finished(stage, stage.airflow.trigger("delete_old_runs", {**conf, "dry_run": False}))
            assert stage.airflow.xcom(run, "delete_old_runs") == [landed]
            assert self.files(client, agent, landed) == 0
            assert self.files(client, agent, unlanded)
        stage.airflow.api.patch("/dags/delete_old_runs", {"is_paused": True})

    def files(self, client: SequentumClient, agent: Agent, run_id: int) -> int:
        return len(client.send(files.list_files(agent.id, run_id)))


class TestHookInATask:
    def test_one_run_and_its_first_record(self, stage: Stage, sandbox: Sandbox) -> None:
        agent = sandbox.add_agent("Tea", records=[{"name": "Tea"}, {"name": "Coffee"}], duration=1)
        run = finished(stage, stage.airflow.trigger("hook_in_a_task", {"agent_id": agent.id}))
        assert stage.airflow.xcom(run, "first_record")["record"] == {"name": "Tea"}
        assert len(sandbox.ledger.starts(agent.id)) == 1


class TestTakeOverSchedules:
    @pytest.fixture
    def client(self, sandbox: Sandbox) -> Iterator[SequentumClient]:
        with SequentumClient(ClientSettings(api_key=sandbox.api_key, base_url=sandbox.base_url)) as client:
            yield client

    def test_the_schedules_are_paused_during_the_run_and_resumed_although_it_failed(
        self, stage: Stage, sandbox: Sandbox, client: SequentumClient
    ) -> None:
        """The DAG run fails because of the run, although its last task succeeds."""
        agent = sandbox.add_agent("Scheduled", records=[{"name": "Tea"}], duration=8)
        own, paused = (self._add_schedule(client, agent.id, name) for name in ("ours", "a user's"))
        client.send(schedules.disable(agent.id, paused))
        sandbox.plan_runs(agent.id, [RunPlan(outcome="Failed", duration=8)])
        run = stage.airflow.trigger("take_over_schedules", {"agent_id": agent.id})
        wait_until(lambda: len(sandbox.ledger.starts(agent.id)) == 1)
        assert self._enabled(client, agent.id) == []
        finished(stage, run, "failed")
        assert stage.airflow.states(run) == {
            "pause_schedules": "success",
            "run_agent": "failed",
            "resume_schedules": "success",
        }
        assert stage.airflow.xcom(run, "pause_schedules") == [own]
        assert self._enabled(client, agent.id) == [own]

    def _add_schedule(self, client: SequentumClient, agent_id: int, name: str) -> int:
        daily = schedules.ScheduleDefinition(
            name=name, schedule_type=schedules.ScheduleType.CRON, cron_expression="0 6 * * *", is_enabled=True
        )
        return client.send(schedules.create(agent_id, daily)).id

    def _enabled(self, client: SequentumClient, agent_id: int) -> list[int]:
        return [one.id for one in client.send(schedules.list_schedules(agent_id)) if one.is_enabled]


class TestSpaceRun:
    @pytest.fixture
    def agents(self, stage: Stage, sandbox: Sandbox) -> dict[str, int]:
        space_id = int(stage.example_space_id)
        return {agent.name: agent.id for agent in sandbox.engine.state.agents.values() if agent.space_id == space_id}

    def starts(self, sandbox: Sandbox, agents: dict[str, int]) -> list[int]:
        return [len(sandbox.ledger.starts(agent_id)) for agent_id in agents.values()]

    def test_all_agents_run_and_one_that_fails_is_restarted(
        self, stage: Stage, sandbox: Sandbox, agents: dict[str, int]
    ) -> None:
        before = self.starts(sandbox, agents)
        sandbox.plan_runs(agents["Chemical elements"], [RunPlan(outcome="Failure"), RunPlan()])
        run = finished(stage, stage.airflow.trigger("space_run"))
        assert stage.airflow.xcom(run, "report") == {"agents": 2, "files": 2, "missing": {}}
        assert [now - then for now, then in zip(self.starts(sandbox, agents), before, strict=True)] == [1, 1]
        ended = {result["agent_id"]: result["run_id"] for result in stage.airflow.xcom(run, "run_space", "runs")}
        assert ended[agents["Chemical elements"]] in {effect.run_id for effect in sandbox.ledger.restarts}
        for name, records in (("US states", 50), ("Chemical elements", 118)):
            with (stage.lake / "space" / f"run-{ended[agents[name]]}" / "output.csv").open(newline="") as file:
                assert len(list(csv.reader(file))) == 1 + records

    def test_one_that_fails_for_good_does_not_hold_up_the_other(
        self, stage: Stage, sandbox: Sandbox, agents: dict[str, int]
    ) -> None:
        failing = agents["Chemical elements"]
        sandbox.plan_runs(failing, [RunPlan(outcome="Failure", message="The page did not load.")] * 3)
        run = finished(stage, stage.airflow.trigger("space_run"))
        assert stage.airflow.xcom(run, "report") == {
            "agents": 2,
            "files": 1,
            "missing": {str(failing): "The page did not load."},
        }


class TestOutlets:
    def test_the_event_of_an_outlet_has_the_facts_of_the_run(
        self, stage: Stage, sandbox: Sandbox, agent_id: int
    ) -> None:
        if stage.airflow.api.major < 3:
            pytest.skip("Airflow 2 lists its events elsewhere")
        run = finished(stage, stage.airflow.trigger("outlets"))
        run_id = int(stage.airflow.xcom(run, "run"))
        [event] = stage.airflow.api.get("/assets/events", source_dag_id="outlets")["asset_events"]
        facts = event["extra"]
        assert (facts["agent_id"], facts["run_id"], facts["status"]) == (agent_id, run_id, "Success")
        assert (facts["records"], facts["files"]) == (len(read_data_file()[1]), 1)
        assert facts["link"] == f"{sandbox.base_url}/agents/{agent_id}/runs/{run_id}"
        assert facts["seconds"] > 0


class TestOnAgentRun:
    @pytest.fixture(autouse=True)
    def _needs_airflow_3(self, stage: Stage) -> None:
        if stage.airflow.api.major < 3:
            pytest.skip("Airflow 2 has no asset watchers")

    def test_watchers_of_one_agent_share_one_poll(self, stage: Stage, sandbox: Sandbox, agent_id: int) -> None:
        """The example's, and that of the DAG ``on_any_end``, which is about runs that failed too."""
        stage.airflow.wait_for_dag("on_agent_run")
        stage.airflow.wait_for_dag("on_any_end")
        wait_until(lambda: self._looks(sandbox, agent_id) > 1)
        time.sleep(10)
        before = self._looks(sandbox, agent_id)
        time.sleep(20)
        looks = self._looks(sandbox, agent_id) - before
        # Each triggerer polls for the watchers that it has.
        assert 3 <= looks <= 13 * len(stage.airflow.triggerers), "a look every 2 s, and not two"
        sandbox.plan_runs(agent_id, [RunPlan(outcome="Failure")])
        failed = self._run_elsewhere(sandbox, agent_id)
        wait_until(lambda: self._fired(stage, "any_end").count(failed) == 1)
        assert failed not in self._fired(stage, "agent_runs")

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
        watchers = ("agent_runs", "any_end")
        # Where there are two triggerers, the other one had one of the watchers, and this one's is taken over later.
        wait_until(lambda: all(second in self._fired(stage, watcher) for watcher in watchers))
        wait_until(lambda: self._landed(stage, second))
        time.sleep(SETTLING_SECONDS + 3)
        for watcher in watchers:
            fired = self._fired(stage, watcher)
            assert (fired.count(first), fired.count(second)) == (1, 1)

    def test_every_run_of_several_that_end_together_is_landed(
        self, stage: Stage, sandbox: Sandbox, agent_id: int
    ) -> None:
        """Airflow keeps the event right after the one that started a DAG run for the next one."""
        stage.airflow.wait_for_dag("on_agent_run")
        wait_until(lambda: self._looks(sandbox, agent_id) > 1)
        settings = ClientSettings(api_key=sandbox.api_key, base_url=sandbox.base_url)
        with SequentumClient(settings) as client:
            started = [client.send(runs.start(agent_id)).id for _ in range(3)]
        wait_until(lambda: all(self._landed(stage, run_id) for run_id in started))

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

    def _fired(self, stage: Stage, watcher: str) -> list[int]:
        """Return the runs of which a watcher's events told, those of ``on_any_end`` or of the example."""
        events: list[dict[str, Any]] = stage.airflow.api.get("/assets/events", limit=100)["asset_events"]
        of_watcher = [event for event in events if event["extra"].get("from_trigger")]
        return [
            event["extra"]["payload"]["run_id"]
            for event in of_watcher
            if (event["name"] == "any_end") == (watcher == "any_end")
        ]
