"""
Return to an earlier version of an agent after a new one broke its records.

Trigger it with the agent and the version to return to. The version is restored as a new one, which becomes the pinned
version: tasks with ``expected_version="pinned"`` expect it from then on. One run shows that it works. It needs the
connection ``sequentum_default``.
"""

from __future__ import annotations

import os

from airflow.providers.common.compat.sdk import DAG, Param

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.agent_version import RestoreAgentVersionOperator

AGENT_ID = os.environ.get("EXAMPLE_AGENT_ID", "1")

with DAG(
    "restore_version",
    schedule=None,
    description="Return to an earlier version of an agent",
    doc_md=__doc__,
    tags=["sequentum"],
    params={
        "agent_id": Param(AGENT_ID, type=["string", "integer"], description="Id of the agent"),
        "version": Param(1, type="integer", description="Version to return to"),
        "reason": Param("Restored from Airflow.", type="string", description="Comment of the new version"),
    },
) as dag:
    # [START howto_restore_version]
    restore = RestoreAgentVersionOperator(
        task_id="restore_version",
        agent_id="{{ params.agent_id }}",
        version="{{ params.version }}",
        reason="{{ params.reason }}",
        retries=2,
    )
    run = StartAgentRunOperator(
        task_id="run_agent",
        agent_id="{{ params.agent_id }}",
        expected_version="pinned",
        min_records=1,
        deferrable=True,
    )
    restore >> run
    # [END howto_restore_version]
