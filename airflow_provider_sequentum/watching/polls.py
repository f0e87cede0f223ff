"""Waits and listeners, and what is polled for them: the runs of an agent, or a page of the agents list.

A :class:`Wait` is for one run. A :class:`Listener` is notified of all runs of an agent, whoever starts them. Each
:class:`Poll` is one request on behalf of all waits and listeners that its response concerns.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_sequentum.runs.phases import phase_of, phase_of_status
from airflow_provider_sequentum.runs.wait import LONGEST_RUN_LIST, PollResult, RunPoller, is_cut, length_of

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_provider_sequentum.api.agents import Agent
    from airflow_provider_sequentum.api.call import Call
    from airflow_provider_sequentum.api.parsing import Page
    from airflow_provider_sequentum.api.run_status import RunStatus
    from airflow_provider_sequentum.api.runs import Run

SHORTEST_INTERVAL = 5.0
"""Minimum number of seconds between two polls of an agent or a run, unless a wait asks for another interval."""

_SHORTEST_LIST = 20

SHORTEST_LISTING = 200
"""Minimum number of an agent's newest runs that are listed for a listener."""

NO_PAGES = 0
"""The page size if pages are not used."""
PAGE_SIZES = (100, 50, 20, NO_PAGES)
"""How many agents to request on a page; fewer if the service refuses."""

_MIN_AGENTS = 5
"""With fewer agents, polling them directly is just as good."""
_MAX_PAGES = 100
"""Maximum number of pages, no matter how many agents the service reports."""
_MAX_WRONG = 5
"""How many more hints may be wrong than right before pages are abandoned."""


Notify = Callable[[PollResult, BaseException | None, "datetime | None"], None]


class Wait:
    """One wait on the watch list.

    :param poller: decides what a response means for the wait.
    :param notify: called with the result or the error of a poll and, if the run has ended, the service's time of the
        response. An outcome or an error ends the wait.
    """

    __slots__ = ("is_last_look", "notify", "poller")

    def __init__(self, poller: RunPoller, notify: Notify) -> None:
        self.poller, self.notify = poller, notify
        self.is_last_look = False

    @property
    def interval(self) -> float:
        """Minimum number of seconds between two polls on behalf of this wait."""
        asked_for = self.poller.spec.poll_interval
        return SHORTEST_INTERVAL if asked_for is None else asked_for


class Listing(NamedTuple):
    """An agent's newest runs.

    :param runs: the runs, newest first.
    :param is_full: whether there may be older runs that were not listed.
    """

    runs: Collection[Run]
    is_full: bool


class Listener:
    """Receives an agent's newest runs.

    :param agent_id: the agent.
    :param interval: maximum number of seconds between two polls, if the budget allows.
    """

    def __init__(self, agent_id: int, interval: float) -> None:
        self.agent_id, self.interval = agent_id, interval
        self.list_size = LONGEST_RUN_LIST
        """How many runs to request. At first, runs of interest may be far down the list."""
        self._newest = 0
        self._news: asyncio.Queue[Listing | BaseException] = asyncio.Queue()

    def notify(self, listed: Sequence[Run], size: int) -> bool:
        """Process the agent's newest runs; return whether more of them have to be requested immediately.

        :param size: how many were requested.
        """
        is_full = is_cut(listed, size)
        has_gap = is_full and min((run.id for run in listed), default=0) > self._newest > 0
        if has_gap and size < LONGEST_RUN_LIST:
            self.list_size = LONGEST_RUN_LIST
            return True
        # The next list must include the oldest active run.
        deepest = max((place for place, run in enumerate(listed, 1) if not phase_of(run).is_over), default=0)
        self.list_size = min(max(SHORTEST_LISTING, 2 * deepest), LONGEST_RUN_LIST)
        self._newest = max((run.id for run in listed), default=self._newest)
        self._news.put_nowait(Listing(listed, is_full))
        return False

    def fail(self, error: BaseException) -> None:
        """Process an error that kept the agent's runs from being listed."""
        self._news.put_nowait(error)

    async def next_listing(self) -> Listing:
        """Return the next listing, or raise the next error."""
        news = await self._news.get()
        if isinstance(news, BaseException):
            raise news
        return news


