"""
From a prompt to a table.

Build an agent from a prompt, run it, wait without taking a worker slot, land its files in object storage, load them
into DuckDB and check that nothing got lost on the way. It needs the connection ``sequentum_default`` and
``pip install duckdb``.

The prompt, the folder and the database are parameters: change them when you trigger the DAG, or set the environment
variables below for good. The folder may be on S3, Google Cloud Storage or any other ``ObjectStoragePath``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, Param, task

from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator

FOLDER = Path(tempfile.gettempdir()) / "sequentum-quickstart"
LAKE = os.environ.get("QUICKSTART_LAKE", FOLDER.as_uri())
DATABASE = os.environ.get("QUICKSTART_DATABASE", str(FOLDER / "quickstart.duckdb"))
PROMPT = "From the list of US states, extract the state, its abbreviation, its capital and the date of its admission."


@task
def load(paths: list[str], database: str) -> int:
    """Replace the table ``records`` with the rows of the CSV files and return how many there are."""
    import duckdb

    Path(database).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(database) as connection:
        local = []
        for number, path in enumerate(path for path in paths if path.endswith(".csv")):
            local.append(str(Path(folder) / f"{number}.csv"))
            Path(local[-1]).write_bytes(ObjectStoragePath(path).read_bytes())
        if not local:
            raise ValueError(f"There is no CSV file among the run's files: {paths}")
        connection.execute(
            "CREATE OR REPLACE TABLE records AS SELECT * FROM read_csv(?, union_by_name = true)", [local]
        )
        (rows,) = connection.sql("SELECT count(*) FROM records").fetchall()[0]
    return int(rows)


@task
def check(rows: int, run: dict[str, Any]) -> None:
    """Fail unless the table has as many rows as the run says it extracted."""
    if rows != run["records"]:
        raise ValueError(f"Run {run['run_id']} extracted {run['records']} records, but the table has {rows} rows.")


with DAG(
    "quickstart",
    schedule=None,
    description="Build an agent from a prompt, run it, load what it extracts into DuckDB",
    doc_md=__doc__,
    tags=["sequentum"],
    params={
        "prompt": Param(PROMPT, type="string", minLength=10, maxLength=5000, format="multiline"),
        "lake": Param(LAKE, type="string", description="Folder for the files, as an ObjectStoragePath"),
        "database": Param(DATABASE, type="string", description="Path of the DuckDB database"),
    },
) as dag:
    # [START howto_pipeline]
    build = AgentBuilderOperator(task_id="build_agent", prompt="{{ params.prompt }}", deferrable=True, poll_interval=10)
    run = StartAgentRunOperator(task_id="run_agent", agent_id=build.output, deferrable=True, poll_interval=10)
    land = RunFilesToObjectStorageOperator(
        task_id="land_files",
        agent_id=build.output,
        run_id=run.output,
        destination="{{ params.lake }}/run-{{ ti.xcom_pull(task_ids='run_agent') }}/",
    )
    # [END howto_pipeline]
    loaded = load(land.output, "{{ params.database }}")
    check(loaded, run.output["run"])
