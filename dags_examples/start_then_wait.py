"""
Start a run, do something else meanwhile, then wait for the run.

The operator starts the run and is done; a sensor waits for its end. A sensor only watches, so it can just as well wait
for a run that someone else started. It needs the connection ``sequentum_default``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, Param, task

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.sensors.agent_run import AgentRunSensor
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator

AGENT = os.environ.get("EXAMPLE_AGENT", "us_states")
LAKE = os.environ.get("EXAMPLE_LAKE", (Path(tempfile.gettempdir()) / "sequentum-lake").as_uri())

# The summary of the run says which agent it was.
AGENT_ID = "{{ ti.xcom_pull(task_ids='start_run', key='run')['agent_id'] }}"


@task
def make_room(folder: str) -> None:
    """Remove what the run before this one left: work that doesn't need the run's end."""
    path = ObjectStoragePath(folder)
    if path.exists():
        path.rmdir(recursive=True)


with DAG(
    "start_then_wait",
    schedule=None,
    # They share a folder.
    max_active_runs=1,
    description="Start a run, do something else, wait for the run",
    doc_md=__doc__,
    tags=["sequentum"],
    params={
        "agent": Param(AGENT, type="string", description="Name of the agent to run"),
        "lake": Param(LAKE, type="string", description="Folder for the files, as an ObjectStoragePath"),
    },
) as dag:
    latest = "{{ params.lake }}/latest"
    # [START howto_agent_run_sensor]
    start = StartAgentRunOperator(task_id="start_run", agent_name="{{ params.agent }}", wait_for_completion=False)
    wait = AgentRunSensor(
        task_id="wait_for_run",
        agent_id=AGENT_ID,
        run_id=start.output,
        deferrable=True,
        poke_interval=10,
        timeout=60 * 60,
    )
    # [END howto_agent_run_sensor]
    land = RunFilesToObjectStorageOperator(
        task_id="land_files", agent_id=AGENT_ID, run_id=wait.output, destination=latest
    )
    [make_room(latest), wait] >> land
