"""Each kind of remote job, on the worker and deferred, as a DAG with the one task ``job`` that is never retried."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

XCOMS, STATE_STORE = "XComs", "state store"


def break_airflow(context: Context) -> None:
    """Let this process no longer push XComs, or no longer write the task state store, as ``params.broken`` says."""
    broken = context["params"]["broken"]
    if broken == XCOMS:
        type(context["ti"]).xcom_push = _refuse  # type: ignore[method-assign]
    elif broken == STATE_STORE:
        type(context["task_state_store"]).set = _refuse  # type: ignore[method-assign]


def _refuse(*_: Any, **__: Any) -> None:
    raise RuntimeError("Airflow cannot store this")


@task
def chosen_agents(params: Any = None) -> list[int]:
    """Return the agents to run."""
    return list(params["agents"])


PARAMS = {
    "id": Param(1, type="integer"),
    "agents": Param([], type="array"),
    "prompt": "",
    "on_clear": "rerun",
    "broken": "",
}
COMMON: dict[str, Any] = {
    "task_id": "job",
    "poll_interval": 2,
    "retries": 0,
    "retry_delay": timedelta(seconds=1),
    "pre_execute": break_airflow,
}
RUNS: dict[str, Any] = {**COMMON, "stop_grace": 10, "on_clear": "{{ params.on_clear }}"}

for deferrable, mode in ((False, "worker"), (True, "deferred")):
    with DAG(f"job_run_{mode}", schedule=None, params=PARAMS):
        StartAgentRunOperator(**RUNS, deferrable=deferrable, agent_id="{{ params.id }}")
    with DAG(f"job_mapped_{mode}", schedule=None, params=PARAMS):
        StartAgentRunOperator.partial(**RUNS, deferrable=deferrable).expand(agent_id=chosen_agents())
    with DAG(f"job_space_{mode}", schedule=None, params=PARAMS):
        StartSpaceRunsOperator(**RUNS, deferrable=deferrable, space_id="{{ params.id }}")
    with DAG(f"job_session_{mode}", schedule=None, params=PARAMS):
        AgentBuilderOperator(**COMMON, deferrable=deferrable, prompt="{{ params.prompt }}")