class AgentPoll:
    """The poll of an agent's runs, or of one run that is missing from the agent's list, with its waits and listeners.

    :param agent_id: the agent.
    :param run_id: the run that is polled on its own, if any.
    :param since: the current time, by the steady clock.
    """

    __slots__ = (
        "agent_id", "asked_at", "asked_size", "has_failed", "hinted_at", "hints", "interval", "is_asked",
        "is_left_to_page", "list_size", "listeners", "newest_listed", "page", "page_shows_news", "run_id", "runs",
        "searches", "shown", "shows_end", "since", "unlisted", "wants_list",
    )  # fmt: skip

    def __init__(self, agent_id: int, run_id: int | None, since: float) -> None:
        self.agent_id, self.run_id = agent_id, run_id
        self.since = since
        """Start of the interval if there was no poll since: when it was added, or when its page started to show it."""
        self.runs: dict[int, list[Wait]] = {}
        self.searches: list[Wait] = []
        """Waits for a run that does not exist yet."""
        self.unlisted: dict[int, AgentPoll] = {}
        """Runs that are polled on their own, because they are missing from the list."""
        self.listeners: list[Listener] = []
        self.is_asked = self.has_failed = False
        """Whether a request is in flight, and whether the last one failed."""
        self.asked_at = -math.inf
        self.interval = math.inf
        """Minimum number of seconds between two polls on behalf of the waits."""
        self.list_size = self.asked_size = _SHORTEST_LIST
        """How many runs to request, so that the list includes the oldest one waited for. 0: request only one run."""
        self.newest_listed = 0
        self.wants_list = False
        """Whether its runs have to be listed, because there is news of them."""
        self.page = 0
        """The number of the page on which the agent is expected; 0 if it needs none."""
        self.shown: tuple[RunStatus | int | str | None, datetime | None] | None = None
        """The status and time of the agent's last run, if it has one; ``None`` if no page has shown the agent yet."""
        self.shows_end: bool | None = None
        """Whether its last run is shown as ended; ``None`` if no run is shown."""
        self.page_shows_news = False
        """Whether its page will show when there is news for its listeners."""
        self.is_left_to_page = False
        """Whether its page will show the end of everything that is waited for, so that polls are only checks."""
        self.hinted_at: float | None = None
        """When its page showed that the last run had ended; ``None`` once this has been checked."""
        self.hints = 0
        """How many ends its page has shown since the last wait was added. The first one may be of an older run."""

    def __iter__(self) -> Iterator[Wait]:
        for waits in self.runs.values():
            yield from waits
        yield from self.searches

    @property
    def is_waited_for(self) -> bool:
        """Whether there is a wait, not just a listener."""
        return bool(self.runs or self.searches)

    @property
    def is_idle(self) -> bool:
        """Whether no one waits or listens."""
        return not (self.is_waited_for or self.listeners or self.unlisted)

    def add(self, wait: Wait) -> None:
        """Add a wait."""
        run_id = wait.poller.spec.run_id
        (self.searches if run_id is None else self.runs.setdefault(run_id, [])).append(wait)
        self.interval = min(self.interval, wait.interval)
        self.hints = 0

    def remove(self, wait: Wait) -> None:
        """Remove a wait."""
        run_id = wait.poller.spec.run_id
        waits = self.searches if run_id is None else self.runs[run_id]
        waits.remove(wait)
        if run_id is not None and not waits:
            del self.runs[run_id]

    def call(self) -> Call[Any]:
        """Return the request: the list of runs or, if only one run matters, that run."""
        from airflow_provider_sequentum.api import runs

        others_matter = self.searches or self.unlisted or self.listeners or self.wants_list or self.is_left_to_page
        if len(self.runs) == 1 and not others_matter:
            self.asked_size = 0
            return runs.status(self.agent_id, next(iter(self.runs)))
        self.asked_size = max([self.list_size, *(listener.list_size for listener in self.listeners)])
        return runs.list_runs(self.agent_id, self.asked_size)

    def may_be_cut(self, listed: Sequence[object]) -> bool:
        """Return whether the service may have more runs than it listed and a longer list can be requested."""
        return self.asked_size <= length_of(listed) < LONGEST_RUN_LIST

    def missing_in(self, listed: Sequence[Run]) -> set[int]:
        """Return the runs waited for that are missing from the list, and adapt the length of the next list.

        If the list may have been cut, none counts as missing, and the next list is longer.
        """
        missing = self.runs.keys() - {run.id for run in listed}
        if self.may_be_cut(listed) and (missing or self.searches):
            self.list_size = min(self.asked_size * 4, LONGEST_RUN_LIST)
            return set()
        if not self.searches:
            deepest = max((place for place, run in enumerate(listed, 1) if run.id in self.runs), default=0)
            self.list_size = min(max(_SHORTEST_LIST, deepest + deepest // 4), LONGEST_RUN_LIST)
        return missing

    # What its page shows

    @property
    def last_run(self) -> int | None:
        """The agent's last run, which its page shows, as far as is known; ``None`` if it is not waited for."""
        last = max(self.runs, default=0)
        return last if last and last >= self.newest_listed else None

    def is_shown_on_page(self) -> bool:
        """Return whether its page will show the end of everything that is waited for."""
        # After a failed poll, it is polled again soon: two failed checks many minutes apart would look like an outage.
        is_shown = self.shows_end is False and not self.has_failed
        return is_shown and len(self.runs) == 1 and not self.searches and self.last_run is not None

    def shows_last_of(self, listed: Iterable[Run]) -> bool:
        """Return whether its page shows the last of these runs, so that it will show when there is news."""
        are_over = [phase_of(run).is_over for run in sorted(listed, key=lambda run: -run.id)]
        last_is_over = are_over[0] if are_over else None
        return self.shown is not None and self.shows_end is last_is_over and all(are_over[1:])

    def see(self, agent: Agent, now: float) -> bool:
        """Process what its page shows; return whether that has changed."""
        before, was_over = self.shown, self.shows_end
        shown = (agent.status, agent.last_activity)
        if shown == before:
            return False
        self.shown, self.shows_end = shown, None if shown[0] is None else phase_of_status(shown[0]).is_over
        is_another_run = before is not None and before[1] != shown[1]
        if self.shows_end or (is_another_run and not was_over):
            self.wants_list, self.page_shows_news = True, False
        if self.shows_end:
            self.hints += 1
            self.hinted_at = now
        elif self.shows_end is False and was_over is not False:
            self.since = now
        return True

    def see_nothing(self) -> None:
        """Process that no page shows it."""
        self.shown, self.shows_end, self.page_shows_news = None, None, False


class PagePoll:
    """A page of the agents list.

    :param number: its number, from 1.
    :param size: agents on it.
    """

    __slots__ = ("agents", "asked_at", "is_asked", "is_idle", "number", "share", "size")

    def __init__(self, number: int, size: int) -> None:
        self.number, self.size = number, size
        self.agents: set[AgentPoll] = set()
        """The agents that are expected on it."""
        self.is_asked = False
        self.asked_at = -math.inf
        self.is_idle = False
        """Whether it shows fewer runs than the lists of the agents, so that it is rarely polled and not relied on."""
        self.share = 1.0
        """How often it is polled, compared with an agent."""

    def call(self) -> Call[Page[Agent]]:
        """Return the request."""
        from airflow_provider_sequentum.api import agents

        return agents.list_agents(
            page=self.number, records_per_page=self.size, sort_column="lastActivity", descending=True
        )


class AgentPages:
    """The pages of the agents list: each shows the status of the last run of a hundred agents.

    This is only a hint. Another run may have been started since, and the list may lag behind. So a hint only causes the
    agent's runs to be polled next, and the pages are abandoned if they are wrong more often than right.

    The agents with the latest activity are listed first, so an agent whose run has just been started is on the first
    page. If an agent is missing from the page where it is expected, it is expected on the next one, because other
    agents have moved ahead of it. An agent whose last run has ended needs no page: its next run moves it to the first
    page.

    :param size: agents on a page.
    """

    def __init__(self, size: int = PAGE_SIZES[0]) -> None:
        self.size = size
        self.pages = {1: PagePoll(1, size)}
        """The pages by number. Agents that need no page are on page 0, which does not exist."""
        self._count = 1
        """The number of pages, as far as is known."""
        self._wrong = 0

    @property
    def are_reliable(self) -> bool:
        """Whether the pages show when runs end, and hints turn out to be right."""
        return self._wrong < _MAX_WRONG

    def learn(self, *, was_right: bool) -> None:
        """Process a hint that was right or wrong, or an end without a hint."""
        self._wrong = max(self._wrong + (-1 if was_right else 1), 0)

    def are_worth_it(self, agents: int) -> bool:
        """Return whether there are far fewer pages to read than agents to poll."""
        needed = 1 + sum(bool(page.agents) for page in self.pages.values() if page.number > 1)
        return self.size != NO_PAGES and agents >= _MIN_AGENTS and 2 * needed <= agents

    def smaller(self) -> int:
        """Return the size to use if the service refuses this one."""
        return next(size for size in PAGE_SIZES if size < self.size)

    def expect(self, agent: AgentPoll, number: int) -> None:
        """Expect an agent on a page; 0 for none."""
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
        self._count = min(max(1, math.ceil(total / self.size)), _MAX_PAGES) if total is not None else 1
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


Poll = AgentPoll | PagePoll
