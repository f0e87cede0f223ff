"""
What to do when a run fails: restart it, and keep what it found if that doesn't help.

A run that ends in Failure is restarted in place, twice. If it fails for good the task fails, and what the run had
extracted until then is copied to a folder of its own, for a person to check. It needs the connection
``sequentum_default``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator

AGENT = os.environ.get("EXAMPLE_AGENT", "us_states")
LAKE = os.environ.get("EXAMPLE_LAKE", (Path(tempfile.gettempdir()) / "sequentum-lake").as_uri())

# A task that failed returns nothing, but the summary of its run is there.
AGENT_ID = "{{ ti.xcom_pull(task_ids='run_agent', key='run')['agent_id'] }}"
RUN_ID = "{{ ti.xcom_pull(task_ids='run_agent', key='run')['run_id'] }}"


@task(trigger_rule="one_success")
def tell(run: dict[str, Any]) -> str:
    """Say what there is."""
    return f"Run {run['run_id']} is {run['status']}: {run['records']} records, {run['errors']} errors. {run['link']}"


with DAG(
    "partial_results",
    schedule=None,
    description="Restart a failed run; land what there is if it fails for good",
    doc_md=__doc__,
    tags=["sequentum"],
    params={
        "agent": Param(AGENT, type="string", description="Name of the agent to run"),
        "lake": Param(LAKE, type="string", description="Folder for the files, as an ObjectStoragePath"),
    },
) as dag:
    # [START howto_restarts]
    run = StartAgentRunOperator(
        task_id="run_agent",
        agent_name="{{ params.agent }}",
        deferrable=True,
        restarts=2,
        restart_delay=5,
    )
    # [END howto_restarts]
    land = RunFilesToObjectStorageOperator(
        task_id="land_files",
        agent_id=AGENT_ID,
        run_id=RUN_ID,
        destination="{{ params.lake }}/complete/run-" + RUN_ID,
    )
    # [START howto_run_files_partial]
    land_partial = RunFilesToObjectStorageOperator(
        task_id="land_partial_files",
        agent_id=AGENT_ID,
        run_id=RUN_ID,
        destination="{{ params.lake }}/partial/run-" + RUN_ID,
        file_kinds=["delivered", "logs", "screenshots"],
        trigger_rule="all_failed",
    )
    # [END howto_run_files_partial]
    run >> [land, land_partial] >> tell(run.output["run"])
