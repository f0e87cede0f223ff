"""Which try this is, and whether another one follows: questions about the task instance of a context."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, get_current_context

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


def max_tries(context: Mapping[str, Any]) -> int:
    """Return the task instance's ``max_tries``, which Airflow raises at every clear: it names the logical attempt."""
    return int(getattr(context.get("ti"), "max_tries", 0) or 0)


def is_first_try(context: Mapping[str, Any], retries: int) -> bool:
    """Whether this is the first try of the logical attempt, that is, since the task was created or last cleared."""
    try_number = int(getattr(context.get("ti"), "try_number", 1) or 1)
    return try_number <= max_tries(context) - retries + 1


def has_tries_left(context: Mapping[str, Any]) -> bool:
    """Whether Airflow will try the task again if it fails now."""
    try_number = int(getattr(context.get("ti"), "try_number", 1) or 1)
    return try_number <= max_tries(context)


def state_of(task_instance: Any) -> str | None:
    """
    Return the state that Airflow has on record for a task instance; ``removed`` if there is none.

    :param task_instance: that of a context or of a trigger. Needs Airflow 3.3, and must not be called while its
        supervisor answers something else.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(
        dag_id=task_instance.dag_id,
        task_ids=[task_instance.task_id],
        run_ids=[task_instance.run_id],
        map_index=task_instance.map_index,
    )
    # The inner key is the task's id, with the map index appended for a mapped one; only one can be there.
    state: str | None = next(iter(states.get(task_instance.run_id, {}).values()), "removed")
    return state


def is_mapped(context: Mapping[str, Any]) -> bool:
    """Whether the task has mapped siblings, which may well run the same agent at the same time."""
    return getattr(context.get("ti"), "map_index", -1) >= 0


def pushed_by_siblings(context: Mapping[str, Any], key: str) -> list[Any]:
    """Return what the task's mapped siblings have pushed under ``key``, and what the task itself has."""
    ti = context["ti"]
    return list(ti.xcom_pull(task_ids=[ti.task_id], key=key)) if is_mapped(context) else []


def pushed_by_this_try(context: Mapping[str, Any], key: str) -> Any:
    """Return what this try has pushed under ``key``, before it deferred; ``None`` if nothing."""
    ti = context["ti"]
    return ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)


def current_context() -> Context | None:
    """Return the context of the task that this process runs; ``None`` before it has begun."""
    try:
        return get_current_context()
    except (AirflowException, RuntimeError):
        return None


def begun_at(context: Mapping[str, Any], now: datetime) -> datetime:
    """Return when this try began, which a deferral does not change."""
    return getattr(context.get("ti"), "start_date", None) or now


def execution_deadline(context: Mapping[str, Any], execution_timeout: timedelta | None) -> datetime | None:
    """Return when ``execution_timeout`` passes for this try. Airflow 3 doesn't watch it while a task is deferred."""
    begun = getattr(context.get("ti"), "start_date", None)
    if execution_timeout is None or begun is None:
        return None
    return begun + execution_timeout  # type: ignore[no-any-return]


DEFERRAL_FAILED = "__fail__"
"""The method Airflow resumes a task with when its deferral failed, because of a timeout or of the trigger."""

_TIMED_OUT = frozenset({"Trigger timeout", "Trigger/execution timeout"})
"""What Airflow says when the deferral's timeout passed: 3.x and 2.11."""


def deferral_timed_out(next_kwargs: Mapping[str, Any] | None) -> bool:
    """Whether the deferral failed because its timeout passed. Airflow then drops what was handed on."""
    return (next_kwargs or {}).get("error") in _TIMED_OUT
