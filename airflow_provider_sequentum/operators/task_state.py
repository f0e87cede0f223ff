"""Where an operator keeps what the next try of its task has to know: Airflow 3.3's task state store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class TaskState:
    """
    One record of one task instance. It outlives tries and clears.

    Airflow older than 3.3 has no place that does; there :attr:`is_durable` is false and records are dropped.

    :param context: the task's context.
    :param key: the record's name in the store.
    """

    def __init__(self, context: Mapping[str, Any], key: str) -> None:
        self._store = context.get("task_state_store")
        self._key = key

    @property
    def is_durable(self) -> bool:
        """Whether what is kept here outlives the try."""
        return self._store is not None

    def read(self) -> object:
        """Return the record, or ``None``. A store that can't be read raises: that is not "no record"."""
        return None if self._store is None else self._store.get(self._key)

    def keep(self, record: dict[str, Any] | None) -> None:
        """Keep ``record``; ``None`` forgets the one that is there."""
        if self._store is None:
            return
        if record is None:
            self._store.delete(self._key)
        else:
            self._store.set(self._key, record)
