"""
Load a run's records into PostgreSQL every day, without duplicates.

The files go to object storage, from there by COPY into a staging table, and from there by a merge on the table's key.
Whatever is repeated, a task, a whole DAG run or a backfill, the table has each record once, as it was last seen. It
needs the connections ``sequentum_default`` and ``warehouse`` (PostgreSQL), and
``pip install apache-airflow-providers-postgres``.
"""

from __future__ import annotations

import os
import tempfile
from datetime import datetime
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, Param, task
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator

AGENT = os.environ.get("EXAMPLE_AGENT", "us_states")
LAKE = os.environ.get("EXAMPLE_LAKE", (Path(tempfile.gettempdir()) / "sequentum-lake").as_uri())
WAREHOUSE = "warehouse"

# The summary of the run says which agent it was.
AGENT_ID = "{{ ti.xcom_pull(task_ids='run_agent', key='run')['agent_id'] }}"

# [START howto_postgres]
TABLES = """
CREATE TABLE IF NOT EXISTS states (
    abbreviation text PRIMARY KEY,
    state text NOT NULL,
    capital text NOT NULL,
    admitted date NOT NULL,
    last_seen timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS states_staging (state text, abbreviation text, capital text, admitted date);
"""

# What was extracted before what is in the table already, as in a backfill, doesn't replace it.
MERGE = """
INSERT INTO states (abbreviation, state, capital, admitted, last_seen)
SELECT DISTINCT ON (abbreviation) abbreviation, state, capital, admitted, %(extracted)s::timestamptz
FROM states_staging
ON CONFLICT (abbreviation) DO UPDATE SET
    state = excluded.state,
    capital = excluded.capital,
    admitted = excluded.admitted,
    last_seen = excluded.last_seen
WHERE states.last_seen <= excluded.last_seen;
"""


@task
def fill_staging(paths: list[str]) -> None:
    """Put the rows of the CSV files, and nothing else, into the staging table."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    hook = PostgresHook(WAREHOUSE)
    hook.run("TRUNCATE states_staging")
    for path in paths:
        with tempfile.NamedTemporaryFile(suffix=".csv") as local:
            Path(local.name).write_bytes(ObjectStoragePath(path).read_bytes())
            hook.copy_expert("COPY states_staging FROM STDIN WITH (FORMAT csv, HEADER match)", local.name)


# [END howto_postgres]


with DAG(
    "daily_to_postgres",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 - Airflow takes it in its own time zone
    catchup=False,
    # Runs cost credits: the example does not start before a user unpauses it.
    is_paused_upon_creation=True,
    # There is one staging table.
    max_active_runs=1,
    description="Load an agent's records into PostgreSQL, each once",
    doc_md=__doc__,
    tags=["sequentum"],
    params={
        "agent": Param(AGENT, type="string", description="Name of the agent to run"),
        "lake": Param(LAKE, type="string", description="Folder for the files, as an ObjectStoragePath"),
    },
) as dag:
    make_tables = SQLExecuteQueryOperator(task_id="make_tables", conn_id=WAREHOUSE, sql=TABLES)
    # [START howto_start_agent_run]
    run = StartAgentRunOperator(
        task_id="run_agent",
        agent_name="{{ params.agent }}",
        deferrable=True,
        retries=2,
        on_empty="fail",
    )
    # [END howto_start_agent_run]
    # [START howto_run_files]
    land = RunFilesToObjectStorageOperator(
        task_id="land_files",
        agent_id=AGENT_ID,
        run_id=run.output,
        destination="{{ params.lake }}/daily/run-{{ ti.xcom_pull(task_ids='run_agent') }}",
        file_patterns="*.csv",
        retries=2,
    )
    # [END howto_run_files]
    merge = SQLExecuteQueryOperator(
        task_id="merge",
        conn_id=WAREHOUSE,
        sql=MERGE,
        parameters={"extracted": "{{ ti.xcom_pull(task_ids='run_agent', key='run')['ended'] }}"},
    )
    make_tables >> run >> land
    fill_staging(land.output) >> merge
