"""The asset events of a task's outlets. Their extra contains the run's summary, for DAGs scheduled on the assets."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.providers.common.compat.sdk import Asset

    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.hooks.connection import SequentumConnection


log = logging.getLogger(__name__)


def add_extra(context: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Add ``facts`` to the extra of the event of each asset among the task's outlets.

    Asset aliases are left out, because they stand for assets that are added at run time.
    """
    for asset in _assets(context):
        context["outlet_events"][asset].extra.update(facts)


def add_run(context: Mapping[str, Any], hook: SequentumConnection, run: Run) -> None:
    """Add the summary of a run, and the number of its delivered files, to the events of the task's outlets, if any."""
    from airflow_provider_sequentum.runs.describe import run_summary

    if not _assets(context):
        return
    link = hook.run_link(run.agent_id, run.id)
    add_extra(context, {**run_summary(run), "files": _delivered_files(hook, run), "link": link})


def _delivered_files(hook: SequentumConnection, run: Run) -> int | None:
    from airflow_provider_sequentum.api import files
    from airflow_provider_sequentum.api.errors import SequentumError
    from airflow_provider_sequentum.api.files import DELIVERED
    from airflow_provider_sequentum.hooks.port import ClientPort
    from airflow_provider_sequentum.jobs.port import OPTIONAL_SHARE

    call = files.list_files(run.agent_id, run.id)
    try:
        listed = ClientPort(hook).send(call, budget_share=OPTIONAL_SHARE, within=30.0)
    except SequentumError as error:
        log.warning("Could not count the files of run %s for the asset event: %s", run.id, error)
        return None
    return sum(file.kind == DELIVERED for file in listed)


def _assets(context: Mapping[str, Any]) -> list[Asset]:
    from airflow.providers.common.compat.sdk import Asset

    task = context.get("task")
    return [outlet for outlet in getattr(task, "outlets", None) or [] if isinstance(outlet, Asset)]
