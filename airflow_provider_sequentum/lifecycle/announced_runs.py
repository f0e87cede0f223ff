"""Which ended runs of an agent have been announced, so that each is announced once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.runs.phases import Phase, phase_of

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run

FORMAT = 1
"""Raised when the fields change their meaning."""


@dataclass(frozen=True, slots=True)
class AnnouncedRuns:
    """
    What has been announced. It needs no clock: what had ended at the first look counts as announced.

    :param run_ids: announced runs that may be listed again.
    :param floor: runs with a smaller id are too old; one may come into view again when newer ones are deleted.
    :param newest: the newest run that was listed.
    """

    run_ids: frozenset[int]
    floor: int
    newest: int

    @classmethod
    def beginning(cls, listed: Collection[Run], ending: str, longest_list: int) -> AnnouncedRuns:
        """
        Return the state after the first look.

        :param listed: the agent's newest runs.
        :param ending: one of ``RUN_ENDINGS``.
        :param longest_list: how many runs are listed at most.
        """
        nothing = cls(frozenset(), 0, 0)
        return nothing.after(nothing.news(listed, ending), listed, longest_list)

    def news(self, listed: Collection[Run], ending: str) -> list[Run]:
        """Return the runs to announce, those that ended first at the front."""
        ended = [
            run for run in listed if run.id >= self.floor and run.id not in self.run_ids and _has_ended(run, ending)
        ]
        return sorted(ended, key=lambda run: (run.end_time.timestamp() if run.end_time else 0.0, run.id))

    def after(self, announced: Collection[Run], listed: Collection[Run], longest_list: int) -> AnnouncedRuns:
        """Return the state once ``announced`` have been announced. What is no longer in view is forgotten."""
        in_view = {run.id for run in listed}
        floor = max(self.floor, min(in_view)) if len(listed) >= longest_list else self.floor
        ids = self.run_ids | {run.id for run in announced}
        in_reach = frozenset(run_id for run_id in ids if run_id >= floor and run_id in in_view)
        return AnnouncedRuns(in_reach, floor, max(self.newest, max(in_view, default=0)))

    def is_cut_off(self, listed: Collection[Run], longest_list: int) -> bool:
        """Whether runs may have come and gone unseen: the list is full and holds nothing that was seen before."""
        return len(listed) >= longest_list and min(run.id for run in listed) > self.newest

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"format": FORMAT, "run_ids": sorted(self.run_ids), "floor": self.floor, "newest": self.newest}

    @classmethod
    def from_json(cls, value: object) -> AnnouncedRuns | None:
        """
        Read what :meth:`to_json` wrote; ``None`` where nothing was written.

        :raises ValueError: something is there and can't be read. Taking it for nothing could announce runs twice.
        """
        if value is None:
            return None
        try:
            if not isinstance(value, Mapping) or value["format"] != FORMAT:
                raise ValueError("unknown format")
            return cls(frozenset(value["run_ids"]), value["floor"], value["newest"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"The record of announced runs can't be read: {value!r:.100}.") from error


def _has_ended(run: Run, ending: str) -> bool:
    phase = phase_of(run)
    return phase is Phase.SUCCEEDED or (ending == "any" and phase.is_over)
