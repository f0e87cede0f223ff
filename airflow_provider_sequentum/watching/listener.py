"""Someone who wants to know of all runs of an agent, whoever starts them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_sequentum.runs.phases import phase_of
from airflow_provider_sequentum.runs.wait import LONGEST_RUN_LIST, is_cut

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run

SHORTEST_LIST = 200
"""How many of an agent's newest runs are listed at least."""


class Listing(NamedTuple):
    """An agent's newest runs.

    :param runs: the runs, newest first.
    :param is_full: whether there may be older ones that were not listed.
    """

    runs: Collection[Run]
    is_full: bool


class Listener:
    """Hears of an agent's newest runs.

    :param agent_id: the agent.
    :param interval: seconds after which news is due.
    """

    def __init__(self, agent_id: int, interval: float) -> None:
        self.agent_id, self.interval = agent_id, interval
        self.list_size = LONGEST_RUN_LIST
        """How many runs to ask for. What was announced before this listener came may lie far back."""
        self._newest = 0
        self._news: asyncio.Queue[Listing | BaseException] = asyncio.Queue()

    def hear(self, listed: Sequence[Run], size: int) -> bool:
        """Take in the agent's newest runs; return whether it has to be asked for more at once.

        :param size: how many were asked for.
        """
        is_full = is_cut(listed, size)
        has_gap = is_full and min((run.id for run in listed), default=0) > self._newest > 0
        if has_gap and size < LONGEST_RUN_LIST:
            self.list_size = LONGEST_RUN_LIST
            return True
        # So that the oldest one that is still running stays in view.
        deepest = max((place for place, run in enumerate(listed, 1) if not phase_of(run).is_over), default=0)
        self.list_size = min(max(SHORTEST_LIST, 2 * deepest), LONGEST_RUN_LIST)
        self._newest = max((run.id for run in listed), default=self._newest)
        self._news.put_nowait(Listing(listed, is_full))
        return False

    def fail(self, error: BaseException) -> None:
        """Take in that the agent could not be looked at."""
        self._news.put_nowait(error)

    async def next_listing(self) -> Listing:
        """Return the next listing, or raise the next error."""
        news = await self._news.get()
        if isinstance(news, BaseException):
            raise news
        return news
