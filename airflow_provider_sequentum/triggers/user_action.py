"""Telling a user who ended a task from Airflow moving its trigger: ``on_kill`` is called for both."""

from __future__ import annotations

import asyncio
from typing import Any

from airflow_provider_sequentum.task_try import state_of

OVER = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


async def task_was_ended(task_instance: Any, *, or_waits_for_its_new_try: bool = False) -> bool:
    """
    Whether the deferred task of a trigger was ended by a user: marked, or deleted with its DAG run.

    A trigger that moves to another triggerer leaves its task deferred. A cleared task goes on with a new try, which has
    started before the old trigger hears of it and has decided what becomes of the run.

    :param task_instance: the trigger's ``task_instance``. Needs Airflow 3.3, as ``on_kill`` does.
    :param or_waits_for_its_new_try: whether a cleared task counts that is not even scheduled. It was cleared with its
        upstream tasks, and if one of those fails, there is no new try.
    """
    state = await asyncio.to_thread(state_of, task_instance)
    return state in OVER or (state is None and or_waits_for_its_new_try)
