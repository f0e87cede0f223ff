"""Ending an attempt in the middle of its work, because its task is killed or its worker is shut down.

Airflow 3 calls ``on_kill`` from a signal handler and then lets the task continue where it was, which may be just before
a start. So a kill that interrupts the work has to end it, by an exception that passes through everything the attempt is
doing, and one that comes earlier has to prevent it. What becomes of the remote job is decided where that exception
arrives, outside of the signal handler. Airflow 2.11 raises by itself after ``on_kill``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow_provider_sequentum.airflow_compat.dag_run import state_of

try:
    from airflow.sdk.exceptions import AirflowTaskTerminated as AirflowTaskTerminated  # noqa: PLC0414 - re-exported
except ImportError:  # Airflow 2.11
    from airflow.exceptions import AirflowTaskTerminated  # type: ignore[no-redef]

NEXT_ATTEMPT_IS_SURE = frozenset({"up_for_retry", "scheduled", "queued", "deferred"})
"""States of a task that Airflow has continued with: this attempt's heartbeats were lost, so Airflow considers it dead.

A person who clears a task leaves it in another one for as long as its process lives."""


def next_attempt_is_sure(context: Mapping[str, Any], *, has_next_attempt: bool) -> bool:
    """Return whether Airflow still wants the task that it told to end, because just its worker is shut down or was
    considered dead, and tries it again or is doing so already.

    It must not be called while Airflow's supervisor answers something else.
    """
    try:
        state = state_of(context["ti"])
    except Exception:  # noqa: BLE001 - whatever keeps Airflow from saying so: a next attempt is not certain
        return False
    return state in NEXT_ATTEMPT_IS_SURE or (state == "running" and has_next_attempt)


def is_ended(context: Mapping[str, Any]) -> bool:
    """Return whether a person has ended the task, of which its process has not heard yet.

    It hears of a mark or a clear with a heartbeat, seconds later. Until then Airflow drops what the process says of its
    end, a deferral too, without telling the operator: neither a trigger nor a next attempt takes the job over.

    It must not be called while Airflow's supervisor answers something else.
    """
    try:
        state = state_of(context["ti"])
    except Exception:  # noqa: BLE001 - whatever keeps Airflow from saying so: it goes on as if nothing had happened
        return False
    return state != "running" and state not in NEXT_ATTEMPT_IS_SURE


class KillSwitch:
    """Ends the work of an operator when its task is killed."""

    def __init__(self) -> None:
        self._thread_id: int | None = None
        """The thread that is at work; a kill in another one interrupts nothing."""
        self._is_killed = False

    def check(self) -> None:
        """Raise ``AirflowTaskTerminated`` if the task was killed."""
        if self._is_killed:
            raise AirflowTaskTerminated("The task was killed.")

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Mark the work that a kill has to end: inside, :meth:`kill` raises.

        :raises AirflowTaskTerminated: the kill came first.
        """
        self.check()
        self._thread_id = threading.get_ident()
        try:
            yield
        finally:
            self._thread_id = None

    def kill(self) -> None:
        """End the work, if this call interrupts it; otherwise prevent it.

        After ``execution_timeout`` Airflow calls ``on_kill`` when the work is over already, and while an attempt stops
        its job a further kill must not interrupt that.

        :raises AirflowTaskTerminated: in the middle of the work.
        """
        self._is_killed = True
        if self._thread_id == threading.get_ident():
            self._thread_id = None
            raise AirflowTaskTerminated("The task was killed.")
