"""Examples whose tasks are killed at each of their steps, on a real Airflow; the ledger of the sandbox judges."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_sequentum.api import ClientSettings, SequentumClient, agents, files, runs, schedules
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator
from tests.support.airflow import FakeTask
from tests.support.service import Clock
from tests.system.remote_jobs import until

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_sequentum.sandbox import Sandbox
    from airflow_provider_sequentum.sandbox.agents import Agent
    from tests.system.harness import DagRun
    from tests.system.stage import Stage

pytestmark = pytest.mark.slow


@pytest.fixture
def sandbox(stage: Stage) -> Sandbox:
    assert stage.sandbox is not None
    stage.sandbox.settings.rate_limit = 10_000
    return stage.sandbox


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[SequentumClient]:
    with SequentumClient(ClientSettings(api_key=sandbox.api_key, base_url=sandbox.base_url)) as client:
        yield client


def killed(stage: Stage, dag_id: str, conf: dict[str, Any], *task_ids: str, step: int) -> tuple[DagRun, bool]:
    """Run a DAG whose tasks die at a step; return the DAG run, and whether one of them got that far and was retried."""
    run = stage.airflow.trigger(dag_id, {**conf, "dies": dict.fromkeys(task_ids, step)})
    run = stage.airflow.wait(run, timeout=180)
    assert run.state == "success", stage.airflow.states(run)
    tries = [stage.airflow.task_instance(run, task_id).try_number for task_id in task_ids]
    assert set(tries) <= {1, 2}
    return run, 2 in tries


def test_three_uploads_leave_one_file_each(stage: Stage, sandbox: Sandbox) -> None:
    shops = [sandbox.add_agent(f"Shop {number}", duration=1, space_id=1) for number in range(3)]
    before = len(sandbox.engine.state.input_files)
    names = set()
    for step in itertools.count(1):
        is_killed = False
        for shop in shops:
            conf = {"agent_id": shop.id, "lake": f"{stage.lake.as_uri()}/killed"}
            run, was_killed = killed(stage, "products_to_prices", conf, "upload_products", step=step)
            is_killed = is_killed or was_killed
            name = stage.airflow.xcom(run, "upload_products")
            names.add(name)
            start = sandbox.ledger.starts(shop.id)[-1]
            assert json.loads(start.input_parameters or "{}") == {"products": name}
        assert len(sandbox.engine.state.input_files) - before <= len(names) == 1
        if not is_killed:
            break
    assert step == 5, "two requests, and a kill before and after each"
    assert [len(sandbox.ledger.starts(shop.id)) for shop in shops] == [5, 5, 5]


def test_what_was_paused_is_resumed_and_nothing_that_others_paused(
    stage: Stage, sandbox: Sandbox, client: SequentumClient
) -> None:
    agent = sandbox.add_agent("Scheduled and killed", duration=1)
    own, other, paused = (
        client.send(
            schedules.create(
                agent.id,
                schedules.ScheduleDefinition(
                    name=name,
                    schedule_type=schedules.ScheduleType.CRON,
                    cron_expression="0 6 * * *",
                    is_enabled=True,
                ),
            )
        ).id
        for name in ("ours", "ours too", "a user's")
    )
    client.send(schedules.disable(agent.id, paused))
    for step in itertools.count(1):
        tasks = ("pause_schedules", "resume_schedules")
        run, is_killed = killed(stage, "take_over_schedules", {"agent_id": agent.id}, *tasks, step=step)
        listed = client.send(schedules.list_schedules(agent.id))
        assert {one.id: one.is_enabled for one in listed} == {own: True, other: True, paused: False}
        assert set(stage.airflow.xcom(run, "pause_schedules")) == {own, other}
        if not is_killed:
            break
    assert step > 6
    assert len(sandbox.ledger.starts(agent.id)) == step


def test_a_deletion_leaves_what_is_not_landed(
    stage: Stage, sandbox: Sandbox, client: SequentumClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "sequentum", "host": sandbox.base_url, "password": sandbox.api_key}
    monkeypatch.setenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT", json.dumps(connection))
    stage.airflow.wait_for_dag("delete_old_runs")
    stage.airflow.api.patch("/dags/delete_old_runs", {"is_paused": False})
    for step in itertools.count(1):
        agent = sandbox.add_agent(f"Old {step}", records=[{"name": "Tea"}], duration=0.1)
        landed, unlanded = finished_run(sandbox, client, agent), finished_run(sandbox, client, agent)
        land(agent, landed, tmp_path / str(step))
        conf = {
            "agent_id": agent.id,
            "older_than_days": 0,
            "dry_run": False,
            "lake": (tmp_path / str(step)).as_uri(),
        }
        _, is_killed = killed(stage, "delete_old_runs", conf, "delete_old_runs", step=step)
        left = {run: len(client.send(files.list_files(agent.id, run))) for run in (landed, unlanded)}
        assert left[landed] == 0
        assert left[unlanded] > 0
        if not is_killed:
            break
    assert step > 4
    stage.airflow.api.patch("/dags/delete_old_runs", {"is_paused": True})


def finished_run(sandbox: Sandbox, client: SequentumClient, agent: Agent) -> int:
    run_id = client.send(runs.start(agent.id)).id
    assert until(lambda: not sandbox.ledger.going)
    return run_id


def land(agent: Agent, run_id: int, folder: Path) -> None:
    operator = RunFilesToObjectStorageOperator(
        task_id="land", agent_id=agent.id, run_id=run_id, destination=str(folder / str(run_id))
    )
    operator.execute(FakeTask(Clock()).context)


def test_a_version_that_is_saved_between_the_check_and_the_start_stops_the_run(
    stage: Stage, sandbox: Sandbox, client: SequentumClient
) -> None:
    agent = sandbox.add_agent("Moved in between", duration=600, space_id=1)
    fault = sandbox.fail_next(f"POST /agent/{agent.id}/start", "delay", delay=10, times=1)
    run = stage.airflow.trigger("products_to_prices", {"agent_id": agent.id, "version": 1})
    assert until(lambda: fault not in sandbox.faults.waiting, 120), "the start has arrived and is held"
    client.send(agents.restore_version(agent.id, 1, "shop moved"))
    run = stage.airflow.wait(run, timeout=180)
    task = stage.airflow.task_instance(run, "run_agent")
    assert (run.state, task.state, task.try_number) == ("failed", "failed", 1)
    assert "shop moved" in stage.airflow.log(run, "run_agent", 1)
    [started] = sandbox.ledger.runs(agent.id)
    assert started.status == "Stopped"
    assert len(sandbox.ledger.starts(agent.id)) == 1
