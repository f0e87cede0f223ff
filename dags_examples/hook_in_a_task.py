"""
Drive an agent from the code of a task, with the hook.

The run belongs to the task's code alone: if the task is killed, nothing stops it, and a retry would start another one.
So the task is not retried. ``StartAgentRunOperator`` has neither limitation. It needs the connection
``sequentum_default``.
"""

from __future__ import annotations

import os
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, task

AGENT_ID = os.environ.get("EXAMPLE_AGENT_ID", "1")


# [START howto_hook]
@task(retries=0)
def first_record(agent_id: int | str) -> dict[str, Any]:
    """Run the agent and return the first of its records, and what the run cost, if that is known."""
    from airflow_provider_sequentum.hooks.sequentum import SequentumHook

    hook = SequentumHook()
    run = hook.start_run(agent_id=agent_id)
    hook.wait_for_run(agent_id=agent_id, run_id=run.id, timeout=600)
    record = next(hook.iter_records(run.agent_id, run.id))
    return {"record": record, "cost": hook.cost_of(agent_id=agent_id, run_id=run.id)}


# [END howto_hook]

with DAG(
    "hook_in_a_task",
    schedule=None,
    description="Drive an agent from the code of a task",
    doc_md=__doc__,
    tags=["sequentum"],
    params={"agent_id": Param(AGENT_ID, type=["string", "integer"], description="Id of the agent to run")},
) as dag:
    first_record("{{ params.agent_id }}")
