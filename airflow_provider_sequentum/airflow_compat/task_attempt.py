"""Which attempt of a task this is, whether another one follows, and what an attempt keeps for the next one."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    get_current_context,
)

from airflow_provider_sequentum.jobs.attempt import TaskFacts
from airflow_provider_sequentum.parameters import LONGEST_DURATION, is_unset

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

log = logging.getLogger(__name__)


def facts_of(context: Mapping[str, Any], operator: BaseOperator) -> TaskFacts:
    """Return what an attempt has to know of its task.

    ``max_tries`` names the logical attempt: Airflow raises it at every clear and at nothing else. A clear that is not
    followed by retries of its own leaves ``try_number`` one above the ``max_tries`` before.
    """
    ti = context["ti"]
    max_tries = int(getattr(ti, "max_tries", 0) or 0)
    try_number = int(getattr(ti, "try_number", 1) or 1)
    retries = int(operator.retries or 0)
    started_at = getattr(ti, "start_date", None) or datetime.now(UTC)
    limit = operator.execution_timeout
    return TaskFacts(
        max_tries=max_tries,
        started_at=started_at,
        # Airflow takes a limit that leads out of the calendar.
        execution_deadline=started_at + min(limit, LONGEST_DURATION) if limit is not None else None,
        has_next_attempt=try_number <= max_tries,
        is_retry=try_number > max_tries - retries + 1,
        was_cleared=max_tries > retries,
        keeps_records=context.get("task_state_store") is not None,
        map_index=int(getattr(ti, "map_index", -1)),
        earlier_attempts=try_number - 1,
        dag_run_started_at=getattr(context.get("dag_run"), "start_date", None),
    )


def is_retried(error: BaseException, task: TaskFacts, context: Mapping[str, Any], operator: BaseOperator) -> bool:
    """Return whether Airflow tries the task again after this error.

    From Airflow 3.3 on a ``retry_policy`` of the task may fail it although attempts are left. Airflow goes on without
    one that raises an error.
    """
    is_final = isinstance(error, (AirflowFailException, AirflowSkipException))
    if not task.has_next_attempt or is_final or not isinstance(error, Exception):
        return False
    policy = getattr(operator, "retry_policy", None)
    if policy is None:
        return True
    ti = context["ti"]
    try:
        decision = policy.evaluate(
            exception=error, try_number=int(ti.try_number), max_tries=task.max_tries, context=context
        )
    except Exception:
        log.exception("The task's retry policy failed, so it decides nothing.")
        return True
    return str(getattr(decision.action, "value", decision.action)) != "fail"


def is_resumed(context: Mapping[str, Any]) -> bool:
    """Return whether the task is being resumed after a deferral, while it is still being prepared."""
    ti = context.get("ti")
    from_server = getattr(ti, "_ti_context_from_server", None)  # Airflow 3
    return bool(getattr(from_server, "next_method", None) or getattr(ti, "next_method", None))


def state_of(task_instance: Any) -> str | None:
    """Return the state that Airflow has on record for a task instance; ``removed`` if there is none.

    Needs Airflow 3.3. It asks Airflow's supervisor, so it must not be called while that answers something else.

    :param task_instance: that of a context or of a trigger.
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


def states_in_dag_run(context: Mapping[str, Any], task_ids: Collection[str]) -> dict[tuple[str, int], str | None]:
    """Return the states of all task instances of some tasks in this DAG run, by task id and map index."""
    ti = context["ti"]
    if not hasattr(ti, "_ti_context_from_server"):  # Airflow 2.11: the task has the database
        found = context["dag_run"].get_task_instances()
        return {(each.task_id, each.map_index): each.state for each in found if each.task_id in task_ids}
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(dag_id=ti.dag_id, task_ids=list(task_ids), run_ids=[ti.run_id])
    placed = {}
    for name, state in states.get(ti.run_id, {}).items():
        # The name is the task's id, with the map index appended for a mapped one.
        task_id, _, index = name.rpartition("_")
        is_mapped = name not in task_ids and task_id in task_ids and index.isdecimal()
        placed[(task_id, int(index)) if is_mapped else (name, -1)] = state
    return placed


def tasks_that_set(dag: Any, parameter: str) -> list[str]:
    """Return the ids of the tasks of a DAG that set a parameter which only operators of this package have."""
    return [task.task_id for task in dag.tasks if _sets(task, parameter)]


def _sets(task: Any, parameter: str) -> bool:
    partial = getattr(task, "partial_kwargs", None)
    if partial is None:
        return not is_unset(getattr(task, parameter, None))
    if parameter not in getattr(task.operator_class, "template_fields", ()):
        return False
    expanded = getattr(task.expand_input, "value", None)
    # What expand_kwargs() takes is not known before it runs.
    return not is_unset(partial.get(parameter)) or not isinstance(expanded, Mapping) or parameter in expanded


def current_context() -> Context | None:
    """Return the context of the task that this process runs; ``None`` before it has started."""
    try:
        return get_current_context()
    except (AirflowException, RuntimeError):
        return None


class TaskState:
    """Where an attempt keeps its record: Airflow 3.3's task state store, or what older versions have instead.

    The store outlives retries. Whether it outlives a clear is Airflow's and the user's choice (``keep_task_state``), so
    nothing may depend on it. Older versions have no place that outlives an attempt; there the record is an XCom, which
    outlives a deferral: a deferral that times out loses everything else that was handed on.

    :param context: the task's context.
    :param key: the name of the record.
    """

    def __init__(self, context: Mapping[str, Any], key: str) -> None:
        self._store = context.get("task_state_store")
        self._context = context
        self._key = key

    @property
    def is_durable(self) -> bool:
        """Whether what is saved here outlives the attempt."""
        return self._store is not None

    def read(self) -> object:
        """Return what an earlier attempt saved; ``None`` if there is nothing. A store that cannot be read raises."""
        return None if self._store is None else self._store.get(self._key)

    def read_after_deferral(self) -> object:
        """Return what this attempt saved before it was deferred; ``None`` if there is nothing."""
        if self._store is not None:
            return self.read()
        ti = self._context["ti"]
        # Airflow removes a task's XComs when its next attempt starts, not when it is resumed.
        return ti.xcom_pull(task_ids=ti.task_id, key=self._key, map_indexes=ti.map_index)

    def save(self, value: dict[str, Any] | None) -> None:
        """Save ``value``; ``None`` removes what is there."""
        if self._store is None:
            self._context["ti"].xcom_push(key=self._key, value=value)
        elif value is None:
            self._store.delete(self._key)
        else:
            self._store.set(self._key, value)


DEFERRAL_FAILED = "__fail__"
"""The method Airflow resumes a task with when its deferral failed, because of a timeout or of the trigger."""

_TIMED_OUT = frozenset({"Trigger timeout", "Trigger/execution timeout"})
"""What Airflow says when the deferral's timeout passed: 3.x and 2.11."""

BACKSTOP = timedelta(minutes=2)
"""How long after a trigger's own deadline Airflow's deferral timeout follows: no triggerer may be there to notice."""


def deferral_timed_out(next_kwargs: Mapping[str, Any] | None) -> bool:
    """Return whether the deferral failed because its timeout passed. Airflow then drops what was handed on."""
    return (next_kwargs or {}).get("error") in _TIMED_OUT


def deferral_timeout(deadline: datetime | None, now: datetime) -> timedelta | None:
    """Return the timeout to defer with: a backstop behind the trigger's own deadline, if it has one."""
    return None if deadline is None else max(deadline - now, timedelta()) + BACKSTOP
