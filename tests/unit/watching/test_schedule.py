from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.watching.schedule import (
    LEAST_DELAY,
    LONGEST_INTERVAL,
    SHORTEST_INTERVAL,
    NewsRate,
    PollSchedule,
    expected_delay,
    seconds_until,
)


def constant(rate: float) -> NewsRate:
    return lambda _: rate


def ask_for(schedule: PollSchedule[str], rates: dict[str, float], seconds: float, spacing: float) -> Counter[str]:
    """Ask one poll every ``spacing`` seconds; each can bring news at a constant rate."""
    asked: Counter[str] = Counter()
    for name, rate in rates.items():
        schedule.plan(name, constant(rate), asked_at=0.0)
    now = 0.0
    while now < seconds:
        poll, at = schedule.take(now)
        if poll is None:
            now = at
            continue
        asked[poll] += 1
        schedule.plan(poll, constant(rates[poll]), asked_at=now)
        now += spacing
    return asked


def test_a_question_with_four_times_the_news_is_asked_twice_as_often() -> None:
    rates = {f"slow {n}": 0.01 for n in range(10)} | {f"fast {n}": 0.04 for n in range(10)}
    asked = ask_for(PollSchedule(), rates, 3000, spacing=1.0)
    fast, slow = (sum(n for name, n in asked.items() if name.startswith(kind)) for kind in ("fast", "slow"))
    assert fast / slow == pytest.approx(2, rel=0.1)


def test_the_whole_budget_is_used_when_there_is_news_for_it() -> None:
    asked = ask_for(PollSchedule(), {str(n): 0.1 for n in range(20)}, 1500, spacing=0.75)
    assert sum(asked.values()) >= 1990  # only the first few seconds go unused


def test_few_questions_do_not_use_up_the_budget() -> None:
    asked = ask_for(PollSchedule(), {"new": 1 / 60, "old": 1 / 3600}, 3600, spacing=0.75)
    assert asked["new"] <= 3600 / SHORTEST_INTERVAL
    assert asked["old"] == pytest.approx(3600 / math.sqrt(2 * LEAST_DELAY * 3600), rel=0.1)


@pytest.mark.parametrize("questions", [1, 10, 200])
def test_no_question_starves(questions: int) -> None:
    rates = {"rare": 1e-9} | {str(n): 10.0 for n in range(questions)}
    asked = ask_for(PollSchedule(), rates, 3000, spacing=0.75)
    assert asked["rare"] >= 3000 / max(LONGEST_INTERVAL + 10, 4 * questions * 0.75) - 1


def test_no_question_starves_where_others_are_urgent_without_end() -> None:
    schedule: PollSchedule[str] = PollSchedule()
    asked: Counter[str] = Counter()
    for name in ("patient", *"abcdef"):
        schedule.plan(name, constant(0.01), asked_at=0.0)
    for second in range(1000):
        for name in "abcdef":
            schedule.expedite(name)
        poll, _ = schedule.take(second)
        assert poll is not None
        asked[poll] += 1
        schedule.plan(poll, constant(0.01), asked_at=second)
    assert asked["patient"] >= 1000 / (LONGEST_INTERVAL + 4) - 1


def test_nobody_is_asked_about_sooner_than_wanted() -> None:
    schedule: PollSchedule[str] = PollSchedule()
    schedule.plan("a", lambda _: 100.0, asked_at=10.0, shortest=300.0)
    assert schedule.take(309.0) == (None, 310.0)
    assert schedule.take(310.0) == ("a", 310.0)


def test_a_rate_that_rises_is_foreseen() -> None:
    schedule: PollSchedule[str] = PollSchedule()
    for now, best in [(10.0, "steady"), (30.0, "rising")]:
        schedule.plan("steady", lambda _: 0.02, asked_at=0.0)
        schedule.plan("rising", lambda ahead: 0.0001 if ahead < 10 else 0.2, asked_at=0.0)
        assert schedule.take(now)[0] == best


def test_an_urgent_question_comes_first_and_once() -> None:
    schedule: PollSchedule[str] = PollSchedule()
    schedule.plan("worthy", lambda _: 100.0, asked_at=0.0)
    schedule.plan("urgent", lambda _: 1e-6, asked_at=100.0)
    schedule.expedite("urgent")
    schedule.plan("urgent", lambda _: 1e-6, asked_at=100.0)  # not yet asked, so still urgent
    assert schedule.take(100.0)[0] == "urgent"
    schedule.expedite("urgent")  # on its way already
    assert schedule.take(100.0)[0] == "worthy"
    schedule.plan("urgent", lambda _: 1e-6, asked_at=101.0)
    assert schedule.take(102.0)[0] is None


def test_one_more_wait_makes_a_question_worth_more_now() -> None:
    schedule: PollSchedule[str] = PollSchedule()
    schedule.plan("a", lambda _: 1e-6, asked_at=0.0)
    assert schedule.take(6.0)[0] is None
    schedule.expect_more("a", 1.0, now=6.0, shortest=7.0)
    assert schedule.take(6.0) == (None, 7.0)
    schedule.expect_more("a", 1.0, now=6.0)
    assert schedule.take(6.0)[0] == "a"


def test_a_question_on_its_way_is_not_asked_twice() -> None:
    schedule: PollSchedule[str] = PollSchedule()
    schedule.plan("a", lambda _: 1.0, asked_at=0.0)
    assert schedule.take(100.0)[0] == "a"
    assert schedule.is_on_its_way("a")
    schedule.expect_more("a", 1.0, now=105.0)
    assert schedule.take(1e6) == (None, math.inf)
    schedule.drop("a")
    assert "a" not in schedule
    assert not schedule.is_on_its_way("a")


rates = st.lists(st.floats(1e-9, 1e3), min_size=7, max_size=7).map(tuple)


@given(st.floats(1e-9, 1e3), st.floats(0, 1e5))
def test_at_a_steady_rate_half_its_square_is_waited(rate: float, seconds: float) -> None:
    assert expected_delay((rate,) * 7, seconds) == pytest.approx(rate * seconds**2 / 2)


@given(rates, st.floats(0, 1e5), st.floats(0, 1e5))
def test_the_longer_nothing_is_asked_the_more_is_waited(rates: tuple[float, ...], one: float, other: float) -> None:
    assert (expected_delay(rates, min(one, other))) <= expected_delay(rates, max(one, other)) * (1 + 1e-9)


@given(rates, st.floats(1e-6, 1e4))
def test_when_so_much_has_been_waited_is_known(rates: tuple[float, ...], waited: float) -> None:
    assert expected_delay(rates, seconds_until(rates, waited)) == pytest.approx(waited, rel=1e-3)
