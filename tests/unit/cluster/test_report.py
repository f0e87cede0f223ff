"""The table counts what was found, for each population by itself."""

from __future__ import annotations

from collections import Counter

from tests.cluster.canary import Sighting
from tests.cluster.facts import Case, TaskFact
from tests.cluster.invariants import Violation
from tests.cluster.report import Findings, explain, render


def findings() -> Findings:
    good = Case(name="job-1", population="provider", task=TaskFact(state="success"))
    bad = Case(name="job-1", population="plain", task=TaskFact(state="failed", tries=3))
    return Findings(
        command="make chaos",
        broken={"Killed": Counter({"worker": 2, "triggerer": 1}), "People": Counter()},
        cases=[good, bad],
        violations=[Violation("lost runs", bad, "run 1 succeeded and its task did not return it")],
        sightings={"provider": [], "plain": [Sighting("plain", "file logs/x")]},
        looked_in="",
    )


def test_the_figures_of_each_population_stand_in_its_column() -> None:
    lines = render(findings()).splitlines()
    assert "| lost runs | 0 | 1 |" in lines
    assert "| key sightings | 0 | 1 |" in lines
    assert "| tries of their tasks | 1 | 3 |" in lines
    assert "Killed: 3 (triggerer 1, worker 2)  " in lines
    assert "People: 0 (none)  " in lines


def test_what_went_wrong_is_counted_and_explained() -> None:
    assert (findings().wrong("provider"), findings().wrong("plain")) == (0, 2)
    assert "plain job-1: lost runs: run 1 succeeded" in explain(findings())
    assert "plain: key seen in file logs/x" in explain(findings())
