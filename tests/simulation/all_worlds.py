"""The worlds that seeds are played in, and what each has to promise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.simulation import promises, sensors, sessions, siblings
from tests.simulation.history import Entry
from tests.simulation.promises import Broken
from tests.simulation.sensor_world import SensorWorld
from tests.simulation.sibling_world import DyingSiblingsWorld, SiblingsWorld
from tests.simulation.worlds import (
    GivenSessionWorld,
    HurriedRunWorld,
    LostStartSpaceWorld,
    RestlessRunWorld,
    RestlessSpaceWorld,
    RunWorld,
    Script,
    SpaceWorld,
    StartedSessionWorld,
    UnseenSpaceWorld,
)

WIDE = (
    RunWorld,
    SpaceWorld,
    StartedSessionWorld,
    RestlessRunWorld,
    RestlessSpaceWorld,
    GivenSessionWorld,
    SiblingsWorld,
    SensorWorld,
    UnseenSpaceWorld,
)
NARROW = (DyingSiblingsWorld, HurriedRunWorld, LostStartSpaceWorld)
"""In which one kind of trouble comes often."""

WORLDS: tuple[Callable[[int], Script], ...] = (*WIDE, *NARROW, *WIDE)

NAMES = [world.__name__ for world in (*WIDE, *NARROW, *WIDE)]

CHECKERS: dict[str, Callable[[Sequence[Entry]], list[Broken]]] = {
    "session_id": sessions.broken_promises,
    "siblings": siblings.broken_promises,
    "sensor": sensors.broken_promises,
}
"""The checker of a history, by what the first entry has; otherwise that of a task with runs."""


def world_of(seed: int) -> Script:
    """Return the world of a seed."""
    return WORLDS[seed % len(WORLDS)](seed)


def world_name(seed: int) -> str:
    """Return the name of the world of a seed."""
    return NAMES[seed % len(NAMES)]


def broken_promises(history: Sequence[Entry]) -> list[Broken]:
    """Return the promises that a history breaks, in the order of time."""
    checker = next((check for name, check in CHECKERS.items() if name in history[0]), promises.broken_promises)
    return checker(history)
