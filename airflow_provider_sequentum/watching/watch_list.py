"""All waits of one connection, as data: what to poll next, and what an answer means to whom.

One request answers for every wait on an agent. The list is fed with answers and faults, and returns what each wait has
to hear; sending the polls and telling the waits is the watcher's business. Every wait stays a decision of its own
(:class:`~airflow_provider_sequentum.runs.wait.RunPoller`), and only a run's own record ends it.

Two simple rules are at work, in one :class:`~.rotation.Rotation`. The agents' lists of runs are polled in turn. Pages
of the agents list are polled beside them where they tell of more runs, and an agent whose page tells of all that is
waited for is polled only when that is shown as ended, and now and then. Why nothing is learnt of how long runs take
stands in ``docs/waiting.md``.

Whoever only listens to an agent (an asset watcher) gets what is left, and at least every fifth poll: a second rotation.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import SequentumException
from airflow_provider_sequentum.jobs.port import FAULT_TOLERANCE, fault_tolerance
from airflow_provider_sequentum.runs.phases import phase_of
from airflow_provider_sequentum.runs.wait import (
    LONGEST_RUN_LIST,
    PollOutcome,
    PollResult,
    RunPoller,
    first_run_since,
    length_of,
)
from airflow_provider_sequentum.watching.agent_list import FEWEST_AGENTS, NO_PAGES, NOT_FOUND, AgentPages
from airflow_provider_sequentum.watching.rotation import Rotation

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agents import Agent
    from airflow_provider_sequentum.api.call import Call
    from airflow_provider_sequentum.api.parsing import Page
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.watching.listener import Listener

SHORTEST_INTERVAL = 5.0
"""Seconds between two polls of an agent or a run at least, unless who waits asks for another number."""
PAGE_INTERVAL = 1.0
"""Seconds between two polls of a page at least."""
IDLE_PAGE_INTERVAL = 60.0
"""The same, while the page tells of fewer runs than the agents' own lists."""
TURNS_OF_WAITS = 4
"""Polls for waits after which one for listeners comes, if there is one."""
CHECK_INTERVAL = 900.0
"""Seconds after which an agent is polled whose page tells of it: the page may be wrong."""
LAST_LOOK = 15.0
"""Seconds after its deadline that a wait is given for a last look, so that it ends with the run's last state."""

_SHORTEST_LIST = 20

log = logging.getLogger(__name__)


class Moment(NamedTuple):
    """A point in time.

    :param steady: seconds of a clock that never jumps, for intervals.
    :param utc: what deadlines are compared with.
    :param served_at: the service's time of the answer that is read at this moment. Times of the service are compared
        with no other clock; ``None`` where it did not tell its time.
    """

    steady: float
    utc: datetime
    served_at: datetime | None = None

    def seconds_since(self, time_of_service: datetime) -> float | None:
        """Return how long ago something happened at the service; ``None`` where it did not tell its time."""
        return None if self.served_at is None else max((self.served_at - time_of_service).total_seconds(), 0.0)


@dataclass(frozen=True, slots=True)
class AgentPoll:
    """How are the awaited runs of this agent?"""

    agent_id: int


@dataclass(frozen=True, slots=True)
class RunPoll:
    """How is this run, which the service does not list among the agent's?"""

    agent_id: int
    run_id: int


@dataclass(frozen=True, slots=True)
class PagePoll:
    """Which agents on this page of the agents list have changed?"""

    page: int


Poll = AgentPoll | RunPoll | PagePoll


class Watched:
    """One wait on the list.

    :param wait: its state.
    """

    __slots__ = ("fixed_at", "is_last_look", "wait")

    def __init__(self, wait: RunPoller) -> None:
        self.wait = wait
        self.fixed_at: float | None = None
        self.is_last_look = False

    @property
    def shortest_interval(self) -> float:
        """Seconds between two polls on behalf of this wait at least."""
        asked_for = self.wait.spec.poll_interval
        return SHORTEST_INTERVAL if asked_for is None else asked_for


class Update(NamedTuple):
    """What a wait has to hear. It is off the list if there is an outcome or an error."""

    watched: Watched
    result: PollResult
    error: SequentumError | SequentumException | None = None


