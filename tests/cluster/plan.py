"""What a storm is made of: which jobs come, what is done to them, what is broken and when. All from one seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Literal

Kill = Literal["worker", "triggerer", "scheduler", "api-server", "postgres", "sandbox"]
Deed = Literal["clear", "clear and wipe", "mark failed", "mark success", "stop", "restart", "archive"]

KILLS_PER_MINUTE: dict[Kill, float] = {
    "worker": 1.0,
    "triggerer": 0.8,
    "scheduler": 0.4,
    "api-server": 0.4,
    "postgres": 0.3,
    "sandbox": 0.4,
}
MAX_DOWNTIME = 12.0
"""Seconds until what was killed is started again."""

_START, _READS, _ALL = "POST /agent/{agent_id}/start", "GET *", "*"
FAULTS_PER_MINUTE = 0.6
FAULTS: dict[str, dict[str, Any]] = {
    "reset before the start": {"route": _START, "fault": "reset_before", "times": 2},
    "reset after the start": {"route": _START, "fault": "reset_after", "times": 2},
    "resets": {"route": _ALL, "fault": "reset_after", "times": 6, "probability": 0.5},
    "delays": {"route": _ALL, "fault": "delay", "delay": 8.0, "times": 4},
    "429 storm": {"route": _ALL, "fault": "status", "status": 429, "headers": {"Retry-After": "3"}, "times": 15},
    "5xx burst": {"route": _ALL, "fault": "status", "status": 503, "times": 15},
    "5xx after the action": {"route": _START, "fault": "status_after", "status": 502, "times": 2},
    "gateway pages": {"route": _READS, "fault": "html", "times": 6},
    "gateway page to a start": {"route": _START, "fault": "html", "times": 1},
}

SECONDS_BETWEEN_JOBS = 10.0
SUCCESS: dict[str, Any] = {"outcome": "Success"}
ENDLESS: dict[str, Any] = {"outcome": "Running"}
#: What becomes of the runs of a job, one after the other, and how often a job is of the kind.
COURSES: list[tuple[int, list[dict[str, Any]]]] = [
    (8, []),
    (2, [{"outcome": "Failure", "duration": 6.0}]),
    (1, [{"outcome": "Failed", "duration": 6.0}]),
    (1, [{**SUCCESS, "queue_seconds": 15.0, "duration": 10.0}]),
    (3, [ENDLESS]),
]
#: An endless run ends only by one of these.
ENDINGS: list[tuple[int, Deed]] = [
    (1, "clear"), (2, "clear and wipe"), (1, "mark failed"), (1, "mark success"), (1, "stop"),
]  # fmt: skip
DEEDS: list[tuple[int, Deed | None]] = [
    (8, None), (1, "clear"), (2, "clear and wipe"), (1, "mark failed"), (1, "mark success"), (1, "stop"),
    (2, "restart"), (2, "archive"),
]  # fmt: skip


@dataclass(frozen=True)
class Job:
    """
    A piece of work, done once by the provider's operator and once by a plain one.

    :param name: what it is called everywhere.
    :param at: seconds from the start of the storm at which it comes.
    :param deferrable: whether the provider's operator waits in the triggerer.
    :param duration: seconds a run takes, unless ``plans`` say otherwise.
    :param plans: what becomes of its first runs and restarts, in order.
    :param deed: what a person does to it, if anything.
    :param deed_after: seconds after its run was started that the person takes.
    """

    name: str
    at: float
    deferrable: bool
    duration: float
    plans: list[dict[str, Any]] = field(default_factory=list, hash=False)
    deed: Deed | None = None
    deed_after: float = 0.0


@dataclass(frozen=True)
class Death:
    """
    A part of the installation that is killed.

    :param at: seconds from the start of the storm.
    :param kind: what dies.
    :param choice: which one of its kind, a number from 0 to 1.
    :param downtime: seconds until it is started again.
    """

    at: float
    kind: Kill
    choice: float
    downtime: float


@dataclass(frozen=True)
class Squall:
    """
    A fault of the network or of the service.

    :param at: seconds from the start of the storm.
    :param kind: one of :data:`FAULTS`.
    """

    at: float
    kind: str


@dataclass(frozen=True)
class Storm:
    """All that happens, each list in the order of time."""

    jobs: list[Job]
    deaths: list[Death]
    squalls: list[Squall]


def plan_storm(seed: int, seconds: float) -> Storm:
    """Return the storm of a seed. Every kind of death and of fault is in it, however short it is."""
    chance = random.Random(seed)
    jobs = [
        _job(chance, f"job-{number:03}", number * SECONDS_BETWEEN_JOBS)
        for number in range(max(1, round(seconds / SECONDS_BETWEEN_JOBS)))
    ]
    deaths = [
        Death(at, kind, chance.random(), chance.uniform(1, MAX_DOWNTIME))
        for kind, per_minute in KILLS_PER_MINUTE.items()
        for at in _moments(chance, per_minute, seconds)
    ]
    squalls = [Squall(at, kind) for kind in FAULTS for at in _moments(chance, FAULTS_PER_MINUTE, seconds)]
    return Storm(jobs, sorted(deaths, key=lambda death: death.at), sorted(squalls, key=lambda squall: squall.at))


def _moments(chance: random.Random, per_minute: float, seconds: float) -> list[float]:
    """Return moments that are spread over the storm, so that what is broken has time to show what it does."""
    number = max(1, round(per_minute * seconds / 60))
    share = seconds / number
    return [(index + chance.random()) * share for index in range(number)]


def _job(chance: random.Random, name: str, at: float) -> Job:
    plans = _choose(chance, COURSES)
    endings: list[tuple[int, Deed | None]] = [*ENDINGS] if ENDLESS in plans else DEEDS
    return Job(
        name=name,
        at=at,
        deferrable=chance.random() < 0.6,
        duration=chance.uniform(8, 40),
        plans=plans,
        deed=_choose(chance, endings),
        deed_after=chance.uniform(2, 20),
    )


def _choose(chance: random.Random, choices: list[tuple[int, Any]]) -> Any:
    return chance.choices([value for _, value in choices], [weight for weight, _ in choices])[0]
