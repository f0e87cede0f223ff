"""
Delete the files of old runs from the service once a week, if they are landed in object storage.

By default the DAG only says what it would delete: trigger it with ``dry_run`` set to false to delete. Runs without a
complete manifest in the folder are kept. It needs the connection ``sequentum_default``.
"""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, Param

from airflow_provider_sequentum.operators.retention import DeleteRunsOperator

AGENT_ID = os.environ.get("EXAMPLE_AGENT_ID", "1")
LAKE = os.environ.get("EXAMPLE_LAKE", (Path(tempfile.gettempdir()) / "sequentum-lake").as_uri())

with DAG(
    "delete_old_runs",
    schedule="@weekly",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    description="Delete the files of old runs that are landed",
    doc_md=__doc__,
    tags=["sequentum"],
    params={
        "agent_id": Param(AGENT_ID, type=["string", "integer"], description="Id of the agent"),
        "older_than_days": Param(30, type="integer", minimum=0, description="Days since the end of the run"),
        "dry_run": Param(True, type="boolean", description="Only say what would be deleted"),
        "lake": Param(LAKE, type="string", description="Folder with the landed files and their manifests"),
    },
) as dag:
    # [START howto_delete_old_runs]
    DeleteRunsOperator(
        task_id="delete_old_runs",
        agent_id="{{ params.agent_id }}",
        older_than_days="{{ params.older_than_days }}",
        manifests="{{ params.lake }}",
        dry_run="{{ params.dry_run }}",
        retries=2,
    )
    # [END howto_delete_old_runs]
