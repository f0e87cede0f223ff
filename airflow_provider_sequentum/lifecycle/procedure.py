"""
Procedures: what is said to the service, in which order, written once as a generator.

A procedure yields *steps* (send this call, sleep, remember this record, say this to the person watching) and is
resumed with each step's result; a failed call is thrown into it as its typed error. It does no I/O itself. A driver
carries the steps out, with a blocking or an async client (``hooks/driver.py``), so nothing is written twice, and a test
can answer every step, advance the clock without waiting, or abandon the procedure between any two steps, which is what
a killed worker does.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.call import Call

T = TypeVar("T")


class Log(Protocol):
    """Where a driver writes what a procedure has to say: a logger of Airflow's or of the standard library's."""

    def log(self, level: int, msg: Any, /, *args: Any) -> Any:
        """Write a message at a level."""


@dataclass(frozen=True, slots=True)
class Send:
    """
    Send a call; the result is its parsed answer, a failure is thrown as a ``SequentumError``.

    ``budget_share`` is the part of the key's request budget it may help to fill: who polls leaves room for who starts.
    """

    call: Call[Any]
    budget_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Sleep:
    """Do nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Now:
    """Tell the time: the result is an aware UTC ``datetime``."""


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep a record where the next try of the task finds it; ``None`` forgets the one that is there."""

    record: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class TellSiblingsRuns:
    """Tell which runs the task's mapped siblings hold: the result is a set of their ids."""


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the person who watches the task log."""

    level: int
    message: str


Step = Send | Sleep | Now | Remember | TellSiblingsRuns | Say
Procedure = Generator[Step, Any, T]


def send(call: Call[T], budget_share: float = 1.0) -> Procedure[T]:
    """Send ``call`` and return its answer."""
    return cast("T", (yield Send(call, budget_share)))


def sleep(seconds: float) -> Procedure[None]:
    """Let ``seconds`` pass."""
    yield Sleep(seconds)


def now() -> Procedure[datetime]:
    """Return the time."""
    return cast("datetime", (yield Now()))


def remember(record: dict[str, Any] | None) -> Procedure[None]:
    """Keep ``record`` for the next try; ``None`` forgets."""
    yield Remember(record)


def siblings_runs() -> Procedure[frozenset[int]]:
    """Return the ids of the runs that the task's mapped siblings hold, as far as they have said so."""
    return cast("frozenset[int]", (yield TellSiblingsRuns()))


def say(message: str, level: int = logging.INFO) -> Procedure[None]:
    """Write ``message`` to the task log."""
    yield Say(level, message)


def warn(message: str) -> Procedure[None]:
    """Write ``message`` to the task log as a warning."""
    yield Say(logging.WARNING, message)
