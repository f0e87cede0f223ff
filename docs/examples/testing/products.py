"""A DAG as a user would write it: the page on testing tests it."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator

AGENT = "{{ var.value.products_agent }}"

with DAG("products", schedule=None) as dag:
    run = StartAgentRunOperator(task_id="extract", agent_id=AGENT, restarts=1, restart_delay=1, on_empty="fail")
    RunFilesToObjectStorageOperator(
        task_id="land", agent_id=AGENT, run_id=run.output, destination="{{ var.value.lake }}/products/"
    )
