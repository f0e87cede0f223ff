"""The trigger that waits for the runs of a space's agents."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.triggers.agent_run import AgentRunTrigger
from airflow_provider_sequentum.triggers.remote_job import RemoteJobTrigger

if TYPE_CHECKING:
    from airflow_provider_sequentum.runs.stop import RunStopper


class SpaceRunsTrigger(RemoteJobTrigger):
    """Wait for many runs, each like an :class:`.AgentRunTrigger` does, then fire once.

    The event is a :class:`~airflow_provider_sequentum.spaces.attempt.SpaceEvent`, with the events of all waits.

    :param sequentum_conn_id: the connection.
    :param space_id: the space.
    :param waits: the arguments of an :class:`.AgentRunTrigger` for each run to wait for.
    :param also_stop: the same for runs that the task no longer waits for, because they could not be polled, but that
        may be running.
    :param stop_on_kill: stop the runs when a user marks or clears the waiting task (Airflow 3.3 and later).
    :param successor_may_join: whether the new attempt of a cleared task may join the runs.
    :param stop_grace: seconds between the stop and the kill of each run.
    :param other: unknown arguments that another version of this package has stored. They are kept.
    """

    xcom_key = "runs"

    def __init__(
        self,
        *,
        sequentum_conn_id: str = "sequentum_default",
        space_id: int = 0,
        waits: list[dict[str, Any]],
        also_stop: list[dict[str, Any]] | None = None,
        stop_on_kill: bool = True,
        successor_may_join: bool = False,
        stop_grace: float = 45.0,
        **other: Any,
    ) -> None:
        super().__init__(sequentum_conn_id, stop_on_kill, successor_may_join, other)
        self.space_id = space_id
        self.waits = waits
        self.also_stop = also_stop or []
        self.stop_grace = stop_grace

    @property
    def job_name(self) -> str:
        """The name of the runs in log lines."""
        return f"Space {self.space_id}"

    async def wait(self) -> dict[str, Any]:
        """Return the event, as soon as there is one for every run."""
        from airflow_provider_sequentum.spaces.attempt import SpaceEvent

        triggers = [AgentRunTrigger(**{"sequentum_conn_id": self.sequentum_conn_id, **wait}) for wait in self.waits]
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(trigger.wait()) for trigger in triggers]
        return SpaceEvent(events=tuple(task.result() for task in waiting)).to_json()

    async def stoppers(self) -> Sequence[RunStopper]:
        """Return what stops all runs."""
        from airflow_provider_sequentum.runs.record import RunRecord
        from airflow_provider_sequentum.runs.stop import RunStopper

        return [RunStopper(RunRecord.from_json(wait), self.stop_grace) for wait in [*self.waits, *self.also_stop]]

    def is_own(self, xcom: Any) -> bool:
        """Return whether summaries are those of this trigger's runs: of some, because others may be replaced."""
        named = {run.get("run_id") for run in xcom if isinstance(run, dict)} if isinstance(xcom, list) else set()
        return any(wait.get("run_id") in named for wait in self.waits)
