"""Judge the corpus: ``make quality-corpus CORPUS="--seeds 21-40"``."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any

from airflow_provider_sequentum.quality import profile as profiles
from airflow_provider_sequentum.quality.contract import Contract, parse_contract
from airflow_provider_sequentum.quality.drift import Drift, find_drift
from airflow_provider_sequentum.quality.engine import Table, Workspace, open_workspace
from airflow_provider_sequentum.quality.judge import judge as judge_contract
from airflow_provider_sequentum.quality.profile import Change, Profile
from tests.quality_corpus.breakages import BREAKAGES, Case
from tests.quality_corpus.data_sets import DataSet, Row

LEARNT = 10
GOOD = 25


@dataclass
class Judged:
    """What the checks said about one data set."""

    name: str
    false_alarms: list[tuple[int, list[Drift]]] = field(default_factory=list)
    good: int = 0
    broken: dict[str, tuple[list[Drift], list[Drift]]] = field(default_factory=dict)
    covered: int = 0
    uncovered: list[str] = field(default_factory=list)
    declared_alarms: list[str] = field(default_factory=list)


class _File:
    """A landed file."""

    name = "rows.csv"

    def __init__(self, content: bytes) -> None:
        self._content = content

    def open(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._content)


class Judge:
    """The checks, as the operator calls them."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def table(self, rows: list[Row]) -> Table:
        """Read records as the operator reads them: from a CSV file."""
        text = io.StringIO()
        if rows:
            writer = csv.DictWriter(text, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        else:
            text.write("nothing\n")
        file = _File(text.getvalue().encode())
        return self._workspace.load([file]).as_text()

    def profile(self, table: Table, run: int, key: str, before: Table | None) -> Profile:
        """Return a run's profile, with the comparison by key."""
        found = profiles.profile(
            table, agent_id=1, run_id=run, filled=judge_contract(table, Contract()).filled, key=[key]
        )
        change: Change | None = None if before is None else profiles.compare(table, before, [key], run - 1)
        return found.model_copy(update={"change": change})


def judge(seed: int, names: list[str]) -> Judged:
    """Judge one data set: its good runs, and each breakage of one of them."""
    data = DataSet(seed)
    key = next(column.name for column in data.columns if column.role == "key")
    runs = list(data.runs(LEARNT + GOOD))
    judged = Judged(data.name)
    contract = parse_contract(data.contract())
    with open_workspace() as workspace:
        asked = Judge(workspace)
        tables: list[Table] = []
        history: list[Profile] = []
        for day, rows in enumerate(runs):
            tables.append(asked.table(rows))
            history.append(asked.profile(tables[day], day, key, tables[day - 1] if day else None))
        for day in range(LEARNT, LEARNT + GOOD):
            judged.good += 1
            judged.declared_alarms += [
                f"day {day}: {breach}" for breach in judge_contract(tables[day], contract).breaches
            ]
            if drifts := find_drift(history[day], history[day - LEARNT : day]):
                judged.false_alarms.append((day, drifts))
        for place, name in enumerate(names):
            day = LEARNT + (place + seed) % GOOD
            case = Case(
                [dict(row) for row in runs[day]],
                runs[day - 1],
                runs[day - 7],
                data.columns,
                Random(f"{seed} {name}"),
                day,
                data.page,
            )
            rows_ = BREAKAGES[name](case)
            if rows_ is None:
                continue
            table = asked.table(rows_)
            _judge_declared(judged, name, case, table, contract)
            found = asked.profile(table, day, key, tables[day - 1])
            past = history[day - LEARNT : day]
            judged.broken[name] = (
                find_drift(found, past),
                find_drift(found.model_copy(update={"change": None}), past),
            )
    return judged


def _judge_declared(judged: Judged, name: str, case: Case, table: Table, contract: Contract) -> None:
    """Note whether each rule that the breakage breaks for certain is found broken."""
    breaches = judge_contract(table, contract).breaches
    for rule, column in case.covers:
        judged.covered += 1
        if not any(each.rule == rule and column in (each.column or "") for each in breaches):
            judged.uncovered.append(f"{name}: {rule} {column}")


def main(arguments: list[str] | None = None) -> int:
    """Print the table by breakage and, last, the three shares; return 1 where one is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.quality_corpus", description=__doc__)
    parser.add_argument("--seeds", default="21-40", help="first and last seed")
    parser.add_argument("--only", help="a breakage's name, or a part of it")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(arguments)
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    names = [name for name in BREAKAGES if not options.only or options.only in name]
    with ProcessPoolExecutor(options.jobs) as pool:
        judged = list(pool.map(judge, seeds, [names] * len(seeds)))
    table: dict[str, list[Any]] = defaultdict(list)
    for seed, each in zip(seeds, judged, strict=True):
        for day, drifts in each.false_alarms:
            print(
                f"FALSE {seed} {each.name} day {day}: "
                + "; ".join(f"[{d.score:.2f}] {d.column} {d}" for d in drifts[:4])
            )
        for name, (with_key, without) in each.broken.items():
            table[name].append((with_key, without))
            if options.verbose:
                print(
                    f"{name} {seed} {each.name}: " + "; ".join(f"[{d.score:.2f}] {d.column} {d}" for d in with_key[:3])
                )
            elif not with_key:
                print(f"MISSED {name} {seed} {each.name}")
            elif not without:
                print(f"MISSED without key {name} {seed} {each.name}: {with_key[0].column} {with_key[0]}")
    print()
    for name, cases in table.items():
        n = len(cases)
        print(f"{name:40} {n:3} {sum(bool(a) for a, _ in cases) / n:7.0%} {sum(bool(b) for _, b in cases) / n:7.0%}")
    total = sum(map(len, table.values()))
    share_with_key = sum(bool(a) for cases in table.values() for a, _ in cases) / max(1, total)
    share_without = sum(bool(b) for cases in table.values() for _, b in cases) / max(1, total)
    good = sum(each.good for each in judged)
    false = sum(len(each.false_alarms) for each in judged) / max(1, good)
    covered, uncovered = sum(each.covered for each in judged), [line for each in judged for line in each.uncovered]
    declared = [line for each in judged for line in each.declared_alarms]
    print(*[f"NOT FOUND BY ITS RULE {line}" for line in uncovered], sep="\n")
    print(*[f"FALSE BY A DECLARED RULE {line}" for line in declared], sep="\n")
    print(f"declared rules: {covered - len(uncovered)} of {covered} found, {len(declared)} false alarms")
    print(f"\n{len(table)} kinds of breakage, {total} broken runs, {good} good runs of {len(judged)} data sets")
    print(f"caught with a key     {share_with_key:.1%} (at least 97 %)")
    print(f"caught without a key  {share_without:.1%} (at least 92 %)")
    print(f"false alarms          {false:.1%} (at most 1 %)")
    return int(share_with_key < 0.97 or share_without < 0.92 or false > 0.01 or bool(uncovered) or bool(declared))


if __name__ == "__main__":
    sys.exit(main())
