"""
Extract every hour what is new since the hour before, and extract any past hour again.

The agent gets the hour as input parameters. The hour is the data interval of the DAG run, which is why the timetable is
``CronDataIntervalTimetable``: with ``schedule="@hourly"`` the interval of Airflow 3 has no length (``[scheduler]
create_cron_data_intervals`` is off), and every run would extract nothing. The hour's folder has one folder for each run
of the agent, and the table is replaced by the hour, so a retry, a cleared task and a backfill double nothing. It needs
the connection ``sequentum_default`` and ``pip install duckdb``.
"""

from __future__ import annotations

import os
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, Param, task
from airflow.timetables.interval import CronDataIntervalTimetable

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator

AGENT = os.environ.get("EXAMPLE_AGENT", "us_states")
FOLDER = Path(tempfile.gettempdir()) / "sequentum-lake"
LAKE = os.environ.get("EXAMPLE_LAKE", FOLDER.as_uri())
DATABASE = os.environ.get("EXAMPLE_DATABASE", str(FOLDER / "incremental.duckdb"))
AGENT_ID = "{{ ti.xcom_pull(task_ids='run_agent', key='run')['agent_id'] }}"
RUN_ID = "{{ ti.xcom_pull(task_ids='run_agent') }}"


# [START howto_window]
@task
def window(
    data_interval_start: datetime | None = None, data_interval_end: datetime | None = None, dag_run: Any = None
) -> dict[str, str]:
    """
    Return the hour to extract, as the agent's input parameters.

    A DAG run without a logical date has no data interval: one that an asset triggered, or a user without giving a date.
    It extracts the last whole hour.
    """
    if data_interval_start is None or data_interval_end is None:
        data_interval_end = dag_run.run_after.replace(minute=0, second=0, microsecond=0)
        data_interval_start = data_interval_end - timedelta(hours=1)
    if data_interval_start >= data_interval_end:
        raise ValueError(
            f"The hour {data_interval_start} has no length. Use CronDataIntervalTimetable as the schedule."
        )
    return {"from": data_interval_start.isoformat(), "to": data_interval_end.isoformat()}


# [END howto_window]


# [START howto_duckdb]
@task(max_active_tis_per_dag=1)  # DuckDB has one writer
def replace_hour(paths: list[str], hour: dict[str, Any], database: str) -> int:
    """Replace the rows of the hour in the table ``records`` and return how many there are."""
    import duckdb

    Path(database).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(database) as connection:
        local = []
        for number, path in enumerate(paths):
            local.append(str(Path(folder) / f"{number}.csv"))
            Path(local[-1]).write_bytes(ObjectStoragePath(path).read_bytes())
        connection.execute(
            "CREATE TEMP TABLE fresh AS SELECT ?::timestamptz AS hour, * FROM read_csv(?)", [hour["from"], local]
        )
        connection.execute("CREATE TABLE IF NOT EXISTS records AS FROM fresh LIMIT 0")
        connection.execute("BEGIN")
        connection.execute("DELETE FROM records WHERE hour = ?::timestamptz", [hour["from"]])
        connection.execute("INSERT INTO records BY NAME FROM fresh")
        connection.execute("COMMIT")
        (rows,) = connection.sql("SELECT count(*) FROM fresh").fetchall()[0]
    return int(rows)


# [END howto_duckdb]


with DAG(
    "hourly_incremental",
    # [START howto_hourly]
    schedule=CronDataIntervalTimetable("0 * * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 - Airflow takes it in its own time zone
    catchup=False,
    # [END howto_hourly]
    # Runs cost credits: the example does not start before a user unpauses it.
    is_paused_upon_creation=True,
    description="Extract every hour what is new",
    doc_md=__doc__,
    tags=["sequentum"],
    params={
        "agent": Param(AGENT, type="string", description="Name of the agent to run"),
        "lake": Param(LAKE, type="string", description="Folder for the files, as an ObjectStoragePath"),
        "database": Param(DATABASE, type="string", description="Path of the DuckDB database"),
    },
) as dag:
    # [START howto_incremental]
    hour = window()
    run = StartAgentRunOperator(
        task_id="run_agent",
        agent_name="{{ params.agent }}",
        input_parameters=hour,
        deferrable=True,
        retries=2,
        on_empty="skip",
    )
    land = RunFilesToObjectStorageOperator(
        task_id="land_files",
        agent_id=AGENT_ID,
        run_id=run.output,
        destination="{{ params.lake }}/hourly/{{ ti.xcom_pull(task_ids='window')['from'][:13] }}/run-" + RUN_ID,
        file_patterns="*.csv",
        retries=2,
    )
    replace_hour(land.output, hour, "{{ params.database }}")
    # [END howto_incremental]