class AgentWaits:
    """The waits for runs of one agent.

    :param agent_id: the agent.
    """

    __slots__ = (
        "agent_id", "asked_at", "asked_size", "hinted_at", "interval", "is_new", "list_size", "listeners",
        "newest_listed", "pending_discovery", "runs", "unlisted",
    )  # fmt: skip

    def __init__(self, agent_id: int) -> None:
        self.agent_id = agent_id
        self.runs: dict[int, list[Watched]] = {}
        self.pending_discovery: list[Watched] = []
        """Waits for a run that is not there yet."""
        self.listeners: list[Listener] = []
        self.unlisted: frozenset[int] = frozenset()
        """Runs that are polled by themselves."""
        self.list_size = _SHORTEST_LIST
        """How many runs to ask for: as many as it takes to see the oldest one waited for."""
        self.asked_size = self.list_size
        self.newest_listed = 0
        self.asked_at = -math.inf
        self.interval = math.inf
        """Seconds until it may be polled again."""
        self.hinted_at: float | None = None
        """When the agents list said that the last run had ended, until that has been looked into."""
        self.is_new = True
        """Whether its page was not read since a wait came: what it shows may be of the run before."""

    def __iter__(self) -> Iterator[Watched]:
        for waits in self.runs.values():
            yield from waits
        yield from self.pending_discovery

    @property
    def is_waited_for(self) -> bool:
        """Whether there is a wait, and not only a listener."""
        return bool(self.runs or self.pending_discovery)

    def add(self, watched: Watched) -> None:
        """Take up a wait."""
        run_id = watched.wait.spec.run_id
        (self.pending_discovery if run_id is None else self.runs.setdefault(run_id, [])).append(watched)

    def remove(self, watched: Watched) -> bool:
        """Drop a wait; return whether it was there."""
        run_id = watched.wait.spec.run_id
        waits = self.pending_discovery if run_id is None else self.runs.get(run_id, [])
        if watched not in waits:
            return False
        waits.remove(watched)
        if run_id is not None and not waits:
            del self.runs[run_id]
            self.unlisted -= {run_id}
        return True

    def covered(self, poll: AgentPoll | RunPoll) -> list[Watched]:
        """Return the waits that a poll is sent for."""
        if isinstance(poll, RunPoll):
            return list(self.runs.get(poll.run_id, ())) if poll.run_id in self.unlisted else []
        listed = [watched for run_id, waits in self.runs.items() if run_id not in self.unlisted for watched in waits]
        return listed + self.pending_discovery

    def lone_run(self) -> int | None:
        """Return the run waited for, if it is the only one: its own record is a better answer than the list."""
        if self.pending_discovery or self.listeners or self.unlisted or len(self.runs) != 1:
            return None
        return next(iter(self.runs))

    def last_run(self) -> int | None:
        """Return the run waited for that is the agent's last one, as far as is known."""
        last = max(self.runs, default=0)
        return last if last and last >= self.newest_listed else None

    def last_waits(self) -> list[Watched]:
        """Return the waits for the agent's last run."""
        return self.runs.get(self.last_run() or 0, [])

    def size_to_list(self) -> int:
        """Return how many runs to ask for."""
        return max([self.list_size, *(listener.list_size for listener in self.listeners)])

    def may_be_cut(self, listed: Sequence[object]) -> bool:
        """Return whether the service may have more runs than it listed, and would list more."""
        return self.asked_size <= length_of(listed) < LONGEST_RUN_LIST

    def read_list(self, run_ids: list[int]) -> None:
        """Take in which runs the service lists, newest first.

        Runs waited for that it does not list are polled by themselves. A list that may have been cut says nothing of
        them: then the next one is longer.
        """
        self.unlisted -= set(run_ids)
        missing = self.runs.keys() - self.unlisted - set(run_ids)
        if self.may_be_cut(run_ids) and (missing or self.pending_discovery):
            self.list_size = min(self.asked_size * 4, LONGEST_RUN_LIST)
            return
        self.unlisted |= missing
        if not self.pending_discovery:
            deepest = max((place for place, run_id in enumerate(run_ids, 1) if run_id in self.runs), default=0)
            self.list_size = min(max(_SHORTEST_LIST, deepest + deepest // 4), LONGEST_RUN_LIST)


class WatchList:
    """The waits of one connection."""

    def __init__(self) -> None:
        self._rotation: Rotation[Poll] = Rotation()
        self._background: Rotation[Poll] = Rotation()
        """The same for listeners, and for pages on which an agent may be that was not found."""
        self._turns = 0
        self._agents: dict[int, AgentWaits] = {}
        self._pages = AgentPages()
        self._pages_are_used = False
        self._searched_at = -math.inf
        self._waited_for = 0
        """How many agents are waited for. Others have listeners only."""
        self._fixed: list[tuple[float, int, Watched]] = []
        self._fixed_count = 0
        self._waits = 0
        self._now = 0.0

    def __len__(self) -> int:
        return self._waits

    def __iter__(self) -> Iterator[Watched]:
        for agent in self._agents.values():
            yield from agent

    @property
    def is_idle(self) -> bool:
        """Whether no one waits or listens."""
        return not self._agents

    @property
    def agent_count(self) -> int:
        """The number of agents waited for."""
        return len(self._agents)

    def add(self, watched: Watched, moment: Moment) -> None:
        """Take up a wait."""
        agent_id = watched.wait.spec.agent_id
        agent = self._agents.setdefault(agent_id, AgentWaits(agent_id))
        is_first = not agent.is_waited_for
        agent.add(watched)
        agent.is_new = True
        self._waits += 1
        self._pages.forget(agent_id)
        if is_first:
            self._waited_for += 1
            self._look_for(agent, moment.steady)
        self._note_fixed_look(watched, moment)
        # Not planned as after an answer: that looks at all waits of the agent, and they may come by the thousand.
        poll, interval = AgentPoll(agent_id), watched.shortest_interval
        if poll not in self._rotation or interval < agent.interval:
            agent.interval = interval
            self._rotation.plan(poll, now=moment.steady, not_before=agent.asked_at + interval)

    def remove(self, watched: Watched) -> None:
        """Drop a wait, if it is still on the list."""
        agent = self._agents.get(watched.wait.spec.agent_id)
        if agent is None or not agent.remove(watched):
            return
        self._waits -= 1
        watched.fixed_at = None
        run_id = watched.wait.spec.run_id
        if run_id is not None and run_id not in agent.runs:
            self._rotation.drop(RunPoll(agent.agent_id, run_id))
        if not agent.is_waited_for:
            self._waited_for -= 1
            self._rotation.drop(AgentPoll(agent.agent_id))
            self._look_for(agent, self._now)

    def listen(self, listener: Listener, now: float) -> None:
        """Take up a listener: it hears what runs its agent has, now and whenever there is news."""
        agent = self._agents.setdefault(listener.agent_id, AgentWaits(listener.agent_id))
        agent.listeners.append(listener)
        self._background.plan(AgentPoll(agent.agent_id), now=now, not_before=now)
        self._look_for(agent, now)

    def drop(self, listener: Listener) -> None:
        """Drop a listener, if it is still on the list."""
        agent = self._agents.get(listener.agent_id)
        if agent is None or listener not in agent.listeners:
            return
        agent.listeners.remove(listener)
        if not agent.listeners:
            self._background.drop(AgentPoll(agent.agent_id))
        self._look_for(agent, self._now)

    @property
    def listeners(self) -> list[Listener]:
        """Who listens to an agent."""
        return [listener for agent in self._agents.values() for listener in agent.listeners]

    def due(self, now: float) -> float:
        """Return when there is a poll to send, by the steady clock."""
        self._now = now
        return min(self._rotation.due(now), self._background.due(now))

    @property
    def is_hinted(self) -> bool:
        """Whether the next poll is known to find something."""
        return self._rotation.is_urgent

    def next_poll(self, now: float) -> Poll:
        """Return the poll to send now, which is :meth:`due`, and note that it is on its way."""
        self._turns += 1
        is_free = self._rotation.due(now) > now or self._turns > TURNS_OF_WAITS
        if is_free and self._background.due(now) <= now:
            self._turns = 0
            return self._background.take(now)
        return self._rotation.take(now)

    def call_for(self, poll: Poll) -> Call[Any]:
        """Return the request of a poll."""
        from airflow_provider_sequentum.api import runs

        if isinstance(poll, PagePoll):
            return self._pages.call_for(poll.page)
        if isinstance(poll, RunPoll):
            return runs.status(poll.agent_id, poll.run_id)
        agent = self._agents[poll.agent_id]
        lone_run = agent.lone_run()
        if lone_run is not None:
            return runs.status(agent.agent_id, lone_run)
        agent.asked_size = agent.size_to_list()
        return runs.list_runs(agent.agent_id, agent.asked_size)

    def call_for_any(self) -> Call[Any]:
        """Return a request that any key may send which may be used to wait for these runs."""
        return self.call_for(AgentPoll(next(iter(self._agents))))

    def answered(self, poll: Poll, answer: Any, asked_at: float, moment: Moment) -> list[Update]:
        """Take in the answer to a poll.

        :param answer: what the call of :meth:`call_for` returned.
        :param asked_at: when it was sent, by the steady clock.
        """
        self._back(poll)
        if isinstance(poll, PagePoll):
            if self._pages_are_used:
                self._read_page(poll.page, answer, asked_at)
            self._plan(poll, asked_at)
            return []
        agent = self._agents.get(poll.agent_id)
        if agent is None:
            return []
        updates = list(self._observe(agent, answer if isinstance(answer, list) else [answer], asked_at, moment))
        if isinstance(answer, list):
            before = agent.unlisted
            agent.read_list([run.id for run in answer])
            for run_id in before ^ agent.unlisted:
                self._plan(RunPoll(agent.agent_id, run_id), asked_at)
            self._tell_listeners(agent, answer, asked_at)
        self._plan(poll, asked_at)
        if agent.hinted_at is not None:
            self._expedite(agent, agent.last_run())
        return updates

    def failed(self, poll: Poll, error: SequentumError, moment: Moment) -> list[Update]:
        """Take in that a poll was not answered."""
        self._back(poll)
        can_pass = fault_tolerance(error) >= FAULT_TOLERANCE
        if isinstance(poll, PagePoll):
            if not self._pages_are_used:
                self._plan(poll, moment.steady)
            elif can_pass:
                self._rotation.plan(poll, now=moment.steady, not_before=moment.steady + SHORTEST_INTERVAL)
            else:
                self._give_up_pages(error)
            return []
        agent = self._agents.get(poll.agent_id)
        if agent is None:
            return []
        if isinstance(poll, AgentPoll) and agent.lone_run() is None and not can_pass:
            # That the list is refused says nothing of a run: each is polled by itself from now on.
            agent.unlisted = frozenset(agent.runs)
            for run_id in agent.runs:
                self._plan(RunPoll(agent.agent_id, run_id), moment.steady)
        if isinstance(poll, AgentPoll):
            self._fail_listeners(agent, error, moment.steady)
        updates = [item for watched in agent.covered(poll) for item in self._judge(watched, error, moment)]
        self._plan(poll, moment.steady)
        return updates

    def ask_again(self, poll: Poll, moment: Moment) -> None:
        """Take in that a poll has to be repeated, through no fault of the service."""
        self._back(poll)
        self._plan(poll, moment.steady)
        self._rotation.expedite(poll)
        if isinstance(poll, AgentPoll) and poll.agent_id in self._agents and self._agents[poll.agent_id].listeners:
            self._background.plan(poll, now=moment.steady, not_before=moment.steady)

    def pass_time(self, moment: Moment) -> list[Update]:
        """Bring forward the looks that cannot be put off, and end the waits that got none after their deadline."""
        updates = []
        while (at := self.next_fixed_look()) is not None and at <= moment.steady:
            watched = heapq.heappop(self._fixed)[2]
            watched.fixed_at = None
            if watched.is_last_look:
                self.remove(watched)
                updates.append(Update(watched, PollResult(PollOutcome.DEADLINE)))
                continue
            deadline = watched.wait.spec.deadline
            if deadline is not None and moment.utc >= deadline:
                # A trigger may have come back long after: it still gets its look.
                watched.is_last_look = True
                self._push_fixed(watched, moment.steady + LAST_LOOK)
            self._expedite(self._agents[watched.wait.spec.agent_id], watched.wait.spec.run_id)
        return updates

    def next_fixed_look(self) -> float | None:
        """Return when :meth:`pass_time` has something to do, by the steady clock."""
        while self._fixed and self._fixed[0][2].fixed_at != self._fixed[0][0]:
            heapq.heappop(self._fixed)
        return self._fixed[0][0] if self._fixed else None

    # What an answer says

    def _observe(self, agent: AgentWaits, records: list[Run], asked_at: float, moment: Moment) -> Iterator[Update]:
        agent.newest_listed = max([agent.newest_listed, *(run.id for run in records)])
        last_run, was_hinted = agent.last_run(), agent.hinted_at is not None and agent.hinted_at <= asked_at
        for run in records:
            ended_at = None
            for watched in tuple(agent.runs.get(run.id, ())):
                updates = self._judge(watched, run, moment)
                if any(item.result.outcome is PollOutcome.ENDED for item in updates):
                    ago = moment.seconds_since(run.end_time) if run.end_time is not None else None
                    ended_at = moment.steady - (ago or 0.0)
                yield from updates
            if run.id == last_run:
                self._learn_of_hints(agent, ended_at, was_hinted=was_hinted)
        if was_hinted:
            agent.hinted_at = None
        oldest_listed = min(records, key=lambda run: (run.created or moment.utc, run.id), default=None)
        for watched in tuple(agent.pending_discovery):
            since = watched.wait.spec.since
            try:
                found = first_run_since(records, since, moment.utc, moment.served_at) if since is not None else None
            except SequentumException as error:
                self.remove(watched)
                yield Update(watched, PollResult(), error)
                continue
            if found is oldest_listed and agent.may_be_cut(records):
                continue  # an older one may be behind it, which the next list, a longer one, shows
            if found is not None:
                agent.pending_discovery.remove(watched)
                agent.runs.setdefault(found.id, []).append(watched)
            yield from self._judge(watched, found, moment)

    def _learn_of_hints(self, agent: AgentWaits, ended_at: float | None, *, was_hinted: bool) -> None:
        if was_hinted:
            if ended_at is not None or not agent.is_new:
                self._pages.learn(was_right=ended_at is not None)
            agent.is_new = False
        elif ended_at is not None and self._pages.should_have_told(agent.agent_id, ended_at):
            self._pages.learn(was_right=False)
        if self._pages_are_used and not self._pages.are_reliable:
            log.info("Working without the list of agents: what it says of their last runs is often wrong.")
            self._use_other_pages(NO_PAGES)

    def _judge(self, watched: Watched, seen: Run | SequentumError | None, moment: Moment) -> list[Update]:
        wait = watched.wait
        try:
            if isinstance(seen, SequentumError):
                result = wait.failed(seen, moment.utc)
            elif wait.spec.run_id is None:
                result = wait.found(seen, moment.utc, moment.served_at)
            else:
                result = wait.observe(seen, moment.utc, moment.served_at) if seen is not None else PollResult()
        except SequentumError as error:
            self.remove(watched)
            return [Update(watched, PollResult(), error)]
        if result.outcome is not None:
            self.remove(watched)
            return [Update(watched, result)]
        # Ten thousand records would be most of what ten thousand waits take up, and no one reads them.
        wait.run = None
        self._note_fixed_look(watched, moment)
        return [Update(watched, result)] if result.message is not None else []

    # When to poll

    def _plan(self, poll: Poll, asked_at: float) -> None:
        if isinstance(poll, PagePoll):
            self._plan_page(poll, asked_at)
            return
        agent = self._agents.get(poll.agent_id)
        if agent is None or not (covered := agent.covered(poll)):
            self._rotation.drop(poll)
            return
        interval = min(watched.shortest_interval for watched in covered)
        if isinstance(poll, AgentPoll):
            if self._is_shown(agent) and len(covered) == len(agent.last_waits()):
                interval = max(interval, CHECK_INTERVAL)
            agent.asked_at, agent.interval = asked_at, interval
        self._rotation.plan(poll, now=asked_at, not_before=asked_at + interval)

    def _plan_page(self, poll: PagePoll, asked_at: float) -> None:
        pages = self._pages
        if not self._pages_are_used:
            self._rotation.drop(poll)
            self._background.drop(poll)
            return
        if poll.page in pages.unread:
            (self._rotation if poll.page == 1 else self._background).plan(poll, now=asked_at, not_before=asked_at)
            if poll.page == 1:
                self._rotation.expedite(poll)
            return
        # Who was not found may have just been started, and is on the first page then; it has room for so many only.
        newcomers = islice(pages.agents_on(NOT_FOUND), pages.size if poll.page == 1 else 0)
        may_be_there = (*pages.agents_on(poll.page), *newcomers)
        agents = [self._agents[agent_id] for agent_id in may_be_there]
        told = sum(len(agent.last_waits()) for agent in agents if pages.may_show_status(agent.agent_id))
        wanted = min((listener.interval for agent in agents for listener in agent.listeners), default=math.inf)
        if not told and poll.page > 1 and wanted == math.inf:
            self._rotation.drop(poll)
            return
        # Compared with the poll of an agent, which tells of all its runs but the one that its page tells of.
        others = max(self._waits - self._waited_for, 1) / max(self._waited_for, 1)
        interval = PAGE_INTERVAL if told > others else max(min(IDLE_PAGE_INTERVAL, wanted), PAGE_INTERVAL)
        share = max(math.sqrt(told / others), 1.0)
        self._rotation.plan(poll, share=share, now=asked_at, not_before=asked_at + interval)

    def _is_shown(self, agent: AgentWaits) -> bool:
        """Whether the page of an agent will tell of the end of its last run; one that is over already is another."""
        return self._pages_are_used and self._pages.shows_end(agent.agent_id) is False

    def _look_for(self, agent: AgentWaits, now: float) -> None:
        """Take in who waits for or listens to an agent; forget it if no one does."""
        if agent.is_waited_for or agent.listeners:
            self._pages.look_for(agent.agent_id, only_next_run=not agent.is_waited_for)
        else:
            del self._agents[agent.agent_id]
            self._pages.look_no_more_for(agent.agent_id)
        self._review_pages(now)

    def _review_pages(self, now: float) -> None:
        """Use the pages as long as they are far fewer than the agents that are looked for."""
        pages = self._pages
        if now - self._searched_at > CHECK_INTERVAL:
            self._searched_at = now
            pages.read_all_again()
        are_used = len(self._agents) >= FEWEST_AGENTS and 2 * pages.needed <= len(self._agents)
        if are_used != self._pages_are_used:
            self._pages_are_used = are_used
            self._plan_pages(range(1, pages.count + 1), now)
            if not are_used:
                self._plan_told_agents(now)
        elif are_used:
            self._plan_pages({1} | pages.unread, now)

    def _plan_pages(self, pages: Iterable[int], now: float) -> None:
        for poll in map(PagePoll, pages):
            if not self._pages_are_used or (poll not in self._rotation and poll not in self._background):
                self._plan(poll, now)

    def _back(self, poll: Poll) -> None:
        self._rotation.back(poll)
        self._background.back(poll)

    def _plan_told_agents(self, now: float) -> None:
        """Plan the agents that were left to their pages, which are used no more."""
        for agent in self._agents.values():
            poll = AgentPoll(agent.agent_id)
            if agent.interval >= CHECK_INTERVAL:
                self._plan(poll, min(agent.asked_at, now))
            if agent.listeners and poll not in self._background:
                self._plan_news(agent, now)

    def _read_page(self, page: int, answer: Page[Agent], asked_at: float) -> None:
        pages = self._pages
        gone = set(pages.agents_on(page)) - {agent.id for agent in answer}
        news = pages.read(page, answer, asked_at)
        self._background.drop(PagePoll(page))
        self._review_pages(asked_at)
        for agent in [self._agents[agent.id] for agent in answer if agent.id in self._agents]:
            poll, is_ended = AgentPoll(agent.agent_id), news.get(agent.agent_id, False)
            if is_ended and (last_run := agent.last_run()) is not None:
                agent.hinted_at = asked_at
                self._expedite(agent, last_run)
            elif agent.is_new and self._is_shown(agent):
                self._plan(poll, max(agent.asked_at, asked_at))
            if agent.listeners and agent.agent_id in news:
                self._background.plan(poll, now=asked_at, not_before=asked_at)
            agent.is_new = is_ended and agent.is_new
        for agent in [self._agents[agent_id] for agent_id in gone]:
            if agent.is_waited_for:
                self._plan(AgentPoll(agent.agent_id), agent.asked_at)
            if agent.listeners:
                self._plan_news(agent, asked_at)
        self._plan_pages([page + 1] if gone else [], asked_at)

    def _tell_listeners(self, agent: AgentWaits, listed: Sequence[Run], asked_at: float) -> None:
        wants_more = [listener.hear(listed, agent.asked_size) for listener in agent.listeners]
        if any(wants_more):
            self._background.plan(AgentPoll(agent.agent_id), now=asked_at, not_before=asked_at)
        elif agent.listeners and self._page_will_tell(agent, listed):
            self._background.drop(AgentPoll(agent.agent_id))
        elif agent.listeners:
            self._plan_news(agent, asked_at)

    def _page_will_tell(self, agent: AgentWaits, listed: Sequence[Run]) -> bool:
        """Whether the page of an agent will tell when there is more to see than these runs."""
        pages = self._pages
        if not self._pages_are_used or not pages.knows(agent.agent_id):
            return False
        are_over = [phase_of(run).is_over for run in sorted(listed, key=lambda run: -run.id)]
        return pages.shows_end(agent.agent_id) is (are_over[0] if are_over else None) and all(are_over[1:])

    def _plan_news(self, agent: AgentWaits, asked_at: float) -> None:
        interval = min(listener.interval for listener in agent.listeners)
        self._background.plan(AgentPoll(agent.agent_id), now=self._now, not_before=asked_at + interval)

    def _fail_listeners(self, agent: AgentWaits, error: SequentumError, now: float) -> None:
        """Let listeners know; who wants to go on comes back later. A 429 only means later."""
        if agent.listeners and error.status_code == 429:
            self._plan_news(agent, now)
            return
        for listener in agent.listeners:
            listener.fail(error)

    def _give_up_pages(self, error: SequentumError) -> None:
        size = self._pages.next_size() if error.status_code == 400 else NO_PAGES
        if size == NO_PAGES:
            log.info("Working without the list of agents, by the agents' lists of runs. (%s)", error)
        else:
            log.info("The service refuses that many agents at once; asking for %d. (%s)", size, error)
        self._use_other_pages(size)

    def _use_other_pages(self, size: int) -> None:
        for page in range(1, self._pages.count + 1):
            self._rotation.drop(PagePoll(page))
            self._background.drop(PagePoll(page))
        self._pages, self._pages_are_used = AgentPages(size), False
        for agent in self._agents.values():
            self._pages.look_for(agent.agent_id, only_next_run=not agent.is_waited_for)
        self._plan_told_agents(self._now)
        self._review_pages(self._now)

    def _expedite(self, agent: AgentWaits, run_id: int | None) -> None:
        if run_id is not None and run_id in agent.unlisted:
            self._rotation.expedite(RunPoll(agent.agent_id, run_id))
        else:
            self._rotation.expedite(AgentPoll(agent.agent_id))

    def _note_fixed_look(self, watched: Watched, moment: Moment) -> None:
        seconds = watched.wait.fixed_look(moment.utc)
        if seconds is None:
            watched.fixed_at = None
            return
        at = moment.steady + max(seconds, 0.0)
        # The two clocks drift; a look that is already noted need not be noted again for that.
        if watched.fixed_at is None or abs(watched.fixed_at - at) > 1.0:
            self._push_fixed(watched, at)

    def _push_fixed(self, watched: Watched, at: float) -> None:
        watched.fixed_at = at
        self._fixed_count += 1
        heapq.heappush(self._fixed, (at, self._fixed_count, watched))
