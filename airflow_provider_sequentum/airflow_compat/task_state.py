"""Where an attempt stores its record for the next one: Airflow 3.3's task state store, or an XCom on older versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_sequentum.parameters import MAX_DURATION


class TaskState:
    """The stored record of a task.

    The task state store keeps it across retries, and until the DAG run is deleted. By default, it would be removed some
    time after the last change, even if the task is still waiting for its job. Whether it is kept when the task is
    cleared depends on Airflow and on the user (``keep_task_state``), so nothing relies on it. Before Airflow 3.3,
    nothing is kept across attempts, and the record is an XCom. It survives a deferral, even one that times out and
    whose ``kwargs`` are lost.

    :param context: the task's context.
    :param key: the name of the record.
    """

    def __init__(self, context: Mapping[str, Any], key: str) -> None:
        self._store = context.get("task_state_store")
        self._context = context
        self._key = key

    @property
    def keeps_records(self) -> bool:
        """Whether the record outlives an attempt."""
        return self._store is not None

    def read(self) -> object:
        """Return what an earlier attempt saved; ``None`` if there is nothing."""
        return None if self._store is None else self._store.get(self._key)

    def read_after_deferral(self) -> object:
        """Return what this attempt saved before it was deferred; ``None`` if there is nothing."""
        if self._store is not None:
            return self.read()
        ti = self._context["ti"]
        # Airflow removes a task's XComs when its next attempt starts, not when it is resumed.
        return ti.xcom_pull(task_ids=ti.task_id, key=self._key, map_indexes=ti.map_index)

    def save(self, value: dict[str, Any] | None) -> None:
        """Save ``value``; ``None`` deletes what is stored."""
        if self._store is None:
            self._context["ti"].xcom_push(key=self._key, value=value)
        elif value is None:
            self._store.delete(self._key)
        else:
            self._store.set(self._key, value, retention=MAX_DURATION)
