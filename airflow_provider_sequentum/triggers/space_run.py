"""The trigger that waits for the runs of a space's agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_sequentum.triggers.agent_run import AgentRunTrigger
from airflow_provider_sequentum.triggers.timing import not_too_soon


class SpaceRunsTrigger(BaseTrigger):
    """
    Wait for many runs, then fire once: each run is waited for as an :class:`.AgentRunTrigger` does.

    The event holds the events of all waits, in their order.

    :param waits: the arguments of an :class:`.AgentRunTrigger` for each run.
    :param carried: values handed back with the event.
    """

    def __init__(self, *, waits: list[dict[str, Any]], carried: dict[str, Any] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits = waits
        self.carried = carried or {}
        self._stopping: asyncio.Future[Any] | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class's path and the arguments, all of them primitives."""
        arguments = {"waits": self.waits, "carried": self.carried}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then fire one event and end."""
        events = await not_too_soon(asyncio.gather(*(trigger.wait() for trigger in self._triggers())))
        yield TriggerEvent({"events": events, "carried": self.carried})  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Stop the runs because a user ended the task while it was deferred (Airflow 3.3 and later)."""
        self._stopping = asyncio.gather(*(trigger.try_to_stop() for trigger in self._triggers()))
        await asyncio.shield(self._stopping)

    def _triggers(self) -> list[AgentRunTrigger]:
        triggers = [AgentRunTrigger(**wait) for wait in self.waits]
        for trigger in triggers:
            trigger.task_instance = self.task_instance
        return triggers
