"""Where an attempt keeps its record for the next one: Airflow 3.3's task state store, or an XCom on older versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
