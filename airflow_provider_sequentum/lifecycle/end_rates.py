"""
How likely runs are to end soon, learnt from the runs that are watched.

A run's chance to end in the next second depends on how long it has been going and on its agent, whose runs tend to
take similar times. Once a run winds down (exports or stops), it depends on how long that has lasted in proportion to
the time before: who extracted for long exports for long.

Progress is cut into spans that grow with it, two for each doubling. In each span the rate is the number of ends seen,
divided by the time that runs were seen to spend in it; runs that are still going count with the time they were seen.
Before anything is learnt, a run of age t is as likely to go on for t more seconds as not. What all agents have in
common takes over after about one end, what is the agent's own after a few.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

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
