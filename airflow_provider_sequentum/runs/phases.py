"""The life cycle of a run, as one table: what each status means to a waiting task and to the task's next attempt.

All decisions about a run use :func:`phase_of`. Two statuses are easily confused: ``Failure`` (6) is a failed run that
is still in the active Runs table and can be restarted in place; ``Failed`` (7) is the same run after it was archived to
run-history, with nothing left to restart.

Based on https://docs.sequentum.com/concepts/runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.run_status import RunStatus

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run


class Phase(Enum):
    """What a status means to a task that waits for the run, and to the next attempt of the task that started it."""

    ACTIVE = "active"
    """Still active: the task keeps waiting; a new attempt joins the run."""

    SUCCEEDED = "succeeded"
    """The task succeeds; a new attempt returns the same run."""

    RESTARTABLE = "restartable"
    """Failed, still in the active Runs table: a new attempt restarts the same run in place."""

    ARCHIVED = "archived"
    """Failed and moved to run-history: a new attempt starts a new run."""

    STOPPED = "stopped"
    """Stopped or killed: the task is not retried; after it is cleared, it starts a new run."""

    SKIPPED = "skipped"
    """Not executed by the service: the task is skipped."""

    UNKNOWN = "unknown"
    """A status that this version does not know: the task logs a warning and keeps waiting until its deadline."""

    @property
    def is_over(self) -> bool:
        """Whether a run in this phase has ended."""
        return self in (Phase.SUCCEEDED, Phase.RESTARTABLE, Phase.ARCHIVED, Phase.STOPPED, Phase.SKIPPED)


PHASES: Mapping[RunStatus, Phase] = {
    RunStatus.INVALID: Phase.UNKNOWN,
    RunStatus.RUNNING: Phase.ACTIVE,
    RunStatus.EXPORTING: Phase.ACTIVE,
    RunStatus.STARTING: Phase.ACTIVE,
    RunStatus.QUEUING: Phase.ACTIVE,
    RunStatus.STOPPING: Phase.ACTIVE,
    RunStatus.FAILURE: Phase.RESTARTABLE,
    RunStatus.FAILED: Phase.ARCHIVED,
    RunStatus.STOPPED: Phase.STOPPED,
    RunStatus.COMPLETED: Phase.SUCCEEDED,
    RunStatus.SUCCESS: Phase.SUCCEEDED,
    RunStatus.SKIPPED: Phase.SKIPPED,
    RunStatus.WAITING: Phase.ACTIVE,
    RunStatus.UPDATING_DATA_SET: Phase.UNKNOWN,
}


def phase_of(run: Run) -> Phase:
    """Return the phase of a run."""
    return phase_of_status(run.status, run.table_type)


def phase_of_status(status: RunStatus | int | str | None, table_type: str | None = None) -> Phase:
    """Return the phase of a status.

    :param status: the run's status as the API client parsed it; unknown codes and names are allowed.
    :param table_type: the table that contains the record, ``run`` or ``history``. A ``Failure`` in ``history`` has been
        archived, even if its status does not show that yet.
    """
    phase = PHASES[status] if isinstance(status, RunStatus) else Phase.UNKNOWN
    if phase is Phase.RESTARTABLE and (table_type or "").lower() == "history":
        return Phase.ARCHIVED
    return phase


class NextStep(Enum):
    """What a new attempt of the task does with the run of an earlier attempt, as its log says it."""

    START = "Starting a new run"
    """The old one has ended or is unknown to the service."""

    STOP_AND_START = "Stopping it and starting a new run"

    JOIN = "Joining it"
    """Wait for the old run, or return it if it has ended."""

    RESTART = "Restarting it in place"

    REFUSE = "Only a restart is allowed, and it cannot be restarted"
    """Fail, because there is nothing left to restart."""


def next_step(
    phase: Phase | None,
    *,
    is_same_work: bool,
    was_cleared: bool,
    is_rejected: bool,
    is_stopping: bool,
    on_clear: str,
    retry_mode: str,
) -> NextStep:
    """Return the next step. ``on_clear`` applies to active runs only: a cleared task never returns one that has ended.

    :param phase: the old run's phase; ``None`` if the service no longer knows it.
    :param is_same_work: whether this attempt asks for the same work.
    :param was_cleared: whether the task was cleared since the run was started.
    :param is_rejected: whether the old run succeeded, but violates a condition of the task.
    :param is_stopping: whether the old run is being stopped.
    :param on_clear: ``rerun`` or ``join``.
    :param retry_mode: ``restart_or_new``, ``restart`` or ``new``.
    """
    if phase is None:
        return NextStep.START
    is_useless = is_rejected or not is_same_work
    if not phase.is_over:
        ends = is_stopping or is_useless or (was_cleared and on_clear == "rerun")
        return NextStep.STOP_AND_START if ends else NextStep.JOIN
    if is_useless or was_cleared or phase is Phase.STOPPED:
        return NextStep.START
    if phase is Phase.RESTARTABLE:
        return NextStep.START if retry_mode == "new" else NextStep.RESTART
    if phase is Phase.ARCHIVED:
        return NextStep.REFUSE if retry_mode == "restart" else NextStep.START
    return NextStep.JOIN
