"""When to ask: how likely runs are to end soon, and a schedule that spends the request budget where news is likely.

A *poll* is a request that can bring news: of all awaited runs of an agent, of one run, or of which agents changed.
Of all questions the one that saves most waiting comes next: at a steady rate of r ends per second, asking T seconds
after the last time finds r*T ends, each of which was missed for T/2 seconds on average, so a poll is priority r*T*T/2.
That makes the intervals inversely proportional to the square root of the rates, which is the least waiting in sum.

A run's chance to end in the next second depends on how long it has been running and on its agent, whose runs tend to
take similar times. Progress is cut into spans, two for each doubling; in each the rate is the number of ends seen,
divided by the time that runs were seen to spend in it. Before anything is learnt, a run of age t is as likely to last
t more seconds as not. Nothing here holds a clock: every time is an argument, in seconds of any steady clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

_SPANS_PER_DOUBLING = 2
_HEAD_START = 30.0
"""Seconds by which a young run is taken to be older than it is, so that the first rate is not absurdly high."""
_COMMON_WEIGHT = 1.0
"""How many ends the assumption made before anything is learnt weighs."""
_AGENT_WEIGHT = 4.0
"""How many ends what all agents have in common weighs against what is the agent's own."""
_MOST_AGENTS = 1000
"""Agents that are remembered; the one not seen for longest is forgotten first."""


class Stage(NamedTuple):
    """
    How far a run has come.

    :param progress: seconds since it began; while it winds down, thousandths of the time before.
    :param pace: progress per second.
    :param winding_down: whether it winds down.
    """

    progress: float
    pace: float = 1.0
    winding_down: bool = False


def assumed_rate(stage: Stage) -> float:
    """Return the ends per second to expect of one run at this stage, when nothing is known of its like."""
    seconds = max(stage.progress, 0.0) / stage.pace
    return 1.0 / (seconds + _HEAD_START)


class EndRates:
    """What has been learnt about when the runs of one service end."""

    def __init__(self) -> None:
        self._common = _Counts()
        self._agents: OrderedDict[int, _Counts] = OrderedDict()

    def rate(self, agent_id: int, stage: Stage) -> float:
        """Return the ends per second to expect of one run of the agent at this stage. It is always above 0."""
        span = _span_of(stage.progress, stage.winding_down)
        rate = self._common.rate(span, _COMMON_WEIGHT, assumed_rate(stage) / stage.pace)
        own = self._agents.get(agent_id)
        if own is not None:
            rate = own.rate(span, _AGENT_WEIGHT, rate)
        return rate * stage.pace

    def learn(self, agent_id: int, stage: Stage, until: float, *, ended: bool) -> None:
        """
        Take in that a run was watched for a while.

        :param stage: where it was when the while began.
        :param until: its progress at the end of it.
        :param ended: whether the run ended then.
        """
        own = self._agents.get(agent_id)
        if own is None:
            own = self._agents[agent_id] = _Counts()
            if len(self._agents) > _MOST_AGENTS:
                self._agents.popitem(last=False)
        else:
            self._agents.move_to_end(agent_id)
        for counts in (self._common, own):
            counts.add(stage, until, ended=ended)


_Span = tuple[bool, int]


class _Counts:
    """Progress watched and ends seen in each span."""

    __slots__ = ("_ends", "_watched")

    def __init__(self) -> None:
        self._watched: dict[_Span, float] = {}
        self._ends: dict[_Span, int] = {}

    def rate(self, span: _Span, weight: float, expected: float) -> float:
        return (self._ends.get(span, 0) + weight) / (self._watched.get(span, 0.0) + weight / expected)

    def add(self, stage: Stage, until: float, *, ended: bool) -> None:
        begin, until = max(stage.progress, 0.0), max(until, 0.0)
        winding_down, number = span = _span_of(begin, stage.winding_down)
        while begin < until:
            span = (winding_down, number)
            end = min(until, 2.0 ** ((number + 1) / _SPANS_PER_DOUBLING))
            self._watched[span] = self._watched.get(span, 0.0) + max(end - begin, 0.0)
            begin, number = max(end, begin), number + 1
        if ended:
            self._ends[span] = self._ends.get(span, 0) + 1


def _span_of(progress: float, winding_down: bool) -> _Span:
    return winding_down, (int(_SPANS_PER_DOUBLING * math.log2(progress)) if progress > 1.0 else 0)


LEAST_DELAY = 0.05
"""Seconds of waiting a request has to save, even if the budget allows more: 6 s between looks at a run of 5 min."""
SHORTEST_INTERVAL = 5.0
"""Seconds between two identical questions at least, unless somebody who waits asks for another number."""
LONGEST_INTERVAL = 60.0
"""Seconds after which a poll is asked whatever it is priority, as far as the part of the budget kept for that goes."""

