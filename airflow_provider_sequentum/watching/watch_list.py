"""All waits of one connection, as data: which poll to ask next, and what its answer means to whom.

One request answers for every wait on an agent. The list is fed with answers and faults, and returns what each wait has
to hear; sending the questions and telling the waits is the watcher's business. Every wait stays a decision of its own
(:class:`~airflow_provider_sequentum.runs.wait.RunPoller`), and only a run's own record ends it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.exceptions import SequentumException
from airflow_provider_sequentum.jobs.port import FAULT_TOLERANCE, fault_tolerance
from airflow_provider_sequentum.runs.wait import LONGEST_RUN_LIST, PollOutcome, PollResult, RunPoller, first_run_since
from airflow_provider_sequentum.watching.agent_list import AGENTS_PER_PAGE, FEWEST_AGENTS, AgentHints
from airflow_provider_sequentum.watching.schedule import SHORTEST_INTERVAL, EndRates, PollSchedule, Stage

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agents import Agent
    from airflow_provider_sequentum.api.call import Call
    from airflow_provider_sequentum.api.parsing import Page
    from airflow_provider_sequentum.api.runs import Run

_WINDING_DOWN = frozenset({RunStatus.EXPORTING, RunStatus.STOPPING})
_SHORTEST_LIST = 20


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
    """
    One wait on the list.

    :param wait: its state.
    :param began: when the run began, as far as is known, by the steady clock.
    """

    __slots__ = ("began", "fixed_at", "is_last_look", "looked_at", "wait", "winding_down_since")

    def __init__(self, wait: RunPoller, began: float) -> None:
        self.wait = wait
        self.began = began
        self.looked_at: float | None = None
        self.winding_down_since: float | None = None
        self.fixed_at: float | None = None
        self.is_last_look = False

    @property
    def shortest_interval(self) -> float:
        """Seconds between two questions on behalf of this wait at least."""
        asked_for = self.wait.spec.poll_interval
        return SHORTEST_INTERVAL if asked_for is None else asked_for

    def stage(self, at: float) -> Stage:
        """Return how far the run has come at a time, if nothing changes until then."""
        since = self.winding_down_since
        if since is None:
            return Stage(at - self.began)
        pace = 1000.0 / max(since - self.began, 1.0)
        return Stage((at - since) * pace, pace, winding_down=True)

    def see(self, run: Run, moment: Moment) -> None:
        """Take in what a record says of how far the run has come."""
        age = moment.seconds_since(run.started_at) if run.started_at is not None else None
        if age is not None:
            self.began = moment.steady - age
        if run.status not in _WINDING_DOWN:
            self.winding_down_since = None
        elif self.winding_down_since is None:
            looked_at = moment.steady if self.looked_at is None else self.looked_at
            self.winding_down_since = (looked_at + moment.steady) / 2
        self.looked_at = moment.steady

    def ended_at(self, run: Run, moment: Moment) -> float:
        """Return when a run that has ended did so, by the steady clock."""
        begun = run.started_at
        if begun is None or run.end_time is None:
            return moment.steady
        return min(self.began + (run.end_time - begun).total_seconds(), moment.steady)


class Update(NamedTuple):
    """What a wait has to hear. It is off the list if there is an outcome or an error."""

    watched: Watched
    verdict: PollResult
    error: SequentumError | SequentumException | None = None


class AgentWaits:
    """
    The waits for runs of one agent.

    :param agent_id: the agent.
    """

    __slots__ = ("agent_id", "hinted_at", "list_size", "newest_listed", "pending_discovery", "runs", "unlisted")

    def __init__(self, agent_id: int) -> None:
        self.agent_id = agent_id
        self.runs: dict[int, list[Watched]] = {}
        self.pending_discovery: list[Watched] = []
        """Waits for a run that is not there yet."""
        self.unlisted: set[int] = set()
        """Runs that are asked for by themselves."""
        self.list_size = _SHORTEST_LIST
        """How many runs to ask for: as many as it takes to see the oldest one waited for."""
        self.newest_listed = 0
        self.hinted_at: float | None = None
        """When the agents list said that the last run had ended, until that has been looked into."""

    def __iter__(self) -> Iterator[Watched]:
        for waits in self.runs.values():
            yield from waits
        yield from self.pending_discovery

    def __bool__(self) -> bool:
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
            self.unlisted.discard(run_id)
        return True

    def covered(self, poll: AgentPoll | RunPoll) -> list[Watched]:
        """Return the waits that a poll is asked for."""
        if isinstance(poll, RunPoll):
            return list(self.runs.get(poll.run_id, ())) if poll.run_id in self.unlisted else []
        listed = [watched for run_id, waits in self.runs.items() if run_id not in self.unlisted for watched in waits]
        return listed + self.pending_discovery

    def lone_run(self) -> int | None:
        """Return the run waited for, if it is the only one: its own record is a better answer than the list."""
        if self.pending_discovery or self.unlisted or len(self.runs) != 1:
            return None
        return next(iter(self.runs))

    def last_run(self) -> int | None:
        """Return the run waited for that is the agent's last one, as far as is known."""
        last = max(self.runs, default=0)
        return last if last and last >= self.newest_listed else None

    def may_be_cut(self, listed: Sequence[object]) -> bool:
        """Return whether the service may have more runs than it listed, and would list more."""
        return self.list_size <= len(listed) < LONGEST_RUN_LIST

    def read_list(self, run_ids: list[int]) -> None:
        """
        Take in which runs the service lists, newest first.

        Runs waited for that it does not list are unlisted. A list that may have been cut says nothing of them: then the
        next one is longer.
        """
        self.unlisted -= set(run_ids)
        missing = self.runs.keys() - self.unlisted - set(run_ids)
        if self.may_be_cut(run_ids) and (missing or self.pending_discovery):
            self.list_size = min(self.list_size * 4, LONGEST_RUN_LIST)
            return
        self.unlisted |= missing
        if not self.pending_discovery:
            deepest = max((place for place, run_id in enumerate(run_ids, 1) if run_id in self.runs), default=0)
            self.list_size = min(max(_SHORTEST_LIST, deepest + deepest // 4), LONGEST_RUN_LIST)


LAST_LOOK = 15.0
"""Seconds after its deadline that a wait is given for a last look, so that it ends with the run's last state."""

_FEW_RUNS = 2
"""With so few runs of an agent to wait for, what the agents list tells of it is most of what there is to hear."""


class WatchList:
    """
    The waits of one connection.

    :param rates: what is known of how long runs take; more is learnt here.
    """

    def __init__(self, rates: EndRates) -> None:
        self._rates = rates
        self._schedule: PollSchedule[Poll] = PollSchedule()
        self._agents: dict[int, AgentWaits] = {}
        self._hints: AgentHints | None = AgentHints()
        self._hints_need_planning = False
        self._fixed: list[tuple[float, int, Watched]] = []
        self._fixed_count = 0
        self._waits = 0

    def __len__(self) -> int:
        return self._waits

    def __iter__(self) -> Iterator[Watched]:
        for agent in self._agents.values():
            yield from agent

    @property
    def agent_count(self) -> int:
        """The number of agents waited for."""
        return len(self._agents)

    def add(self, watched: Watched, moment: Moment) -> None:
        """Take up a wait."""
        agent_id = watched.wait.spec.agent_id
        agent = self._agents.get(agent_id)
        if agent is None:
            agent = self._agents[agent_id] = AgentWaits(agent_id)
        agent.add(watched)
        self._waits += 1
        self._note_fixed_look(watched, moment)
        self._hints_need_planning = True
        poll = AgentPoll(agent_id)
        if poll in self._schedule:
            rate = self._rates.rate(agent_id, watched.stage(moment.steady))
            shortest = watched.shortest_interval
            self._schedule.expect_more(poll, rate, now=moment.steady, shortest=shortest)
        else:
            self._plan(poll, moment.steady)

    def remove(self, watched: Watched) -> None:
        """Drop a wait, if it is still on the list."""
        agent = self._agents.get(watched.wait.spec.agent_id)
        if agent is None or not agent.remove(watched):
            return
        self._waits -= 1
        watched.fixed_at = None
        run_id = watched.wait.spec.run_id
        if run_id is not None and run_id not in agent.runs:
            self._schedule.drop(RunPoll(agent.agent_id, run_id))
        if not agent:
            del self._agents[agent.agent_id]
            self._schedule.drop(AgentPoll(agent.agent_id))
            self._hints_need_planning = True

    def next_poll(self, now: float) -> tuple[Poll | None, float]:
        """
        Return the poll to ask now, by the steady clock, and note that it is on its way.

        :return: the poll, or ``None`` and when to look again.
        """
        if self._hints_need_planning:
            self._plan_pages(now)
        return self._schedule.take(now)

    def call_for(self, poll: Poll) -> Call[Any]:
        """Return the request of a poll."""
        from airflow_provider_sequentum.api import agents, runs

        if isinstance(poll, PagePoll):
            return agents.list_agents(page=poll.page, records_per_page=AGENTS_PER_PAGE)
        if isinstance(poll, RunPoll):
            return runs.status(poll.agent_id, poll.run_id)
        agent = self._agents[poll.agent_id]
        lone_run = agent.lone_run()
        if lone_run is not None:
            return runs.status(agent.agent_id, lone_run)
        return runs.list_runs(agent.agent_id, agent.list_size)

    def answered(self, poll: Poll, answer: Any, asked_at: float, moment: Moment) -> list[Update]:
        """
        Take in the answer to a poll.

        :param answer: what the call of :meth:`call_for` returned.
        :param asked_at: when it was sent, by the steady clock.
        """
        if isinstance(poll, PagePoll):
            self._read_page(poll.page, answer, asked_at)
            return []
        agent = self._agents.get(poll.agent_id)
        if agent is None:
            return []
        news = list(self._observe(agent, answer if isinstance(answer, list) else [answer], asked_at, moment))
        if isinstance(answer, list):
            before = set(agent.unlisted)
            agent.read_list([run.id for run in answer])
            for run_id in before ^ agent.unlisted:
                self._plan(RunPoll(agent.agent_id, run_id), asked_at)
        self._plan(poll, asked_at)
        if agent.hinted_at is not None:
            self._expedite_last_run(agent)
        return news

    def failed(self, poll: Poll, error: SequentumError, moment: Moment) -> list[Update]:
        """Take in that a poll was not answered."""
        can_pass = fault_tolerance(error) >= FAULT_TOLERANCE
        if isinstance(poll, PagePoll):
            if not can_pass:
                self._hints = None
            self._plan(poll, moment.steady)
            return []
        agent = self._agents.get(poll.agent_id)
        if agent is None:
            return []
        if isinstance(poll, AgentPoll) and agent.lone_run() is None and not can_pass:
            # That the list is refused says nothing of a run: each is asked for by itself from now on.
            agent.unlisted.update(agent.runs)
            for run_id in agent.runs:
                self._plan(RunPoll(agent.agent_id, run_id), moment.steady)
        news = [item for watched in agent.covered(poll) for item in self._judge(watched, error, moment)]
        self._plan(poll, moment.steady)
        return news

    def ask_again(self, poll: Poll, moment: Moment) -> None:
        """Take in that a poll has to be repeated, through no fault of the service."""
        self._plan(poll, moment.steady)
        if poll in self._schedule:
            self._schedule.expedite(poll)

    def pass_time(self, moment: Moment) -> list[Update]:
        """Bring forward the looks that can't be put off, and end the waits that got none after their deadline."""
        news = []
        while (at := self.next_fixed_look()) is not None and at <= moment.steady:
            watched = heapq.heappop(self._fixed)[2]
            watched.fixed_at = None
            if watched.is_last_look:
                self.remove(watched)
                news.append(Update(watched, PollResult(PollOutcome.DEADLINE)))
                continue
            deadline = watched.wait.spec.deadline
            if deadline is not None and moment.utc >= deadline:
                # A trigger may have come back long after: it still gets its look.
                watched.is_last_look = True
                self._push_fixed(watched, moment.steady + LAST_LOOK)
            self._expedite(watched)
        return news

    def next_fixed_look(self) -> float | None:
        """Return when :meth:`pass_time` has something to do, by the steady clock."""
        while self._fixed and self._fixed[0][2].fixed_at != self._fixed[0][0]:
            heapq.heappop(self._fixed)
        return self._fixed[0][0] if self._fixed else None

    def _observe(self, agent: AgentWaits, records: list[Run], asked_at: float, moment: Moment) -> Iterator[Update]:
        agent.newest_listed = max((run.id for run in records), default=agent.newest_listed)
        last_run, was_hinted = agent.last_run(), agent.hinted_at is not None and agent.hinted_at <= asked_at
        for run in records:
            ended_at = None
            for watched in tuple(agent.runs.get(run.id, ())):
                news = self._see(watched, run, moment)
                if any(item.verdict.outcome is PollOutcome.ENDED for item in news):
                    ended_at = watched.ended_at(run, moment)
                yield from news
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
        if self._hints is None:
            return
        if was_hinted:
            self._hints.learn(was_right=ended_at is not None)
        elif ended_at is not None and self._hints.should_have_told(agent.agent_id, ended_at):
            self._hints.learn(was_right=False)

    def _see(self, watched: Watched, run: Run, moment: Moment) -> list[Update]:
        looked_at = watched.looked_at
        stage = watched.stage(looked_at) if looked_at is not None else None
        news = self._judge(watched, run, moment)
        if stage is not None and looked_at is not None:
            has_ended = any(item.verdict.outcome is PollOutcome.ENDED for item in news)
            until = watched.ended_at(run, moment) if has_ended else moment.steady
            progress = stage.progress + max(until - looked_at, 0.0) * stage.pace
            self._rates.learn(run.agent_id, stage, progress, ended=has_ended)
        watched.see(run, moment)
        return news

    def _judge(self, watched: Watched, seen: Run | SequentumError | None, moment: Moment) -> list[Update]:
        wait = watched.wait
        try:
            if isinstance(seen, SequentumError):
                verdict = wait.failed(seen, moment.utc)
            elif wait.spec.run_id is None:
                verdict = wait.found(seen, moment.utc, moment.served_at)
            else:
                verdict = wait.observe(seen, moment.utc, moment.served_at) if seen is not None else PollResult()
        except SequentumError as error:
            self.remove(watched)
            return [Update(watched, PollResult(), error)]
        if verdict.outcome is not None:
            self.remove(watched)
            return [Update(watched, verdict)]
        # Ten thousand records would be most of what ten thousand waits take up, and nobody reads them.
        wait.run = None
        self._note_fixed_look(watched, moment)
        return [Update(watched, verdict)] if verdict.message is not None else []

    def _plan(self, poll: Poll, asked_at: float) -> None:
        if isinstance(poll, PagePoll):
            rate = self._hinted_rate(poll.page, asked_at)
            if rate > 0:
                self._schedule.plan(poll, lambda _: rate, asked_at=asked_at)
            else:
                self._schedule.drop(poll)
            return
        agent = self._agents.get(poll.agent_id)
        if agent is None or not (covered := agent.covered(poll)):
            self._schedule.drop(poll)
            return
        agent_id, rate_of = agent.agent_id, self._rates.rate
        # What hints will tell need not be found out by asking.
        by_hints = self._hints.chance(agent_id) if self._hints_are_used and self._hints is not None else 0.0
        hinted = [watched for watched in agent.runs.get(agent.last_run() or 0, ()) if by_hints and watched in covered]

        def news_rate(ahead: float) -> float:
            at = asked_at + ahead
            told = sum(rate_of(agent_id, watched.stage(at)) for watched in hinted) * by_hints
            return sum(rate_of(agent_id, watched.stage(at)) for watched in covered) - told

        shortest = min(watched.shortest_interval for watched in covered)
        self._schedule.plan(poll, news_rate, asked_at=asked_at, shortest=shortest)

    @property
    def _hints_are_used(self) -> bool:
        return self._hints is not None and len(self._agents) >= FEWEST_AGENTS

    def _plan_pages(self, now: float) -> None:
        self._hints_need_planning = False
        for page in self._hints.pages if self._hints is not None else ():
            poll = PagePoll(page)
            if not self._schedule.is_on_its_way(poll):
                self._plan(poll, self._schedule.asked_at(poll, now))

    def _hinted_rate(self, page: int, now: float) -> float:
        if self._hints is None or not self._hints_are_used:
            return 0.0
        total = 0.0
        for agent_id in self._hints.agents_on(page, self._agents):
            agent = self._agents[agent_id]
            for watched in agent.runs.get(agent.last_run() or 0, ()):
                total += self._rates.rate(agent_id, watched.stage(now)) * self._hints.chance(agent_id, page)
        return total

    def _read_page(self, page: int, answer: Page[Agent], asked_at: float) -> None:
        if self._hints is None:
            return
        pages = self._hints.pages
        over = self._hints.read(page, answer, answer.total_record_count, asked_at)
        for agent_id in self._hints.agents_on(page, self._agents):
            # What the page tells of need not be found out by asking, and how far that holds has just been learnt.
            poll = AgentPoll(agent_id)
            is_main_news = len(self._agents[agent_id].runs) <= _FEW_RUNS
            if is_main_news and poll in self._schedule and not self._schedule.is_on_its_way(poll):
                self._plan(poll, self._schedule.asked_at(poll, asked_at))
        for agent_id in over:
            agent = self._agents.get(agent_id)
            if agent is not None and agent.last_run() is not None:
                agent.hinted_at = asked_at
                self._expedite_last_run(agent)
        self._hints_need_planning = self._hints_need_planning or pages != self._hints.pages
        self._plan(PagePoll(page), asked_at)

    def _expedite_last_run(self, agent: AgentWaits) -> None:
        for watched in agent.runs.get(agent.last_run() or 0, ()):
            self._expedite(watched)

    def _expedite(self, watched: Watched) -> None:
        spec = watched.wait.spec
        if spec.run_id is not None and spec.run_id in self._agents[spec.agent_id].unlisted:
            self._schedule.expedite(RunPoll(spec.agent_id, spec.run_id))
        else:
            self._schedule.expedite(AgentPoll(spec.agent_id))

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
