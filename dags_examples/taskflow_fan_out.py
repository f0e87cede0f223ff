"""
Run one agent for thirty inputs, load the results of the runs that succeeded, and report which inputs failed.

The return values of a mapped task are the ids of the runs that ended well, so with two of thirty failed there are 28,
and the third is no longer that of the third input. The summaries under the XCom key ``run`` are complete: each has the
status, the input parameters and the map index of its run. It needs the connection ``sequentum_default``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator

AGENT = os.environ.get("EXAMPLE_AGENT", "us_states")
INPUTS = [{"page": number} for number in range(1, 31)]


@task
def inputs(params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the input parameters of each run."""
    return list((params or {})["inputs"])


@task(trigger_rule="all_done")
def succeeded(summaries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the summaries of the runs that ended well."""
    # A slice reads them all at once. Iterating reads one after the other, and Airflow logs the end as an error.
    return [summary for summary in summaries[:] if summary["status"] in ("Success", "Completed")]


@task(max_active_tis_per_dag=8)
def load(extracted: dict[str, Any]) -> dict[str, Any]:
    """
    Read the records of one run and return how many there are.

    The argument cannot be called ``run_id``: Airflow reserves the names of its context.
    """
    from airflow_provider_sequentum.hooks.sequentum import SequentumHook

    records = SequentumHook().iter_records(extracted["agent_id"], extracted["run_id"])
    return {"page": extracted["input_parameters"]["page"], "records": sum(1 for _ in records)}


@task(trigger_rule="all_done")
def report(summaries: Sequence[dict[str, Any]], loaded: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Say how many records each page has, and which input failed with what."""
    pages = loaded[:]
    failed = {
        str(summary["map_index"]): {"input": summary["input_parameters"], "status": summary["status"]}
        for summary in summaries[:]
        if summary["status"] not in ("Success", "Completed")
    }
    return {"pages": len(pages), "records": sum(page["records"] for page in pages), "failed": failed}


with DAG(
    "taskflow_fan_out",
    schedule=None,
    description="Run one agent for thirty inputs with TaskFlow, report which failed",
    doc_md=__doc__,
    tags=["sequentum"],
    params={
        "agent": Param(AGENT, type="string", description="Name of the agent to run"),
        "inputs": Param(INPUTS, type="array", description="Input parameters of each run"),
    },
) as dag:
    # [START howto_taskflow_fan_out]
    runs = StartAgentRunOperator.partial(
        task_id="run_agent",
        agent_name="{{ params.agent }}",
        deferrable=True,
        retries=2,
        retry_delay=10,
        max_active_tis_per_dag=10,
    ).expand(input_parameters=inputs())
    summaries = runs.output["run"]
    loaded = load.expand(extracted=succeeded(summaries))
    report(summaries, loaded)
    # [END howto_taskflow_fan_out]
