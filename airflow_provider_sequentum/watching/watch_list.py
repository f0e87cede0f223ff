"""All waits of one connection, as data: what to poll next, and what a response means to whom.

One request serves every wait on an agent. The list processes responses and errors, and notifies the waits; the watcher
sends the polls. Each wait decides for itself (:class:`~airflow_provider_sequentum.runs.wait.RunPoller`), and only the
record of its run ends it.

There are two simple rules. The agents are polled in turn, each for all of its runs. Pages of the agents list are polled
in addition, in proportion to the number of runs that they show, and an agent whose page shows everything that is waited
for is polled only when its run is shown as ended, and occasionally as a check. ``docs/waiting-measured.md`` explains
why the usual duration of runs is not taken into account.

Listeners (asset watchers) get what is left of the budget, and at least every fifth poll.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections import Counter
from collections.abc import Hashable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.exceptions import SequentumException
from airflow_provider_sequentum.jobs.port import FAULT_TOLERANCE, fault_tolerance
from airflow_provider_sequentum.runs.wait import FirstRunUncertain, PollOutcome, PollResult, first_run_since
from airflow_provider_sequentum.watching.polls import (
    CHECK_INTERVAL,
    MIN_INTERVAL,
    NO_PAGES,
    PAGE_SIZES,
    AgentPages,
    AgentPoll,
    Listener,
    PagePoll,
    Poll,
    Wait,
)

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agents import Agent
    from airflow_provider_sequentum.api.call import Call
    from airflow_provider_sequentum.api.runs import Run

PAGE_INTERVAL = 1.0
"""Minimum number of seconds between two polls of a page."""
MIN_AGENTS = 5
"""With fewer agents, polling them directly is just as good as the pages of the agents list."""
TURNS_OF_WAITS = 4
"""Number of polls for waits after which there is one in the background, if it is due."""
MAX_WRONG = 5
"""By how many the ends that no page has shown may outnumber those that one has shown."""
LAST_LOOK = 15.0
"""Seconds that a wait gets after its deadline for a last poll, so that it ends with the latest state of the run."""

_SPARE = 100
"""How many more outdated than valid entries a queue may have before it is cleaned up."""

T = TypeVar("T", bound=Hashable)

log = logging.getLogger(__name__)


class Moment(NamedTuple):
    """A point in time.

    :param steady: seconds of a clock that never jumps, for intervals.
    :param utc: the time that deadlines are compared with.
    :param served_at: the service's time of the response that is processed; ``None`` if it did not state its time. Times
        of the service are not compared with any other clock.
    """

    steady: float
    utc: datetime
    served_at: datetime | None = None


class DueQueue(Generic[T]):
    """Items by the time at which they are due, in seconds of any steady clock; first in, first out at equal times."""

    def __init__(self) -> None:
        self._due: dict[T, float] = {}
        self._heap: list[tuple[float, int, T]] = []
        self._count = itertools.count()

    def __contains__(self, item: object) -> bool:
        return item in self._due

    def put(self, item: T, due: float) -> None:
        """Add an item, or change when it is due; with infinity, remove it."""
        if self._due.get(item, math.inf) == due:
            return
        if due == math.inf:
            del self._due[item]
            return
        self._due[item] = due
        heapq.heappush(self._heap, (due, next(self._count), item))
        if len(self._heap) > 2 * len(self._due) + _SPARE:
            self._heap = [entry for entry in self._heap if self._is_valid(entry)]
            heapq.heapify(self._heap)

    def drop(self, item: T) -> None:
        """Remove an item, if it is there."""
        self._due.pop(item, None)

    def due_at(self, item: T) -> float:
        """Return when an item is due; infinity if it is not there."""
        return self._due.get(item, math.inf)

    def first(self) -> tuple[float, T | None]:
        """Return when the first item is due, and the item; infinity and ``None`` if the queue is empty."""
        while self._heap and not self._is_valid(self._heap[0]):
            heapq.heappop(self._heap)
        return (self._heap[0][0], self._heap[0][2]) if self._heap else (math.inf, None)

    def _is_valid(self, entry: tuple[float, int, T]) -> bool:
        return self._due.get(entry[2]) == entry[0]


class WatchList:
    """The waits of one connection."""

    def __init__(self) -> None:
        self._agent_of: dict[Wait | Listener, AgentPoll] = {}
        self._agents: dict[int, AgentPoll] = {}
        self._pages = AgentPages()
        self._searched_at = -math.inf
        self._wrong = 0
        """By how many the ends that no page has shown outnumber those that one has shown."""
        self._urgent: DueQueue[Poll] = DueQueue()
        """Polls that are expected to find something, or must not be postponed."""
        self._in_turn: DueQueue[Poll] = DueQueue()
        self._pages_in_turn: DueQueue[Poll] = DueQueue()
        self._background: DueQueue[Poll] = DueQueue()
        """Polls for listeners, and checks of what a page shows."""
        self._since_background = 0
        self._looks: DueQueue[Wait] = DueQueue()
        """Waits by the time of a poll that must not be postponed."""
        self._news_intervals: Counter[float] = Counter()

    def __len__(self) -> int:
        return len(self._agent_of) - self._news_intervals.total()

    @property
    def is_idle(self) -> bool:
        """Whether no one waits or listens."""
        return not self._agents

    @property
    def agent_count(self) -> int:
        """The number of agents waited for or listened to."""
        return len(self._agents)

    # Who waits

    def add(self, who: Wait | Listener, moment: Moment) -> None:
        """Add a wait or a listener."""
        agent = self._agents.setdefault(who.agent_id, AgentPoll(who.agent_id, moment.steady))
        self._agent_of[who] = agent
        agent.add(who, moment.steady)
        if isinstance(who, Listener):
            self._news_intervals[who.interval] += 1
        else:
            self._note_look(who, moment)
        if agent.page is None:
            self._expect(agent)
        self._plan(agent)
        self._review(agent.page)

    def remove(self, who: Wait | Listener) -> None:
        """Remove a wait or a listener, if it is still on the list."""
        if (agent := self._agent_of.pop(who, None)) is None:
            return
        agent.remove(who)
        if isinstance(who, Listener):
            self._news_intervals -= Counter([who.interval])
        else:
            self._looks.drop(who)
        self._plan(agent)

    def fail_all(self, error: BaseException) -> None:
        """End all waits and notify all listeners with an error, and remove them."""
        for who in tuple(self._agent_of):
            self._fail(who, error)

    def _fail(self, who: Wait | Listener, error: BaseException) -> None:
        self.remove(who)
        if isinstance(who, Listener):
            who.notify(error)
        else:
            who.notify(PollResult(), error, None)

    # What to poll, and when

    @property
    def _queues(self) -> tuple[DueQueue[Poll], ...]:
        return self._urgent, self._in_turn, self._pages_in_turn, self._background

    def due(self, now: float) -> float:
        """Return when the next poll is due, by the steady clock: ``now`` at the earliest."""
        return max(min(queue.first()[0] for queue in self._queues), now)

    @property
    def is_hinted(self) -> bool:
        """Whether the next poll is expected to find something."""
        return self._urgent.first()[1] is not None

    def next_poll(self, now: float) -> Poll:
        """Return the poll to send now, and mark it as sent.

        :raises LookupError: none is due.
        """
        (agent_at, _), (page_at, page) = self._in_turn.first(), self._pages_in_turn.first()
        turns = [self._in_turn, self._pages_in_turn]
        # Max-weight scheduling: what has waited longest, weighted with its share, comes next.
        if isinstance(page, PagePoll) and (now - page_at) * page.share >= now - agent_at + MIN_INTERVAL:
            turns.reverse()
        due = [queue for queue in (self._urgent, *turns, self._background) if queue.first()[0] <= now]
        is_for_background = self._background in due and (len(due) == 1 or self._since_background >= TURNS_OF_WAITS)
        self._since_background = 0 if is_for_background else self._since_background + 1
        poll = (self._background if is_for_background or not due else due[0]).first()[1]
        if poll is None:
            raise LookupError("No poll is due.")
        self._take_off(poll)
        poll.take_turn(now)
        return poll

    def call_for_any(self) -> Call[Any]:
        """Return a request that is allowed with every key that can wait for these runs."""
        agent = next(iter(self._agents.values()))
        return agent.call(max(agent.waits, default=0))

    def _take_off(self, poll: Poll) -> None:
        for queue in self._queues:
            queue.drop(poll)

    def _expedite(self, poll: Poll, now: float) -> None:
        if poll not in self._urgent:
            self._urgent.put(poll, now)

    def _plan(self, agent: AgentPoll) -> None:
        """Plan when an agent is polled. If a request is in flight, this is done after the response."""
        if agent.is_idle:
            self._forget(agent)
        elif not agent.is_asked:
            self._in_turn.put(agent, agent.due())
            self._background.put(agent, agent.news_due())
            if agent.is_hinted:
                self._expedite(agent, agent.news_at or 0.0)

    def _forget(self, agent: AgentPoll) -> None:
        self._take_off(agent)
        if (page := agent.page) is not None:
            self._pages.expect(agent, 0)
            self._pages_in_turn.drop(page)
            self._review(page)
        if self._agents.get(agent.agent_id) is agent:
            del self._agents[agent.agent_id]

    # Polls that must not be postponed

    def next_fixed_look(self) -> float:
        """Return when :meth:`pass_time` has something to do, by the steady clock."""
        return self._looks.first()[0]

    def pass_time(self, moment: Moment) -> None:
        """Expedite the polls that must not be postponed, and end the waits that got none after their deadline."""
        while (look := self._looks.first())[1] is not None and look[0] <= moment.steady:
            wait, deadline = look[1], look[1].poller.spec.deadline
            self._looks.drop(wait)
            if wait.is_last_look:
                self.remove(wait)
                wait.notify(PollResult(PollOutcome.DEADLINE), None, None)
                continue
            if deadline is not None and moment.utc >= deadline:
                # A trigger may have resumed long after its deadline, and still gets a poll.
                wait.is_last_look = True
                self._looks.put(wait, moment.steady + LAST_LOOK)
            agent = self._agent_of[wait]
            agent.look_next(wait.run_id)
            if not agent.is_asked:
                self._expedite(agent, moment.steady)

    def _note_look(self, wait: Wait, moment: Moment) -> None:
        seconds = wait.poller.fixed_look(moment.utc)
        if seconds is None:
            self._looks.drop(wait)
        # The two clocks drift, so a small difference is not a change.
        elif not abs(self._looks.due_at(wait) - (moment.steady + seconds)) <= 1.0:
            self._looks.put(wait, moment.steady + max(seconds, 0.0))

    # Responses

    def answered(self, poll: Poll, response: Any, moment: Moment) -> None:
        """Process the parsed response to a poll."""
        poll.is_asked = False
        poll.has_failed = False
        if isinstance(poll, PagePoll):
            self._read_page(poll, response, moment.steady)
            return
        if isinstance(response, Page):
            self._observe(poll, response, moment)
            self._search(poll, response, moment)
            poll.read_list(response)
        else:
            self._observe(poll, [response], moment)
        self._go_on(poll)

    def failed(self, poll: Poll, error: SequentumError, moment: Moment) -> None:
        """Process the failure of a poll."""
        poll.is_asked = False
        can_pass = fault_tolerance(error) >= FAULT_TOLERANCE
        if isinstance(poll, PagePoll):
            if self._pages.by_number.get(poll.number) is poll:
                self._page_failed(poll, error, can_pass)
            return
        poll.has_failed, poll.news_at = True, None
        waits = poll.concerned()
        if poll.asked_run == 0 and not can_pass:
            # A refused list says nothing about a run.
            poll.refuse_list(moment.steady)
            waits = poll.waits.get(0, [])
        for wait in tuple(waits):
            self._judge(wait, error, moment)
        if error.status_code != 429 and poll.asked_run == 0:  # which only means later
            for listener in tuple(poll.listeners):
                self._fail(listener, error)
        self._go_on(poll)

    def ask_again(self, poll: Poll, moment: Moment) -> None:
        """Repeat a poll whose failure is not the fault of the service."""
        poll.is_asked = False
        if isinstance(poll, PagePoll) or not poll.is_idle:
            self._expedite(poll, moment.steady)

    def _go_on(self, agent: AgentPoll) -> None:
        agent.interval = min((wait.interval for wait in agent), default=math.inf)
        self._plan(agent)
        self._review(agent.page)

    def _observe(self, agent: AgentPoll, records: list[Run], moment: Moment) -> None:
        agent.newest_listed = max([agent.newest_listed, *(run.id for run in records)])
        last_run, was_left = agent.last_run, agent.is_left_to_page
        was_hinted = agent.is_hinted and (agent.news_at or 0.0) <= agent.asked_at
        for run in records:
            ended = [self._judge(wait, run, moment) for wait in tuple(agent.waits.get(run.id, ()))]
            if run.id == last_run and any(ended) and (was_hinted or was_left):
                self._learn(was_right=was_hinted)

    def _learn(self, *, was_right: bool) -> None:
        """Learn from an end of a run whether pages show it."""
        self._wrong = max(self._wrong + (-1 if was_right else 1), 0)
        if self._wrong >= MAX_WRONG and self._pages.size != NO_PAGES:
            log.info("Working without the list of agents: it often does not show that their last runs have ended.")
            self._use_pages(NO_PAGES)

    def _search(self, agent: AgentPoll, records: Page[Run], moment: Moment) -> None:
        """Search the list for the first runs since a point in time that are waited for."""
        may_be_cut = agent.may_be_cut(records)
        oldest_listed = min(records, key=lambda run: (run.created or moment.utc, run.id), default=None)
        for wait in tuple(agent.waits.get(0, ())):
            spec, now = wait.poller.spec, moment.utc
            served_at = spec.service_time(now, moment.served_at)
            found: Run | SequentumError | None
            try:
                found = first_run_since(records, spec.since, now, served_at) if spec.since is not None else None
            except FirstRunUncertain as error:
                found = error
            except SequentumException as error:
                self._fail(wait, error)
                continue
            if may_be_cut and (found is oldest_listed or isinstance(found, SequentumError)):
                continue  # there may be an older one, which the next, longer list will show
            if found is not None and not isinstance(found, SequentumError):
                agent.found(wait, found.id)
            self._judge(wait, found, moment)

    def _judge(self, wait: Wait, seen: Run | SequentumError | None, moment: Moment) -> bool:
        """Pass a response to a wait, and notify it of the result; return whether its run has ended."""
        poller = wait.poller
        try:
            if isinstance(seen, SequentumError):
                result = poller.failed(seen, moment.utc)
            elif seen is None or poller.spec.run_id is None:
                result = poller.found(seen, moment.utc, moment.served_at)
            else:
                result = poller.observe(seen, moment.utc, moment.served_at)
        except SequentumError as error:
            self._fail(wait, error)
            return False
        if result.outcome is not None:
            self.remove(wait)
            wait.notify(result, None, moment.served_at)
            return result.outcome is PollOutcome.ENDED
        # Not needed any more. With ten thousand waits, the records would take up most of the memory.
        poller.run = None
        self._note_look(wait, moment)
        if result.message is not None:
            wait.notify(result, None, None)
        return False

    # Pages of the agents list

    def _review(self, page: PagePoll | None) -> None:
        """Plan when a page is polled, unless it is already planned for those who wait."""
        if page is None or page.is_asked or page in self._pages_in_turn:
            return
        was_worth_it, page.share = page.is_worth_it, page.fair_share()
        if page.is_worth_it:
            self._pages_in_turn.put(page, page.asked_at + PAGE_INTERVAL)
            self._background.drop(page)
        elif page.agents or page.number == 1:
            interval = MIN_INTERVAL if page.has_failed else min(self._news_intervals, default=math.inf)
            self._background.put(page, page.asked_at + max(interval, PAGE_INTERVAL))
        else:
            self._background.drop(page)
        if page.is_worth_it != was_worth_it:
            for agent in page.agents:
                if agent.shown is not None:
                    self._plan(agent)

    def _read_page(self, page: PagePoll, listed: Page[Agent], now: float) -> None:
        if self._pages.by_number.get(page.number) is not page:
            return
        for agent in self._pages.read(page, listed, self._agents):
            self._plan(agent)
        if now - self._searched_at > CHECK_INTERVAL:
            self._searched_at = now
            for agent in self._agents.values():
                if agent.page is None:
                    self._expect(agent)
        self._review(page)
        self._review(self._pages.by_number.get(page.number + 1))

    def _page_failed(self, page: PagePoll, error: SequentumError, can_pass: bool) -> None:
        if can_pass:
            page.has_failed = True
            self._review(page)
        elif error.status_code == 400 and (size := PAGE_SIZES[PAGE_SIZES.index(page.size) + 1]) != NO_PAGES:
            log.info("The service refuses that many agents at once; asking for %d. (%s)", size, error)
            self._use_pages(size)
        else:
            log.info("Working without the list of agents, by the agents' lists of runs. (%s)", error)
            self._use_pages(NO_PAGES)

    def _use_pages(self, size: int) -> None:
        """Use pages of a size, and forget what the others showed."""
        for page in self._pages.by_number.values():
            self._take_off(page)
        self._pages = AgentPages(size)
        for agent in self._agents.values():
            agent.see_nothing()
            self._expect(agent)
            self._plan(agent)

    def _expect(self, agent: AgentPoll) -> None:
        """Expect an agent on the first page, if pages are used."""
        if self._pages.size != NO_PAGES and len(self._agents) >= MIN_AGENTS:
            self._pages.expect(agent, 1)
