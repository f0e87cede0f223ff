"""
Land the files of every run that ends well, whoever started it: Sequentum's own schedule, a colleague, another DAG.

The asset's watcher looks at the agent's runs once a minute, and each run that has ended starts a run of this DAG.
Nothing runs in between. It needs Airflow 3 and the connection ``sequentum_default``. Triggered by hand, it lands the
newest run that ended well.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_provider_sequentum.assets.agent import agent_uri
from airflow_provider_sequentum.assets.agent_run import AgentRunCompletedTrigger
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator

# A watcher looks for the agent by its id. The sandbox prints those of its agents: 1002 is us_states.
AGENT_ID = os.environ.get("EXAMPLE_AGENT_ID", "1002")
LAKE = os.environ.get("EXAMPLE_LAKE", (Path(tempfile.gettempdir()) / "sequentum-lake").as_uri())
POLL_INTERVAL = float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60"))

# [START howto_agent_run_completed]
trigger = AgentRunCompletedTrigger(agent_id=AGENT_ID, poll_interval=POLL_INTERVAL)
data = Asset(uri=agent_uri(AGENT_ID), watchers=[AssetWatcher(name="agent_runs", trigger=trigger)])
# [END howto_agent_run_completed]


@task
def ended_runs(triggering_asset_events: dict[Any, Any] | None = None) -> list[int]:
    """
    Return the runs that this DAG run is about: several may have ended within a minute.

    A watcher's event has the run's facts in its payload. A task of another DAG with the asset among its outlets tells
    them too, and then there are two events of one run.
    """
    events = (triggering_asset_events or {}).get(data, [])
    if events:
        return sorted({(event.extra.get("payload") or event.extra)["run_id"] for event in events})

    from airflow_provider_sequentum.api import RunStatus, runs
    from airflow_provider_sequentum.hooks.sequentum import SequentumHook

    listed = SequentumHook().send(runs.list_runs(AGENT_ID))
    return [run.id for run in listed if run.status in (RunStatus.SUCCESS, RunStatus.COMPLETED)][:1]


with DAG(
    "on_agent_run",
    schedule=[data],
    description="Land the files of every run that ends well, whoever started it",
    doc_md=__doc__,
    tags=["sequentum"],
) as dag:
    # [START howto_run_files_of_events]
    RunFilesToObjectStorageOperator.partial(
        task_id="land_files",
        agent_id=AGENT_ID,
        destination=LAKE + "/events/run-{{ task.run_id }}",
        retries=2,
    ).expand(run_id=ended_runs())
    # [END howto_run_files_of_events]
