"""The pages of the agents list: each tells the status of the last run of a hundred agents.

That is a hint and no more. Another run may have been started since, and what the service shows there may be late. So a
hint only makes the agent's runs be polled next, and pages whose hints are often wrong are given up.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from airflow_provider_sequentum.runs.phases import phase_of_status

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agents import Agent

PAGE_SIZES = (100, 50, 20)
"""How many agents to ask for; less if the service refuses."""

FEWEST_AGENTS = 5
"""With fewer agents to look for, polling them directly is as good."""

_MOST_PAGES = 100
"""Pages that are looked at: what a service says it has is not trusted to be sensible."""
_MEMORY = 50.0
"""Hints after which older experience weighs half."""
_RELIABLE = 0.8
_CLOCK_TOLERANCE = 5.0
"""Seconds of difference of times that are both estimates, up to which a hint counts as given in time."""


class AgentPages:
    """What is known of the pages: who is on which, what they said last, how reliable they are.

    :param size: agents on a page.
    """

    def __init__(self, size: int = PAGE_SIZES[0]) -> None:
        self.size = size
        self.count = 1
        """How many pages there are, as far as is known."""
        self.unread = {1}
        self._page_of: dict[int, int] = {}
        self._on_page: dict[int, list[int]] = {}
        self._read_at: dict[int, float] = {}
        self._shown: dict[int, object] = {}
        self._right = 9.0
        self._tried = 10.0

    @property
    def are_reliable(self) -> bool:
        """Whether most ends that were found had been hinted at, and most hints led to one."""
        return self._right / self._tried >= _RELIABLE

    def page_of(self, agent_id: int) -> int | None:
        """Return the page that an agent was on."""
        return self._page_of.get(agent_id)

    def agents_on(self, page: int) -> Collection[int]:
        """Return the agents that were on a page."""
        return self._on_page.get(page, ())

    def shows_status(self, agent_id: int) -> bool:
        """Return whether the page of an agent tells how its last run is."""
        return self._shown.get(agent_id) is not None

    def may_show_status(self, agent_id: int) -> bool:
        """Return whether the page of an agent tells how its last run is, as far as is known."""
        return self._shown.get(agent_id, "unknown") is not None

    def should_have_told(self, agent_id: int, ended_at: float) -> bool:
        """Return whether an agent's page was read after its last run had ended: then the end should be known."""
        read_at = self._read_at.get(self._page_of.get(agent_id, 0))
        return read_at is not None and read_at > ended_at + _CLOCK_TOLERANCE

    def read(self, page: int, agents: Collection[Agent], total: int | None, asked_at: float) -> list[int]:
        """Take in a page.

        :param total: number of agents on all pages; ``None`` if the answer is the whole list.
        :param asked_at: when it was asked for, by the steady clock.
        :return: the agents whose last run is shown as ended, and was not when they were shown before.
        """
        self._read_at[page] = asked_at
        self._on_page[page] = [agent.id for agent in agents]
        known, self.count = self.count, min(max(1, -(-total // self.size)), _MOST_PAGES) if total is not None else 1
        self.unread.discard(page)
        self.unread |= set(range(known + 1, self.count + 1))
        self.unread -= set(range(self.count + 1, known + 1))
        return [agent.id for agent in agents if self._is_new_end(agent, page)]

    def read_all_again(self) -> None:
        """Look for agents that were on no page when it was read."""
        self.unread = set(range(1, self.count + 1))

    def smaller(self) -> AgentPages | None:
        """Return smaller pages, of which nothing is known yet; ``None`` if there are none."""
        return next((AgentPages(size) for size in PAGE_SIZES if size < self.size), None)

    def forget(self, agent_id: int) -> None:
        """Forget what was shown of an agent, so that its last run counts as news if it is shown as ended."""
        self._shown.pop(agent_id, None)

    def learn(self, *, was_right: bool) -> None:
        """Learn from a hint that was right or led to nothing, or from an end that should have been hinted at."""
        self._right += was_right
        self._tried += 1
        if self._tried > _MEMORY:
            self._right, self._tried = self._right / 2, self._tried / 2

    def _is_new_end(self, agent: Agent, page: int) -> bool:
        shown = None if agent.status is None else (agent.status, agent.last_activity)
        is_new = self._shown.get(agent.id) != shown
        self._page_of[agent.id], self._shown[agent.id] = page, shown
        return is_new and agent.status is not None and phase_of_status(agent.status).is_over
