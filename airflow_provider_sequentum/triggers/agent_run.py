"""The trigger that waits for one agent run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.exceptions import SequentumException, from_client
from airflow_provider_sequentum.reporting.links import RUN_SUMMARY_KEY
from airflow_provider_sequentum.triggers.remote_job import RemoteJobTrigger

if TYPE_CHECKING:
    from airflow_provider_sequentum.runs.stop import RunStopper


class AgentRunTrigger(RemoteJobTrigger):
    """Wait until an agent run has ended or a deadline has passed, then fire once.

    All triggers of a connection share one watcher, which polls for all of them. The event is a
    :class:`~airflow_provider_sequentum.runs.wait.RunEvent`: how the wait ended, and the latest record of the run.

    :param sequentum_conn_id: the connection.
    :param agent_id: the agent.
    :param run_id: the run; ``None`` waits for the agent's first run that was created at ``since`` or later.
    :param since: see ``run_id``; an ISO 8601 time with an offset.
    :param clock_ahead: how many seconds the service's clock is ahead of Airflow's clock, which ``since`` refers to;
        ``None`` if the clocks have not been compared yet.
    :param poll_interval: minimum seconds between two requests for this wait; ``None`` leaves this to the watcher.
    :param deadline: when to give up, as an ISO 8601 time with an offset; ``None`` means no deadline.
    :param failure_pause: seconds for which the run has to be in Failure before this counts as its end.
    :param wait_for_restart: keep waiting while the run is in Failure, because it can be restarted.
    :param tolerate_outages: tolerate temporary errors of the service until the deadline.
    :param restart_asked_at: when the run was restarted, if it was, as an ISO 8601 time.
    :param failure_ended_at: the end time of the Failure before that restart.
    :param stop_on_kill: stop the run when a user marks or clears the waiting task (Airflow 3.3 and later).
    :param successor_may_join: whether the new attempt of a cleared task may join the run.
    :param stop_grace: seconds between the stop and the kill of the run.
    :param other: unknown arguments that another version of this package has stored. They are kept.
    """

    xcom_key = RUN_SUMMARY_KEY

    def __init__(
        self,
        *,
        sequentum_conn_id: str,
        agent_id: int,
        run_id: int | None = None,
        since: str | None = None,
        clock_ahead: float | None = None,
        poll_interval: float | None = None,
        deadline: str | None = None,
        failure_pause: float = 0.0,
        wait_for_restart: bool = False,
        tolerate_outages: bool = False,
        restart_asked_at: str | None = None,
        failure_ended_at: str | None = None,
        stop_on_kill: bool = False,
        successor_may_join: bool = False,
        stop_grace: float = 45.0,
        **other: Any,
    ) -> None:
        super().__init__(sequentum_conn_id, stop_on_kill, successor_may_join, other)
        self.agent_id = agent_id
        self.run_id = run_id
        self.since = since
        self.clock_ahead = clock_ahead
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.failure_pause = failure_pause
        self.wait_for_restart = wait_for_restart
        self.tolerate_outages = tolerate_outages
        self.restart_asked_at = restart_asked_at
        self.failure_ended_at = failure_ended_at
        self.stop_grace = stop_grace

    @property
    def job_name(self) -> str:
        """The name of the run in log lines."""
        run = "A run" if self.run_id is None else f"Run {self.run_id}"
        return f"{run} of agent {self.agent_id}"

    async def wait(self) -> dict[str, Any]:
        """Wait, and return the event."""
        from airflow_provider_sequentum.api.errors import SequentumError
        from airflow_provider_sequentum.jobs.record import fields_of
        from airflow_provider_sequentum.runs.wait import RunEvent, WaitSpec
        from airflow_provider_sequentum.watching.watcher import wait_for_run

        # Only fields that are set, because a model stores their names, and there may be ten thousand models.
        spec = WaitSpec.from_json(
            {name: value for name, value in self.arguments.items() if value is not None and value is not False}
        )
        try:
            outcome, run = await wait_for_run(self.sequentum_conn_id, spec, self.log)
        except (SequentumException, SequentumError) as error:
            failure = from_client(error, self.sequentum_conn_id)
            ids = {"agent_id": self.agent_id, "run_id": self.run_id}
            return RunEvent(**ids, **fields_of(failure)).to_json()
        run_id = run.id if run is not None else self.run_id
        return RunEvent(agent_id=self.agent_id, run_id=run_id, outcome=outcome, run=run).to_json()

    async def stoppers(self) -> Sequence[RunStopper]:
        """Return what stops the run; empty if the run has not been found yet."""
        from airflow_provider_sequentum.runs.record import RunRecord
        from airflow_provider_sequentum.runs.stop import RunStopper

        if self.run_id is None:
            return []
        record = RunRecord.from_json(
            {
                "agent_id": self.agent_id,
                "run_id": self.run_id,
                "restart_asked_at": self.restart_asked_at,
                "failure_ended_at": self.failure_ended_at,
            }
        )
        return [RunStopper(record, self.stop_grace)]

    def is_own(self, xcom: Any) -> bool:
        """Return whether a summary is that of this trigger's run."""
        return isinstance(xcom, dict) and xcom.get("run_id") == self.run_id
