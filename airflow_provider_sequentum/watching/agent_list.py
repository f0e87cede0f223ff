"""The pages of the agents list: each tells the status of the last run of a hundred agents.

That is a hint and no more. Another run may have been started since, and what the service shows there may be late. So a
hint only makes the agent's runs be polled next, and pages that are wrong more often than right are given up.

The agents whose last activity is the latest are listed first. So an agent whose run has just been started is on the
first page. An agent that is not on the page on which it is expected is expected on the next one: others were pushed in
front of it. An agent whose last run is over needs no page: its next run brings it back to the first one.
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
"""The size of pages that are of no use."""
PAGE_SIZES = (100, 50, 20, NO_PAGES)
"""How many agents to ask for; less if the service refuses."""

_FEWEST_AGENTS = 5
"""With fewer agents to look for, polling them directly is as good."""
_MOST_PAGES = 100
"""Pages that are looked at: what a service says it has is not trusted to be sensible."""
_MOST_WRONG = 5
"""By how much wrong hints may outnumber right ones."""


class AgentPages:
    """The pages, and which agents are expected on each.

    :param size: agents on a page.
    """

    def __init__(self, size: int = PAGE_SIZES[0]) -> None:
        self.size = size
        self.pages = {1: PagePoll(1, size)}
        """By their numbers. On number 0, which does not exist, are the agents that need no page."""
        self._count = 1
        """How many there are, as far as is known."""
        self._wrong = 0

    @property
    def are_reliable(self) -> bool:
        """Whether the pages tell of ends, and hints lead to one."""
        return self._wrong < _MOST_WRONG

    def learn(self, *, was_right: bool) -> None:
        """Learn from a hint that was right or led to nothing, or from an end that should have been hinted at."""
        self._wrong = max(self._wrong + (-1 if was_right else 1), 0)

    def are_worth_it(self, agents: int) -> bool:
        """Return whether the pages to read are far fewer than the agents that are looked for."""
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
        """Take in a page.

        :param listed: the agents on it, and how many there are on all pages; unless it is the whole list.
        :param agents: those that are looked for, by their ids.
        :return: those of which it shows something new, and those that are on no page.
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
        # All at once, because after a start these are all agents: ten thousand, for each page again.
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
