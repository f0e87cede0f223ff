"""
Wait for the run that Sequentum's own schedule starts, tell Airflow by an asset, and load in another DAG.

The sensor's outlet is the agent's asset: when the run has ended well, every DAG that is scheduled on the asset runs,
and the event says which run it was. Use this where the run has to be there by a certain time; ``on_agent_run`` waits
for any run at any time. It needs Airflow 3 and the connection ``sequentum_default``.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_sequentum.assets.agent import create_asset
from airflow_provider_sequentum.sensors.agent_run import AgentRunSensor

# An asset names the agent by its id. The sandbox prints those of its agents: 1002 is us_states.
AGENT_ID = os.environ.get("EXAMPLE_AGENT_ID", "1002")
data = create_asset(agent_id=AGENT_ID)

with DAG(
    "sensor_to_asset",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 - Airflow takes it in its own time zone
    catchup=False,
    is_paused_upon_creation=True,
    description="Wait for the nightly run of Sequentum's own schedule",
    doc_md=__doc__,
    tags=["sequentum"],
) as dag:
    # [START howto_sensor_to_asset]
    AgentRunSensor(
        task_id="wait_for_run",
        agent_id=AGENT_ID,
        since="{{ dag_run.run_after }}",
        deferrable=True,
        timeout=6 * 60 * 60,
        outlets=[data],
    )
    # [END howto_sensor_to_asset]


@task
def load(triggering_asset_events: dict[Any, Any] | None = None) -> dict[str, int]:
    """Read the records of the runs that the events are about, and return how many each has."""
    from airflow_provider_sequentum.hooks.sequentum import SequentumHook

    events = (triggering_asset_events or {}).get(data, [])
    # A task's event has the run's facts in its extra, that of a watcher in its payload.
    runs = sorted({(event.extra.get("payload") or event.extra)["run_id"] for event in events})
    hook = SequentumHook()
    return {str(extracted): sum(1 for _ in hook.iter_records(AGENT_ID, extracted)) for extracted in runs}


with DAG(
    "load_on_asset",
    schedule=[data],
    # ``on_agent_run`` watches the same asset: with both running, every run of the agent starts this DAG too.
    is_paused_upon_creation=True,
    description="Load what the agent extracted",
    doc_md=__doc__,
    tags=["sequentum"],
) as load_on_asset:
    load()
