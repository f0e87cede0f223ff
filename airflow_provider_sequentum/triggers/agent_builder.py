"""The trigger that waits for an Agent Builder session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_sequentum.triggers.timing import not_too_soon

if TYPE_CHECKING:
    from airflow_provider_sequentum.lifecycle.builder_session import BuilderSession


class AgentBuilderTrigger(BaseTrigger):
    """
    Wait until an Agent Builder session needs somebody again or a deadline has passed, then fire once.

    The trigger only waits and tells of the progress: it sends no message, finishes nothing, and saves nothing. It can
    be run again from the start on another triggerer: its deadline is a point in time, and events it has told of are
    told again. So they are when it begins anew because the connection's key was changed. The event holds the record
    with the session as it was last seen, the error if looking at it failed for good, and the trigger's own arguments.

    :param sequentum_conn_id: the connection.
    :param record: the task's record, as :meth:`.SessionRecord.to_json` writes it.
    :param poll_interval: seconds between two looks at the session.
    :param deadline: when to give up, as an ISO 8601 time with an offset; ``None`` waits as long as it takes.
    :param cancel_on_kill: cancel the session when a user marks the waiting task (Airflow 3.3 and later).
    """

    def __init__(
        self,
        *,
        sequentum_conn_id: str,
        record: dict[str, Any],
        poll_interval: float,
        deadline: str | None = None,
        cancel_on_kill: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sequentum_conn_id = sequentum_conn_id
        self.record = record
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.cancel_on_kill = cancel_on_kill
        self._cancelling: asyncio.Task[None] | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class's path and the arguments, all of them primitives."""
        arguments = {
            "sequentum_conn_id": self.sequentum_conn_id,
            "record": self.record,
            "poll_interval": self.poll_interval,
            "deadline": self.deadline,
            "cancel_on_kill": self.cancel_on_kill,
        }
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then fire one event and end."""
        yield TriggerEvent(await not_too_soon(self._wait()))  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """
        Cancel the session because a user ended the task while it was deferred (Airflow 3.3 and later).

        Airflow gives this about a second before it cancels it, so the work runs in a task of its own.
        """
        if self.cancel_on_kill:
            self._cancelling = asyncio.create_task(self._cancel_unless_the_task_goes_on())
            await asyncio.shield(self._cancelling)

    async def _wait(self) -> dict[str, Any]:
        from airflow_provider_sequentum.exceptions import SequentumException
        from airflow_provider_sequentum.hooks.errors import errors_as_airflow_exceptions
        from airflow_provider_sequentum.lifecycle.builder_record import SessionRecord
        from airflow_provider_sequentum.lifecycle.builder_speak import session_of
        from airflow_provider_sequentum.triggers.session_event import error_event, turn_event

        record = SessionRecord.from_json(self.record)
        try:
            with errors_as_airflow_exceptions(self.sequentum_conn_id):
                session = await self._wait_for_turn(session_of(record))
        except SequentumException as error:
            return error_event(error, self.serialize()[1])
        return turn_event(record.seeing(session).to_json(), self.serialize()[1])

    async def _wait_for_turn(self, session: BuilderSession) -> BuilderSession:
        """Wait with the connection as it is, and once its key is refused, as it is then: it may have been changed."""
        from airflow_provider_sequentum.api.errors import Unauthorized
        from airflow_provider_sequentum.hooks.driver import aperform
        from airflow_provider_sequentum.hooks.sequentum import SequentumHook
        from airflow_provider_sequentum.lifecycle.builder_wait import wait_for_turn

        hook = SequentumHook(self.sequentum_conn_id)
        deadline = datetime.fromisoformat(self.deadline) if self.deadline else None
        while True:
            async with await hook.aget_client() as client:
                try:
                    return await aperform(wait_for_turn(session, self.poll_interval, deadline), client, self.log)
                except Unauthorized:
                    if await hook.aget_settings() == client.settings:
                        raise
            self.log.info("The connection %r was changed; going on with what it says now.", self.sequentum_conn_id)

    async def _cancel_unless_the_task_goes_on(self) -> None:
        from airflow_provider_sequentum.hooks.driver import aperform
        from airflow_provider_sequentum.hooks.sequentum import SequentumHook
        from airflow_provider_sequentum.lifecycle.builder_cancel import cancel_session
        from airflow_provider_sequentum.triggers.user_action import task_was_ended

        session_id = self.record["session"]["session_id"]
        if not await task_was_ended(self.task_instance):
            self.log.info(
                "Session %s goes on: the trigger was moved, or the task was cleared and its new try decides.",
                session_id,
            )
            return
        # A client of its own: the one that waited is being closed at this moment.
        async with await SequentumHook(self.sequentum_conn_id).aget_client() as client:
            await aperform(cancel_session(session_id), client, self.log)
