"""The trigger that waits for one agent run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_sequentum.triggers.timing import not_too_soon

if TYPE_CHECKING:
    from airflow_provider_sequentum.lifecycle.run_wait import RunWaitTerms


class AgentRunTrigger(BaseTrigger):
    """
    Wait until an agent run has ended or a deadline has passed, then fire once.

    All triggers of a connection share one watcher (see :mod:`.run_watcher`), which asks on behalf of all of them. The
    trigger only waits. It never starts, restarts or downloads, and it can be run again from the start on another
    triggerer: its deadline is a point in time. The event holds the outcome (``ended``, ``deadline`` or ``error``), the
    run's last record, and the trigger's own arguments.

    :param sequentum_conn_id: the connection.
    :param agent_id: the agent.
    :param run_id: the run; ``None`` waits for the agent's first one created at ``since`` or later.
    :param since: see ``run_id``; an ISO 8601 time.
    :param poll_interval: least seconds between two questions on behalf of this wait; ``None`` leaves that to the
        watcher.
    :param deadline: when to give up, as an ISO 8601 time with an offset; ``None`` waits as long as it takes.
    :param failure_pause: seconds a Failure has to stand before it counts as the end.
    :param wait_for_restart: keep waiting through Failure, for as long as the run can be restarted.
    :param is_patient: bear passing faults of the service up to the deadline.
    :param restart_asked_at: when the run was restarted, if it was, as an ISO 8601 time.
    :param failure_ended_at: the end time of the Failure it was restarted from.
    :param stop_on_kill: stop the run when a user marks the waiting task (Airflow 3.3 and later).
    :param stop_on_clear: stop it as well when the task was cleared and its new try has to wait for other tasks.
    :param stop_grace: seconds the run then gets to wind down before it is killed.
    :param carried: values handed back with the event.
    """

    def __init__(
        self,
        *,
        sequentum_conn_id: str,
        agent_id: int,
        run_id: int | None = None,
        since: str | None = None,
        poll_interval: float | None = None,
        deadline: str | None = None,
        failure_pause: float = 0.0,
        wait_for_restart: bool = False,
        is_patient: bool = False,
        restart_asked_at: str | None = None,
        failure_ended_at: str | None = None,
        stop_on_kill: bool = False,
        stop_on_clear: bool = False,
        stop_grace: float = 45.0,
        carried: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._arguments = {
            "sequentum_conn_id": sequentum_conn_id,
            "agent_id": agent_id,
            "run_id": run_id,
            "since": since,
            "poll_interval": poll_interval,
            "deadline": deadline,
            "failure_pause": failure_pause,
            "wait_for_restart": wait_for_restart,
            "is_patient": is_patient,
            "restart_asked_at": restart_asked_at,
            "failure_ended_at": failure_ended_at,
            "stop_on_kill": stop_on_kill,
            "stop_on_clear": stop_on_clear,
            "stop_grace": stop_grace,
            "carried": carried or {},
        }
        self.sequentum_conn_id = sequentum_conn_id
        self.agent_id = agent_id
        self.run_id = run_id
        self.stop_on_kill = stop_on_kill
        self.stop_on_clear = stop_on_clear
        self.stop_grace = stop_grace
        self._stopping: asyncio.Task[None] | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class's path and the arguments, all of them primitives."""
        return f"{type(self).__module__}.{type(self).__qualname__}", dict(self._arguments)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then fire one event and end."""
        yield TriggerEvent(await not_too_soon(self.wait()))  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """
        Stop the run because a user ended the task while it was deferred (Airflow 3.3 and later).

        Airflow gives this about a second before it cancels it, so the stop runs in a task of its own.
        """
        self._stopping = asyncio.create_task(self.try_to_stop())
        await asyncio.shield(self._stopping)

    async def wait(self) -> dict[str, Any]:
        """Return the event, as soon as there is one."""
        from airflow_provider_sequentum.exceptions import SequentumException
        from airflow_provider_sequentum.hooks.errors import errors_as_airflow_exceptions
        from airflow_provider_sequentum.triggers.run_event import ended_event, error_event
        from airflow_provider_sequentum.triggers.run_watcher import wait_for_run

        try:
            with errors_as_airflow_exceptions(self.sequentum_conn_id):
                outcome, run = await wait_for_run(self.sequentum_conn_id, self._terms(), self.log)
        except SequentumException as error:
            return error_event(error, self._arguments)
        return ended_event(outcome, run, self._arguments)

    async def try_to_stop(self) -> None:
        """Stop the run unless it is somebody else's, or the task goes on. What goes wrong is said in the log."""
        if not self.stop_on_kill or self.run_id is None:
            return
        try:
            await self._stop_unless_the_task_goes_on(self.run_id)
        except Exception:  # nobody awaits this any more: what is not said here is said nowhere
            self.log.exception(
                "Run %s of agent %s may still be going and costing credits: look at it in Sequentum Cloud.",
                self.run_id,
                self.agent_id,
            )

    async def _stop_unless_the_task_goes_on(self, run_id: int) -> None:
        from airflow_provider_sequentum.hooks.driver import aperform
        from airflow_provider_sequentum.hooks.sequentum import SequentumHook
        from airflow_provider_sequentum.lifecycle.run_stop import stop_run
        from airflow_provider_sequentum.triggers.user_action import task_was_ended

        if not await task_was_ended(self.task_instance, or_waits_for_its_new_try=self.stop_on_clear):
            self.log.info(
                "Run %s goes on: the trigger was moved, or the task was cleared and its new try decides.", run_id
            )
            return
        # A client of its own: the one that waited is being closed at this moment.
        async with await SequentumHook(self.sequentum_conn_id).aget_client() as client:
            stopping = stop_run(self.agent_id, run_id, self.stop_grace, self._terms().restart_asked_at)
            await aperform(stopping, client, self.log)

    def _terms(self) -> RunWaitTerms:
        from airflow_provider_sequentum.lifecycle.run_wait import RunWaitTerms

        return RunWaitTerms.from_json({name: self._arguments[name] for name in RunWaitTerms.names()})
