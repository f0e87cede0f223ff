from __future__ import annotations

import math
import time
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.watching.rotation import Rotation


def rotate(shares: dict[str, float], seconds: float, spacing: float = 1.0, rest: float = 0.0) -> list[Any]:
    """Send a poll every ``spacing`` seconds; return when each was sent."""
    rotation: Rotation[str] = Rotation()
    for poll, share in shares.items():
        rotation.plan(poll, share=share, now=0.0, not_before=0.0)
    sent, now = [], 0.0
    while now < seconds:
        if rotation.due(now) <= now:
            poll = rotation.take(now)
            sent.append((now, poll))
            rotation.back(poll)
            rotation.plan(poll, share=shares[poll], now=now, not_before=now + rest)
        now += spacing
    return sent


def test_equal_polls_come_in_turn() -> None:
    sent = [poll for _, poll in rotate({"a": 1.0, "b": 1.0, "c": 1.0}, 9)]
    assert sent[:3] == sent[3:6] == sent[6:9]
    assert set(sent[:3]) == {"a", "b", "c"}


def test_what_has_a_larger_share_comes_up_more_often() -> None:
    polls = {str(number): 1.0 for number in range(20)} | {"many": 3.0}
    counts = Counter(poll for _, poll in rotate(polls, 2300))
    assert counts["many"] / counts["1"] == pytest.approx(3.0, rel=0.05)


@given(st.lists(st.floats(1.0, 10.0), min_size=1, max_size=30))
def test_no_one_waits_longer_than_the_shares_say(shares: list[float]) -> None:
    polls = {str(number): share for number, share in enumerate(shares)}
    sent = rotate(polls, 10.0 * sum(shares) + 10)
    for poll, share in polls.items():
        at = [0.0, *(moment for moment, one in sent if one == poll)]
        assert max(later - earlier for earlier, later in pairwise(at)) <= sum(shares) / share + len(shares) + 1


def test_a_poll_rests_as_long_as_it_is_told_to() -> None:
    sent = rotate({"a": 1.0}, 100, rest=10.0)
    assert [moment for moment, _ in sent] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]


def test_a_poll_that_has_rested_does_not_make_up_for_it() -> None:
    rotation: Rotation[str] = Rotation()
    rotation.plan("resting", now=0.0, not_before=1000.0)
    rotation.plan("busy", now=0.0, not_before=0.0)
    sent = []
    for now in range(1020):
        poll = rotation.take(now)
        sent.append(poll)
        rotation.back(poll)
        rotation.plan(poll, now=now, not_before=now)
    assert 8 <= Counter(sent[1000:])["busy"] <= 11


def test_what_is_urgent_comes_first_and_once() -> None:
    rotation: Rotation[str] = Rotation()
    for poll in "abc":
        rotation.plan(poll, now=0.0, not_before=100.0)
    assert rotation.due(0.0) == 100.0
    rotation.expedite("c")
    rotation.expedite("c")
    rotation.expedite("unknown")
    assert rotation.due(0.0) == 0.0
    assert rotation.take(0.0) == "c"
    rotation.expedite("c")
    assert rotation.due(0.0) == 100.0
    with pytest.raises(LookupError):
        rotation.take(0.0)


def test_what_is_urgent_stays_so_when_its_plan_changes() -> None:
    rotation: Rotation[str] = Rotation()
    for poll in "ab":
        rotation.plan(poll, now=0.0, not_before=0.0)
    rotation.expedite("b")
    rotation.plan("b", now=0.0, not_before=60.0)
    assert rotation.take(0.0) == "b"
    rotation.back("b")
    rotation.plan("b", now=1.0, not_before=60.0)
    assert rotation.take(1.0) == "a"
    assert rotation.due(2.0) == 60.0


def test_what_is_on_its_way_is_not_planned_before_it_is_back() -> None:
    rotation: Rotation[str] = Rotation()
    rotation.plan("a", now=0.0, not_before=0.0)
    assert rotation.take(0.0) == "a"
    rotation.plan("a", now=0.0, not_before=0.0)
    assert "a" in rotation
    assert rotation.due(0.0) == math.inf
    rotation.back("a")
    assert rotation.due(0.0) == math.inf
    rotation.plan("a", now=1.0, not_before=5.0)
    assert rotation.due(1.0) == 5.0
    rotation.back("unknown")


def test_what_is_dropped_never_comes() -> None:
    rotation: Rotation[str] = Rotation()
    rotation.plan("a", now=0.0, not_before=0.0)
    rotation.expedite("a")
    rotation.drop("a")
    assert rotation.due(0.0) == math.inf
    assert "a" not in rotation


def test_a_choice_among_many_costs_little() -> None:
    """The time is a bound that only a choice that looks at all of them misses."""
    rotation: Rotation[int] = Rotation()
    for poll in range(20_000):
        rotation.plan(poll, share=1.0 + poll % 7, now=0.0, not_before=0.0)
    began = time.process_time()
    for now in range(2000):
        poll = rotation.take(float(now))
        rotation.back(poll)
        rotation.plan(poll, now=now, not_before=now)
    assert (time.process_time() - began) / 2000 < 0.001
