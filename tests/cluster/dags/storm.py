"""One job, in three ways: the provider's operator in the triggerer and on the worker, and one without protection."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from typing import Any

import httpx
from airflow.providers.common.compat.sdk import DAG, BaseHook, Param, task

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator

LAKE = os.environ.get("STORM_LAKE", "file:///tmp/lake")
PARAMS = {"agent_id": Param(1, type="integer"), "name": "", "marker": ""}
RETRIES: dict[str, Any] = {"retries": 20, "retry_delay": timedelta(seconds=2)}
INPUTS = {"job": "{{ params.name }}", "marker": "{{ params.marker }}"}
POLL_INTERVAL = 5.0
SUCCEEDED, FAILED = {9, 10}, {6, 7, 8, 11}

for deferrable, way in ((True, "deferred"), (False, "worker")):
    with DAG(f"storm_{way}", schedule=None, params=PARAMS, default_args=RETRIES, max_active_runs=100):
        run = StartAgentRunOperator(
            task_id="run",
            agent_id="{{ params.agent_id }}",
            input_parameters=INPUTS,
            deferrable=deferrable,
            poll_interval=POLL_INTERVAL,
            stop_grace=10,
        )
        RunFilesToObjectStorageOperator(
            task_id="land",
            agent_id="{{ params.agent_id }}",
            run_id=run.output,
            destination=LAKE + "/{{ params.name }}/",
        )


@task(task_id="run", **RETRIES)
def run_plainly(params: Any = None) -> int:
    """Start a run and ask until it is over."""
    connection = BaseHook.get_connection("plain")
    headers = {"Authorization": f"ApiKey {connection.password}"}
    with httpx.Client(base_url=f"{connection.host}/api/v1", headers=headers, timeout=30) as http:
        body = {"inputParameters": json.dumps({"job": params["name"]})}
        path = f"/agent/{params['agent_id']}"
        run_id: int = http.post(f"{path}/start", json=body).raise_for_status().json()["id"]
        while True:
            time.sleep(POLL_INTERVAL)
            status = http.get(f"{path}/run/{run_id}/status").raise_for_status().json()["status"]
            if status in SUCCEEDED:
                return run_id
            if status in FAILED:
                raise RuntimeError(f"run {run_id} ended with status {status}")


with DAG("storm_plain", schedule=None, params=PARAMS, max_active_runs=100):
    run_plainly()
