"""
The life cycle of a run, as one table.

Everything that decides about a run asks :func:`phase_of`. The two statuses that look alike are the reason for the
table: ``Failure`` (6) ended badly, is still in the active Runs table and can be restarted in place; ``Failed`` (7) is
the same run after it was archived to run-history, with nothing left to restart.

Rests on https://docs.sequentum.com/concepts/runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.run_status import RunStatus

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run


class Phase(Enum):
    """What a status means to somebody who waits for the run, and to the next try of the task that started it."""

    ACTIVE = "active"
    """Still going: a waiter keeps waiting, a new try joins the run."""

    SUCCEEDED = "succeeded"
    """Ended well: a waiter returns, a new try returns the same run."""

    RESTARTABLE = "restartable"
    """Ended badly, still in the active table: a new try restarts the same run in place."""

    ARCHIVED = "archived"
    """Ended badly and moved to run-history: a new try needs a new run."""

    STOPPED = "stopped"
    """Ended by a stop or kill: not retried; a cleared task starts a new run."""

    SKIPPED = "skipped"
    """Not executed by the service: the task is skipped."""

    UNKNOWN = "unknown"
    """A status this version does not know: a waiter keeps waiting, with a warning, up to its deadline."""

    @property
    def is_over(self) -> bool:
        """Whether a run in this phase has ended."""
        return self not in (Phase.ACTIVE, Phase.UNKNOWN)


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
    """
    Return the phase that a status stands for.

    :param status: the run's status as the API client parsed it; unknown codes and names are allowed.
    :param table_type: the table that holds the record, ``run`` or ``history``. A ``Failure`` found in ``history`` has
        been archived, whatever its status still says.
    """
    phase = PHASES[status] if isinstance(status, RunStatus) else Phase.UNKNOWN
    if phase is Phase.RESTARTABLE and (table_type or "").lower() == "history":
        return Phase.ARCHIVED
    return phase
