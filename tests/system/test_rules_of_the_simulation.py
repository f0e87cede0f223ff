"""What the simulation assumes of Airflow and no other test shows; see ``docs/proof.md``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.system.harness.database import Postgres

if TYPE_CHECKING:
    from airflow_provider_sequentum.sandbox import Sandbox
    from tests.system.harness import DagRun
    from tests.system.stage import Stage

pytestmark = pytest.mark.slow

TASK = "run_agent"
OF_THE_TASK = "dag_id = %s AND run_id = %s AND task_id = %s"
TIMED_OUT = f"UPDATE task_instance SET trigger_timeout = now() - interval '1 minute' WHERE {OF_THE_TASK}"
BROKEN = f"""
    UPDATE trigger SET classpath = 'airflow_provider_sequentum.triggers.agent_run.NoSuchTrigger'
    WHERE id = (SELECT trigger_id FROM task_instance WHERE {OF_THE_TASK})
"""


def sandbox_of(stage: Stage) -> Sandbox:
    assert stage.sandbox is not None
    return stage.sandbox


def change(stage: Stage, run: DagRun, statement: str) -> None:
    """Change the row of the task, as time or another version of the package does."""
    assert isinstance(stage.airflow.database, Postgres)
    with psycopg.connect(stage.airflow.database.dsn) as connection:
        assert connection.execute(statement.encode(), (run.dag_id, run.run_id, TASK)).rowcount == 1


@pytest.mark.parametrize("way", ["its timeout passes", "its trigger cannot be loaded"])
def test_a_task_whose_deferral_breaks_is_resumed_and_goes_on_with_its_run(stage: Stage, way: str) -> None:
    airflow, sandbox = stage.airflow, sandbox_of(stage)
    if airflow.api.major < 3:
        pytest.skip("The metadata database of Airflow 2.11 is SQLite here")
    agent = sandbox.add_agent(way, duration=60.0)
    run = airflow.trigger("run_agent_deferred", {"agent_id": agent.id})
    airflow.wait_for_task(run, TASK, {"deferred"}, timeout=90)
    airflow.kill("triggerer")
    change(stage, run, TIMED_OUT if way == "its timeout passes" else BROKEN)
    try:
        if way == "its timeout passes":  # while no triggerer is there: it goes on without one
            assert airflow.wait(run, timeout=240).state == "success"
    finally:
        airflow.start("triggerer")
    assert airflow.wait(run, timeout=240).state == "success"
    assert airflow.task_instance(run, TASK).try_number == 1
    [started] = sandbox.ledger.starts(agent.id)
    assert airflow.xcom(run, TASK) == started.run_id
    words = "The deferral timed out" if way == "its timeout passes" else "The trigger failed"
    assert words in airflow.log(run, TASK)


def test_without_a_task_state_store_the_next_attempt_knows_nothing_of_a_worker_that_died(stage: Stage) -> None:
    airflow, sandbox = stage.airflow, sandbox_of(stage)
    if airflow.api.major >= 3:
        pytest.skip("This Airflow keeps a task state store")
    agent = sandbox.add_agent("Without a store", duration=20.0)
    run = airflow.trigger("run_agent_worker", {"agent_id": agent.id, "die_at": "after record"})
    assert airflow.wait(run, timeout=300).state == "success"
    assert airflow.task_instance(run, TASK).try_number == 2
    first, second = [start.run_id for start in sandbox.ledger.starts(agent.id)]
    assert int(airflow.xcom(run, TASK)) == second
    assert [truth.status for truth in sandbox.ledger.runs(agent.id)] == ["Success", "Success"], "the first one went on"
    assert first != second
