"""Interrupting an attempt because its task is killed or its worker is shut down.

Airflow 3 calls ``on_kill`` from a signal handler and then lets the task continue where it was, possibly just before it
starts a run. So a kill during the work raises an exception that ends it, and a kill before the work prevents it. What
happens to the remote job is decided where the exception is caught, outside the signal handler. Airflow 2.11 raises an
exception itself after ``on_kill``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow_provider_sequentum.airflow_compat.dag_run import state_of

try:
    from airflow.sdk.exceptions import AirflowTaskTerminated as AirflowTaskTerminated  # noqa: PLC0414 - re-exported
except ImportError:  # Airflow 2.11
    from airflow.exceptions import AirflowTaskTerminated  # type: ignore[no-redef]

NEXT_ATTEMPT_IS_SURE = frozenset({None, "scheduled", "queued", "deferred", "up_for_retry"})
"""States of a task that Airflow continues with, because it considers this attempt dead: it has missed its heartbeats,
or the scheduler whose executor runs it has missed its own.

A task that a user has cleared is in another state for as long as its process lives."""


def next_attempt_is_sure(context: Mapping[str, Any], is_retried: Callable[[], bool]) -> bool:
    """Return whether there will certainly be another attempt, because only the worker is shut down or considered dead.

    It must not be called while another request to Airflow's supervisor is in progress.

    :param is_retried: returns whether another attempt follows, or is running, if the task is running.
    """
    try:
        state = state_of(context["ti"])
        return state in NEXT_ATTEMPT_IS_SURE or (state == "running" and is_retried())
    except Exception:  # noqa: BLE001 - whatever the reason, another attempt is not certain
        return False


def is_ended(context: Mapping[str, Any]) -> bool:
    """Return whether a user has marked or cleared the task and its process has not been notified yet.

    The process is notified with its next heartbeat, seconds later. Until then Airflow silently drops the end of the
    task, or a deferral: neither a trigger nor another attempt would take the job over.

    It must not be called while another request to Airflow's supervisor is in progress.
    """
    try:
        state = state_of(context["ti"])
    except Exception:  # noqa: BLE001 - whatever the reason, continue as usual
        return False
    return state != "running" and state not in NEXT_ATTEMPT_IS_SURE


class KillSwitch:
    """Interrupts the work of an operator when its task is killed."""

    def __init__(self) -> None:
        self._thread_id: int | None = None
        """The working thread. A kill in another thread interrupts nothing."""
        self._is_killed = False

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Mark the work that a kill has to interrupt: inside, :meth:`kill` raises.

        :raises AirflowTaskTerminated: the task was killed before.
        """
        if self._is_killed:
            raise AirflowTaskTerminated("The task was killed.")
        self._thread_id = threading.get_ident()
        try:
            yield
        finally:
            self._thread_id = None

    def kill(self) -> None:
        """Interrupt the work, or prevent it if it has not started.

        After ``execution_timeout``, Airflow calls ``on_kill`` when the work has already ended. While an attempt stops
        its job, another kill must not interrupt it.

        :raises AirflowTaskTerminated: the call interrupts the work.
        """
        self._is_killed = True
        if self._thread_id == threading.get_ident():
            self._thread_id = None
            raise AirflowTaskTerminated("The task was killed.")
