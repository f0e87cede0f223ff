"""The minimum lifetime of a trigger, and the reason why its ``on_kill`` was called.

``BaseTrigger.on_kill`` exists from Airflow 3.3 on. It is called when a user marks or clears the deferred task, but also
when the trigger moves to another triggerer, and it is cancelled after about a second. A triggerer is notified of a
clear only after a scheduler has scheduled the task again: until then, a cleared task has no state, and Airflow cancels
the triggers of tasks whose state is not deferred (``Trigger.clean_unused``). So the new attempt of a cleared task may
start minutes before the old trigger is notified, or the trigger is never notified. A trigger must not use the task
state store (the call hangs), which a clear may have emptied anyway. So the trigger finds out whether a new attempt has
taken over its job from the state of the task and from the XCom in which an attempt names its job.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from airflow_provider_sequentum.airflow_compat.dag_run import state_of

T = TypeVar("T")

MIN_TRIGGER_LIFETIME = 10.0
"""Seconds before a trigger may fire. Airflow fails a task whose trigger fires before the scheduler has processed the
deferral (apache/airflow #66374, #71580; 2.11 to 3.3). It has not been observed after 8 seconds or more."""

SUCCESSOR_POLL_INTERVAL = 2.0
SUCCESSOR_TIMEOUT = 300.0
"""Seconds within which the new attempt of a cleared task has to name its job."""

WIPE_SECONDS = 15.0
"""Seconds after which an XCom of a running attempt is certainly its own, and not one of the previous attempt."""

OVER = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})

log = logging.getLogger(__name__)


async def with_minimum_lifetime(waiting: Awaitable[T]) -> T:
    """Await the result, but return it no earlier than after :data:`MIN_TRIGGER_LIFETIME`."""
    clock = asyncio.get_running_loop().time
    started_at = clock()
    result = await waiting
    await asyncio.sleep(started_at + MIN_TRIGGER_LIFETIME - clock())
    return result


async def job_is_abandoned(
    task_instance: Any, *, xcom_key: str, is_own: Callable[[Any], bool], successor_may_join: bool
) -> bool:
    """Return whether nothing takes over the job of a deferred task, so that its trigger has to stop it.

    :param task_instance: the trigger's ``task_instance``.
    :param xcom_key: the XCom in which an attempt names its job.
    :param is_own: returns whether such an XCom names the trigger's job.
    :param successor_may_join: whether the new attempt of a cleared task may take over the job. If not, the job is
        stopped immediately. The new attempt, if it has the record, stops it as well.
    """
    clock = asyncio.get_running_loop().time
    gives_up_at = clock() + SUCCESSOR_TIMEOUT
    own_since: float | None = None
    while True:
        state = await asyncio.to_thread(state_of, task_instance)
        if state in OVER:
            return True
        named = await asyncio.to_thread(_xcom, task_instance, xcom_key)
        # An attempt names its job before it is deferred. If the XCom was deleted since, the trigger was probably moved.
        if state == "deferred" and (named is None or is_own(named)):
            return False  # the trigger was moved to another triggerer, or the new attempt works with the job
        if not successor_may_join:
            return True
        if state not in (None, "scheduled", "queued") and named is not None:
            # The new attempt is running. Airflow deletes the XComs of the old attempt shortly after its start.
            if not is_own(named):
                return True
            own_since = own_since or clock()
            if clock() - own_since >= WIPE_SECONDS:
                return False
        if clock() >= gives_up_at:
            log.warning("The task was cleared, and its new attempt has not taken over the job. Stopping the job.")
            return True
        await asyncio.sleep(SUCCESSOR_POLL_INTERVAL)


def _xcom(task_instance: Any, key: str) -> Any:
    from airflow.providers.common.compat.sdk import XCom

    return XCom.get_one(
        key=key,
        dag_id=task_instance.dag_id,
        task_id=task_instance.task_id,
        run_id=task_instance.run_id,
        map_index=task_instance.map_index,
    )
