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
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import SequentumException
from airflow_provider_sequentum.jobs.port import FAULT_TOLERANCE, fault_tolerance
from airflow_provider_sequentum.runs.wait import FirstRunUncertain, PollOutcome, PollResult, first_run_since
from airflow_provider_sequentum.watching.polls import (
    NO_PAGES,
    SHORTEST_INTERVAL,
    AgentPages,
    AgentPoll,
    PagePoll,
    Poll,
    Wait,
)

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agents import Agent
    from airflow_provider_sequentum.api.call import Call
    from airflow_provider_sequentum.api.parsing import Page
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.watching.polls import Listener

PAGE_INTERVAL = 1.0
"""Minimum number of seconds between two polls of a page."""
IDLE_PAGE_INTERVAL = 60.0
"""The same, while the page shows fewer runs than the agents' own lists."""
LARGEST_SHARE = 4.0
"""How often a page is polled at most, compared with an agent: more would delay the agents and gain little."""
TURNS_OF_WAITS = 4
"""Number of polls for waits after which there is one for listeners, if it is due."""
CHECK_INTERVAL = 900.0
"""Seconds after which an agent is polled although its page shows it, because the page may be wrong."""
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
        """Add an item, or change when it is due."""
        if self._due.get(item) == due:
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
        self._waits: dict[Wait, AgentPoll] = {}
        self._waiting = 0
        """The number of polls on behalf of waits. Others are for listeners only."""
        self._agents: dict[int, AgentPoll] = {}
        self._pages = AgentPages()
        self._pages_are_used = False
        self._searched_at = -math.inf
        self._urgent: DueQueue[Poll] = DueQueue()
        self._agents_in_turn: DueQueue[Poll] = DueQueue()
        self._pages_in_turn: DueQueue[Poll] = DueQueue()
        self._background: DueQueue[Poll] = DueQueue()
        """Polls for listeners only."""
        self._turns = 0
        self._looks: DueQueue[Wait] = DueQueue()
        """Waits by the time of a poll that must not be postponed."""
        self._news_intervals: Counter[float] = Counter()

    def __len__(self) -> int:
        return len(self._waits)

    @property
    def is_idle(self) -> bool:
        """Whether no one waits or listens."""
        return not self._agents

    @property
    def agent_count(self) -> int:
        """The number of agents waited for or listened to."""
        return len(self._agents)

    # Who waits

    def add(self, wait: Wait, moment: Moment) -> None:
        """Add a wait."""
        agent = self._agent(wait.poller.spec.agent_id, moment.steady)
        poll = agent.unlisted.get(wait.poller.spec.run_id or 0, agent)
        self._assign(wait, poll)
        self._note_look(wait, moment)
        self._plan(poll)

    def remove(self, wait: Wait) -> None:
        """Remove a wait, if it is still on the list."""
        if (poll := self._waits.pop(wait, None)) is not None:
            poll.remove(wait)
            self._waiting -= not poll.is_waited_for
            self._looks.drop(wait)
            self._forget_if_idle(poll)

    def listen(self, listener: Listener, now: float) -> None:
        """Add a listener. It receives the runs of its agent, now and whenever there is news."""
        agent = self._agent(listener.agent_id, now)
        agent.listeners.append(listener)
        self._news_intervals[listener.interval] += 1
        agent.wants_list, agent.page_shows_news = True, False
        self._plan(agent)

    def drop(self, listener: Listener) -> None:
        """Remove a listener, if it is still on the list."""
        agent = self._agents.get(listener.agent_id)
        if agent is not None and listener in agent.listeners:
            agent.listeners.remove(listener)
            self._news_intervals -= Counter([listener.interval])
            self._forget_if_idle(agent)

    def fail_all(self, error: BaseException) -> None:
        """End all waits and notify all listeners with an error, and remove them."""
        for wait in tuple(self._waits):
            self.remove(wait)
            wait.notify(PollResult(), error, None)
        for listener in [listener for agent in self._agents.values() for listener in agent.listeners]:
            self.drop(listener)
            listener.fail(error)

    def _agent(self, agent_id: int, now: float) -> AgentPoll:
        if (agent := self._agents.get(agent_id)) is None:
            agent = self._agents[agent_id] = AgentPoll(agent_id, None, now)
            self._pages.expect(agent, 1)
            self._review_pages()
        return agent

    def _assign(self, wait: Wait, poll: AgentPoll) -> None:
        self._waiting += not poll.is_waited_for
        poll.add(wait)
        self._waits[wait] = poll

    def _forget_if_idle(self, poll: AgentPoll) -> None:
        if not poll.is_idle:
            self._plan(poll)
            return
        self._take_off(poll)
        agent = self._agents.get(poll.agent_id)
        if poll is agent:
            del self._agents[poll.agent_id]
            self._pages.leave(poll)
            self._review_pages()
        elif agent is not None and agent.unlisted.get(poll.run_id or 0) is poll:
            del agent.unlisted[poll.run_id or 0]
            self._forget_if_idle(agent)

    # What to poll, and when

    def due(self, now: float) -> float:
        """Return when the next poll is due, by the steady clock: ``now`` at the earliest."""
        queues = (self._urgent, self._agents_in_turn, self._pages_in_turn, self._background)
        return max(min(queue.first()[0] for queue in queues), now)

    @property
    def is_hinted(self) -> bool:
        """Whether the next poll is expected to find something."""
        return self._urgent.first()[1] is not None

    def next_poll(self, now: float) -> Poll:
        """Return the poll to send now, and mark it as sent.

        :raises LookupError: none is due.
        """
        poll = self._choose(now)
        if poll is None:
            raise LookupError("No poll is due.")
        self._take_off(poll)
        poll.asked_at, poll.is_asked = now, True
        return poll

    def call_for_any(self) -> Call[Any]:
        """Return a request that is allowed with every key that can wait for these runs."""
        return next(iter(self._agents.values())).call()

    def _choose(self, now: float) -> Poll | None:
        (agent_at, agent), (page_at, page) = self._agents_in_turn.first(), self._pages_in_turn.first()
        urgent_at, urgent = self._urgent.first()
        background_at, background = self._background.first()
        self._turns += 1
        if background_at <= now and (min(urgent_at, agent_at, page_at) > now or self._turns > TURNS_OF_WAITS):
            self._turns = 0
            return background
        if urgent is not None:
            return urgent
        # Max-weight scheduling: what has waited longest, weighted with its share, comes next.
        agent_waited = now - agent_at + SHORTEST_INTERVAL if agent_at <= now else -math.inf
        if isinstance(page, PagePoll) and page_at <= now and (now - page_at) * page.share >= agent_waited:
            return page
        return agent if agent_at <= now else None

    def _take_off(self, poll: Poll) -> None:
        for queue in (self._urgent, self._agents_in_turn, self._pages_in_turn, self._background):
            queue.drop(poll)

    def _expedite(self, poll: Poll, now: float) -> None:
        if not poll.is_asked and poll not in self._urgent:
            self._urgent.put(poll, now)

    def _plan(self, poll: AgentPoll) -> None:
        """Plan when an agent is polled. If a request is in flight, this is done after the response."""
        if poll.is_asked:
            return
        is_shown = self._pages_are_used and poll.is_shown_on_page()
        poll.is_left_to_page = is_shown and not self._pages.pages[poll.page].is_idle
        since = max(poll.asked_at, poll.since)
        if poll.is_left_to_page:
            self._agents_in_turn.put(poll, since + max(poll.interval, CHECK_INTERVAL))
        elif poll.is_waited_for:
            self._agents_in_turn.put(poll, max(poll.asked_at + poll.interval, poll.since))
        elif poll.unlisted:
            self._agents_in_turn.put(poll, since + CHECK_INTERVAL)
        else:
            self._agents_in_turn.drop(poll)
        if poll.wants_list and (poll.listeners or poll.is_left_to_page):
            self._background.put(poll, since)
        elif poll.listeners and not (self._pages_are_used and poll.page_shows_news):
            interval = min(listener.interval for listener in poll.listeners)
            self._background.put(poll, max(poll.asked_at + interval, poll.since))
        else:
            self._background.drop(poll)

    def _plan_page(self, page: PagePoll) -> None:
        self._take_off(page)
        if not self._pages_are_used or page.is_asked or page.number == 0 or not (page.agents or page.number == 1):
            return
        # After a start, all agents are expected on the first page, which only shows as many as its size.
        shown = sum(len(agent.runs.get(agent.last_run or 0, ())) for agent in islice(page.agents, page.size))
        # Compared with the poll of an agent, which shows all its runs except the one that the page shows.
        others = max(len(self._waits) - self._waiting, 1) / max(self._waiting, 1)
        page.share = min(max(math.sqrt(shown / others), 1.0), LARGEST_SHARE)
        was_idle, page.is_idle = page.is_idle, shown <= others
        if page.is_idle != was_idle:
            for agent in [agent for agent in page.agents if agent.shown is not None]:
                self._plan(agent)
        idle = min(self._news_intervals, default=IDLE_PAGE_INTERVAL)
        interval = max(min(idle, IDLE_PAGE_INTERVAL), PAGE_INTERVAL) if page.is_idle else PAGE_INTERVAL
        (self._pages_in_turn if shown else self._background).put(page, page.asked_at + interval)

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
            self._expedite(self._waits[wait], moment.steady)

    def _note_look(self, wait: Wait, moment: Moment) -> None:
        seconds = wait.poller.fixed_look(moment.utc)
        if seconds is None:
            self._looks.drop(wait)
        # The two clocks drift, so a small difference is not a change.
        elif not abs(self._looks.due_at(wait) - (moment.steady + seconds)) <= 1.0:
            self._looks.put(wait, moment.steady + max(seconds, 0.0))

    # Responses

    def answered(self, poll: Poll, answer: Any, moment: Moment) -> None:
        """Process the parsed response to a poll."""
        poll.is_asked = False
        if isinstance(poll, PagePoll):
            if self._pages_are_used and self._pages.pages.get(poll.number) is poll:
                self._read_page(poll, answer, moment.steady)
            return
        poll.has_failed = False
        if poll.is_idle:
            return
        if isinstance(answer, list):
            self._read_list(poll, answer, moment)
        else:
            self._observe(poll, [answer], moment)
        self._go_on(poll, moment.steady)

    def failed(self, poll: Poll, error: SequentumError, moment: Moment) -> None:
        """Process the failure of a poll."""
        poll.is_asked = False
        can_pass = fault_tolerance(error) >= FAULT_TOLERANCE
        if isinstance(poll, PagePoll):
            if self._pages.pages.get(poll.number) is not poll or not self._pages_are_used:
                return
            if can_pass:
                poll.share = 1.0
                self._pages_in_turn.put(poll, moment.steady + SHORTEST_INTERVAL)
            else:
                self._give_up_pages(error)
            return
        poll.has_failed, poll.wants_list = True, False
        if poll.asked_size and not can_pass:
            # A refused list says nothing about a run, so each run is polled on its own from now on.
            for run_id in tuple(poll.runs):
                self._poll_alone(poll, run_id, moment.steady)
        for wait in tuple(poll):
            self._judge(wait, error, moment)
        if error.status_code != 429:  # which only means later
            for listener in tuple(poll.listeners):
                listener.fail(error)
        self._go_on(poll, moment.steady)

    def ask_again(self, poll: Poll, moment: Moment) -> None:
        """Repeat a poll whose failure is not the fault of the service."""
        poll.is_asked = False
        if isinstance(poll, PagePoll) or not poll.is_idle:
            self._expedite(poll, moment.steady)

    def _go_on(self, poll: AgentPoll, now: float) -> None:
        if poll.is_idle:
            self._forget_if_idle(poll)
            return
        poll.interval = min((wait.interval for wait in poll), default=math.inf)
        self._plan(poll)
        if poll.hinted_at is not None and poll.last_run is not None:
            self._expedite(poll, now)

    def _read_list(self, agent: AgentPoll, listed: list[Run], moment: Moment) -> None:
        for run_id in agent.unlisted.keys() & {run.id for run in listed}:
            alone = agent.unlisted.pop(run_id)
            self._take_off(alone)
            self._move(alone, agent, run_id)
        self._observe(agent, listed, moment)
        self._search(agent, listed, moment)
        for run_id in agent.missing_in(listed):
            self._poll_alone(agent, run_id, moment.steady)
        wants_more = [listener.notify(listed, agent.asked_size) for listener in tuple(agent.listeners)]
        agent.wants_list = any(wants_more)
        agent.page_shows_news = not agent.wants_list and agent.shows_last_of(listed)

    def _poll_alone(self, agent: AgentPoll, run_id: int, now: float) -> None:
        alone = agent.unlisted[run_id] = AgentPoll(agent.agent_id, run_id, now)
        self._move(agent, alone, run_id)
        self._plan(alone)

    def _move(self, origin: AgentPoll, to: AgentPoll, run_id: int) -> None:
        for wait in origin.runs.pop(run_id):
            self._assign(wait, to)
        self._waiting -= not origin.is_waited_for

    def _observe(self, poll: AgentPoll, records: list[Run], moment: Moment) -> None:
        poll.newest_listed = max([poll.newest_listed, *(run.id for run in records)])
        last_run, was_hinted = poll.last_run, poll.hinted_at is not None and poll.hinted_at <= poll.asked_at
        for run in records:
            ended = [self._judge(wait, run, moment) for wait in tuple(poll.runs.get(run.id, ()))]
            if run.id == last_run:
                self._learn(poll, was_hinted=was_hinted, has_ended=any(ended))
        if was_hinted:
            poll.hinted_at = None

    def _learn(self, poll: AgentPoll, *, was_hinted: bool, has_ended: bool) -> None:
        """Learn how reliable hints are: from a hint, and from an end that no page has shown."""
        if was_hinted and (has_ended or poll.hints > 1):
            self._pages.learn(was_right=has_ended)
        elif not was_hinted and has_ended and poll.is_left_to_page:
            self._pages.learn(was_right=False)
        if self._pages_are_used and not self._pages.are_reliable:
            log.info("Working without the list of agents: what it says of their last runs is often wrong.")
            self._use_pages(NO_PAGES)

    def _search(self, agent: AgentPoll, records: list[Run], moment: Moment) -> None:
        """Search the list for the first runs since a point in time that are waited for."""
        may_be_cut = agent.may_be_cut(records)
        oldest_listed = min(records, key=lambda run: (run.created or moment.utc, run.id), default=None)
        for wait in tuple(agent.searches):
            spec, now = wait.poller.spec, moment.utc
            served_at = spec.service_time(now, moment.served_at)
            found: Run | SequentumError | None
            try:
                found = first_run_since(records, spec.since, now, served_at) if spec.since is not None else None
            except FirstRunUncertain as error:
                found = error
            except SequentumException as error:
                self.remove(wait)
                wait.notify(PollResult(), error, None)
                continue
            if may_be_cut and (found is oldest_listed or isinstance(found, SequentumError)):
                continue  # there may be an older one, which the next, longer list will show
            if found is not None and not isinstance(found, SequentumError):
                agent.searches.remove(wait)
                agent.runs.setdefault(found.id, []).append(wait)
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
            self.remove(wait)
            wait.notify(PollResult(), error, None)
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

    def _read_page(self, page: PagePoll, listed: Page[Agent], now: float) -> None:
        for agent in self._pages.read(page, listed, self._agents):
            self._plan(agent)
            if agent.hinted_at is not None and agent.last_run is not None:
                self._expedite(agent, now)
        if now - self._searched_at > CHECK_INTERVAL:
            self._searched_at = now
            for agent in self._agents.values():
                self._pages.expect(agent, agent.page or 1)
        self._review_pages()
        for number in {page.number, page.number + 1} & self._pages.pages.keys():
            self._plan_page(self._pages.pages[number])

    def _review_pages(self) -> None:
        """Use the pages as long as they are worth it."""
        are_used = self._pages.are_worth_it(len(self._agents))
        if are_used != self._pages_are_used:
            self._pages_are_used = are_used
            for page in self._pages.pages.values():
                self._plan_page(page)
            for agent in self._agents.values():
                self._plan(agent)

    def _give_up_pages(self, error: SequentumError) -> None:
        size = self._pages.smaller() if error.status_code == 400 else NO_PAGES
        if size == NO_PAGES:
            log.info("Working without the list of agents, by the agents' lists of runs. (%s)", error)
        else:
            log.info("The service refuses that many agents at once; asking for %d. (%s)", size, error)
        self._use_pages(size)

    def _use_pages(self, size: int) -> None:
        for page in self._pages.pages.values():
            self._take_off(page)
        self._pages, self._pages_are_used = AgentPages(size), False
        for agent in self._agents.values():
            agent.page = 0
            agent.see_nothing()
            self._pages.expect(agent, 1)
            self._plan(agent)
        self._review_pages()
