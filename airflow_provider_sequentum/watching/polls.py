"""Waits and listeners, and what is polled for them: the runs of an agent, or a page of the agents list.

A :class:`Wait` is for one run. A :class:`Listener` is notified of all runs of an agent, whoever starts them. Each
:class:`Poll` is one request at a time on behalf of all waits and listeners that its response concerns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_sequentum.runs.phases import phase_of, phase_of_status
from airflow_provider_sequentum.runs.wait import MAX_LISTED_RUNS, PollResult, RunPoller, is_cut

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_provider_sequentum.api.agents import Agent
    from airflow_provider_sequentum.api.call import Call
    from airflow_provider_sequentum.api.parsing import Page
    from airflow_provider_sequentum.api.run_status import RunStatus
    from airflow_provider_sequentum.api.runs import Run

MIN_INTERVAL = 5.0
"""Minimum number of seconds between two polls of an agent, unless a wait asks for another interval."""
CHECK_INTERVAL = 900.0
"""Seconds after which what is not expected to show anything new is polled all the same."""

_MIN_LIST = 20
MIN_LISTING = 200
"""Minimum number of an agent's newest runs that are listed for a listener."""

NO_PAGES = 0
"""The page size if pages are not used."""
PAGE_SIZES = (100, 50, 20, NO_PAGES)
"""How many agents to request on a page; fewer if the service refuses."""
LARGEST_SHARE = 4.0
"""How often a page is polled at most, compared with an agent: more would delay the agents and gain little."""
_MAX_PAGES = 100
"""Maximum number of pages, no matter how many agents the service reports."""


@dataclass(eq=False, slots=True)
class Wait:
    """One wait on the watch list.

    :param poller: decides what a response means for the wait.
    :param notify: called with the result or the error of a poll and, if the run has ended, the service's time of the
        response. An outcome or an error ends the wait.
    """

    poller: RunPoller
    notify: Callable[[PollResult, BaseException | None, datetime | None], None]
    is_last_look: bool = False

    @property
    def agent_id(self) -> int:
        """The agent."""
        return self.poller.spec.agent_id

    @property
    def run_id(self) -> int:
        """The run; 0 if it does not exist yet."""
        return self.poller.spec.run_id or 0

    @property
    def interval(self) -> float:
        """Minimum number of seconds between two polls on behalf of this wait."""
        asked_for = self.poller.spec.poll_interval
        return MIN_INTERVAL if asked_for is None else asked_for


class Listing(NamedTuple):
    """An agent's newest runs.

    :param runs: the runs, newest first.
    :param is_full: whether there may be older runs that were not listed.
    """

    runs: Collection[Run]
    is_full: bool


@dataclass(eq=False, slots=True)
class Listener:
    """Receives an agent's newest runs.

    :param agent_id: the agent.
    :param interval: maximum number of seconds between two polls, if the budget allows.
    :param notify: called with each listing, or with the error that kept the runs from being listed.
    """

    agent_id: int
    interval: float
    notify: Callable[[Listing | BaseException], None]


