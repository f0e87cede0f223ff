"""
Run one agent for many inputs at the same time, then gather what all of them found.

Every input gets a run of its own. At most four are going at a time, because every run takes a place in the space's
limit and requests from the key's budget (before Airflow 3.2, which counts deferred tasks, that takes a pool). An input
whose run fails is retried alone: its run is restarted in place, the others stay as they are. It needs the connection
``sequentum_default``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, Param, task

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.transfers.input_files import rows_to_input_parameters
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator

AGENT = os.environ.get("EXAMPLE_AGENT", "us_states")
LAKE = os.environ.get("EXAMPLE_LAKE", (Path(tempfile.gettempdir()) / "sequentum-lake").as_uri())
INPUTS = [{"region": "north"}, {"region": "east"}, {"region": "south"}, {"region": "west"}]


@task
def inputs(params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the input parameters of each run: here each row is a run's."""
    return rows_to_input_parameters((params or {})["inputs"])


@task
def gather(landed: Sequence[list[str]]) -> dict[str, int]:
    """Read the files of all runs and return how many there are, and how many records they hold."""
    from airflow_provider_sequentum.records.reading import read_records

    # A slice reads them all at once. Iterating reads one after the other, and Airflow logs the end as an error.
    paths = [ObjectStoragePath(path) for paths in landed[:] for path in paths]
    records = 0
    for path in paths:
        with path.open("rb") as file:  # type: ignore[no-untyped-call]
            records += sum(1 for _ in read_records(file, path.name))
    return {"files": len(paths), "records": records}


with DAG(
    "fan_out",
    schedule=None,
    description="Run one agent for many inputs, gather all files",
    doc_md=__doc__,
    tags=["sequentum"],
    params={
        "agent": Param(AGENT, type="string", description="Name of the agent to run"),
        "inputs": Param(INPUTS, type="array", description="Input parameters of each run"),
        "lake": Param(LAKE, type="string", description="Folder for the files, as an ObjectStoragePath"),
    },
) as dag:
    # [START howto_start_agent_run_mapped]
    runs = StartAgentRunOperator.partial(
        task_id="run_agent",
        agent_name="{{ params.agent }}",
        deferrable=True,
        retries=2,
        retry_delay=10,
        max_active_tis_per_dag=4,
    ).expand(input_parameters=inputs())
    # [END howto_start_agent_run_mapped]
    # [START howto_run_files_mapped]
    land = RunFilesToObjectStorageOperator.partial(
        task_id="land_files",
        agent_id="{{ ti.xcom_pull(task_ids='run_agent', key='run', map_indexes=ti.map_index)['agent_id'] }}",
        destination=(
            "{{ params.lake }}/fan-out/run-{{ ti.xcom_pull(task_ids='run_agent', map_indexes=ti.map_index) }}"
        ),
        retries=2,
    ).expand(run_id=runs.output)
    # [END howto_run_files_mapped]
    gather(land.output)
