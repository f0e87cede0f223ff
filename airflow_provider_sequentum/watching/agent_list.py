"""The pages of the agents list: each tells the status of the last run of a hundred agents.

That is a hint and no more. Another run may have been started since, and what the service shows there may be late. So a
hint only makes the agent's runs be polled next, and pages whose hints are often wrong are given up.

The agents whose last activity is the latest are listed first. So an agent whose run has just been started is on the
first page; from there it is only ever pushed back, to the page that follows.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from airflow_provider_sequentum.runs.phases import phase_of_status

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_provider_sequentum.api.agents import Agent
    from airflow_provider_sequentum.api.call import Call
    from airflow_provider_sequentum.api.parsing import Page
    from airflow_provider_sequentum.api.run_status import RunStatus

NO_PAGES = 0
"""The size of pages that are of no use."""
PAGE_SIZES = (100, 50, 20, NO_PAGES)
"""How many agents to ask for; less if the service refuses."""

FEWEST_AGENTS = 5
"""With fewer agents to look for, polling them directly is as good."""

NOT_FOUND, _ANYWHERE = 0, -1
"""In place of a page. Where an agent is whose last run is over does not matter to who waits for its next one."""
_MOST_PAGES = 100
"""Pages that are looked at: what a service says it has is not trusted to be sensible."""
_MEMORY = 50.0
"""Hints after which older experience weighs half."""
_RELIABLE = 0.8
_CLOCK_TOLERANCE = 5.0
"""Seconds of difference of times that are both estimates, up to which a hint counts as given in time."""


class AgentPages:
    """What is known of the pages: which agent is on which, what they said last, how reliable they are.

    :param size: agents on a page.
    """

    def __init__(self, size: int = PAGE_SIZES[0]) -> None:
        self.size = size
        self.count = 1
        """How many pages there are, as far as is known."""
        self.unread = {1}
        """Pages on which to look for agents that were not found."""
        self._page_of: dict[int, int] = {}
        self._on_page: dict[int, set[int]] = {}
        self._read_at: dict[int, float] = {}
        self._shown: dict[int, tuple[RunStatus | int | str, datetime | None] | None] = {}
        self._only_next_run: set[int] = set()
        self._right = 9.0
        self._tried = 10.0

    def call_for(self, page: int) -> Call[Page[Agent]]:
        """Return the request of a page."""
        from airflow_provider_sequentum.api import agents

        return agents.list_agents(page=page, records_per_page=self.size, sort_column="lastActivity", descending=True)

    @property
    def are_reliable(self) -> bool:
        """Whether most ends that were found had been hinted at, and most hints led to one."""
        return self._right / self._tried >= _RELIABLE

    @property
    def needed(self) -> float:
        """How many pages have to be read regularly: the first one, and those with agents that are looked for."""
        if self.size == NO_PAGES:
            return math.inf
        return 1 + sum(bool(agents) for page, agents in self._on_page.items() if page > 1)

    def look_for(self, agent_id: int, *, only_next_run: bool = False) -> None:
        """Look for an agent from now on.

        :param only_next_run: whether a run that is over is of no interest, so that the agent comes up again with its
            next run, on the first page.
        """
        (self._only_next_run.add if only_next_run else self._only_next_run.discard)(agent_id)
        if self._page_of.get(agent_id, _ANYWHERE) == _ANYWHERE:
            self._place(agent_id, NOT_FOUND)

    def look_no_more_for(self, agent_id: int) -> None:
        """Forget an agent."""
        self._on_page.get(self._page_of.pop(agent_id, NOT_FOUND), set()).discard(agent_id)
        self._shown.pop(agent_id, None)
        self._only_next_run.discard(agent_id)

    def agents_on(self, page: int) -> Collection[int]:
        """Return the agents that are looked for on a page, or :data:`NOT_FOUND`."""
        return self._on_page.get(page, ())

    def may_show_status(self, agent_id: int) -> bool:
        """Return whether the page of an agent tells how its last run is, as far as is known."""
        return self._shown.get(agent_id, "unknown") is not None

    def knows(self, agent_id: int) -> bool:
        """Return whether an agent was seen on its page, whatever that tells of it."""
        return agent_id in self._shown

    def shows_end(self, agent_id: int) -> bool | None:
        """Return whether an agent's last run is shown as ended; ``None`` if it is shown to have none, or not shown."""
        shown = self._shown.get(agent_id)
        return None if shown is None else phase_of_status(shown[0]).is_over

    def should_have_told(self, agent_id: int, ended_at: float) -> bool:
        """Return whether an agent's page was read after its last run had ended: then the end should be known."""
        read_at = self._read_at.get(self._page_of.get(agent_id, NOT_FOUND))
        return read_at is not None and agent_id in self._shown and read_at > ended_at + _CLOCK_TOLERANCE

    def read(self, page: int, agents: Page[Agent], asked_at: float) -> dict[int, bool]:
        """Take in a page.

        :param agents: the agents on it, and how many there are on all pages; unless it is the whole list.
        :param asked_at: when it was asked for, by the steady clock.
        :return: the agents that are looked for and have news, and whether that is that the last run has ended; else it
            is that one which was not over is no longer the last one.
        """
        self._read_at[page] = asked_at
        total, known = agents.total_record_count, self.count
        self.count = min(max(1, -(-total // self.size)), _MOST_PAGES) if total is not None else 1
        self.unread = {number for number in self.unread - {page} if number <= self.count}
        listed = {agent.id: agent for agent in agents if agent.id in self._page_of}
        for agent_id in self._on_page.get(page, set()) - listed.keys():
            self._place(agent_id, page + 1 if page < self.count else NOT_FOUND)
            self._shown.pop(agent_id, None)
        news = {agent.id: is_end for agent in listed.values() if (is_end := self._see(agent, page)) is not None}
        if self._on_page.get(NOT_FOUND):
            self.unread |= set(range(known + 1, self.count + 1))
        return news

    def read_all_again(self) -> None:
        """Look for agents that were on no page when it was read."""
        self.unread = set(range(1, self.count + 1))

    def next_size(self) -> int:
        """Return the size to use if the service refuses this one."""
        return next(size for size in PAGE_SIZES if size < self.size)

    def forget(self, agent_id: int) -> None:
        """Forget what was shown of an agent, so that its last run counts as news if it is shown as ended."""
        self._shown.pop(agent_id, None)

    def learn(self, *, was_right: bool) -> None:
        """Learn from a hint that was right or led to nothing, or from an end that should have been hinted at."""
        self._right += was_right
        self._tried += 1
        if self._tried > _MEMORY:
            self._right, self._tried = self._right / 2, self._tried / 2

    def _see(self, agent: Agent, page: int) -> bool | None:
        """Take in what is shown of an agent; return whether it is news of an end, ``None`` if it is no news."""
        shown = None if agent.status is None else (agent.status, agent.last_activity)
        before, was_over = self._shown.get(agent.id), self.shows_end(agent.id)
        self._shown[agent.id] = shown
        is_over = self.shows_end(agent.id)
        is_at_rest = is_over is not False and agent.id in self._only_next_run
        self._place(agent.id, _ANYWHERE if is_at_rest else page)
        if shown is None or shown == before:
            return None
        if is_over:
            return True
        is_another_run = before is not None and before[1] != shown[1]
        return False if is_another_run and not was_over else None

    def _place(self, agent_id: int, page: int) -> None:
        self._on_page.get(self._page_of.get(agent_id, page), set()).discard(agent_id)
        self._page_of[agent_id] = page
        self._on_page.setdefault(page, set()).add(agent_id)
