"""Ending a try in the middle of its work, because its task is killed or its worker shut down."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow_provider_sequentum.task_try import has_tries_left, state_of

NEXT_TRY_IS_SURE = frozenset({"up_for_retry", "scheduled", "queued", "deferred"})
"""
States of a task that Airflow has gone on with: this try's heartbeats did not come through, so it is taken for dead.

A person who clears a task leaves it in another one for as long as its process lives.
"""


class WorkerShutDown(Exception):
    """The worker goes away while Airflow still wants the task: what the task waits for is left to the next try."""


def is_left_to_next_try(context: Mapping[str, Any]) -> bool:
    """
    Whether Airflow still wants the task that it was told to end, because just its worker is shut down or was taken for
    dead, and tries again or is doing so already.

    It must not be called while Airflow's supervisor answers something else.
    """
    try:
        state = state_of(context["ti"])
    except Exception:  # noqa: BLE001 - whatever keeps Airflow from telling: nobody is known to come back
        return False
    return state in NEXT_TRY_IS_SURE or (state == "running" and has_tries_left(context))


class Termination:
    """
    Ends the work of an operator.

    Airflow 3 calls ``on_kill`` from a signal handler and then lets the task go on where it was, which may be just
    before a start. So a kill that interrupts the work has to end it, and one that comes earlier has to prevent it.
    """

    def __init__(self) -> None:
        self._worker: int | None = None
        self._killed = False

    @contextmanager
    def ends_work(self) -> Iterator[None]:
        """
        Mark the work that a kill has to end.

        :raises AirflowTaskTerminated: the kill came first.
        """
        if self._killed:
            raise _task_terminated()(_KILLED)
        self._worker = threading.get_ident()
        try:
            yield
        finally:
            self._worker = None

    def end_after(self, stop: Callable[[], None]) -> None:
        """
        End the work, if this call interrupts it. After ``execution_timeout`` Airflow calls ``on_kill`` when it is over.

        :param stop: called first; may raise :class:`WorkerShutDown`.
        :raises AirflowTaskTerminated: the task was killed for good.
        :raises SystemExit: the worker was shut down, and Airflow has to try the task again.
        """
        try:
            stop()
        except WorkerShutDown as reason:
            self._end(reason)
        self._end()

    def _end(self, reason: WorkerShutDown | None = None) -> None:
        self._killed = True
        if self._worker != threading.get_ident():
            return
        if reason is not None:
            sys.exit(str(reason))
        raise _task_terminated()(_KILLED)


_KILLED = "The task was killed."


def _task_terminated() -> type[BaseException]:
    try:
        from airflow.sdk.exceptions import AirflowTaskTerminated
    except ImportError:  # Airflow 2.11
        from airflow.exceptions import AirflowTaskTerminated  # type: ignore[no-redef]
    return AirflowTaskTerminated