class AgentPoll:
    """An agent: who waits for its runs, who listens, what its page shows, and what is requested next.

    :param agent_id: the agent.
    :param since: the current time, by the steady clock.
    """

    __slots__ = (
        "agent_id", "alone", "asked_at", "asked_run", "asked_size", "has_failed", "interval", "is_asked", "list_size",
        "listeners", "lists_from", "missing", "newest_listed", "news_at", "page", "page_shows_news", "reach", "shown",
        "shows_end", "since", "waits",
    )  # fmt: skip

    def __init__(self, agent_id: int, since: float) -> None:
        self.agent_id = agent_id
        self.since = since
        """Start of the interval if it was not polled since: when it was added, or when its page started to show it."""
        self.waits: dict[int, list[Wait]] = {}
        """By run; at 0 those for a run that does not exist yet."""
        self.missing = self.alone = frozenset[int]()
        """The runs that its last list lacks, and those of them that are requested on their own before the next list."""
        self.lists_from = -math.inf
        """Until when only runs are requested, because the list was refused."""
        self.listeners: list[Listener] = []
        self.interval = math.inf
        """Minimum number of seconds between two polls on behalf of the waits."""
        self.is_asked = self.has_failed = False
        """Whether a request is in flight, and whether the last one failed."""
        self.asked_at = -math.inf
        """When something was requested last."""
        self.asked_run = 0
        """Which run was requested last; 0 for the list."""
        self.list_size = self.asked_size = _MIN_LIST
        """How many runs to request, and how many were requested."""
        self.newest_listed = self.reach = 0
        """The newest run that was listed, and the one that the next list has to reach for the listeners."""
        self.news_at: float | None = None
        """When it became known that there is news of its runs, until they have been listed."""
        self.page: PagePoll | None = None
        """The page of the agents list on which it is expected, if it needs one."""
        self.shown: tuple[RunStatus | int | str | None, datetime | None] | None = None
        """The status and time of the agent's last run, if it has one; ``None`` if no page has shown the agent yet."""
        self.shows_end: bool | None = None
        """Whether its last run is shown as ended; ``None`` if no run is shown."""
        self.page_shows_news = False
        """Whether its page shows when there is news for its listeners."""

    def __iter__(self) -> Iterator[Wait]:
        for waits in self.waits.values():
            yield from waits

    @property
    def is_idle(self) -> bool:
        """Whether no one waits or listens."""
        return not (self.waits or self.listeners)

    def add(self, who: Wait | Listener, now: float) -> None:
        """Add a wait, or a listener, which receives the runs now and whenever there is news."""
        if isinstance(who, Wait):
            self.waits.setdefault(who.run_id, []).append(who)
            self.interval = min(self.interval, who.interval)
        else:
            self.listeners.append(who)
            # Runs of interest may be far down the list.
            self.list_size, self.news_at, self.page_shows_news = MAX_LISTED_RUNS, now, False

    def remove(self, who: Wait | Listener) -> None:
        """Remove a wait or a listener."""
        if isinstance(who, Listener):
            self.listeners.remove(who)
            return
        waits = self.waits[who.run_id]
        waits.remove(who)
        if not waits:
            del self.waits[who.run_id]
            self.alone -= {who.run_id}

    def found(self, wait: Wait, run_id: int) -> None:
        """Note that the run of a wait exists now."""
        self.remove(wait)
        self.waits.setdefault(run_id, []).append(wait)

    # When it is polled, and for what

    def due(self) -> float:
        """Return when it is polled for those who wait; infinity if its page shows all that they wait for."""
        if self.is_left_to_page or not self.waits:
            return math.inf
        return max(self.asked_at + (0.0 if self.alone else self.interval), self.since)

    def news_due(self) -> float:
        """Return when it is polled for those who listen, or as a check of its page; infinity if it is not."""
        due = math.inf
        if self.is_left_to_page:
            due = max(self.asked_at, self.since) + max(self.interval, CHECK_INTERVAL)
        if self.news_at is not None and (self.listeners or self.is_left_to_page):
            due = min(due, self.news_at)
        elif self.listeners and not self.page_shows_news:
            interval = min(listener.interval for listener in self.listeners)
            due = min(due, max(self.asked_at + interval, self.since))
        return due

    def take_turn(self, now: float) -> None:
        """Decide which request is sent now. If no other run matters, it is for the run itself instead of the list."""
        others_matter = self.listeners or self.news_at is not None or self.is_left_to_page
        self.is_asked, self.asked_at, self.asked_size = True, now, self.list_size
        if not self.alone and (now < self.lists_from or (len(self.waits) == 1 and not others_matter)):
            self.alone = frozenset(self.waits) - {0}
        self.asked_run = min(self.alone, default=0)
        self.alone -= {self.asked_run}

    def call(self, run_id: int | None = None) -> Call[Any]:
        """Return the request that was decided on, or one for a run."""
        from airflow_provider_sequentum.api import runs

        run_id = self.asked_run if run_id is None else run_id
        return runs.status(self.agent_id, run_id) if run_id else runs.list_runs(self.agent_id, self.asked_size)

    def look_next(self, run_id: int) -> None:
        """Request a run next, on its own if the list lacks it."""
        self.alone = self.alone | {run_id} if run_id in self.missing else frozenset()

    def refuse_list(self, now: float) -> None:
        """Request each run on its own for some time, because the list was refused."""
        self.lists_from = now + CHECK_INTERVAL
        self.missing = self.alone = frozenset(self.waits) - {0}

    def concerned(self) -> list[Wait]:
        """Return the waits that the last request was for."""
        return list(self.waits.get(self.asked_run, ()) if self.asked_run else self)

    # What its list shows

    def may_be_cut(self, listed: Page[Run]) -> bool:
        """Return whether the service may have more runs than it listed and a longer list can be requested."""
        return self.asked_size <= listed.length < MAX_LISTED_RUNS

    def read_list(self, listed: Page[Run]) -> None:
        """Note which runs are missing in its list, adapt the length of the next one, and notify the listeners.

        If the list may have been cut before a run that matters, the next list is longer instead, and immediate if it
        is for listeners.
        """
        places = {run.id: place for place, run in enumerate(listed, 1)}
        missing = self.waits.keys() - places.keys() - {0}
        active = [run.id for run in listed if self.listeners and not phase_of(run).is_over]
        is_full, may_be_cut = is_cut(listed, self.asked_size), self.may_be_cut(listed)
        has_gap = bool(self.listeners) and is_full and min(places, default=0) > self.reach > 0
        if may_be_cut and (missing or has_gap or 0 in self.waits):
            self.list_size = min(self.asked_size * 4, MAX_LISTED_RUNS)
        else:
            self.missing = self.alone = frozenset(missing)
            deepest = max((places[run_id] for run_id in {*active, *self.waits} if run_id in places), default=0)
            shortest = MIN_LISTING if self.listeners else _MIN_LIST
            self.list_size = min(max(shortest, deepest + deepest // 4), MAX_LISTED_RUNS)
        if has_gap and may_be_cut:
            self.news_at = self.asked_at
            return
        if self.news_at is not None and self.news_at <= self.asked_at:
            self.news_at = None
        if self.listeners:
            self.reach = min([max(places, default=self.reach), *active])
            self.page_shows_news = self.news_at is None and self._is_shown_in_full(listed)
        for listener in tuple(self.listeners):
            listener.notify(Listing(listed, is_full))

    # What its page shows

    @property
    def last_run(self) -> int:
        """The run that its page shows, if it is waited for (otherwise 0): the agent's last run, as far as is known."""
        last = max(self.waits, default=0)
        return last if last >= self.newest_listed else 0

    @property
    def is_hinted(self) -> bool:
        """Whether its page shows that the last run has ended, which is waited for."""
        return self.news_at is not None and bool(self.shows_end and self.last_run)

    @property
    def is_left_to_page(self) -> bool:
        """Whether its page will show the end of everything that is waited for, so that it is only polled as a check."""
        is_read = self.page is not None and self.page.is_worth_it
        # After a failed poll it is polled again soon: two failed checks, many minutes apart, would look like an outage.
        is_shown = self.shows_end is False and not self.has_failed
        return is_read and is_shown and len(self.waits) == 1 and self.last_run > 0

    def _is_shown_in_full(self, listed: Sequence[Run]) -> bool:
        """Return whether its page shows the last of these runs, and will show when there is news."""
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
            self.news_at, self.page_shows_news = now, False
        elif self.shows_end is False and was_over is not False:
            self.since = now
        return True

    def see_nothing(self) -> None:
        """Process that no page shows it."""
        self.page, self.shown, self.shows_end, self.page_shows_news = None, None, None, False


class PagePoll:
    """A page of the agents list: it shows the status of the last run of a hundred agents.

    :param number: its number, from 1.
    :param size: agents on it.
    """

    __slots__ = ("agents", "asked_at", "has_failed", "is_asked", "number", "share", "size")

    def __init__(self, number: int, size: int) -> None:
        self.number, self.size = number, size
        self.agents: set[AgentPoll] = set()
        """The agents that are expected on it."""
        self.is_asked = self.has_failed = False
        """Whether a request is in flight, and whether the last one failed. Then its agents are polled directly."""
        self.asked_at = -math.inf
        self.share = 0.0
        """How often it is polled, compared with an agent."""

    def take_turn(self, now: float) -> None:
        """Note that the request is sent now."""
        self.is_asked, self.asked_at = True, now

    def call(self) -> Call[Page[Agent]]:
        """Return the request."""
        from airflow_provider_sequentum.api import agents

        return agents.list_agents(
            page=self.number, records_per_page=self.size, sort_column="lastActivity", descending=True
        )

    def fair_share(self) -> float:
        """Return how often to poll it, by how many of the runs that are waited for it shows, and an agent's list."""
        if self.has_failed:
            return 0.0
        # After a start, all agents are expected on the first page, which only shows as many as its size.
        waited_for = [agent for agent in islice(self.agents, self.size) if agent.waits]
        shown = sum(agent.last_run > 0 for agent in waited_for)
        listed = sum(len(agent.waits) for agent in waited_for) / max(len(waited_for), 1)
        return min(math.sqrt(shown / max(listed, 1.0)), LARGEST_SHARE)

    @property
    def is_worth_it(self) -> bool:
        """Whether it shows more of the runs that are waited for than an agent's list does."""
        return self.share > 1.0


class AgentPages:
    """The pages of the agents list, and which agent is expected on which.

    What a page shows is only a hint. Another run may have been started since, and the list may lag behind. So a hint
    merely causes the agent's runs to be polled next.

    The agents with the latest activity are listed first, so an agent whose run has just been started is on the first
    page. If an agent is missing from the page where it is expected, it is expected on the next one, because other
    agents have moved ahead of it. An agent whose last run has ended needs no page: its next run moves it to the first
    page.

    :param size: agents on a page.
    """

    def __init__(self, size: int = PAGE_SIZES[0]) -> None:
        self.size = size
        self.by_number: dict[int, PagePoll] = {}

    def expect(self, agent: AgentPoll, number: int) -> None:
        """Expect an agent on a page, or on none (0)."""
        page = self._page(number) if number else None
        if agent.page is not page:
            if agent.page is not None:
                agent.page.agents.discard(agent)
            if page is not None:
                page.agents.add(agent)
            agent.page = page

    def read(self, page: PagePoll, listed: Page[Agent], agents: Mapping[int, AgentPoll]) -> list[AgentPoll]:
        """Process a page.

        :param listed: the agents on the page and, unless it is the whole list, the total number of agents.
        :param agents: the agents of interest, by id.
        :return: the agents with news, and those that are on no page.
        """
        total = listed.total_record_count or 0
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
        if missing and page.number < min(math.ceil(total / self.size), _MAX_PAGES):
            following = self._page(page.number + 1)
            following.agents |= missing
            for agent in missing:
                agent.page = following
        else:
            for agent in missing:
                agent.see_nothing()
            changed += missing
        return changed

    def _page(self, number: int) -> PagePoll:
        if number not in self.by_number:
            self.by_number[number] = PagePoll(number, self.size)
        return self.by_number[number]


Poll = AgentPoll | PagePoll
