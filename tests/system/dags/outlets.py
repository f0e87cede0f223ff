"""A DAG whose task, deferred in between, renews an asset and tells it the facts of its run."""

from __future__ import annotations

import os

from airflow.providers.common.compat.sdk import DAG, Asset

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator

with DAG("outlets", schedule=None):
    StartAgentRunOperator(
        task_id="run",
        agent_id=os.environ["EXAMPLE_AGENT_ID"],
        deferrable=True,
        poll_interval=2,
        outlets=[Asset("renewed_by_outlets")],
    )
