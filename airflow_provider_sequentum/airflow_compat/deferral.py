"""What a deferral loses, how a task is resumed without it, and how a task learns what Airflow answered to its deferral.

When a deferral ends because its timeout passed or because its trigger failed, all versions of Airflow resume the task
with a method of their own, and drop what was handed on. And they render the templates of a resumed task once more,
although their context, the DAG or a Variable may have changed since.

When a task was marked or cleared and its process has not heard of it yet, Airflow refuses its deferral (404 or 409). It
writes that to the log and ends the process as if nothing had happened: there is no trigger, and no method of the
operator is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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


def call_after_deferral(action: Callable[[], None]) -> None:
    """Call ``action`` once when Airflow has answered the deferral that this process is about to ask for.

    Only listeners are called then, so the process gets one of its own. Needs Airflow 3.3: before that, an answer that
    refuses the deferral ends the process at once.
    """
    from airflow.providers.common.compat.sdk import hookimpl
    from airflow.sdk.listener import get_listener_manager

    manager = get_listener_manager()

    class AfterDeferral:
        @hookimpl
        def before_stopping(self) -> None:
            manager.pm.unregister(self)  # dag.test() runs all tasks in one process
            action()

    manager.add_listener(AfterDeferral())  # type: ignore[no-untyped-call]
