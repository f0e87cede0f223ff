"""The pages of the agents list: each shows the status of the last run of a hundred agents.

This is only a hint. Another run may have been started since, and the list may lag behind. So a hint merely causes the
agent's runs to be polled next, and the pages are abandoned if they are wrong more often than right.

The agents with the latest activity are listed first, so an agent whose run has just been started is on the first page.
An agent that is missing on the page where it is expected is then expected on the next one, because other agents have
moved ahead of it. An agent whose last run has ended needs no page: its next run moves it to the first one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow_provider_sequentum.watching.polls import AgentPoll, PagePoll

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agents import Agent
    from airflow_provider_sequentum.api.parsing import Page

NO_PAGES = 0
"""The page size that means that pages are not used."""
PAGE_SIZES = (100, 50, 20, NO_PAGES)
"""How many agents to request; fewer if the service refuses."""

_FEWEST_AGENTS = 5
"""With fewer agents, polling them directly is just as good."""
_MOST_PAGES = 100
"""Maximum number of pages, whatever total the service states."""
_MOST_WRONG = 5
"""By how many the wrong hints may outnumber the right ones."""


class AgentPages:
    """The pages, and which agents are expected on each.

    :param size: agents on a page.
    """

    def __init__(self, size: int = PAGE_SIZES[0]) -> None:
        self.size = size
        self.pages = {1: PagePoll(1, size)}
        """By their numbers. The agents that need no page are on number 0, which does not exist."""
        self._count = 1
        """How many pages there are, as far as is known."""
        self._wrong = 0

    @property
    def are_reliable(self) -> bool:
        """Whether the pages show when runs end, and hints turn out to be right."""
        return self._wrong < _MOST_WRONG

    def learn(self, *, was_right: bool) -> None:
        """Learn from a hint that was right or wrong, or from an end without a hint."""
        self._wrong = max(self._wrong + (-1 if was_right else 1), 0)

    def are_worth_it(self, agents: int) -> bool:
        """Return whether there are far fewer pages to read than agents to poll."""
        needed = 1 + sum(bool(page.agents) for page in self.pages.values() if page.number > 1)
        return self.size != NO_PAGES and agents >= _FEWEST_AGENTS and 2 * needed <= agents

    def smaller(self) -> int:
        """Return the size to use if the service refuses this one."""
        return next(size for size in PAGE_SIZES if size < self.size)

    def expect(self, agent: AgentPoll, number: int) -> None:
        """Expect an agent on a page, or on none (0)."""
        if agent.page != number:
            self.leave(agent)
            self._agents_on(number).add(agent)
            agent.page = number

    def leave(self, agent: AgentPoll) -> None:
        """Forget an agent."""
        self._agents_on(agent.page).discard(agent)

    def read(self, page: PagePoll, listed: Page[Agent], agents: Mapping[int, AgentPoll]) -> list[AgentPoll]:
        """Process a page.

        :param listed: the agents on the page and, unless it is the whole list, the total number of agents.
        :param agents: the agents of interest, by id.
        :return: the agents with news, and those that are on no page.
        """
        total = listed.total_record_count
        self._count = min(max(1, math.ceil(total / self.size)), _MOST_PAGES) if total is not None else 1
        found, changed = set(), []
        for shown in listed:
            if (agent := agents.get(shown.id)) is not None:
                if agent.see(shown, page.asked_at):
                    changed.append(agent)
                self.expect(agent, page.number if agent.shows_end is False else 0)
                found.add(agent)
        # With set operations, because after a start all agents are missing, possibly ten thousand on each page.
        missing = page.agents.difference(found)
        page.agents &= found
        following = page.number + 1 if page.number < self._count else 0
        self._agents_on(following).update(missing)
        for agent in missing:
            agent.page = following
            if not following:
                agent.see_nothing()
                changed.append(agent)
        return changed

    def _agents_on(self, number: int) -> set[AgentPoll]:
        if number not in self.pages:
            self.pages[number] = PagePoll(number, self.size)
        return self.pages[number].agents
