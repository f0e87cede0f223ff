"""Airflow's local settings in the system tests, by which the tasks of an example can be killed as they are.

A task dies by SIGKILL, in its first try, at the step that the configuration of its DAG run names. With
``{"dies": {"upload_products": 3}}`` that is before its second request: 1 is before the first one, 2 after it.
"""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from typing import Any


def task_policy(task: Any) -> None:
    """Let every task look whether it has to die."""
    if task._pre_execute_hook is None:
        task._pre_execute_hook = die_at_step
    task.retry_delay = min(task.retry_delay, timedelta(seconds=1))


def die_at_step(context: Any) -> None:
    """Count the requests of a task that has to die."""
    ti = context["ti"]
    steps_left = ((context["dag_run"].conf or {}).get("dies") or {}).get(ti.task_id)
    if steps_left is None or ti.try_number > 1:
        return
    from airflow_provider_sequentum.api.client import SequentumClient

    exchange = SequentumClient.exchange

    def step() -> None:
        nonlocal steps_left
        steps_left -= 1
        if steps_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(*args: Any, **options: Any) -> Any:
        step()
        reply = exchange(*args, **options)
        step()
        return reply

    SequentumClient.exchange = counted  # type: ignore[method-assign]
