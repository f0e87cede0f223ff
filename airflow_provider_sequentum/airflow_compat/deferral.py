"""Deferrals that time out or fail, templates of a resumed task, and deferrals that Airflow refuses.

If a deferral times out or its trigger fails, all versions of Airflow resume the task with a method of their own and
drop the ``kwargs`` of the deferral. They also render the templates of a resumed task again, although the context, the
DAG or a Variable may have changed.

If a task was marked or cleared and its process has not been notified yet, Airflow refuses its deferral (404 or 409). It
only logs this and ends the process: there is no trigger, and no method of the operator is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

DEFERRAL_FAILED = "__fail__"
"""The method with which Airflow resumes a task whose deferral timed out or whose trigger failed."""

_TIMED_OUT = frozenset({"Trigger timeout", "Trigger/execution timeout"})
"""The errors with which Airflow 3.x and 2.11 report that a deferral timed out."""

BACKSTOP = timedelta(minutes=2)
"""How much later than the trigger's own deadline a deferral times out, in case no triggerer notices the deadline."""


def deferral_timed_out(next_kwargs: Mapping[str, Any] | None) -> bool:
    """Return whether the deferral failed because it timed out."""
    return (next_kwargs or {}).get("error") in _TIMED_OUT


def deferral_timeout(deadline: datetime | None, now: datetime) -> timedelta | None:
    """Return the timeout of a deferral: a backstop after the trigger's own deadline, if it has one."""
    return None if deadline is None else max(deadline - now, timedelta()) + BACKSTOP


def is_resumed(context: Mapping[str, Any]) -> bool:
    """Return whether the task resumes after a deferral. It can be called while the task is still being prepared."""
    ti = context.get("ti")
    from_server = getattr(ti, "_ti_context_from_server", None)  # Airflow 3
    return bool(getattr(from_server, "next_method", None) or getattr(ti, "next_method", None))


@contextmanager
def keep_values_if_resumed(context: Mapping[str, Any], task_log: Any) -> Iterator[None]:
    """Ignore errors in the templates of a resumed task, which works from its record and does not need them."""
    try:
        yield
    except Exception as error:
        if not is_resumed(context):
            raise
        task_log.warning(
            "The templates can no longer be rendered (%s). Continuing with the values from before the deferral.", error
        )


def call_after_deferral(action: Callable[[], None]) -> None:
    """Call ``action`` once, after Airflow has accepted or refused the deferral that this process is about to request.

    Only listeners are called at that point, so one is registered. Needs Airflow 3.3: older versions end the process
    immediately if the deferral is refused.
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
