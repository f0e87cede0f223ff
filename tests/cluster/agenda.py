"""Things to do at certain moments, and again until they succeed."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from itertools import count

Action = Callable[[], float | None]
"""Does something. Returns the seconds after which to call it again, or ``None`` if it is done."""
MAX_PAUSE = 0.2


class Agenda:
    """What one thread has to do."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Action]] = []
        self._numbers = count()
        self._lock = threading.Lock()

    def add(self, at: float, action: Action) -> None:
        """Let ``action`` be called at the moment ``at`` of the steady clock."""
        with self._lock:
            heapq.heappush(self._due, (at, next(self._numbers), action))

    def is_empty(self) -> bool:
        """Whether nothing is left to do."""
        with self._lock:
            return not self._due

    def work(self, stop: threading.Event) -> None:
        """Do what is due until told to stop."""
        while not stop.wait(self._pause()):
            while (action := self._next()) is not None and not stop.is_set():
                again = action()
                if again is not None:
                    self.add(time.monotonic() + again, action)

    def _pause(self) -> float:
        with self._lock:
            until = self._due[0][0] - time.monotonic() if self._due else MAX_PAUSE
        return min(max(until, 0.0), MAX_PAUSE)

    def _next(self) -> Action | None:
        with self._lock:
            if self._due and self._due[0][0] <= time.monotonic():
                return heapq.heappop(self._due)[2]
        return None
