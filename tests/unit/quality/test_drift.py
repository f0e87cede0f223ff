"""Bands, by a few of the corpus' cases; ``make quality-corpus`` judges all of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.quality.drift import find_drift
from airflow_provider_sequentum.quality.engine import open_workspace
from airflow_provider_sequentum.quality.judge import Breach
from airflow_provider_sequentum.quality.profile import Change, ColumnChange, ColumnProfile, Pair, Profile
from airflow_provider_sequentum.quality.report import Report, page
from tests.quality_corpus.__main__ import Judge
from tests.quality_corpus.breakages import BREAKAGES, Case
from tests.quality_corpus.data_sets import DataSet
from tests.support.stored import changed


def run(number: int, **values: object) -> Profile:
    return Profile.model_validate({"agent_id": 1, "run_id": number, "records": 1000, "rows": 1000, **values})


def column(**values: object) -> dict[str, ColumnProfile]:
    return {
        "price": ColumnProfile.model_validate({"filled": 1.0, "lengths": [4] * 7, "kinds": {"decimal": 1.0}, **values})
    }


@given(st.integers(5, 30), st.integers(100, 10_000))
def test_a_run_like_all_before_is_not_unusual(runs: int, records: int) -> None:
    history = [run(n, records=records, columns=column()) for n in range(runs)]
    assert find_drift(run(runs, records=records, columns=column()), history) == []


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"records": 500}, "records"),
        ({"records": 2000}, "records"),
        ({"duplicates": 0.1}, "duplicate records"),
        ({"columns": {}}, "column"),
        ({"columns": column(filled=0.9)}, "filled"),
        ({"columns": column(shares={"mark-up": 0.1})}, "cells with mark-up"),
        ({"columns": column(kinds={"text": 1.0})}, "kinds"),
        ({"columns": column(lengths=[4, 4, 4, 4, 4, 4, 90])}, "length, largest"),
        ({"pairs": {"price | was": Pair(equal=1.0)}}, "cells equal to was"),
    ],
)
def test_what_is_unusual_is_named(values: dict[str, object], what: str) -> None:
    usual = column()
    both = {**usual, "was": usual["price"]} if "pairs" in values else usual
    history = [run(n, columns=both) for n in range(10)]
    found = find_drift(run(10, **{"columns": both, **values}), history)
    assert [drift.what for drift in found] == [what]
    assert found[0].score > 1


def test_a_columns_name_forges_no_line_and_can_be_stored_wherever_the_breach_is_shown() -> None:
    name = "was\n\x1b[31mERROR \0\u202e" + "x" * 10_000
    both = {**column(), name: column()["price"]}
    history = [run(n, columns=both) for n in range(10)]
    profile = run(10, columns=both, pairs={f"price | {name}": Pair(equal=1.0)})
    breaches = [Breach("learnt", drift.column, "fail", str(drift)) for drift in find_drift(profile, history)]
    breaches.append(Breach("filled", name, "warn", "empty", examples=(name,)))
    report = Report(profile, breaches, 10, is_accepted=False)
    for text in (*report.lines(), *report.summary()["breaches"], re.sub(r"\n", "", page(report, history))):
        assert text.isprintable()
    assert any("cells equal to was" in line and len(line) < 5_000 for line in report.lines())


def test_values_that_stand_still() -> None:
    def changed(share: float) -> Change:
        return Change(run_id=1, kept=1.0, added=0.0, matched=1000, columns={"price": ColumnChange(changed=share)})

    history = [run(n, columns=column(), change=changed(0.02 + n / 1000)) for n in range(10)]
    found = find_drift(run(10, columns=column(), change=changed(0.0)), history)
    assert ("price", "changed values", "none") in [(each.column, each.what, each.observed) for each in found]


def test_the_same_records_as_an_earlier_run_are_stale() -> None:
    history = [run(n, fingerprint=str(n)) for n in range(10)]
    assert [each.what for each in find_drift(run(10, fingerprint="4"), history)] == ["stale"]
    unchanging = [run(n, fingerprint="0") for n in range(10)]
    assert find_drift(run(10, fingerprint="0"), unchanging) == []


def numbers_of(values: list[float]) -> dict[str, ColumnProfile]:
    ordered = sorted(values)
    places = [min(len(ordered) - 1, int(share * len(ordered))) for share in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)]
    return column(numbers=[ordered[place] for place in places], numeric=1.0, distinct=1.0)


TAILS = {
    "prices": lambda random: random.lognormvariate(3, 1),
    "cars": lambda random: random.lognormvariate(9, 1.5),
    "reviews": lambda random: random.paretovariate(1.5),
    "heights": lambda random: random.gauss(170, 10),
    "temperatures": lambda random: random.gauss(0, 10),
}


@pytest.mark.parametrize("churn", [0.05, 1.0], ids=["few new", "all new"])
@pytest.mark.parametrize("draw", TAILS.values(), ids=TAILS)
def test_a_long_tail_raises_no_alarm(draw: Callable[[Random], float], churn: float) -> None:
    random = Random(7)
    alarms = 0
    for _ in range(100):
        items = [draw(random) for _ in range(200)]
        runs = []
        for number in range(11):
            items = [draw(random) if random.random() < churn else item for item in items]
            runs.append(run(number, rows=200, columns=numbers_of(items)))
        alarms += bool(find_drift(runs[-1], runs[:-1]))
    assert alarms <= 1


@pytest.mark.parametrize(
    ("values", "largest"),
    [
        ([10.0 + n / 10 for n in range(200)], 500.0),
        ([-5.0 + n / 10 for n in range(200)], 500.0),
        ([1.05**n for n in range(200)], 1e9),
        ([0.0, *(1.05**n for n in range(200))], 1e9),
    ],
    ids=["narrow", "below zero", "long tail", "long tail with a zero"],
)
def test_a_number_that_is_of_another_magnitude_is_unusual(values: list[float], largest: float) -> None:
    history = [run(n, rows=200, columns=numbers_of(values)) for n in range(10)]
    found = find_drift(run(10, rows=200, columns=numbers_of([*values[:-1], largest])), history)
    assert "number, largest" in [drift.what for drift in found]


def test_a_tail_that_moves_as_a_whole_is_unusual() -> None:
    random = Random(7)
    runs = [run(n, rows=500, columns=numbers_of([random.lognormvariate(3, 1) for _ in range(500)])) for n in range(10)]
    twice = numbers_of([2 * random.lognormvariate(3, 1) for _ in range(500)])
    found = {drift.what for drift in find_drift(run(10, rows=500, columns=twice), runs)}
    assert {"number, median", "number, 75 %", "number, 95 %"} <= found


def test_some_cases_of_the_corpus() -> None:
    data = DataSet(4)
    runs = list(data.runs(7))
    names = ["price as text", "one row off"]
    with open_workspace() as workspace:
        judge = Judge(workspace)
        tables = [judge.table(rows) for rows in runs]
        key = data.contract()["key"][0]
        good = [judge.profile(each, day, key, tables[day - 1] if day else None) for day, each in enumerate(tables)]
        assert find_drift(good[6], good[:6]) == []
        for name in names:
            rows = [dict(row) for row in runs[6]]
            case = Case(rows, runs[5], runs[0], data.columns, Random(1), 6, data.page)
            broken = BREAKAGES[name](case)
            assert broken is not None
            assert find_drift(judge.profile(judge.table(broken), 6, key, tables[5]), good[:6]), name


def test_whatever_an_earlier_profile_contains_it_is_refused_or_compared() -> None:
    change = Change(run_id=1, kept=1.0, added=0.0, matched=1000, columns={"price": ColumnChange(changed=0.5)})
    now = run(9, columns=column(numeric=1.0, numbers=[1, 2, 3, 4, 5, 6, 7]), pairs={}, change=change)
    parsed = [Profile.parse(content) for content in changed(now.model_dump_json().encode())]
    assert parsed.count(None) > 100
    for earlier in filter(None, parsed):
        history = [earlier.model_copy(update={"run_id": number}) for number in range(6)]
        find_drift(now, [*history, now])
        page(Report(profile=now, breaches=[], learnt_from=6, is_accepted=False), history)


def test_a_column_of_which_the_sample_has_no_cell_is_compared_as_far_as_it_was_measured() -> None:
    sparse, usual = column(filled=0.0001, lengths=[]), column()
    assert find_drift(run(6, columns=sparse), [run(n, columns=sparse) for n in range(6)]) == []
    assert [drift.what for drift in find_drift(run(6, columns=sparse), [run(n, columns=usual) for n in range(6)])] == [
        "filled"
    ]
    assert find_drift(run(6, columns=sparse), [run(n, columns=[sparse, usual][n % 2]) for n in range(6)]) == []
