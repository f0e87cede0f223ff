"""
Run an agent from Airflow that has schedules in Sequentum Cloud, without paying for both.

The schedules are paused before the run and resumed after it, whether it succeeds or fails. Schedules that were paused
before stay so. It needs the connection ``sequentum_default``.
"""

from __future__ import annotations

import os

from airflow.providers.common.compat.sdk import DAG, Param

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.schedules import PauseAgentSchedulesOperator, ResumeAgentSchedulesOperator

AGENT_ID = os.environ.get("EXAMPLE_AGENT_ID", "1")

with DAG(
    "take_over_schedules",
    schedule=None,
    # The schedules of an agent are paused by one DAG run at a time.
    max_active_runs=1,
    description="Pause an agent's schedules while a DAG runs it",
    doc_md=__doc__,
    tags=["sequentum"],
    params={"agent_id": Param(AGENT_ID, type=["string", "integer"], description="Id of the agent to run")},
) as dag:
    # [START howto_schedules]
    pause = PauseAgentSchedulesOperator(task_id="pause_schedules", agent_id="{{ params.agent_id }}", retries=2)
    run = StartAgentRunOperator(task_id="run_agent", agent_id="{{ params.agent_id }}", deferrable=True)
    resume = ResumeAgentSchedulesOperator(
        task_id="resume_schedules",
        agent_id="{{ params.agent_id }}",
        schedule_ids=pause.output,
        retries=5,
    )
    # A teardown runs when what is before it has failed too, and the DAG run fails then.
    pause >> run >> resume.as_teardown()
    # [END howto_schedules]
