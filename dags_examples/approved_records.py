"""
Ask a person before records that break their contract are loaded.

The files of a run are landed as Parquet and checked. If the contract is broken, the breaches become a *required
action* in the Airflow UI. A person who approves lets the run's records be loaded, and later runs be compared with it;
one who rejects them lets the DAG run fail. All that is loaded is what has changed since the run that was loaded before.
It needs the connection ``sequentum_default`` and ``pip install 'airflow-provider-sequentum[quality]'``. Before Airflow
3.1, which cannot ask a person, this file has no DAG.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, Param, task

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.run_changes import RunChangesOperator
from airflow_provider_sequentum.operators.run_records import CheckRunRecordsOperator
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator

AGENT = os.environ.get("EXAMPLE_AGENT", "us_states")
LAKE = os.environ.get("EXAMPLE_LAKE", (Path(tempfile.gettempdir()) / "sequentum-lake").as_uri())
AGENT_ID = "{{ ti.xcom_pull(task_ids='run_agent', key='run')['agent_id'] }}"
PROFILES = "{{ params.lake }}/approved/profiles"

CONTRACT = {
    "key": "abbreviation",
    "rules": [
        {"rule": "required", "columns": ["state", "abbreviation", "capital", "admitted"]},
        {"rule": "records", "minimum": 40, "maximum": 60},
        {"rule": "unique", "columns": ["abbreviation"]},
        {"rule": "filled", "column": "state", "on_breach": "quarantine"},
    ],
}


@task.branch(trigger_rule="all_done")
def is_broken(ti: Any = None) -> str:
    """Return the task that follows the check: a question if the records broke the contract."""
    report = ti.xcom_pull(task_ids="check_records", key="records_check")
    if report is None:
        raise RuntimeError("The records were not checked: see the log of check_records, or of the task before it.")
    return "ask" if report["verdict"] == "failed" else "find_changes"


@task
def accept(profiles: str, run: int, files: list[str]) -> list[str]:
    """Let later runs be compared with one that a person approved. Returns its files."""
    profile = ObjectStoragePath(f"{profiles}/run-{run}.json")
    found = json.loads(profile.read_text())
    profile.write_text(json.dumps({**found, "verdict": "accepted"}, indent=1))
    return files


@task
def load(changes: dict[str, Any]) -> dict[str, int]:
    """Load the changes; here they are only counted, as a warehouse would merge and delete them."""
    return {name: changes[name] for name in ("added", "changed", "removed")}


# Before 3.1 an import of the module with ApprovalOperator fails.
if tuple(map(int, airflow_version.split(".")[:2])) >= (3, 1):
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    with DAG(
        "approved_records",
        schedule=None,
        # A run is compared with those before it.
        max_active_runs=1,
        # The files of one of two tasks are a list, and not its text.
        render_template_as_native_obj=True,
        description="Ask a person before records that break their contract are loaded",
        doc_md=__doc__,
        tags=["sequentum"],
        params={
            "agent": Param(AGENT, type="string", description="Name of the agent to run"),
            "lake": Param(LAKE, type="string", description="Folder for the files, as an ObjectStoragePath"),
        },
    ) as dag:
        run = StartAgentRunOperator(task_id="run_agent", agent_name="{{ params.agent }}", deferrable=True, retries=2)
        # [START howto_land_parquet]
        land = RunFilesToObjectStorageOperator(
            task_id="land_files",
            agent_id=AGENT_ID,
            run_id=run.output,
            destination="{{ params.lake }}/approved/run-{{ ti.xcom_pull(task_ids='run_agent') }}",
            file_patterns="*.csv",
            file_format="parquet",
            record_schema={"admitted": "date"},
            schema_file="{{ params.lake }}/approved/types.json",
        )
        # [END howto_land_parquet]
        check = CheckRunRecordsOperator(
            task_id="check_records",
            agent_id=AGENT_ID,
            run_id=run.output,
            files=land.output,
            contract=CONTRACT,
            profiles=PROFILES,
        )
        # [START howto_ask_a_person]
        ask = ApprovalOperator(
            task_id="ask",
            subject="Records break their contract",
            # Values come from a website: in a block of code they are no links and no headings.
            body=(
                "{% set report = ti.xcom_pull(task_ids='check_records', key='records_check') %}"
                "Run {{ report.run_id }} has {{ report.records }} records:\n\n"
                "{% for breach in report.breaches %}    {{ breach }}\n{% endfor %}\nLoad them?"
            ),
            # Rejected, the records are as bad as those of a check without a question.
            fail_on_reject=True,
        )
        accepted = accept(PROFILES, run.output, land.output)
        changes = RunChangesOperator(
            task_id="find_changes",
            files="{{ ti.xcom_pull(task_ids='accept') or ti.xcom_pull(task_ids='check_records') }}",
            key="abbreviation",
            pointer="{{ params.lake }}/approved/published.json",
            trigger_rule="none_failed_min_one_success",
        )
        check >> is_broken() >> [ask, changes]
        ask >> accepted >> changes
        # [END howto_ask_a_person]
        load(changes.output)
