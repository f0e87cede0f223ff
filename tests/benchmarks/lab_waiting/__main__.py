"""Print how waiting does under many workloads, beside simple rules and an oracle, in virtual time.

    python -m tests.benchmarks.lab_waiting [--seeds 10] [--only A B ...] [--check] [--out build/lab]

Raw rows, one for each workload, waiter and seed, are kept in ``<out>/rows.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.benchmarks.lab_waiting import product
from tests.benchmarks.lab_waiting.rules import Informed, Loop, Oracle, Pages, Rule, delays_by, least_mean
from tests.benchmarks.lab_waiting.workloads import SHARED, SINGLE, WATCHED, Workload

RULES: dict[str, type[Rule]] = {"loop": Loop, "pages": Pages, "informed": Informed, "oracle": Oracle}
COLD = "cold"
"""The product in a triggerer that was just started, and does not know yet that it has the key for itself."""
FIXED_RATES = (20, 25, 30, 40, 50)
"""Requests a minute of each triggerer, by hand, of which the best is what an adaptive rate is compared with."""

Row = dict[str, Any]


def measure(name: str, waiter: str, seed: int) -> Row:
    """Return the figures of one workload, waited for in one way."""
    workload = (SINGLE | SHARED | WATCHED)[name]
    row: Row = {"workload": name, "waiter": waiter, "seed": seed}
    if waiter in RULES:
        bound = {"bound": least_mean(workload, seed)} if waiter == "informed" else {}
        return row | _spread(delays_by(RULES[waiter], workload, seed)) | bound
    fixed = int(waiter.removeprefix("fixed ")) if waiter.startswith("fixed ") else None
    is_warm = fixed is not None or (name not in SHARED and waiter != COLD)
    figures = product.measure(workload, seed, fixed, is_warm=is_warm)
    waits = figures.start_waits
    return (
        row
        | _spread(figures.delays)
        | {
            "refused": figures.refused,
            "failed": figures.failed,
            "start_wait": statistics.fmean(waits) if waits else 0.0,
            "requests": figures.requests,
            "per_minute": figures.per_minute,
        }
        | {f"news_{figure}": value for figure, value in _spread(figures.news).items()}
    )


def _spread(delays: list[float]) -> Row:
    ordered = sorted(delays) or [0.0]
    return {
        "n": len(delays),
        "mean": statistics.fmean(ordered),
        "p95": ordered[int(0.95 * len(ordered))],
        "worst": ordered[-1],
    }


class Table:
    """The rows by workload and waiter."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def values(self, name: str, waiter: str, figure: str) -> list[float]:
        return [row[figure] for row in self.rows if (row["workload"], row["waiter"]) == (name, waiter)]

    def mean(self, name: str, waiter: str, figure: str) -> float:
        return statistics.fmean(self.values(name, waiter, figure))

    def shown(self, name: str, waiter: str, figure: str) -> str:
        values = self.values(name, waiter, figure)
        if not values:
            return "-"
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{statistics.fmean(values):.1f} ±{deviation:.1f}"

    def single(self, names: list[str]) -> str:
        waiters = ("product", COLD, *RULES)
        head = "| workload | " + " | ".join(f"{waiter} mean / p95 / worst" for waiter in waiters)
        lines = [f"{head} | least mean by lists alone |", "|" + " --- |" * (2 + len(waiters))]
        for name in names:
            cells = [
                " / ".join(self.shown(name, waiter, figure) for figure in ("mean", "p95", "worst"))
                for waiter in waiters
            ]
            cells.append(self.shown(name, "informed", "bound"))
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def shared(self, names: list[str]) -> str:
        lines = [
            "| shared key | mean / p95 / worst | 429s | a start waits | best fixed rate: mean / p95 / worst |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name in names:
            best = self.best_fixed(name)
            cells = [
                " / ".join(self.shown(name, "product", figure) for figure in ("mean", "p95", "worst")),
                self.shown(name, "product", "refused"),
                self.shown(name, "product", "start_wait"),
                f"{best}: " + " / ".join(self.shown(name, best, figure) for figure in ("mean", "p95", "worst")),
            ]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def watched(self, names: list[str]) -> str:
        lines = [
            "| watched agents | requests a minute | news: mean / p95 / worst | waits: mean / p95 / worst |",
            "| --- | --- | --- | --- |",
        ]
        for name in names:
            news, waits = (
                " / ".join(self.shown(name, "product", prefix + figure) for figure in ("mean", "p95", "worst"))
                for prefix in ("news_", "")
            )
            lines.append(f"| {name} | {self.shown(name, 'product', 'per_minute')} | {news} | {waits} |")
        return "\n".join(lines)

    def best_fixed(self, name: str) -> str:
        """Return the fixed rate with the least mean delay, of those that leave the starts alone if there are any."""
        rates = [f"fixed {rate}" for rate in FIXED_RATES]
        return min(rates, key=lambda rate: (self.mean(name, rate, "refused") > 5, self.mean(name, rate, "mean")))

    def missed_single(self, name: str, workload: Workload) -> list[str]:
        """Return the goals that are missed."""
        missed = []
        rules = [rule for rule in workload.waiters if rule in ("loop", "pages")]
        better = min(rules, key=lambda rule: self.mean(name, rule, "mean"))
        for figure in ("mean", "p95"):
            goal = 1.05 * self.mean(name, better, figure)
            goal = min(goal, workload.goals.get(figure, goal))
            if self.mean(name, "product", figure) > goal:
                missed.append(f"{name}: {figure} {self.mean(name, 'product', figure):.1f} s, goal {goal:.1f} s")
        goal = 2 * self.mean(name, "loop", "worst")
        if self.mean(name, "product", "worst") > goal:
            missed.append(f"{name}: worst {self.mean(name, 'product', 'worst'):.0f} s, goal {goal:.0f} s")
        return missed

    def missed_shared(self, name: str) -> list[str]:
        """Return the goals that are missed."""
        goals = [("mean", 1.1 * self.mean(name, self.best_fixed(name), "mean")), ("refused", 5.0), ("start_wait", 0.3)]
        return [
            f"{name}: {figure} {self.mean(name, 'product', figure):.2f}, goal {goal:.2f}"
            for figure, goal in goals
            if self.mean(name, "product", figure) > goal
        ]

    def missed_watched(self) -> list[str]:
        """Return the goals that are missed."""
        alone, beside = "600 waits", "600 waits, 1,000 watched"
        goals = [
            ("1,000 watched", "per_minute", 20.0),
            ("1,000 watched", "news_p95", 90.0),
            (beside, "news_p95", 90.0),
            (beside, "mean", 1.1 * self.mean(alone, "product", "mean")),
        ]
        return [
            f"{name}: {figure} {self.mean(name, 'product', figure):.2f}, goal {goal:.2f}"
            for name, figure, goal in goals
            if self.mean(name, "product", figure) > goal
        ]


def main() -> int:
    """Measure and print."""
    every = SINGLE | SHARED | WATCHED
    parser = argparse.ArgumentParser(prog="lab_waiting", description="Waiting in virtual time.")
    parser.add_argument("--seeds", type=int, default=3, help="how often each workload is made (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=every, default=list(every), metavar="WORKLOAD")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--out", type=Path, default=Path("build/lab"), help="folder for the raw rows")
    options = parser.parse_args()
    single = [name for name in SINGLE if name in options.only]
    shared = [name for name in SHARED if name in options.only]
    watched = list(WATCHED) if set(WATCHED) & set(options.only) else []
    jobs = [(name, waiter) for name in single for waiter in ("product", COLD, *SINGLE[name].waiters)]
    jobs += [(name, waiter) for name in shared for waiter in ("product", *(f"fixed {rate}" for rate in FIXED_RATES))]
    jobs += [(name, "product") for name in watched]
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with ProcessPoolExecutor() as pool, (options.out / "rows.jsonl").open("w") as kept:
        # Seed after seed, so that what is kept when it is interrupted can be compared.
        for future in [pool.submit(measure, *job, seed) for seed in range(options.seeds) for job in jobs]:
            rows.append(future.result())
            kept.write(json.dumps(rows[-1]) + "\n")
            kept.flush()
    table = Table(rows)
    print(f"Seconds from a run's end until its wait hears of it: mean ±deviation of {options.seeds} seeds.\n")
    parts = ((table.single, single), (table.shared, shared), (table.watched, watched))
    print("\n\n".join(show(names) for show, names in parts if names))
    missed = [goal for name in single for goal in table.missed_single(name, SINGLE[name])]
    missed += [goal for name in shared for goal in table.missed_shared(name)]
    missed += table.missed_watched() if watched else []
    print("\n" + ("\n".join(["Missed:", *missed]) if missed else "All goals are met."))
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
