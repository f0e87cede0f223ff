"""In which turn to poll: a rotation in which some polls come up more often than others.

With a steady rate of requests, and ends that come at a rate of r in a second, a poll that comes T seconds after the
last one finds r*T ends, each of which was waited for by T/2 seconds on average. Waiting in sum is least when polls come
up at rates proportional to the square root of r (Cho and Garcia-Molina, "Effective page refresh policies for web
crawlers", 2003; the same rule is max-weight for age of information, Kadota et al., 2018). Stride scheduling
(Waldspurger and Weihl, 1995) does that at a cost of O(log n) for each choice: each poll has a position on a line, the
one that is least far comes next, and moves on by the inverse of its share.

Nothing here holds a clock: times are arguments, in seconds of any steady clock.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

P = TypeVar("P", bound=Hashable)


@dataclass(slots=True)
class _Planned:
    """One poll of a rotation.

    :param share: how often it comes up, compared with others.
    :param position: where it is on the line.
    :param not_before: when it may come up again.
    :param entry: the number of its entry in a heap; others are out of date. 0 while it is on its way.
    """

    share: float
    position: float
    not_before: float
    entry: int = 0


class Rotation(Generic[P]):
    """Polls, and which of them comes next. A poll is planned, taken to be sent, and planned again when it is over."""

    def __init__(self) -> None:
        self._planned: dict[P, _Planned] = {}
        self._ready: list[tuple[float, int, P]] = []
        self._resting: list[tuple[float, int, P]] = []
        self._urgent: deque[P] = deque()
        self._front = 0.0
        self._entries = 0

    def __contains__(self, poll: object) -> bool:
        return poll in self._planned

    def __len__(self) -> int:
        return len(self._planned)

    def plan(self, poll: P, *, share: float = 1.0, now: float, not_before: float) -> None:
        """Plan a poll, or change its plan.

        :param share: how often it comes up, compared with others.
        :param not_before: when it may be sent.
        """
        planned = self._planned.get(poll)
        if planned is None:
            planned = self._planned[poll] = _Planned(share, self._front, not_before)
        planned.share, planned.not_before = share, not_before
        self._enter(poll, planned, now)

    def expedite(self, poll: P) -> None:
        """Let a poll come next, unless it is on its way."""
        planned = self._planned.get(poll)
        if planned is not None and planned.entry and planned.not_before != -math.inf:
            planned.not_before = -math.inf
            self._urgent.append(poll)

    def is_on_its_way(self, poll: P) -> bool:
        """Return whether a poll has been taken and not been planned again."""
        planned = self._planned.get(poll)
        return planned is not None and planned.entry == 0

    def due(self, now: float) -> float:
        """Return when :meth:`take` has a poll: ``now`` at the earliest, infinity if nothing is planned."""
        while self._resting and (self._resting[0][0] <= now or self._valid(*self._resting[0][1:]) is None):
            _, entry, poll = heapq.heappop(self._resting)
            if (planned := self._valid(entry, poll)) is not None:
                # A poll that has rested has no claim to all the turns that it has let pass.
                planned.position = max(planned.position, self._front - 1.0 / planned.share)
                heapq.heappush(self._ready, (planned.position, entry, poll))
        while self._urgent and not self._is_urgent(self._urgent[0]):
            self._urgent.popleft()
        while self._ready and self._valid(*self._ready[0][1:]) is None:
            heapq.heappop(self._ready)
        if self._urgent or self._ready:
            return now
        return self._resting[0][0] if self._resting else math.inf

    def take(self, now: float) -> P:
        """Return the poll to send now. It does not come up again before it is planned again.

        :raises LookupError: none is :meth:`due`.
        """
        if self.due(now) > now:
            raise LookupError("No poll is due.")
        poll = self._urgent.popleft() if self._urgent else heapq.heappop(self._ready)[2]
        planned = self._planned[poll]
        self._front = max(self._front, planned.position if planned.not_before != -math.inf else self._front)
        planned.position = max(planned.position, self._front) + 1.0 / planned.share
        planned.entry = 0
        return poll

    def drop(self, poll: P) -> None:
        """Forget a poll, if it is there."""
        self._planned.pop(poll, None)

    def _enter(self, poll: P, planned: _Planned, now: float) -> None:
        self._entries += 1
        planned.entry = self._entries
        if planned.not_before > now:
            heapq.heappush(self._resting, (planned.not_before, planned.entry, poll))
        else:
            heapq.heappush(self._ready, (planned.position, planned.entry, poll))

    def _valid(self, entry: int, poll: P) -> _Planned | None:
        planned = self._planned.get(poll)
        return planned if planned is not None and planned.entry == entry else None

    def _is_urgent(self, poll: P) -> bool:
        planned = self._planned.get(poll)
        return planned is not None and planned.entry != 0 and planned.not_before == -math.inf
