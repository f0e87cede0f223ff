"""DAGs for the UI's tests: one that runs an agent, one whose task is not the provider's."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator

with DAG("watched", schedule=None, params={"agent_id": Param(1, type="integer")}):
    StartAgentRunOperator(
        task_id="extract",
        agent_id="{{ params.agent_id }}",
        deferrable=True,
        poll_interval=2,
        stop_grace=20,
    )

with DAG("plain", schedule=None):

    @task
    def add() -> int:
        """Do something that needs no agent."""
        return 2

    add()
