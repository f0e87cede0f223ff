"""
Load only what a run changed.

The files are landed, and compared by a key with those of the run that was published before. Only records that were
added, changed or removed go on; if there are none, the tasks after it are skipped. It needs the connection
``sequentum_default`` and ``pip install 'airflow-provider-sequentum[quality]'``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, Param, task

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.run_changes import RunChangesOperator
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator

AGENT = os.environ.get("EXAMPLE_AGENT", "us_states")
LAKE = os.environ.get("EXAMPLE_LAKE", (Path(tempfile.gettempdir()) / "sequentum-lake").as_uri())
AGENT_ID = "{{ ti.xcom_pull(task_ids='run_agent', key='run')['agent_id'] }}"


@task
def load(changes: dict[str, Any]) -> dict[str, int]:
    """Load the changes; here they are only counted, as a warehouse would merge and delete them."""
    import pyarrow.parquet as pq

    rows = {}
    for name, path in changes["files"].items():
        with ObjectStoragePath(path).open("rb") as file:  # type: ignore[no-untyped-call]
            rows[name] = pq.ParquetFile(file).metadata.num_rows
    return rows


with DAG(
    "record_changes",
    schedule=None,
    # Two runs that are compared at the same time would both follow the same one.
    max_active_runs=1,
    description="Load only the records that an agent's run changed",
    doc_md=__doc__,
    tags=["sequentum"],
    params={
        "agent": Param(AGENT, type="string", description="Name of the agent to run"),
        "lake": Param(LAKE, type="string", description="Folder for the files, as an ObjectStoragePath"),
    },
) as dag:
    run = StartAgentRunOperator(task_id="run_agent", agent_name="{{ params.agent }}", deferrable=True, retries=2)
    land = RunFilesToObjectStorageOperator(
        task_id="land_files",
        agent_id=AGENT_ID,
        run_id=run.output,
        destination="{{ params.lake }}/changes/run-{{ ti.xcom_pull(task_ids='run_agent') }}",
        file_patterns="*.csv",
    )
    # [START howto_record_changes]
    changes = RunChangesOperator(
        task_id="find_changes",
        files=land.output,
        key="abbreviation",
        pointer="{{ params.lake }}/changes/published.json",
        on_unchanged="skip",
    )
    # [END howto_record_changes]
    load(changes.output)
