"""The ended runs of an agent that have been announced, so that each is only announced once."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Self

from airflow_provider_sequentum.jobs.record import Stored
from airflow_provider_sequentum.runs.phases import Phase, phase_of

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run

MAX_OUT_OF_VIEW = 1000
"""Maximum number of announced runs to keep that the last list did not contain: the maximum length of a list."""


class AnnouncedRuns(Stored):
    """The announced runs. No clock is needed, because runs that had ended at the first poll count as announced.

    :param run_ids: announced runs that may be listed again.
    :param floor: runs with a smaller id are too old; they may be listed again if newer ones are deleted.
    :param newest: the newest run that was listed.
    """

    run_ids: tuple[int, ...] = ()
    floor: int = 0
    newest: int = 0

    @classmethod
    def at_first_look(cls, listed: Collection[Run], ending: str, *, is_full: bool) -> Self:
        """Return the state after the first poll.

        :param listed: the agent's newest runs.
        :param ending: one of :data:`~airflow_provider_sequentum.parameters.RunEnding`.
        :param is_full: whether the list has the requested length, so that there may be older runs.
        """
        nothing = cls()
        return nothing.after(nothing.unannounced(listed, ending), listed, is_full=is_full)

    def unannounced(self, listed: Collection[Run], ending: str) -> list[Run]:
        """Return the runs to announce, in the order in which they ended."""
        ended = [
            run for run in listed if run.id >= self.floor and run.id not in self.run_ids and _has_ended(run, ending)
        ]
        return sorted(ended, key=lambda run: (run.end_time.timestamp() if run.end_time else 0.0, run.id))

    def after(self, announced: Collection[Run], listed: Collection[Run], *, is_full: bool) -> Self:
        """Return the state once ``announced`` have been announced.

        The newest of the runs that are no longer listed are kept, because a run may be missing in a single list: the
        list may be empty by mistake, or the run could not be read.
        """
        in_view = {run.id for run in listed}
        floor = max(self.floor, min(in_view)) if is_full and in_view else self.floor
        ids = {*self.run_ids, *(run.id for run in announced)}
        in_reach = {run_id for run_id in ids if run_id >= floor}
        out_of_view = sorted(in_reach - in_view)[-MAX_OUT_OF_VIEW:]
        run_ids = tuple(sorted({*(in_reach & in_view), *out_of_view}))
        return self.updated(run_ids=run_ids, floor=floor, newest=max(self.newest, max(in_view, default=0)))

    def misses_runs(self, listed: Collection[Run], *, is_full: bool) -> bool:
        """Return whether runs may have been missed: the list is full and contains no run that was listed before."""
        return is_full and min((run.id for run in listed), default=0) > self.newest


def _has_ended(run: Run, ending: str) -> bool:
    phase = phase_of(run)
    return phase is Phase.SUCCEEDED or (ending == "any" and phase.is_over)
