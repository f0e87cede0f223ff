"""What one try of a task leaves for the next: which run it started, or was about to start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

FORMAT = 1
"""Raised when the fields change their meaning."""

MOST_REPLACED = 20
"""How many earlier runs a record names. It bounds the record; only the newest can be mistaken for a lost one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """
    The record of one logical attempt at the work, which a retry continues and a clear ends.

    :param agent_id: the agent.
    :param fingerprint: digest of the run's inputs; a changed one is a new piece of work.
    :param max_tries: the task instance's ``max_tries``. Airflow raises it when the task is cleared, and only then, so
        it names the logical attempt. (A task that is cleared while it runs is killed, which stops its run.)
    :param intended_at: when the start was about to be sent.
    :param run_id: the run, once the service has answered.
    :param restart_asked_at: when a restart in place was last asked for.
    :param failure_ended_at: the end time of the Failure that was restarted; tells a stale answer from a new Failure.
    :param replaced: the task's earlier runs. None of them is the one a lost start may have started.
    :param is_ambiguous: the task has failed because several runs could be the one, so a person has been told.
    :param abandoned: the run is over and the next try must not return to it.
    :param is_guess: nothing was recorded, because this Airflow keeps nothing between tries: ``intended_at`` is just the
        earliest moment an earlier try can have started a run. Only a run that is still going is taken for its.
    """

    agent_id: int
    fingerprint: str
    max_tries: int
    intended_at: datetime
    run_id: int | None = None
    restart_asked_at: datetime | None = None
    failure_ended_at: datetime | None = None
    replaced: tuple[int, ...] = ()
    is_ambiguous: bool = False
    abandoned: bool = False
    is_guess: bool = False

    def started(self, run_id: int) -> RunRecord:
        """Return the record with the run the service answered with."""
        return replace(self, run_id=run_id, restart_asked_at=None, failure_ended_at=None, is_guess=False)

    @property
    def all_runs(self) -> tuple[int, ...]:
        """The task's runs, this one and the ones it replaced."""
        return self.replaced if self.run_id is None else (*self.replaced, self.run_id)[-MOST_REPLACED:]

    def restarting(self, moment: datetime, failure_ended_at: datetime | None) -> RunRecord:
        """Return the record of a run about to be restarted in place."""
        return replace(self, restart_asked_at=moment, failure_ended_at=failure_ended_at)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        values = {
            name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(self).items()
        }
        return {"format": FORMAT, **values, "replaced": list(self.replaced)}

    @classmethod
    def from_json(cls, value: object) -> RunRecord | None:
        """
        Read what :meth:`to_json` wrote; ``None`` where nothing was written.

        :raises ValueError: something is there and can't be read. That is never taken for "no record", because it could
            hide a run that is going on.
        """
        if value is None:
            return None
        try:
            if not isinstance(value, Mapping) or value["format"] != FORMAT:
                raise ValueError("unknown format")
            fields = {name: item for name, item in value.items() if name != "format"}
            for name in ("intended_at", "restart_asked_at", "failure_ended_at"):
                fields[name] = datetime.fromisoformat(fields[name]) if fields[name] is not None else None
            return cls(**{**fields, "replaced": tuple(fields["replaced"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"The record of the run that an earlier try started can't be read ({error}).") from None
