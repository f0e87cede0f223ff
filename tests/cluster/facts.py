"""What is known after a storm: what Airflow's database says of tasks, and what the service's ledger says of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

SUCCEEDED = frozenset({"Success", "Completed"})
ENDED_TASK = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


@dataclass(frozen=True, kw_only=True)
class RunFact:
    """
    A run, as the service knows it.

    :param run_id: its id.
    :param started: when it was started.
    :param ended: when it ended, ``None`` if it is still going.
    :param status: the name of its status.
    :param stops_refused: how many requests to stop it were refused or cut off; where the response to its start was
        lost, with the looks for it that a fault kept from showing it, or that came too late.
    :param stops_taken: how many were not.
    """

    run_id: int
    started: datetime
    ended: datetime | None
    status: str
    stops_refused: int = 0
    stops_taken: int = 0

    @property
    def succeeded(self) -> bool:
        """Whether it ended well."""
        return self.status in SUCCEEDED

    def is_going_at(self, moment: datetime) -> bool:
        """Whether it had been started and had not ended."""
        return self.started <= moment and (self.ended is None or self.ended > moment)


@dataclass(frozen=True, kw_only=True)
class TaskFact:
    """
    The task that runs the agent, as Airflow knows it.

    :param state: its state.
    :param ended: when it ended.
    :param result: the id of the run it returned.
    :param tries: how many tries it took.
    """

    state: str | None
    ended: datetime | None = None
    result: int | None = None
    tries: int = 1


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """
    What a person did.

    :param kind: ``clear``, ``mark failed``, ``mark success``, ``stop``, ``restart``, ``archive``, or
        ``clear and wipe``: a clear that discards what the task has kept.
    :param asked: when it was asked for.
    :param done: when it was answered.
    :param heard: whether the process that had the task was there to hear of it. Airflow tells a triggerer or a worker
        that a task was marked or cleared; where it is dead at that moment, nothing learns of it, then or later.
        Of a clear it tells a triggerer only once a scheduler has scheduled the task again.
    """

    kind: str
    asked: datetime
    done: datetime
    heard: bool = True


@dataclass(frozen=True, kw_only=True)
class Case:
    """
    One job in one population, with everything that is known of it.

    :param name: the job.
    :param population: ``provider`` or ``plain``.
    :param task: the task that runs the agent.
    :param runs: the runs that were started for it, oldest first.
    :param interventions: what people did to it.
    :param landing: the state of the task that lands the run's files, where there is one.
    :param landed_rows: how many rows were landed.
    """

    name: str
    population: str
    task: TaskFact
    runs: Sequence[RunFact] = ()
    interventions: Sequence[Intervention] = field(default=())
    landing: str | None = None
    landed_rows: int | None = None

    def did(self, *kinds: str, since: datetime | None = None) -> bool:
        """Whether a person did one of these things, at ``since`` or later."""
        return any(deed.kind in kinds and (since is None or deed.done >= since) for deed in self.interventions)
