"""
Give an agent the products of a warehouse, at a version that was tried and within a limit of credits.

The products become an input file in the space of the agent, which gets the file's name as an input parameter. The run
must have the pinned version of the agent, and is not started if the DAG run would spend more than the limit. The agent
must live in a space. It needs the connection ``sequentum_default``, with a key that can read billing.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.transfers.input_files import ObjectStorageToInputFilesOperator
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator

AGENT_ID = os.environ.get("EXAMPLE_AGENT_ID", "1")
LAKE = os.environ.get("EXAMPLE_LAKE", (Path(tempfile.gettempdir()) / "sequentum-lake").as_uri())


@task
def products() -> list[dict[str, str]]:
    """Return the products to look for; in your DAG, the rows of a query."""
    return [{"sku": f"A{number}", "url": f"https://shop.example/a{number}"} for number in range(1, 251)]


with DAG(
    "products_to_prices",
    schedule=None,
    # DAG runs at the same time would overwrite each other's input file.
    max_active_runs=1,
    description="Give an agent an input file, hold its version and limit what it costs",
    doc_md=__doc__,
    tags=["sequentum"],
    params={
        "agent_id": Param(AGENT_ID, type=["string", "integer"], description="Id of the agent to run"),
        "version": Param("pinned", type=["string", "integer"], description="Version of the agent, or 'pinned'"),
        "credit_limit": Param(50, type="number", description="Credits that a DAG run may spend"),
        "lake": Param(LAKE, type="string", description="Folder for the files, as an ObjectStoragePath"),
    },
) as dag:
    # [START howto_input_file]
    upload = ObjectStorageToInputFilesOperator(
        task_id="upload_products", agent_id="{{ params.agent_id }}", rows=products(), retries=2
    )
    # [START howto_version_and_limit]
    run = StartAgentRunOperator(
        task_id="run_agent",
        agent_id="{{ params.agent_id }}",
        input_parameters={"products": upload.output},
        expected_version="{{ params.version }}",
        credit_limit="{{ params.credit_limit }}",
        report_cost=True,
        deferrable=True,
        retries=2,
    )
    # [END howto_version_and_limit]
    # [END howto_input_file]
    RunFilesToObjectStorageOperator(
        task_id="land_files",
        agent_id="{{ params.agent_id }}",
        run_id=run.output,
        destination="{{ params.lake }}/prices/{{ ti.xcom_pull(task_ids='run_agent') }}",
        file_patterns="*.csv",
    )
