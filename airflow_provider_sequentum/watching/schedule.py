"""
When to ask: a schedule of questions that spends a request budget where news is likely.

A *question* is a request that can bring news: of all awaited runs of an agent, of one run, or of which agents changed.
Asking late costs waiting: who could have heard of an end T seconds ago has waited T seconds in vain. The waiting in
vain that is to be expected, in sum, is what a question is *worth*; at a steady rate of r ends per second it is r·T²/2,
T seconds after the question was asked last. Of all questions the one that is worth most comes next, which makes the
intervals inversely proportional to the square root of the rates: the least waiting in sum.

Nothing here holds a clock: every time is an argument, in seconds of any steady clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from airflow_provider_sequentum.lifecycle.end_rates import Stage, assumed_rate

LEAST_WORTH = 0.05
"""Seconds of waiting a request has to save, even if the budget allows more: 6 s between looks at a run of 5 min."""
LONE_WORTH = 1.5
"""The same for a wait by itself, on a worker, which does not know how many others use the key: 30 s."""
SHORTEST_INTERVAL = 5.0
"""Seconds between two identical questions at least, unless somebody who waits asks for another number."""
LONGEST_INTERVAL = 60.0
"""Seconds after which a question is asked whatever it is worth, as far as the part of the budget kept for that goes."""

Q = TypeVar("Q", bound=Hashable)
NewsRate = Callable[[float], float]
"""Gives the news per second to expect so many seconds after the question was asked last; always above 0."""

_OVERDUE_TURN = 4
"""One question in so many goes to the one that was not asked for longest, so that nobody starves."""
_HORIZONS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0)
"""Seconds since the last question up to which the rate of news is foreseen, one rate for each interval between."""


def lone_interval(age: float) -> float:
    """Return the seconds between two looks of somebody who waits alone for a run of this age in seconds."""
    seconds = math.sqrt(2 * LONE_WORTH / assumed_rate(Stage(age)))
    return min(max(seconds, SHORTEST_INTERVAL), LONGEST_INTERVAL)


@dataclass(slots=True)
class _Planned:
    """
    One question of a schedule.

    :param asked_at: when it was asked last.
    :param not_before: when it may be asked again.
    :param rates: the news per second to expect up to each of the horizons; empty while it is on its way.
    :param is_urgent: whether it comes before all that are not.
    """

    asked_at: float
    not_before: float
    rates: tuple[float, ...]
    is_urgent: bool = False


class QuestionSchedule(Generic[Q]):
    """
    The questions of one request budget, and which of them comes next.

    A question is planned, taken to be asked, and planned again when it has been answered.
    """

    def __init__(self) -> None:
        self._planned: dict[Q, _Planned] = {}
        self._turn = 0

    def __contains__(self, question: object) -> bool:
        return question in self._planned

    def __len__(self) -> int:
        return len(self._planned)

    def plan(self, question: Q, news_rate: NewsRate, *, asked_at: float, shortest: float = SHORTEST_INTERVAL) -> None:
        """
        Plan a question, or plan it anew. One that is urgent stays so until it is taken.

        :param news_rate: the news to expect.
        :param asked_at: when it was asked last; for a new question, when it came up.
        :param shortest: seconds after ``asked_at`` before which it is not asked again.
        """
        begins = (0.0, *_HORIZONS)
        rates = tuple(news_rate((begin + end) / 2) for begin, end in zip(begins, _HORIZONS, strict=False))
        interval = max(min(seconds_until(rates, LEAST_WORTH), LONGEST_INTERVAL), shortest)
        before = self._planned.get(question)
        self._planned[question] = _Planned(asked_at, asked_at + interval, rates)
        if before is not None and before.is_urgent:
            self.hurry(question)

    def expect_more(self, question: Q, rate: float, *, now: float, shortest: float = SHORTEST_INTERVAL) -> None:
        """
        Take in that a question can bring more news than was planned for.

        :param rate: so much more per second.
        :param shortest: as for :meth:`plan`, on behalf of who came.
        """
        planned = self._planned[question]
        if planned.rates:
            planned.rates = tuple(known + rate for known in planned.rates)
            planned.not_before = min(planned.not_before, max(now, planned.asked_at + shortest))

    def hurry(self, question: Q) -> None:
        """Let a question come next, unless it is on its way already."""
        planned = self._planned[question]
        if planned.rates:
            planned.is_urgent, planned.not_before = True, -math.inf

    def is_on_its_way(self, question: Q) -> bool:
        """Whether a question has been taken and not been planned again."""
        return question in self._planned and not self._planned[question].rates

    def asked_at(self, question: Q, default: float) -> float:
        """Return when a planned question was asked last; ``default`` if it is not planned."""
        planned = self._planned.get(question)
        return default if planned is None else planned.asked_at

    def take(self, now: float) -> tuple[Q | None, float]:
        """
        Return the question to ask now. It does not come up again before it is planned anew.

        :return: the question, or ``None`` and when to look again (infinity if nothing is planned).
        """
        worthiest, oldest, look_again = None, None, math.inf
        most, longest = (False, -1.0), LONGEST_INTERVAL
        for question, planned in self._planned.items():
            if not planned.rates:
                continue
            if planned.not_before > now:
                look_again = min(look_again, planned.not_before)
                continue
            if (worth := (planned.is_urgent, waited_in_vain(planned.rates, now - planned.asked_at))) > most:
                worthiest, most = question, worth
            if (interval := now - planned.asked_at) >= longest:
                oldest, longest = question, interval
        if worthiest is None:
            return None, look_again
        self._turn += 1
        if oldest is not None and self._turn >= _OVERDUE_TURN:
            worthiest, self._turn = oldest, 0
        taken = self._planned[worthiest]
        taken.rates, taken.is_urgent = (), False
        return worthiest, now

    def drop(self, question: Q) -> None:
        """Forget a question, if it is there."""
        self._planned.pop(question, None)


def waited_in_vain(rates: tuple[float, ...], seconds: float) -> float:
    """
    Return the seconds that all who wait have waited in vain, to be expected if nothing was asked for a while.

    :param rates: the news per second up to each of the horizons.
    :param seconds: how long nothing was asked.
    """
    begin = news = waited = 0.0
    for end, rate in zip(_HORIZONS, rates, strict=True):
        if seconds <= end:
            break
        length = end - begin
        waited += (news + rate * length / 2) * length
        news += rate * length
        begin = end
    length = seconds - begin
    return waited + (news + rate * length / 2) * length


def seconds_until(rates: tuple[float, ...], waited: float) -> float:
    """Return after how many seconds so much has been :func:`waited_in_vain`."""
    begin = news = 0.0
    for end, rate in zip((*_HORIZONS[:-1], math.inf), rates, strict=True):
        seconds = (math.sqrt(news * news + 2 * rate * waited) - news) / rate
        if begin + seconds <= end:
            return begin + seconds
        length = end - begin
        waited -= (news + rate * length / 2) * length
        news += rate * length
        begin = end
    return math.inf
