"""The trigger that waits for an Agent Builder session."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.exceptions import SequentumException, client_errors_as_exceptions
from airflow_provider_sequentum.reporting.links import SESSION_ID_KEY
from airflow_provider_sequentum.triggers.remote_job import RemoteJobTrigger

if TYPE_CHECKING:
    from airflow_provider_sequentum.sessions.stop import SessionStopper
    from airflow_provider_sequentum.sessions.wait import SessionPoller

NOT_STARTED = frozenset({None, "scheduled", "queued"})
"""States of a cleared task whose new attempt has not started yet."""


class AgentBuilderTrigger(RemoteJobTrigger):
    """Wait until an Agent Builder session needs an answer, has ended or a deadline has passed, then fire once.

    The trigger only waits and logs the progress: it does not send messages, finish the session, or save anything. If it
    starts over on another triggerer, it logs the same lines again. The event is a
    :class:`~airflow_provider_sequentum.sessions.wait.TurnEvent` with the last known state of the session.

    :param sequentum_conn_id: the connection.
    :param session: the last state of the session known to the worker, a
        :class:`~airflow_provider_sequentum.sessions.state.Session` in JSON.
    :param poll_interval: seconds between two polls of the session.
    :param deadline: when to give up, as an ISO 8601 time with an offset; ``None`` means no deadline.
    :param stop_on_kill: cancel the session when a user marks or clears the waiting task (Airflow 3.3 and later).
    :param successor_may_join: whether the new attempt of a cleared task continues the session, because another task
        started it.
    :param other: unknown arguments that another version of this package has stored. They are kept.
    """

    xcom_key = SESSION_ID_KEY

    def __init__(
        self,
        *,
        sequentum_conn_id: str,
        session: dict[str, Any],
        poll_interval: float = 10.0,
        deadline: str | None = None,
        stop_on_kill: bool = False,
        successor_may_join: bool = False,
        **other: Any,
    ) -> None:
        super().__init__(sequentum_conn_id, stop_on_kill, successor_may_join, other)
        self.session = session
        self.session_id: str = session["session_id"]
        self.poll_interval = poll_interval
        self.deadline = deadline

    @property
    def job_name(self) -> str:
        """The name of the session in log lines."""
        return f"Agent Builder session {self.session_id}"

    async def wait(self) -> dict[str, Any]:
        """Return the event, as soon as there is one."""
        from airflow_provider_sequentum.jobs.record import fields_of
        from airflow_provider_sequentum.sessions.state import Session
        from airflow_provider_sequentum.sessions.wait import SessionPoller, TurnEvent

        deadline = datetime.fromisoformat(self.deadline) if self.deadline else None
        poller = SessionPoller(Session.from_json(self.session), poll_interval=self.poll_interval, deadline=deadline)
        try:
            with client_errors_as_exceptions(self.sequentum_conn_id):
                is_deadline = await self._wait_for_turn(poller)
        except SequentumException as error:
            return TurnEvent(session=poller.session, **fields_of(error)).to_json()
        return TurnEvent(session=poller.session, is_deadline=is_deadline).to_json()

    async def _wait_for_turn(self, poller: SessionPoller) -> bool:
        """Wait until it is the task's turn. If the key is refused, check whether the connection was changed."""
        from airflow_provider_sequentum.api.errors import HttpStatusError
        from airflow_provider_sequentum.hooks.connection import SequentumConnection
        from airflow_provider_sequentum.sessions.wait import await_turn

        hook = SequentumConnection(self.sequentum_conn_id)
        while True:
            async with await hook.aget_client() as client:
                try:
                    return await await_turn(client, poller)
                except HttpStatusError as error:
                    if error.status_code != 401 or await hook.aget_settings() == client.settings:
                        raise
            self.log.info("The connection %r was changed; continuing with its new values.", self.sequentum_conn_id)

    async def stoppers(self) -> Sequence[SessionStopper]:
        """Return what cancels the session, unless another task started it and the task's new attempt continues it."""
        from airflow_provider_sequentum.airflow_compat.dag_run import state_of
        from airflow_provider_sequentum.sessions.state import Session
        from airflow_provider_sequentum.sessions.stop import SessionStopper

        may_be_cleared = self.successor_may_join and not self.is_in_dag_test
        if may_be_cleared and await asyncio.to_thread(state_of, self.task_instance) in NOT_STARTED:
            self.log.info("%s is left as it is, for the task's new attempt.", self.job_name)
            return []
        return [SessionStopper(Session(session_id=self.session_id))]

    def is_own(self, xcom: Any) -> bool:
        """Return whether the XCom ``session_id`` is that of this trigger's session."""
        return bool(xcom == self.session_id)
