"""Telling a user who ended a task from Airflow moving its trigger: ``on_kill`` is called for both."""

from __future__ import annotations

import asyncio
from typing import Any

OVER = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


async def task_was_ended(task_instance: Any) -> bool:
    """
    Whether the deferred task of a trigger was ended by a user: marked, or deleted with its DAG run.

    A trigger that moves to another triggerer leaves its task deferred. A cleared task goes on with a new try, which has
    started before the old trigger hears of it and has decided what becomes of the run.

    :param task_instance: the trigger's ``task_instance``. Needs Airflow 3.3, as ``on_kill`` does.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = await asyncio.to_thread(
        RuntimeTaskInstance.get_task_states,
        dag_id=task_instance.dag_id,
        task_ids=[task_instance.task_id],
        run_ids=[task_instance.run_id],
        map_index=task_instance.map_index,
    )
    # The inner key is the task's id, with the map index appended for a mapped one; only one can be there.
    state = next(iter(states.get(task_instance.run_id, {}).values()), "removed")
    return state in OVER
