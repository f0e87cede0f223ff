"""In which turn to poll: a rotation in which some polls come up more often than others.

At a steady rate of requests, the sum of waiting is least when polls come up at rates proportional to the square root of
the ends in a second that each can find (Cho and Garcia-Molina, "Effective page refresh policies for web crawlers",
2003; max-weight for the age of information is the same rule, Kadota et al., 2018). Stride scheduling (Waldspurger and
Weihl, 1995) does that at a cost of O(log n) for each choice: each poll has a position on a line, the hindmost
comes next, and moves ahead by the inverse of its share.

Nothing here holds a clock: times are arguments, in seconds of any steady clock.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

P = TypeVar("P", bound=Hashable)


class _Plan:
    __slots__ = ("entry", "is_on_its_way", "is_urgent", "position", "share")

    def __init__(self, position: float) -> None:
        self.position = position
        self.share = 1.0
        self.entry = 0
        """The number of its entry in a heap: others are out of date. 0 while it has none."""
        self.is_on_its_way = False
        self.is_urgent = False


class Rotation(Generic[P]):
    """Polls, and which of them comes next. A poll is planned, taken to be sent, and planned again when it is over."""

    def __init__(self) -> None:
        self._plans: dict[P, _Plan] = {}
        self._ready: list[tuple[float, int, P]] = []
        self._resting: list[tuple[float, int, P]] = []
        self._urgent: deque[P] = deque()
        self._front = 0.0
        self._entries = 0

    def __contains__(self, poll: object) -> bool:
        return poll in self._plans

    def plan(self, poll: P, *, share: float = 1.0, now: float, not_before: float) -> None:
        """Plan a poll, or change its plan. One that is on its way is planned when it is back.

        :param share: how often it comes up, compared with others.
        :param not_before: when it may be sent.
        """
        plan = self._plans.get(poll)
        if plan is None:
            plan = self._plans[poll] = _Plan(self._front)
        if plan.is_on_its_way:
            return
        self._entries += 1
        plan.share, plan.entry = share, self._entries
        heap, key = (self._ready, plan.position) if not_before <= now else (self._resting, not_before)
        heapq.heappush(heap, (key, plan.entry, poll))

    def expedite(self, poll: P) -> None:
        """Let a poll come next, unless it is on its way."""
        plan = self._plans.get(poll)
        if plan is not None and not plan.is_on_its_way and not plan.is_urgent:
            plan.is_urgent = True
            self._urgent.append(poll)

    def back(self, poll: P) -> None:
        """Take in that a poll is over."""
        if (plan := self._plans.get(poll)) is not None:
            plan.is_on_its_way = False

    def drop(self, poll: P) -> None:
        """Forget a poll, if it is there."""
        self._plans.pop(poll, None)

    def due(self, now: float) -> float:
        """Return when :meth:`take` has a poll: ``now`` at the earliest, infinity if nothing is planned."""
        while self._resting and (self._resting[0][0] <= now or not self._is_current(self._resting[0])):
            resting = heapq.heappop(self._resting)
            if self._is_current(resting):
                plan = self._plans[resting[2]]
                # A poll that has rested has no claim to all the turns that it has let pass.
                plan.position = max(plan.position, self._front - 1.0 / plan.share)
                heapq.heappush(self._ready, (plan.position, *resting[1:]))
        while self._urgent and not self._is_urgent(self._urgent[0]):
            self._urgent.popleft()
        while self._ready and not self._is_current(self._ready[0]):
            heapq.heappop(self._ready)
        if self._urgent or self._ready:
            return now
        return self._resting[0][0] if self._resting else math.inf

    @property
    def is_urgent(self) -> bool:
        """Whether what :meth:`take` returns next was expedited."""
        return any(self._is_urgent(poll) for poll in self._urgent)

    def take(self, now: float) -> P:
        """Return the poll to send now. It does not come up again before it is :meth:`back` and planned again.

        :raises LookupError: none is :meth:`due`.
        """
        if self.due(now) > now:
            raise LookupError("No poll is due.")
        poll = self._urgent.popleft() if self._urgent else heapq.heappop(self._ready)[2]
        plan = self._plans[poll]
        if not plan.is_urgent:
            self._front = max(self._front, plan.position)
        plan.position = max(plan.position, self._front) + 1.0 / plan.share
        plan.entry, plan.is_urgent, plan.is_on_its_way = 0, False, True
        return poll

    def _is_current(self, entry: tuple[float, int, P]) -> bool:
        plan = self._plans.get(entry[2])
        return plan is not None and plan.entry == entry[1]

    def _is_urgent(self, poll: P) -> bool:
        plan = self._plans.get(poll)
        return plan is not None and plan.is_urgent
