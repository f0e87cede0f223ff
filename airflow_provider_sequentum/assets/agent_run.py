"""The trigger that starts DAGs when runs end that were not started by Airflow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from airflow.triggers.base import TriggerEvent

from airflow_provider_sequentum.parameters import (
    RunEnding,
    is_unset,
    optional,
    parse_choice,
    parse_id,
    parse_named,
    parse_seconds,
)

try:
    from airflow.triggers.base import BaseEventTrigger
except ImportError:  # Airflow 2.11, which has no asset watchers; common-compat has the name since 1.19 only
    from airflow.triggers.base import BaseTrigger as BaseEventTrigger  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Hashable

    from airflow_provider_sequentum.assets.announced_runs import AnnouncedRuns
    from airflow_provider_sequentum.watching.polls import Listing

PAUSE_AFTER_FAULT = 60.0
"""Seconds until an agent is polled again after an error."""

SETTLING_SECONDS = 5.0
"""Seconds between an event and saving that it was fired, because Airflow needs a moment to store the event. A triggerer
that is killed in between fires it again; in the opposite order, the event would be lost."""

SCHEDULER_SECONDS = 10.0
"""Seconds that the scheduler gets to start a DAG run for the events of several runs, before the last of them fires.

A DAG run that assets trigger is given the events up to the first one that was queued for it (Airflow 3.3). Those right
after it are given to the next DAG run, which there would only be when another run of the agent ends: so the last event
has to start a DAG run of its own."""

log = logging.getLogger(__name__)


class AgentRunCompletedTrigger(BaseEventTrigger):
    """Fire for every run of an agent that ends, however it was started. For an ``AssetWatcher``; needs Airflow 3.0.

    ::

        prices = Asset(
            "sequentum://agents/7",
            watchers=[AssetWatcher(name="prices", trigger=AgentRunCompletedTrigger(agent_id=7))],
        )

    The trigger fires once for each run. The payload of the event is the summary of the run (``agent_id``, ``run_id``,
    ``status``, ``records``, ...), available as ``triggering_asset_events[...][...].extra["payload"]``. It does not fire
    for runs that ended before the watcher was first started. On Airflow 3.3, the announced runs are kept in the asset's
    state store, so runs that end while no triggerer is running fire later, and none fires twice. Before 3.3, a
    restarted triggerer does not know what happened before. All triggers of a connection share one watcher and its
    polls. Use a separate trigger for each asset, because Airflow keeps state by asset.

    :param agent_id: the agent, as an int or a string of digits.
    :param ending: ``succeeded`` (default) for runs that succeeded, or ``any``.
    :param poll_interval: seconds after which a new end should be detected. Default 60.
    :param sequentum_conn_id: the connection.
    :raises ValueError: a parameter is invalid.
    """

    def __init__(
        self,
        *,
        agent_id: int | str,
        ending: str = "succeeded",
        poll_interval: float | str | timedelta = 60.0,
        sequentum_conn_id: str = "sequentum_default",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.agent_id = parse_named("agent_id", parse_id, agent_id)
        parse_ending = optional(partial(parse_choice, names=get_args(RunEnding)), "succeeded")
        self.ending = parse_named("ending", parse_ending, ending)
        self.poll_interval = parse_named("poll_interval", optional(parse_seconds, 60.0), poll_interval)
        self.sequentum_conn_id = "sequentum_default" if is_unset(sequentum_conn_id) else sequentum_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the path of the class and the arguments, which are all primitive values."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "agent_id": self.agent_id,
            "ending": self.ending,
            "poll_interval": self.poll_interval,
            "sequentum_conn_id": self.sequentum_conn_id,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield the events. Airflow calls this method before 3.3."""
        _, arguments = self.serialize()
        async for event in self.filter_shared_stream(self.open_shared_stream(arguments)):
            yield event

    def shared_stream_key(self) -> Hashable:
        """Return the key that is the same for all watchers that share polls."""
        return (self.sequentum_conn_id, self.agent_id, self.poll_interval)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncGenerator[Listing]:
        """Yield the agent's newest runs whenever there is news. Errors are logged; the stream never ends.

        The connection's watcher in this triggerer polls, for everything that waits for runs of this connection.
        """
        from airflow_provider_sequentum.api.errors import SequentumError
        from airflow_provider_sequentum.exceptions import SequentumException
        from airflow_provider_sequentum.watching.watcher import listen

        agent_id, conn_id = kwargs["agent_id"], kwargs["sequentum_conn_id"]
        while True:
            try:
                async with aclosing(listen(conn_id, agent_id, kwargs["poll_interval"])) as listings:
                    async for listing in listings:
                        yield listing
            except (SequentumError, SequentumException) as error:
                log.warning(
                    "Could not check the runs of agent %s, trying again in %g s: %s (connection %r)",
                    agent_id, PAUSE_AFTER_FAULT, error, conn_id,
                )  # fmt: skip
                await asyncio.sleep(PAUSE_AFTER_FAULT)

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Listing]) -> AsyncIterator[TriggerEvent]:
        """Yield an event for each run that has ended since, and save that it was announced."""
        from airflow_provider_sequentum.assets.announced_runs import AnnouncedRuns
        from airflow_provider_sequentum.runs.describe import counted, run_summary

        announced = await self._remembered()
        async for listed, is_full in shared_stream:
            if announced is None:
                announced = AnnouncedRuns.at_first_look(listed, self.ending, is_full=is_full)
                ended_before = counted(len(announced.run_ids), "run")
                log.info("Watching agent %s. Does not fire for %s that ended before.", self.agent_id, ended_before)
                await self._remember(announced)
                continue
            if announced.misses_runs(listed, is_full=is_full):
                log.warning(
                    "Agent %s had more than %d runs since the last poll, and the service lists no more. There may be "
                    "no events for some runs that ended.",
                    self.agent_id,
                    len(listed),
                )
            ended = announced.unannounced(listed, self.ending)
            batches = [ended[:-1], ended[-1:]] if len(ended) > 1 else [ended]
            for number, batch in enumerate(batches):
                if number:
                    await asyncio.sleep(SCHEDULER_SECONDS)
                for run in batch:
                    log.info("Run %s of agent %s has ended.", run.id, self.agent_id)
                    yield TriggerEvent(run_summary(run))  # type: ignore[no-untyped-call]
                following = announced.after(batch, listed, is_full=is_full)
                if following != announced:
                    if batch:
                        await asyncio.sleep(SETTLING_SECONDS)
                    await self._remember(following)
                announced = following

    @property
    def _state_key(self) -> str:
        return f"sequentum_announced_runs:{self.sequentum_conn_id}:{self.agent_id}:{self.ending}"

    async def _remembered(self) -> AnnouncedRuns | None:
        from airflow_provider_sequentum.assets.announced_runs import AnnouncedRuns

        if self._store is None:
            return None
        try:
            value = await self._store.aget(self._state_key)
        except ValueError:  # Airflow raises it if several assets have this trigger
            log.warning(
                "Several assets share the trigger for agent %s, so its announced runs cannot be saved.", self.agent_id
            )
            self.asset_state_store = None
            return None
        try:
            return None if value is None else AnnouncedRuns.from_json(value)
        except ValueError as error:
            log.warning(
                "What was stored about the announced runs of agent %s cannot be read. Runs that have ended until now "
                "do not fire. (%s)",
                self.agent_id,
                error,
            )
            return None

    async def _remember(self, announced: AnnouncedRuns) -> None:
        if self._store is not None:
            await self._store.aset(self._state_key, announced.to_json())

    @property
    def _store(self) -> Any:
        """The asset's state store; ``None`` before Airflow 3.3."""
        return getattr(self, "asset_state_store", None)
