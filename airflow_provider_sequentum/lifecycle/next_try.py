"""What a new try of a task does with the run that an earlier one left behind: one decision, as a table."""

from __future__ import annotations

from enum import Enum

from airflow_provider_sequentum.lifecycle.phases import Phase


class NextTry(Enum):
    """What to do."""

    START = "start"
    """Start a new run; nothing of the old one is in the way."""

    STOP_AND_START = "stop_and_start"
    """Stop the old run, then start a new one."""

    JOIN = "join"
    """Wait for the old run, or return it if it is over."""

    RESTART = "restart"
    """Restart the old run in place."""

    REFUSE = "refuse"
    """Fail: only a restart was allowed, and there is nothing left to restart."""


def next_try(
    phase: Phase | None,
    *,
    same_inputs: bool,
    cleared: bool,
    abandoned: bool,
    stopping: bool,
    on_clear: str,
    retry_mode: str,
) -> NextTry:
    """
    Decide. ``on_clear`` is about a run that is still going: one that is over is never returned by a cleared task.

    :param phase: the old run's phase; ``None`` when the service no longer knows it.
    :param same_inputs: whether this try asks for the same work.
    :param cleared: whether the task was cleared since the run was started.
    :param abandoned: whether the old run was judged and found useless.
    :param stopping: whether the old run is being stopped: its end is known already.
    :param on_clear: one of :data:`~.choices.ON_CLEAR`.
    :param retry_mode: one of :data:`~.choices.RETRY_MODES`.
    """
    if phase is None:
        return NextTry.START
    useless = abandoned or not same_inputs
    if not phase.is_over:
        ends = stopping or useless or (cleared and on_clear == "rerun")
        return NextTry.STOP_AND_START if ends else NextTry.JOIN
    if useless or cleared or phase is Phase.STOPPED:
        return NextTry.START
    if phase is Phase.RESTARTABLE:
        return NextTry.START if retry_mode == "new" else NextTry.RESTART
    if phase is Phase.ARCHIVED:
        return NextTry.REFUSE if retry_mode == "restart" else NextTry.START
    return NextTry.JOIN
