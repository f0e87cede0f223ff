"""A queue by time: what is due first comes first, and what is due at the same time in the order it was put in."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_SPARE = 100
"""Entries that may be out of date, beside as many as are valid, before they are cleared away."""


class DueQueue(Generic[T]):
    """Items, each with the time from which it is due. Times are seconds of any steady clock."""

    def __init__(self) -> None:
        self._due: dict[T, float] = {}
        self._heap: list[tuple[float, int, T]] = []
        self._count = itertools.count()

    def __contains__(self, item: object) -> bool:
        return item in self._due

    def put(self, item: T, due: float) -> None:
        """Take in an item, or change when it is due."""
        if self._due.get(item) == due:
            return
        self._due[item] = due
        heapq.heappush(self._heap, (due, next(self._count), item))
        if len(self._heap) > 2 * len(self._due) + _SPARE:
            self._heap = [entry for entry in self._heap if self._is_valid(entry)]
            heapq.heapify(self._heap)

    def drop(self, item: T) -> None:
        """Forget an item, if it is there."""
        self._due.pop(item, None)

    def due_at(self, item: T) -> float:
        """Return when an item is due; infinity if it is not there."""
        return self._due.get(item, math.inf)

    def first(self) -> tuple[float, T | None]:
        """Return when the first item is due, and the item; infinity and ``None`` if there is none."""
        while self._heap and not self._is_valid(self._heap[0]):
            heapq.heappop(self._heap)
        return (self._heap[0][0], self._heap[0][2]) if self._heap else (math.inf, None)

    def _is_valid(self, entry: tuple[float, int, T]) -> bool:
        return self._due.get(entry[2]) == entry[0]