Q = TypeVar("Q", bound=Hashable)
NewsRate = Callable[[float], float]
"""Gives the news per second to expect so many seconds after the poll was asked last; always above 0."""

_OVERDUE_TURN = 4
"""One poll in so many goes to the one that was not asked for longest, so that nobody starves."""
_HORIZONS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0)
"""Seconds since the last poll up to which the rate of news is foreseen, one rate for each interval between."""


@dataclass(slots=True)
class _Planned:
    """
    One poll of a schedule.

    :param asked_at: when it was asked last.
    :param not_before: when it may be asked again.
    :param rates: the news per second to expect up to each of the horizons; empty while it is on its way.
    :param is_urgent: whether it comes before all that are not.
    """

    asked_at: float
    not_before: float
    rates: tuple[float, ...]
    is_urgent: bool = False


class PollSchedule(Generic[Q]):
    """
    The questions of one request budget, and which of them comes next.

    A poll is planned, taken to be asked, and planned again when it has been answered.
    """

    def __init__(self) -> None:
        self._planned: dict[Q, _Planned] = {}
        self._turn = 0

    def __contains__(self, poll: object) -> bool:
        return poll in self._planned

    def __len__(self) -> int:
        return len(self._planned)

    def plan(self, poll: Q, news_rate: NewsRate, *, asked_at: float, shortest: float = SHORTEST_INTERVAL) -> None:
        """
        Plan a poll, or plan it anew. One that is urgent stays so until it is taken.

        :param news_rate: the news to expect.
        :param asked_at: when it was asked last; for a new poll, when it came up.
        :param shortest: seconds after ``asked_at`` before which it is not asked again.
        """
        begins = (0.0, *_HORIZONS)
        rates = tuple(news_rate((begin + end) / 2) for begin, end in zip(begins, _HORIZONS, strict=False))
        interval = max(min(seconds_until(rates, LEAST_DELAY), LONGEST_INTERVAL), shortest)
        before = self._planned.get(poll)
        self._planned[poll] = _Planned(asked_at, asked_at + interval, rates)
        if before is not None and before.is_urgent:
            self.expedite(poll)

    def expect_more(self, poll: Q, rate: float, *, now: float, shortest: float = SHORTEST_INTERVAL) -> None:
        """
        Take in that a poll can bring more news than was planned for.

        :param rate: so much more per second.
        :param shortest: as for :meth:`plan`, on behalf of who came.
        """
        planned = self._planned[poll]
        if planned.rates:
            planned.rates = tuple(known + rate for known in planned.rates)
            planned.not_before = min(planned.not_before, max(now, planned.asked_at + shortest))

    def expedite(self, poll: Q) -> None:
        """Let a poll come next, unless it is on its way already."""
        planned = self._planned[poll]
        if planned.rates:
            planned.is_urgent, planned.not_before = True, -math.inf

    def is_on_its_way(self, poll: Q) -> bool:
        """Whether a poll has been taken and not been planned again."""
        return poll in self._planned and not self._planned[poll].rates

    def asked_at(self, poll: Q, default: float) -> float:
        """Return when a planned poll was asked last; ``default`` if it is not planned."""
        planned = self._planned.get(poll)
        return default if planned is None else planned.asked_at

    def take(self, now: float) -> tuple[Q | None, float]:
        """
        Return the poll to ask now. It does not come up again before it is planned anew.

        :return: the poll, or ``None`` and when to look again (infinity if nothing is planned).
        """
        best, oldest, look_again = None, None, math.inf
        most, longest = (False, -1.0), LONGEST_INTERVAL
        for poll, planned in self._planned.items():
            if not planned.rates:
                continue
            if planned.not_before > now:
                look_again = min(look_again, planned.not_before)
                continue
            if (priority := (planned.is_urgent, expected_delay(planned.rates, now - planned.asked_at))) > most:
                best, most = poll, priority
            if (interval := now - planned.asked_at) >= longest:
                oldest, longest = poll, interval
        if best is None:
            return None, look_again
        self._turn += 1
        if oldest is not None and self._turn >= _OVERDUE_TURN:
            best, self._turn = oldest, 0
        taken = self._planned[best]
        taken.rates, taken.is_urgent = (), False
        return best, now

    def drop(self, poll: Q) -> None:
        """Forget a poll, if it is there."""
        self._planned.pop(poll, None)


def expected_delay(rates: tuple[float, ...], seconds: float) -> float:
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
    """Return after how many seconds so much has been :func:`expected_delay`."""
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
