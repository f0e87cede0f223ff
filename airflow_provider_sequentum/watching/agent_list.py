"""
Where to look: the list of agents tells each agent's last-run status, a hundred agents to a request.

That is a hint and no more. Somebody else may have started another run since, and what the service shows there may be
late. So a hint only brings a poll forward, and how far hints are relied on is learnt: from those that were right,
those that led to nothing, and the ends that should have been hinted at and were not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from airflow_provider_sequentum.runs.phases import phase_of_status

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agents import Agent

AGENTS_PER_PAGE = 100
FEWEST_AGENTS = 5
"""With fewer agents to look for, asking them directly is as good."""

_MOST_PAGES = 100
"""Pages that are looked at: what a service says it has is not trusted to be sensible."""
_MEMORY = 50.0
"""Hints after which older experience weighs half."""
_CLOCK_TOLERANCE = 5.0
"""Seconds by which the service's clock may differ from ours before the ends it tells are misjudged."""


class AgentHints:
    """What is known of the pages of the agents list: who is on which, what they said last, how reliable they are."""

    def __init__(self) -> None:
        self._page_of: dict[int, int] = {}
        self._on_page: dict[int, list[int]] = {}
        self._read_at: dict[int, float] = {}
        self._said: dict[int, object] = {}
        self._unread = {1}
        self._pages = 1
        self._right = 1.0
        self._tried = 2.0

    @property
    def pages(self) -> range:
        """The numbers of the pages there are, as far as is known."""
        return range(1, self._pages + 1)

    @property
    def reliability(self) -> float:
        """The part of the ends that hints tell of, from 0 to 1."""
        return self._right / self._tried

    def chance(self, agent_id: int, page: int | None = None) -> float:
        """
        Return the probability that the end of an agent's last run is hinted at.

        :param page: on this page; ``None`` for the pages that have been read.
        """
        place = self._page_of.get(agent_id)
        if place is None:
            return self.reliability / len(self._unread) if page in self._unread else 0.0
        return self.reliability if page in (place, None) else 0.0

    def should_have_told(self, agent_id: int, ended_at: float) -> bool:
        """Whether an agent's page was read after its last run had ended, so that its end should have been noticed."""
        read_at = self._read_at.get(self._page_of.get(agent_id, 0))
        return read_at is not None and read_at > ended_at + _CLOCK_TOLERANCE

    def agents_on(self, page: int, agents: Mapping[int, object]) -> list[int]:
        """Return those of the agents that are on a page, or may be because it has not been read yet."""
        if page in self._unread:
            return [agent_id for agent_id in agents if agent_id not in self._page_of]
        return [agent_id for agent_id in self._on_page.get(page, ()) if agent_id in agents]

    def read(self, page: int, agents: Iterable[Agent], total: int | None, asked_at: float) -> list[int]:
        """
        Take in a page, and return the agents whose last run seems to have ended since their page was read last.

        :param total: number of agents on all pages; ``None`` if the answer is the whole list.
        :param asked_at: when the page was asked for, by the steady clock.
        """
        agents = list(agents)
        self._unread.discard(page)
        self._read_at[page] = asked_at
        self._on_page[page] = [agent.id for agent in agents]
        pages = min(max(1, -(-total // AGENTS_PER_PAGE)), _MOST_PAGES) if total is not None else 1
        self._unread |= set(range(self._pages + 1, pages + 1))
        self._unread -= set(range(pages + 1, self._pages + 1))
        self._pages = pages
        return [agent.id for agent in agents if self._is_news(agent, page)]

    def learn(self, *, was_right: bool) -> None:
        """Learn from a hint that was right or led to nothing, or from an end that should have been hinted at."""
        self._right += was_right
        self._tried += 1
        if self._tried > _MEMORY:
            self._right, self._tried = self._right / 2, self._tried / 2

    def _is_news(self, agent: Agent, page: int) -> bool:
        said = (agent.status, agent.last_activity)
        is_new = self._said.get(agent.id) != said
        self._page_of[agent.id], self._said[agent.id] = page, said
        return is_new and agent.status is not None and phase_of_status(agent.status).is_over
