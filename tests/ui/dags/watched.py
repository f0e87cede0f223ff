"""DAGs for the UI's tests: two that run an agent, one that checks what it delivered, one that is not the provider's."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.run_records import CheckRunRecordsOperator
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator

PARAMS = {"agent_id": Param(1, type="integer")}
WATCHED = {"agent_id": "{{ params.agent_id }}", "deferrable": True, "poll_interval": 2, "stop_grace": 20}
LAKE = Path(os.environ["AIRFLOW_HOME"]) / "lake"
CONTRACT = {
    "key": "sku",
    "rules": [
        {"rule": "unique", "columns": ["sku"]},
        {"rule": "filled", "column": "store", "mostly": 0.95, "on_breach": "warn"},
        {"rule": "range", "column": "price", "maximum": 45, "on_breach": "quarantine"},
        {"rule": "records", "minimum": 100},
    ],
}

for dag_id in ("watched", "hidden"):
    with DAG(dag_id, schedule=None, params=PARAMS):
        StartAgentRunOperator(task_id="extract", **WATCHED)

with DAG("checked", schedule=None, params=PARAMS):
    run = StartAgentRunOperator(task_id="extract", report_cost=True, **WATCHED)
    CheckRunRecordsOperator(
        task_id="check",
        agent_id="{{ params.agent_id }}",
        run_id=run.output,
        files=RunFilesToObjectStorageOperator(
            task_id="land",
            agent_id="{{ params.agent_id }}",
            run_id=run.output,
            destination=f"{LAKE.as_uri()}/{{{{ ti.run_id }}}}",
            file_patterns="*.csv",
        ).output,
        contract=CONTRACT,
    )

with DAG("plain", schedule=None):

    @task
    def add() -> int:
        """Do something that needs no agent."""
        return 2

    add()
