"""What a task or its trigger can find out about the task instances of its DAG run: their states and their parameters.

From Airflow 3 on, tasks have no access to the database: they ask the supervisor, whose answers name a mapped task by
its id with the map index appended. Airflow 2.11 has the database.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from airflow_provider_sequentum.parameters import is_unset


def has_supervisor(task_instance: object) -> bool:
    """Return whether a task has a supervisor to ask, as from Airflow 3 on. On Airflow 2.11 it has the database.

    :param task_instance: the task instance in its own process.
    """
    return hasattr(task_instance, "_ti_context_from_server")


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
    if not has_supervisor(ti):
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
