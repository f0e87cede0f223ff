"""Which attempt of a task this is, and whether there will be another one.

No version of Airflow provides this, but it follows from ``max_tries`` and ``try_number``: Airflow increases
``max_tries`` only when a task is cleared, so the first attempt after a clear is number ``max_tries - retries + 1``. Two
kinds of clear cannot be detected. If the worker has died and Airflow has not noticed it yet, Airflow retries the task
and leaves ``max_tries`` unchanged. And if the DAG's author lowered ``retries`` by the number of attempts so far, their
sum, which a clear sets ``max_tries`` to, stays the same. Both count as retries, because a retry that counts as a clear
would start another run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    get_current_context,
)

from airflow_provider_sequentum.jobs.attempt import TaskFacts
from airflow_provider_sequentum.parameters import MAX_DURATION

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

log = logging.getLogger(__name__)


def task_facts(context: Mapping[str, Any], operator: BaseOperator) -> TaskFacts:
    """Return what an attempt has to know about its task."""
    ti = context["ti"]
    max_tries = int(getattr(ti, "max_tries", 0) or 0)
    try_number = int(getattr(ti, "try_number", 1) or 1)
    retries = int(operator.retries or 0)
    started_at = getattr(ti, "start_date", None) or datetime.now(UTC)
    limit = operator.execution_timeout
    return TaskFacts(
        max_tries=max_tries,
        started_at=started_at,
        # Airflow accepts a timeout that is too long to be added to a datetime.
        execution_deadline=started_at + min(limit, MAX_DURATION) if limit is not None else None,
        has_next_attempt=try_number <= max_tries,
        is_retry=try_number > max_tries - retries + 1,
        keeps_records=context.get("task_state_store") is not None,
        map_index=map_index_of(ti),
        earlier_attempts=try_number - 1,
        dag_run_started_at=getattr(context.get("dag_run"), "start_date", None),
    )


def map_index_of(task_instance: Any) -> int:
    """Return the map index of a task; -1 if it is not mapped, for which Airflow also uses ``None``."""
    index = getattr(task_instance, "map_index", None)
    return -1 if index is None else int(index)


def is_retried(error: BaseException, task: TaskFacts, context: Mapping[str, Any], operator: BaseOperator) -> bool:
    """Return whether Airflow retries the task after this error."""
    is_final = isinstance(error, (AirflowFailException, AirflowSkipException))
    if is_final or not isinstance(error, Exception):
        return False
    return task.has_next_attempt and policy_retries(error, task, context, operator)


def policy_retries(error: BaseException, task: TaskFacts, context: Mapping[str, Any], operator: BaseOperator) -> bool:
    """Return whether the ``retry_policy`` of the task, if it has one, lets Airflow retry it after this error.

    From Airflow 3.3 on, it may fail the task although attempts are left. Airflow asks it about every error, also about
    the exit of a worker that is shut down, and ignores a policy that raises an error.
    """
    policy = getattr(operator, "retry_policy", None)
    if policy is None:
        return True
    ti = context["ti"]
    try:
        decision = policy.evaluate(
            exception=error, try_number=int(ti.try_number), max_tries=task.max_tries, context=context
        )
    except Exception:
        log.exception("The task's retry policy raised an error, so Airflow ignores it.")
        return True
    return str(getattr(decision.action, "value", decision.action)) != "fail"


def is_own_task(operator: BaseOperator, context: Mapping[str, Any]) -> bool:
    """Return whether Airflow executes this operator, and not a task whose code calls it.

    Airflow permits such a call. But it tells only its own task of a kill, resumes only that one after a deferral, and
    keeps one task state store for all operators that the code calls.
    """
    from airflow.providers.common.compat.sdk import BaseOperator

    task = getattr(context["ti"], "task", None)
    return not isinstance(task, BaseOperator) or task is operator


def current_context() -> Context | None:
    """Return the context of the task that this process executes; ``None`` before it has started."""
    try:
        return get_current_context()
    except (AirflowException, RuntimeError):
        return None
