"""Where an attempt keeps its record: Airflow 3.3's task state store, or what older versions have instead.

The store outlives retries. Whether it outlives a clear is Airflow's and the user's choice (``keep_task_state``), so
nothing may depend on it. Older versions have no place that outlives an attempt; there the record is an XCom, which
outlives a deferral: a deferral that times out loses everything else that was handed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_sequentum.airflow_compat.task_attempt import pushed_by_this_attempt


class TaskState:
    """One JSON value of one task instance.

    :param context: the task's context.
    :param key: its name.
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
        return self.read() if self._store is not None else pushed_by_this_attempt(self._context, self._key)

    def save(self, value: dict[str, Any] | None) -> None:
        """Save ``value``; ``None`` removes what is there."""
        if self._store is None:
            self._context["ti"].xcom_push(key=self._key, value=value)
        elif value is None:
            self._store.delete(self._key)
        else:
            self._store.set(self._key, value)
