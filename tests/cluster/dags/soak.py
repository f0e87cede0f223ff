"""A steady stream of waits, and a census of the triggerer they wait in."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from tests.cluster.census import CensusOperator


@task
def chosen_agents(params: Any = None) -> list[int]:
    """Return the agents to run."""
    return list(params["agents"])


with DAG("soak", schedule=None, params={"agents": Param([], type="array")}, max_active_runs=100, max_active_tasks=500):
    StartAgentRunOperator.partial(
        task_id="run", deferrable=True, poll_interval=5, retries=5, retry_delay=timedelta(seconds=1)
    ).expand(agent_id=chosen_agents())

with DAG("census", schedule=None, params={"path": "", "interval": 5.0, "seconds": 60.0}):
    CensusOperator(task_id="count")
