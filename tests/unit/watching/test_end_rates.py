from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.watching.schedule import EndRates, Stage, assumed_rate

progress = st.floats(-1e3, 1e7)
stages = st.builds(Stage, progress, st.floats(1e-3, 1e3), st.booleans())


def test_before_anything_is_learnt_a_run_twice_as_old_ends_half_as_soon() -> None:
    rates = EndRates()
    assert rates.rate(7, Stage(3570.0)) == pytest.approx(1 / 3600)
    assert rates.rate(7, Stage(570.0)) / rates.rate(7, Stage(1170.0)) == pytest.approx(2)


def test_the_rate_is_learnt_from_runs_that_ended_and_from_runs_that_did_not() -> None:
    generator, rates = random.Random(1), EndRates()
    for _ in range(4000):
        seconds = generator.expovariate(1 / 200)
        rates.learn(7, Stage(0.0), min(seconds, 400.0), ended=seconds < 400)
    for age in (20, 100, 300):
        assert rates.rate(7, Stage(age)) == pytest.approx(1 / 200, rel=0.25)


def test_an_agent_of_its_own_ways_is_told_from_the_others() -> None:
    rates = EndRates()
    for _ in range(50):
        rates.learn(7, Stage(0.0), 100.0, ended=True)
        rates.learn(8, Stage(0.0), 1000.0, ended=True)
    assert rates.rate(7, Stage(95.0)) > 10 * rates.rate(8, Stage(95.0))
    assert rates.rate(8, Stage(950.0)) > 1.5 * rates.rate(8, Stage(95.0))
    common = rates.rate(9, Stage(95.0))
    assert rates.rate(8, Stage(95.0)) < common < rates.rate(7, Stage(95.0))


def test_winding_down_is_learnt_in_proportion_to_the_time_before() -> None:
    rates = EndRates()
    for seconds in range(100, 2000, 100):  # each exports for a ninth of the time before
        rates.learn(7, Stage(0.0, 1000 / seconds, winding_down=True), 1000 / 9, ended=True)
    near, far = Stage(105.0, 1000 / 5000, winding_down=True), Stage(40.0, 1000 / 5000, winding_down=True)
    assert rates.rate(7, near) > 5 * rates.rate(7, far)
    # Per second it is the lower, the longer the run took.
    slower = Stage(105.0, 1000 / 50000, winding_down=True)
    assert rates.rate(7, near) == pytest.approx(10 * rates.rate(7, slower), rel=0.3)


def test_few_agents_are_remembered() -> None:
    rates = EndRates()
    for agent_id in range(3000):
        rates.learn(agent_id, Stage(0.0), 10.0, ended=True)
    assert len(rates._agents) == 1000
    assert 2999 in rates._agents


@given(st.lists(st.tuples(stages, progress, st.booleans()), max_size=30), stages)
def test_a_rate_is_always_a_positive_number(seen: list[tuple[Stage, float, bool]], stage: Stage) -> None:
    rates = EndRates()
    for begin, until, ended in seen:
        rates.learn(7, begin, until, ended=ended)
    for agent_id in (7, 8):
        assert 0 < rates.rate(agent_id, stage) < math.inf
    assert 0 < assumed_rate(stage) < math.inf


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=20))
def test_watching_in_pieces_teaches_the_same_as_watching_in_one(times: list[float]) -> None:
    cuts = sorted(times)
    whole, pieces = EndRates(), EndRates()
    whole.learn(7, Stage(cuts[0]), cuts[-1], ended=True)
    for begin, end in pairwise(cuts):
        pieces.learn(7, Stage(begin), end, ended=False)
    watched, in_pieces = whole._common._watched, pieces._common._watched
    for span in watched.keys() | in_pieces.keys():
        assert in_pieces.get(span, 0.0) == pytest.approx(watched.get(span, 0.0), rel=1e-6, abs=1e-3)
