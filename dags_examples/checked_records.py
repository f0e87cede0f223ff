"""
Check what a run extracted before it is loaded.

The files are landed, checked by a contract and by what the agent delivered in its last good runs, and only what passed
is loaded. Rows with a bad date are put into quarantine instead of failing the load. It needs the connection
``sequentum_default`` and ``pip install 'airflow-provider-sequentum[quality]'``.
"""

from __future__ import annotations

import csv
import os
import tempfile
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, Param, task

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.run_records import CheckRunRecordsOperator
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator

AGENT = os.environ.get("EXAMPLE_AGENT", "us_states")
LAKE = os.environ.get("EXAMPLE_LAKE", (Path(tempfile.gettempdir()) / "sequentum-lake").as_uri())
AGENT_ID = "{{ ti.xcom_pull(task_ids='run_agent', key='run')['agent_id'] }}"

CONTRACT = {
    "key": "abbreviation",
    "rules": [
        {"rule": "required", "columns": ["state", "abbreviation", "capital", "admitted"]},
        {"rule": "records", "minimum": 40, "maximum": 60},
        {"rule": "unique", "columns": ["abbreviation"]},
        {"rule": "pattern", "column": "abbreviation", "pattern": "^[A-Z]{2}$"},
        {"rule": "filled", "column": "capital", "mostly": 0.95, "on_breach": "warn"},
        {"rule": "type", "column": "admitted", "type": "date", "on_breach": "quarantine"},
    ],
}


@task
def load(paths: list[str]) -> int:
    """Load the records; here they are only counted."""
    records = 0
    for path in paths:
        with ObjectStoragePath(path).open("r", newline="") as file:  # type: ignore[no-untyped-call]
            records += sum(1 for _ in csv.DictReader(file))
    return records


with DAG(
    "checked_records",
    schedule=None,
    # A run is compared with those before it.
    max_active_runs=1,
    description="Check an agent's records before they are loaded",
    doc_md=__doc__,
    tags=["sequentum"],
    params={
        "agent": Param(AGENT, type="string", description="Name of the agent to run"),
        "lake": Param(LAKE, type="string", description="Folder for the files, as an ObjectStoragePath"),
        "on_drift": Param("fail", enum=["fail", "warn", "skip"], description="What an unusual run means"),
    },
) as dag:
    run = StartAgentRunOperator(task_id="run_agent", agent_name="{{ params.agent }}", deferrable=True, retries=2)
    land = RunFilesToObjectStorageOperator(
        task_id="land_files",
        agent_id=AGENT_ID,
        run_id=run.output,
        destination="{{ params.lake }}/checked/run-{{ ti.xcom_pull(task_ids='run_agent') }}",
        file_patterns="*.csv",
    )
    # [START howto_check_records]
    check = CheckRunRecordsOperator(
        task_id="check_records",
        agent_id=AGENT_ID,
        run_id=run.output,
        files=land.output,
        contract=CONTRACT,
        profiles="{{ params.lake }}/checked/profiles",
        on_drift="{{ params.on_drift }}",
    )
    # [END howto_check_records]
    load(check.output)
