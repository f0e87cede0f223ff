"""What a task tells the DAGs that are scheduled on its outlets: the facts of the run, as the asset event's extra."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.exceptions import SequentumException

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.providers.common.compat.sdk import Asset

    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.hooks.sequentum import SequentumHook
    from airflow_provider_sequentum.lifecycle.procedure import Log


def tell_outlets(context: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """
    Add ``facts`` to the extra of the event of each asset among the task's outlets.

    An asset alias gets none: it stands for assets that the task's author adds at run time.
    """
    for asset in _assets(context):
        context["outlet_events"][asset].extra.update(facts)


def tell_outlets_of_run(context: Mapping[str, Any], hook: SequentumHook, run: Run, log: Log) -> None:
    """Tell a run's facts to the task's outlets, if it has any; how many files it delivered is asked for them."""
    from airflow_provider_sequentum.lifecycle.progress import run_summary

    if not _assets(context):
        return
    link = hook.run_link(run.agent_id, run.id)
    tell_outlets(context, {**run_summary(run), "files": _delivered_files(hook, run, log), "link": link})


def _delivered_files(hook: SequentumHook, run: Run, log: Log) -> int | None:
    from airflow_provider_sequentum.api import files

    try:
        listed = hook.send(files.list_files(run.agent_id, run.id))
    except SequentumException as error:
        log.log(logging.WARNING, "Could not count the files of run %s for the asset event: %s", run.id, error)
        return None
    return sum(file.file_type == files.FileType.DELIVERED_FILE for file in listed)


def _assets(context: Mapping[str, Any]) -> list[Asset]:
    from airflow.providers.common.compat.sdk import Asset

    task = context.get("task")
    return [outlet for outlet in getattr(task, "outlets", None) or [] if isinstance(outlet, Asset)]
