"""Simple rules to compare with, and the best that could be done: each sends one request every 0.75 s."""

from __future__ import annotations

import itertools
import math
import random
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator

from airflow_provider_sequentum.api.run_status import RunStatus
from tests.benchmarks.lab_waiting.service import LATENCY, LabService, status_of
from tests.benchmarks.lab_waiting.workloads import Draw, PlannedRun, Workload

SPACING = 0.75
PAGE = 100


class Rule(ABC):
    """Whom to ask next. Subclasses choose; what an agent's runs look like is seen here."""

    def __init__(self, service: LabService, workload: Workload) -> None:
        self.service = service
        self.waiting: dict[int, dict[int, PlannedRun]] = {}
        for run in service.runs.values():
            self.waiting.setdefault(run.agent_id, {})[run.run_id] = run
        self.heard: dict[int, float] = {}

    @abstractmethod
    def ask(self, now: float, answered: float) -> None:
        """Use one request."""

    def see(self, agent_id: int, now: float, answered: float) -> None:
        """Read the agent's runs."""
        for run in [run for run in self.waiting.get(agent_id, {}).values() if run.end <= now]:
            self.heard[run.run_id] = answered
            del self.waiting[agent_id][run.run_id]
        if not self.waiting.get(agent_id, True):
            del self.waiting[agent_id]


class Loop(Rule):
    """The agents' lists of runs in turn."""

    def __init__(self, service: LabService, workload: Workload) -> None:
        super().__init__(service, workload)
        self._turns = self._in_turn()

    def _in_turn(self) -> Iterator[int]:
        while self.waiting:
            for agent_id in list(self.waiting):
                if agent_id in self.waiting:
                    yield agent_id

    def ask(self, now: float, answered: float) -> None:
        agent_id = next(self._turns, None)
        if agent_id is not None:
            self.see(agent_id, now, answered)


class Pages(Rule):
    """The pages of the agents list in turn, then the runs of those that are shown as ended."""

    def __init__(self, service: LabService, workload: Workload) -> None:
        super().__init__(service, workload)
        pages = -(-len(service.agents) // PAGE)
        self._pages = itertools.cycle(range(pages))
        self._ended: list[int] = []

    def ask(self, now: float, answered: float) -> None:
        if self._ended:
            self.see(self._ended.pop(0), now, answered)
            return
        page = next(self._pages)
        for agent_id in self.service.agents[page * PAGE : (page + 1) * PAGE]:
            last = self.service.of_agent.get(agent_id, [None])[0]
            is_waited_for = last is not None and last.run_id in self.waiting.get(agent_id, {})
            if last is not None and is_waited_for and status_of(last, now) is RunStatus.SUCCESS:
                self._ended.append(agent_id)


class Oracle(Rule):
    """Knows when runs end, and asks for the agent of which most have."""

    def __init__(self, service: LabService, workload: Workload) -> None:
        super().__init__(service, workload)
        self._coming = sorted(service.runs.values(), key=lambda run: -run.end)
        self._ended: dict[int, int] = {}

    def ask(self, now: float, answered: float) -> None:
        while self._coming and self._coming[-1].end <= now:
            agent_id = self._coming.pop().agent_id
            self._ended[agent_id] = self._ended.get(agent_id, 0) + 1
        if self._ended:
            agent_id = max(self._ended, key=lambda agent: self._ended[agent])
            del self._ended[agent_id]
            self.see(agent_id, now, answered)


class Distribution:
    """How long runs take, from many draws."""

    def __init__(self, draw: Draw) -> None:
        generator = random.Random(1)
        self._durations = sorted(draw(generator) for _ in range(100_000))

    def surviving(self, age: float) -> float:
        """Return the part of the runs that take longer."""
        return 1.0 - bisect_right(self._durations, age) / len(self._durations)

    def ending(self, age: float, later: float) -> float:
        """Return the part of the runs of an age that end until a later one."""
        return 1.0 - self.surviving(later) / max(self.surviving(age), 1e-9)


class Informed(Rule):
    """Knows how long runs take, but not which ends when, and asks for the agent with the most ends to expect."""

    def __init__(self, service: LabService, workload: Workload) -> None:
        super().__init__(service, workload)
        self._distribution = Distribution(workload.duration)
        self._seen_at: dict[int, float] = {}

    def ask(self, now: float, answered: float) -> None:
        def expected(agent_id: int) -> float:
            ending = self._distribution.ending(self._seen_at.get(agent_id, 0.0), now)
            return len(self.waiting[agent_id]) * ending

        agent_id = max(self.waiting, key=expected)
        self._seen_at[agent_id] = now
        self.see(agent_id, now, answered)


def least_mean(workload: Workload, seed: int, step: float = 5.0) -> float:
    """Return the mean delay below which no rule gets by the agents' lists alone, if it only knows how long runs take.

    If an agent's runs end at rate r and it is asked every g seconds, they gather delay at the rate r * g / 2. With so
    many requests a second, the sum over the agents is least if g goes with the inverse root of r; then it is the square
    of the sum of the roots, divided by twice the requests. It holds where rates change little in g seconds.
    """
    distribution, of_agent = Distribution(workload.duration), LabService(workload.runs(seed), seed).of_agent
    ends_of_agents = [sorted(run.end for run in runs) for runs in of_agent.values()]
    delay = ends = age = 0.0
    while age < max(known[-1] for known in ends_of_agents):
        hazard = distribution.ending(age, age + step) / step
        rates = [hazard * (len(known) - bisect_right(known, age)) for known in ends_of_agents]
        delay += step * sum(map(math.sqrt, rates)) ** 2 * SPACING / 2
        ends += step * sum(rates)
        age += step
    return delay / ends + sum(LATENCY) / 4


def delays_by(kind: type[Rule], workload: Workload, seed: int) -> list[float]:
    """Return how long after its end each run was heard of."""
    service = LabService(workload.runs(seed), seed, workload.listed_agents)
    rule = kind(service, workload)
    now = 0.0
    while rule.waiting and now < 10 * 86_400:
        latency = service.latency()
        rule.ask(now + latency / 2, now + latency)
        now += SPACING
    return [at - service.runs[run_id].end for run_id, at in rule.heard.items()]
