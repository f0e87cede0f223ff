"""The trigger that wakes DAGs when runs end that nobody in Airflow started."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.triggers import BaseEventTrigger
from airflow.triggers.base import TriggerEvent

from airflow_provider_sequentum.lifecycle.arguments import parse_choice, parse_id
from airflow_provider_sequentum.lifecycle.choices import RUN_ENDINGS

if TYPE_CHECKING:
    from collections.abc import Hashable

    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.lifecycle.announced_runs import AnnouncedRuns

WATCHED_RUNS = 200
"""How many of an agent's newest runs are looked at. An older one that is still going is not waited for."""

PAUSE_AFTER_FAULT = 60.0
"""Seconds before a new client is tried, with the connection as it is then."""

SETTLING_SECONDS = 5.0
"""Seconds between an event and the note that it was fired: Airflow needs a moment to store it. A triggerer that is
killed in between fires it again; the other way round it would be lost."""

log = logging.getLogger(__name__)


class AgentRunCompletedTrigger(BaseEventTrigger):
    """
    Fire for every run of an agent that ends, whoever started it: for an ``AssetWatcher``. Needs Airflow 3.0.

    ::

        prices = Asset(
            "sequentum://agent/7",
            watchers=[AssetWatcher(name="prices", trigger=AgentRunCompletedTrigger(agent_id=7))],
        )

    Each run fires once. The event's payload is the run's summary (``agent_id``, ``run_id``, ``status``, ``records``,
    ...), found at ``triggering_asset_events[...][...].extra["payload"]``. Runs that had ended when the watcher first
    started don't fire. On Airflow 3.3 what has fired is kept in the asset's state store, so that runs which end while
    no triggerer is running fire later and none fires twice; and watchers of one agent share one poll. Before 3.3 a
    restarted triggerer begins anew. Give every asset a trigger of its own: Airflow keeps state by asset.

    :param agent_id: the agent, as an int or a string of digits.
    :param ending: ``succeeded`` (default) for runs that ended well, or ``any``.
    :param poll_interval: seconds between two looks at the agent's runs. Default 60.
    :param sequentum_conn_id: the connection.
    """

    def __init__(
        self,
        *,
        agent_id: int | str,
        ending: str = "succeeded",
        poll_interval: float = 60.0,
        sequentum_conn_id: str = "sequentum_default",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.agent_id = parse_id("agent_id", agent_id)
        self.ending = parse_choice("ending", ending, RUN_ENDINGS)
        self.poll_interval = poll_interval
        self.sequentum_conn_id = sequentum_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class's path and the arguments, all of them primitives."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "agent_id": self.agent_id,
            "ending": self.ending,
            "poll_interval": self.poll_interval,
            "sequentum_conn_id": self.sequentum_conn_id,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll alone: what Airflow before 3.3 calls."""
        _, arguments = self.serialize()
        async for event in self.filter_shared_stream(self.open_shared_stream(arguments)):
            yield event

    def shared_stream_key(self) -> Hashable:
        """Return what the watchers have in common that share a poll."""
        return (self.sequentum_conn_id, self.agent_id, self.poll_interval)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[list[Run]]:
        """Yield the agent's newest runs again and again. What goes wrong is said in the log; it never ends."""
        from airflow_provider_sequentum.api import runs
        from airflow_provider_sequentum.api.errors import SequentumError
        from airflow_provider_sequentum.exceptions import SequentumException
        from airflow_provider_sequentum.hooks.sequentum import SequentumHook
        from airflow_provider_sequentum.jobs.port import WAITING_SHARE

        while True:
            try:
                async with await SequentumHook(kwargs["sequentum_conn_id"]).aget_client() as client:
                    while True:
                        call = runs.list_runs(kwargs["agent_id"], WATCHED_RUNS)
                        yield await client.send(call, budget_share=WAITING_SHARE)
                        await asyncio.sleep(kwargs["poll_interval"])
            except (SequentumError, SequentumException) as error:
                log.warning(
                    "Could not look at the runs of agent %s, trying again in %g s: %s (connection %r)",
                    kwargs["agent_id"],
                    PAUSE_AFTER_FAULT,
                    error,
                    kwargs["sequentum_conn_id"],
                )
                await asyncio.sleep(PAUSE_AFTER_FAULT)

    async def filter_shared_stream(self, shared_stream: AsyncIterator[list[Run]]) -> AsyncIterator[TriggerEvent]:
        """Yield an event for each run that has ended since, and remember it."""
        from airflow_provider_sequentum.lifecycle.announced_runs import AnnouncedRuns
        from airflow_provider_sequentum.runs.describe import run_summary

        announced = await self._remembered()
        async for listed in shared_stream:
            if announced is None:
                announced = AnnouncedRuns.beginning(listed, self.ending, WATCHED_RUNS)
                await self._remember(announced)
                continue
            if announced.is_cut_off(listed, WATCHED_RUNS):
                log.warning("Agent %s had more than %d runs since the last look.", self.agent_id, WATCHED_RUNS)
            news = announced.news(listed, self.ending)
            for run in news:
                log.info("Run %s of agent %s has ended.", run.id, self.agent_id)
                yield TriggerEvent(run_summary(run))  # type: ignore[no-untyped-call]
            following = announced.after(news, listed, WATCHED_RUNS)
            if following != announced:
                if news:
                    await asyncio.sleep(SETTLING_SECONDS)
                await self._remember(following)
            announced = following

    @property
    def _state_key(self) -> str:
        return f"sequentum_announced_runs:{self.sequentum_conn_id}:{self.agent_id}:{self.ending}"

    async def _remembered(self) -> AnnouncedRuns | None:
        from airflow_provider_sequentum.lifecycle.announced_runs import AnnouncedRuns

        if self._store is None:
            return None
        try:
            value = await self._store.aget(self._state_key)
        except ValueError:  # Airflow's word for: several assets have this trigger
            log.warning("Several assets share the trigger for agent %s: what has fired can't be kept.", self.agent_id)
            self.asset_state_store = None
            return None
        return AnnouncedRuns.from_json(value)

    async def _remember(self, announced: AnnouncedRuns) -> None:
        if self._store is not None:
            await self._store.aset(self._state_key, announced.to_json())

    @property
    def _store(self) -> Any:
        """The asset's state store; ``None`` before Airflow 3.3."""
        return getattr(self, "asset_state_store", None)
