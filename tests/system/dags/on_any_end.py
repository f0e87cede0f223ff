"""A second DAG that watches the examples' agent: it is woken by runs that failed too."""

from __future__ import annotations

import os

from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_provider_sequentum.assets.agent_run import AgentRunCompletedTrigger

trigger = AgentRunCompletedTrigger(
    agent_id=os.environ["EXAMPLE_AGENT_ID"],
    ending="any",
    poll_interval=float(os.environ["EXAMPLE_POLL_INTERVAL"]),
)
any_end = Asset(name="any_end", watchers=[AssetWatcher(name="any_end", trigger=trigger)])

with DAG("on_any_end", schedule=[any_end]):

    @task
    def note() -> None:
        """Do nothing: that it is woken is what counts."""

    note()
