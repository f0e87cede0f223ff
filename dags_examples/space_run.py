"""
Run all agents of a space by one request, and land what each of them found.

One task starts them and waits for all. An agent whose run fails is restarted in place, twice; one that fails for good
doesn't hold up the others: their files are landed, and the last task says who is missing. Every run has a folder of its
own. It needs the connection ``sequentum_default``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator

SPACE_ID = os.environ.get("EXAMPLE_SPACE_ID", "1")
LAKE = os.environ.get("EXAMPLE_LAKE", (Path(tempfile.gettempdir()) / "sequentum-lake").as_uri())


@task
def ended_well(run_ids: list[int], runs: list[dict[str, Any]], lake: str) -> list[dict[str, Any]]:
    """Return what to land: each run that ended well, and where to."""
    return [
        {"agent_id": run["agent_id"], "run_id": run["run_id"], "destination": f"{lake}/space/run-{run['run_id']}"}
        for run in runs
        if run["run_id"] in run_ids
    ]


@task
def report(run_ids: list[int], runs: list[dict[str, Any]], landed: Sequence[list[str]]) -> dict[str, Any]:
    """Say how many agents ran and how many files there are, and which agents are missing and why."""
    missing = {str(run["agent_id"]): run["message"] or run["status"] for run in runs if run["run_id"] not in run_ids}
    # A slice reads them all at once. Iterating reads one after the other, and Airflow logs the end as an error.
    return {"agents": len(runs), "files": sum(len(paths) for paths in landed[:]), "missing": missing}


with DAG(
    "space_run",
    schedule=None,
    description="Run all agents of a space, land what they found",
    doc_md=__doc__,
    tags=["sequentum"],
    params={
        "space_id": Param(SPACE_ID, type=["string", "integer"], description="The space to run"),
        "lake": Param(LAKE, type="string", description="Folder for the files, as an ObjectStoragePath"),
    },
) as dag:
    # [START howto_start_space_runs]
    run = StartSpaceRunsOperator(
        task_id="run_space",
        space_id="{{ params.space_id }}",
        deferrable=True,
        restarts=2,
        restart_delay=5,
        on_partial="warn",
        retries=2,
    )
    land = RunFilesToObjectStorageOperator.partial(task_id="land_files", retries=2).expand_kwargs(
        ended_well(run.output, run.output["runs"], "{{ params.lake }}")
    )
    # [END howto_start_space_runs]
    report(run.output, run.output["runs"], land.output)
