"""
Try a candidate agent beside the one in use, and change to it if its records pass a contract.

To change an agent without risk, save the new version as another agent, the candidate. The id of the agent in use is in
the Airflow Variable ``sequentum_agent_in_use``. Both agents run. The records of the agent in use are loaded, whatever
becomes of the candidate. If the candidate's records pass the contract, its id goes into the Variable, and the next DAG
run loads its records. It needs the connection ``sequentum_default`` and
``pip install 'airflow-provider-sequentum[quality]'``.
"""

from __future__ import annotations

import csv
import os
import tempfile
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, Param, Variable, task

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.run_records import CheckRunRecordsOperator
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator

IN_USE = "sequentum_agent_in_use"
AGENT_ID = os.environ.get("EXAMPLE_AGENT_ID", "1")
LAKE = os.environ.get("EXAMPLE_LAKE", (Path(tempfile.gettempdir()) / "sequentum-lake").as_uri())

CONTRACT = {
    "rules": [
        {"rule": "required", "columns": ["state", "abbreviation", "capital", "admitted"]},
        {"rule": "records", "minimum": 40, "maximum": 60},
        {"rule": "unique", "columns": ["abbreviation"]},
        {"rule": "type", "column": "admitted", "type": "date"},
    ],
}


def run_and_land(name: str, agent_id: str) -> tuple[StartAgentRunOperator, RunFilesToObjectStorageOperator]:
    """Return the tasks that run an agent and land what it delivers."""
    run = StartAgentRunOperator(task_id=f"run_{name}", agent_id=agent_id, deferrable=True, retries=2)
    land = RunFilesToObjectStorageOperator(
        task_id=f"land_{name}",
        # Of the run, and not of the Variable, which may be another one by then.
        agent_id=f"{{{{ ti.xcom_pull(task_ids='run_{name}', key='run')['agent_id'] }}}}",
        run_id=run.output,
        destination=f"{{{{ params.lake }}}}/candidate/{name}-{{{{ ti.xcom_pull(task_ids='run_{name}') }}}}",
        file_patterns="*.csv",
    )
    return run, land


@task
def load(paths: list[str]) -> int:
    """Load the records of the agent in use; here they are only counted."""
    records = 0
    for path in paths:
        with ObjectStoragePath(path).open("r", newline="") as file:  # type: ignore[no-untyped-call]
            records += sum(1 for _ in csv.DictReader(file))
    return records


@task
def change_agent(agent_id: str) -> str:
    """Let the candidate be the agent in use from now on."""
    Variable.set(IN_USE, agent_id, description="Id of the Sequentum agent whose records are loaded")
    return agent_id


with DAG(
    "try_candidate",
    schedule=None,
    # The agent in use is changed by one DAG run at a time.
    max_active_runs=1,
    description="Try a candidate agent, and change to it if its records pass a contract",
    doc_md=__doc__,
    tags=["sequentum"],
    params={
        "candidate": Param(AGENT_ID, type=["string", "integer"], description="Id of the candidate"),
        "lake": Param(LAKE, type="string", description="Folder for the files, as an ObjectStoragePath"),
    },
) as dag:
    # [START howto_try_candidate]
    _, landed = run_and_land("in_use", f"{{{{ var.value.get('{IN_USE}', '{AGENT_ID}') }}}}")
    load(landed.output)

    candidate, landed_candidate = run_and_land("candidate", "{{ params.candidate }}")
    check = CheckRunRecordsOperator(
        task_id="check_candidate",
        agent_id="{{ params.candidate }}",
        run_id=candidate.output,
        files=landed_candidate.output,
        contract=CONTRACT,
    )
    check >> change_agent("{{ params.candidate }}")
    # [END howto_try_candidate]
