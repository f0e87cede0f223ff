from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.sandbox.rate_limit import RateLimiter, Verdict


def limiter(kind: Literal["fixed", "sliding"] = "fixed", queue: int = 2) -> RateLimiter:
    return RateLimiter(limit=3, window=60, queue=queue, kind=kind)


def test_the_queue_holds_until_the_next_window_and_then_refuses() -> None:
    subject = limiter()
    assert [subject.admit(now) for now in (0, 1, 2)] == [Verdict()] * 3
    assert subject.admit(10) == Verdict(wait=50)
    assert subject.admit(20) == Verdict(wait=40)
    assert subject.admit(30) == Verdict(retry_after=30)


def test_held_requests_count_in_the_next_window() -> None:
    subject = limiter()
    for now in (0, 0, 0, 1, 1):
        subject.admit(now)
    assert subject.admit(60) == Verdict()
    assert subject.admit(60) == Verdict(wait=60)


def test_a_fixed_window_starts_with_its_first_request() -> None:
    subject = limiter(queue=0)
    for now in (100, 159, 159):
        assert subject.admit(now) == Verdict()
    assert subject.admit(159.5).retry_after == 0.5
    assert subject.admit(160) == Verdict()


def test_a_sliding_window_looks_back() -> None:
    subject = limiter("sliding", queue=0)
    for now in (0, 59, 59):
        subject.admit(now)
    assert subject.admit(60) == Verdict()
    assert subject.admit(60) == Verdict(retry_after=59)


@pytest.mark.parametrize("kind", ["fixed", "sliding"])
@given(steps=st.lists(st.floats(0, 30), max_size=60), queue=st.integers(0, 3))
def test_no_fixed_window_lets_more_through_than_its_limit(
    kind: Literal["fixed", "sliding"], steps: list[float], queue: int
) -> None:
    subject, now, passed = limiter(kind, queue), 0.0, []
    for step in steps:
        now += step
        verdict = subject.admit(now)
        if verdict.retry_after is None:
            passed.append(now + verdict.wait)
        else:
            assert verdict.retry_after > 0
    if kind == "sliding":
        for moment in passed:
            assert sum(moment <= other < moment + 59.999 for other in passed) <= 3
    else:
        # Two neighbouring windows can meet within 60 seconds, three cannot.
        for moment in passed:
            assert sum(moment <= other < moment + 59.999 for other in passed) <= 6
