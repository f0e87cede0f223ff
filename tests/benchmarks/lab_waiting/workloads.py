"""What is waited for: runs of agents, and what else uses the key."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

Draw = Callable[[random.Random], float]

FIRST_WATCHED = 100_000
"""The number of the first agent that is watched."""
SETTLED = 3600.0
"""Second from which the agents that are watched have runs. Each was looked at once before."""
WATCHED_STARTS = 240
"""How many runs they have, four a minute."""


@dataclass(frozen=True)
class PlannedRun:
    """A run, which began at second ``began`` and takes so many."""

    run_id: int
    agent_id: int
    seconds: float
    began: float = 0.0
    triggerer: int = 0
    """In which triggerer it is waited for."""

    @property
    def end(self) -> float:
        return self.began + self.seconds


@dataclass(frozen=True)
class Workload:
    """A kind of workload; a seed makes one of it.

    :param counts: gives how many runs there are of each agent.
    :param duration: draws how long a run takes.
    :param triggerers: over how many triggerers the waits are spread.
    :param starts_per_minute: starts by workers, each a process of its own.
    :param minutes: how long it is observed; ``None`` until the last end is known.
    """

    name: str
    counts: Callable[[random.Random], list[int]]
    duration: Draw
    triggerers: int = 1
    starts_per_minute: float = 0.0
    minutes: float | None = None
    listed_agents: int | None = None
    """How many agents the account has, if more than are waited for."""
    watched_agents: int = 0
    """How many agents asset watchers listen to, beside those that are waited for."""
    batches: tuple[float, ...] = (0.0,)
    """When the runs start that are waited for."""
    goals: dict[str, float] = field(default_factory=dict)

    @property
    def waiters(self) -> list[str]:
        """The simple rules, and those that know more. Pages tell of an agent's last run only."""
        has_one_run_each = set(self.counts(random.Random(0))) == {1}
        return ["loop", "pages" if has_one_run_each else "informed", "oracle"]

    def runs(self, seed: int) -> list[PlannedRun]:
        """Return the runs."""
        generator = random.Random(f"{self.name} {seed}")
        agents = [agent for agent, count in enumerate(self.counts(generator), 1) for _ in range(count)]
        generator.shuffle(agents)
        return [
            PlannedRun(
                1000 + number,
                agent,
                self.duration(generator),
                began=self.batches[number * len(self.batches) // len(agents)],
                triggerer=number % self.triggerers,
            )
            for number, agent in enumerate(agents)
        ]

    def watched_runs(self, seed: int) -> list[PlannedRun]:
        """Return the runs of the agents that are watched: each had one long ago, and four a minute start later."""
        generator = random.Random(f"{self.name} watched {seed}")
        agents = range(FIRST_WATCHED, FIRST_WATCHED + self.watched_agents)
        runs = [PlannedRun(1_000_000 + agent, agent, 1.0) for agent in agents]
        starts = range(WATCHED_STARTS if agents else 0)
        return runs + [
            PlannedRun(
                2_000_000 + number,
                generator.choice(agents),
                self.duration(generator),
                began=SETTLED + 15.0 * number + generator.uniform(0, 15),
            )
            for number in starts
        ]


def lognormal(median: float, sigma: float) -> Draw:
    return lambda generator: median * math.exp(generator.gauss(0, sigma))


def bimodal(generator: random.Random) -> float:
    """Half a minute or forty minutes, give or take a tenth."""
    return (30.0 if generator.random() < 0.5 else 2400.0) * generator.uniform(0.9, 1.1)


def pareto(generator: random.Random) -> float:
    """Many short ones and a long tail: median 120 s, cut at two hours."""
    return min(80.0 * generator.paretovariate(1.2) * 0.84, 7200.0)


def at_once(_: random.Random) -> float:
    return 300.0


def each(agents: int, runs: int) -> Callable[[random.Random], list[int]]:
    return lambda _: [runs] * agents


def from_1_to_20(generator: random.Random) -> list[int]:
    return [generator.randint(1, 20) for _ in range(200)]


LOGNORMAL = lognormal(300.0, 0.8)
MANY, FEW = each(20, 50), each(200, 1)

SINGLE = {
    workload.name: workload
    for workload in (
        Workload("A", MANY, LOGNORMAL, goals={"mean": 4.5}),
        Workload("A bimodal", MANY, bimodal),
        Workload("A pareto", MANY, pareto),
        Workload("A at once", MANY, at_once),
        Workload("B", FEW, LOGNORMAL, goals={"mean": 2.0}),
        Workload("B bimodal", FEW, bimodal),
        Workload("B pareto", FEW, pareto),
        Workload("B at once", FEW, at_once),
        Workload("C", from_1_to_20, LOGNORMAL),
        Workload("D", each(100, 2), lognormal(3 * 3600.0, 0.1)),
        Workload("50 of 10,000", each(50, 1), LOGNORMAL, listed_agents=10_000),
    )
}

SHARED = {
    workload.name: workload
    for workload in (
        Workload("1 triggerer, 60 starts", MANY, LOGNORMAL, starts_per_minute=60, minutes=15),
        Workload("2 triggerers", MANY, LOGNORMAL, triggerers=2, minutes=15),
        Workload("2 triggerers, 60 starts", MANY, LOGNORMAL, triggerers=2, starts_per_minute=60, minutes=15),
    )
}

BATCHED = each(20, 30)
BATCHES = tuple(SETTLED + 600.0 * number for number in range(6))
WATCHED = {
    workload.name: workload
    for workload in (
        Workload("1,000 watched", each(0, 0), LOGNORMAL, minutes=150, watched_agents=1000),
        Workload("600 waits", each(20, 30), LOGNORMAL, minutes=150, batches=BATCHES),
        Workload(
            "600 waits, 1,000 watched", each(20, 30), LOGNORMAL, minutes=150, batches=BATCHES, watched_agents=1000
        ),
    )
}
