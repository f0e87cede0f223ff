"""What a deferral loses, and how a task is resumed without it.

When a deferral ends because its timeout passed or because its trigger failed, all versions of Airflow resume the task
with a method of their own, and drop what was handed on. And they render the templates of a resumed task once more,
although their context, the DAG or a Variable may have changed since.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

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


def is_resumed(context: Mapping[str, Any]) -> bool:
    """Return whether the task is being resumed after a deferral, while it is still being prepared."""
    ti = context.get("ti")
    from_server = getattr(ti, "_ti_context_from_server", None)  # Airflow 3
    return bool(getattr(from_server, "next_method", None) or getattr(ti, "next_method", None))


@contextmanager
def keep_values_if_resumed(context: Mapping[str, Any], task_log: Any) -> Iterator[None]:
    """Let no template end a resumed task: it works with what was handed on, and needs none of them."""
    try:
        yield
    except Exception as error:
        if not is_resumed(context):
            raise
        task_log.warning(
            "The templates can no longer be rendered (%s). Continuing with the values from before the deferral.", error
        )
