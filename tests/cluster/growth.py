"""Whether something grows under a steady load: a pure judgement of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

TOLERANCE: dict[str, tuple[float, float]] = {
    "memory": (0.05, 8.0),
    "objects": (0.05, 5000),
    "handles": (0.1, 4),
    "connections": (0.1, 3),
    "tasks": (0.3, 5),
}
"""By how much a figure may differ between the middle and the end of the load: a share of it, and a number."""
RELEASED = ("handles", "connections", "tasks")
"""Figures that come down to what they were before the load, once it is over."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """
    The triggerer at a moment.

    :param at: seconds from the start.
    :param waits: runs that are waited for.
    :param memory: megabytes that belong to its processes alone.
    :param handles: open files and sockets.
    :param connections: connections to the service.
    :param tasks: tasks of its event loop.
    :param objects: objects that Python's garbage collector knows.
    """

    at: float
    waits: int
    memory: float
    handles: int
    connections: int
    tasks: int
    objects: int


def growths(before: Sample, load: Sequence[Sample], after: Sample) -> list[str]:
    """
    Return what grows.

    :param before: taken before the load, by a triggerer that has waited for a run already.
    :param load: taken under the load. The first third is left out: what is loaded once is no growth.
    :param after: taken after all waits have ended.
    """
    third = len(load) // 3
    if third < 3:
        raise ValueError(f"{len(load)} samples are too few to tell growth from chance")
    found = []
    for name, (share, number) in TOLERANCE.items():
        middle = median(getattr(sample, name) for sample in load[third : 2 * third])
        end = median(getattr(sample, name) for sample in load[2 * third :])
        if end > middle * (1 + share) + number:
            found.append(f"{name} grew from {middle:g} to {end:g} under a steady load")
    for name in RELEASED:
        share, number = TOLERANCE[name]
        first, last = getattr(before, name), getattr(after, name)
        if last > first * (1 + share) + number:
            found.append(f"{name}: {first:g} before the load, {last:g} after it")
    if after.waits:
        found.append(f"{after.waits} waits are left")
    return found
