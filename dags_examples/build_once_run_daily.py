"""
Build an agent once, run it every day.

The agent's id is kept in an Airflow Variable. The agent is built again only when the prompt has changed, or when the
last run found no records: then the page may have changed, and a new build adapts to it. It needs the connection
``sequentum_default``.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, Variable, task

from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator

KEPT = "sequentum_states_agent"
PROMPT = "From the list of US states, extract the state, its abbreviation, its capital and the date of its admission."


def digest(prompt: str) -> str:
    """Return what tells one prompt from another."""
    return hashlib.sha256(prompt.encode()).hexdigest()


@task.branch
def decide(prompt: str) -> str:
    """Return the next task: building or choosing the agent that is kept."""
    kept: dict[str, Any] | None = Variable.get(KEPT, None, deserialize_json=True)
    if kept is None or kept["prompt"] != digest(prompt) or kept["last_run_was_empty"]:
        return "build_agent"
    return "choose_agent"


@task(trigger_rule="none_failed")
def choose_agent(prompt: str, built: int | None) -> int:
    """Return the agent to run, and keep it if it has just been built."""
    if built is not None:
        kept = {"agent_id": built, "prompt": digest(prompt), "last_run_was_empty": False}
        Variable.set(KEPT, kept, serialize_json=True)
        return built
    return int(Variable.get(KEPT, deserialize_json=True)["agent_id"])


@task
def note_outcome(run: dict[str, Any]) -> None:
    """Keep in mind whether the run came back empty."""
    kept = Variable.get(KEPT, deserialize_json=True)
    Variable.set(KEPT, {**kept, "last_run_was_empty": not run["records"]}, serialize_json=True)


with DAG(
    "build_once_run_daily",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 - Airflow takes it in its own time zone
    catchup=False,
    # Builds and runs cost credits: the example does not start before a user unpauses it.
    is_paused_upon_creation=True,
    # Two runs at a time could both find the Variable empty and build an agent each.
    max_active_runs=1,
    description="Build an agent when its prompt changes, run it every day",
    doc_md=__doc__,
    tags=["sequentum"],
    params={"prompt": Param(PROMPT, type="string", minLength=10, maxLength=5000, format="multiline")},
) as dag:
    prompt = "{{ params.prompt }}"
    # [START howto_build_once]
    build = AgentBuilderOperator(
        task_id="build_agent", prompt=prompt, agent_name="US states, {{ run_id }}", deferrable=True
    )
    agent = choose_agent(prompt, build.output)
    run = StartAgentRunOperator(task_id="run_agent", agent_id=agent, deferrable=True, retries=2, on_empty="warn")
    # [END howto_build_once]
    decide(prompt) >> [build, agent]
    note_outcome(run.output["run"])
