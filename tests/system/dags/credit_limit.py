"""As many mapped tasks as are asked for under one credit limit; three kill their own process in their first try."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_sequentum.hooks.port import AttemptPort
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

KILLED_AFTER = {1: ("announce", 2), 4: ("announce", 3), 7: ("save", 2)}
"""By map index, the step and its number after which a task dies: it has asked, it may start, it has started."""


def die_once(context: Context) -> None:
    """Let the process of a first try die by SIGKILL after a step."""
    ti: Any = context["ti"]
    if ti.try_number > 1 or ti.map_index not in KILLED_AFTER:
        return
    step, left = KILLED_AFTER[ti.map_index]
    really = getattr(AttemptPort, step)

    def counted(port: AttemptPort, value: Any) -> Any:
        nonlocal left
        answer = really(port, value)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(AttemptPort, step, counted)


@task
def pages(params: dict[str, Any] | None = None) -> list[dict[str, int]]:
    """Return the input parameters of each task."""
    return [{"page": page} for page in range((params or {})["tasks"])]


with DAG("credit_limit", schedule=None, params={"id": Param(1, type="integer"), "limit": 10, "tasks": 24}):
    StartAgentRunOperator.partial(
        task_id="start",
        agent_id="{{ params.id }}",
        credit_limit="{{ params.limit }}",
        wait_for_completion=False,
        retries=1,
        retry_delay=timedelta(seconds=1),
        pre_execute=die_once,
    ).expand(input_parameters=pages())
