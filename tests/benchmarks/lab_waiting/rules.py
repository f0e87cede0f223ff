"""Simple rules to compare with, and the best that could be done: each sends one request every 0.75 s."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator

from airflow_provider_sequentum.api.run_status import RunStatus
from tests.benchmarks.lab_waiting.service import LabService, status_of
from tests.benchmarks.lab_waiting.workloads import PlannedRun

SPACING = 0.75
PAGE = 100


class Rule(ABC):
    """Whom to ask next. Subclasses choose; what an agent's runs look like is seen here."""

    def __init__(self, service: LabService) -> None:
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

    def __init__(self, service: LabService) -> None:
        super().__init__(service)
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

    def __init__(self, service: LabService) -> None:
        super().__init__(service)
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

    def __init__(self, service: LabService) -> None:
        super().__init__(service)
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


def delays_by(kind: type[Rule], service: LabService) -> list[float]:
    """Return how long after its end each run was heard of."""
    rule = kind(service)
    now = 0.0
    while rule.waiting and now < 10 * 86_400:
        latency = service.latency()
        rule.ask(now + latency / 2, now + latency)
        now += SPACING
    return [at - service.runs[run_id].end for run_id, at in rule.heard.items()]
