"""The states and the parameters of the task instances of a DAG run, for a task or its trigger.

From Airflow 3 on, tasks have no access to the database. They ask the supervisor, which names a mapped task by its id
with the map index appended. On Airflow 2.11, tasks use the database.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from airflow_provider_sequentum.parameters import is_unset


def has_supervisor(task_instance: object) -> bool:
    """Return whether the task has a supervisor, as it does from Airflow 3 on.

    :param task_instance: the task instance in its own process.
    """
    return hasattr(task_instance, "_ti_context_from_server")


def state_of(task_instance: Any) -> str | None:
    """Return Airflow's state of a task instance; ``removed`` if there is none. Needs Airflow 3.3.

    It asks the supervisor, so it must not be called while another request to the supervisor is in progress.

    :param task_instance: the task instance of a context or of a trigger.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(
        dag_id=task_instance.dag_id,
        task_ids=[task_instance.task_id],
        run_ids=[task_instance.run_id],
        map_index=task_instance.map_index,
    )
    # The inner key is the task id, with the map index appended for a mapped task. There is at most one.
    state: str | None = next(iter(states.get(task_instance.run_id, {}).values()), "removed")
    return state


def states_in_dag_run(context: Mapping[str, Any], task_ids: Collection[str]) -> dict[tuple[str, int], str | None]:
    """Return the states of all task instances of the given tasks in this DAG run, by task id and map index."""
    ti = context["ti"]
    if not has_supervisor(ti):
        found = context["dag_run"].get_task_instances()
        return {(each.task_id, each.map_index): each.state for each in found if each.task_id in task_ids}
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(dag_id=ti.dag_id, task_ids=list(task_ids), run_ids=[ti.run_id])
    placed = {}
    for name, state in states.get(ti.run_id, {}).items():
        # The name is the task id, with the map index appended for a mapped task.
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
    # The arguments of expand_kwargs() are not known before the task runs.
    return not is_unset(partial.get(parameter)) or not isinstance(expanded, Mapping) or parameter in expanded
