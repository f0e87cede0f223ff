"""The table that is printed after a storm, and stands in the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.cluster.canary import Sighting
from tests.cluster.facts import Case, RunFact
from tests.cluster.invariants import Violation, refused_stops, unheard

INVARIANTS = ("duplicate runs", "lost runs", "leaked runs", "wrong states", "given up")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """
    What a storm did, and what it did to whom.

    :param command: how to see it again.
    :param broken: how often what was killed or disturbed, by title and kind.
    :param cases: what became of the jobs.
    :param violations: which invariants were violated.
    :param sightings: where keys were seen, by population.
    :param looked_in: how much was searched for keys.
    """

    command: str
    broken: Mapping[str, Counter[str]]
    cases: Sequence[Case]
    violations: Sequence[Violation]
    sightings: Mapping[str, Collection[Sighting]]
    looked_in: str

    @property
    def populations(self) -> list[str]:
        """Who worked."""
        return list(dict.fromkeys(case.population for case in self.cases))

    def number(self, kind: str, population: str) -> int:
        """How often an invariant was violated in a population."""
        return sum(found.kind == kind and found.case.population == population for found in self.violations)

    def wrong(self, population: str) -> int:
        """How much went wrong in a population."""
        invariants = sum(self.number(kind, population) for kind in INVARIANTS)
        return invariants + len(self.sightings.get(population, ()))


def render(findings: Findings) -> str:
    """Return the report as Markdown."""
    lines = [f"Command: `{findings.command}`", ""]
    for title, counts in findings.broken.items():
        kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(counts.items()))
        lines.append(f"{title}: {counts.total()} ({kinds or 'none'})  ")
    lines += ["", *_table(["", *findings.populations], _figures(findings)), "", findings.looked_in]
    return "\n".join(lines)


def _figures(findings: Findings) -> Iterable[list[str]]:
    def row(title: str, figures: Iterable[int]) -> list[str]:
        return [title, *map(str, figures)]

    groups = [[case for case in findings.cases if case.population == name] for name in findings.populations]
    yield row("jobs", (len(group) for group in groups))
    yield row("tries of their tasks", (sum(case.task.tries for case in group) for group in groups))
    yield row("runs started", (sum(len(case.runs) for case in group) for group in groups))
    yield row("tasks that succeeded", (sum(case.task.state == "success" for case in group) for group in groups))
    for kind in INVARIANTS:
        yield row(kind, (findings.number(kind, name) for name in findings.populations))
    yield row(
        "left going, because nobody was there to hear a mark, or a clear that wiped the store",
        (sum(len(unheard(case)) for case in group) for group in groups),
    )
    yield row(
        "left going, because the service refused every stop while the marked or cleared task's process lived",
        (sum(len(refused_stops(case)) for case in group) for group in groups),
    )
    yield row("key sightings", (len(findings.sightings.get(name, ())) for name in findings.populations))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield "| " + " | ".join(header) + " |"
    yield "| --- |" + " ---: |" * (len(header) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _describe(run: RunFact) -> str:
    end = f"{run.ended:%H:%M:%S}" if run.ended else ""
    return f"{run.run_id} {run.status} {run.started:%H:%M:%S}-{end}"


def explain(findings: Findings) -> str:
    """Return each violation with what is known of the job, and each run that was left going with the reason."""
    lines = []
    for found in findings.violations:
        case = found.case
        runs = ", ".join(_describe(run) for run in case.runs)
        deeds = ", ".join(f"{deed.kind} {deed.asked:%H:%M:%S}" for deed in case.interventions)
        lines.append(
            f"{case.population} {case.name}: {found.kind}: {found.what} "
            f"[task {case.task.state} in try {case.task.tries}; runs: {runs}; people: {deeds}]"
        )
    lines += [
        f"{case.population} {case.name}: left going: {what}"
        for case in findings.cases
        for what in (*unheard(case), *refused_stops(case))
    ]
    lines += [
        f"{population}: key seen in {sighting.place}"
        for population, sightings in findings.sightings.items()
        for sighting in sightings
    ]
    return "\n".join(lines)
