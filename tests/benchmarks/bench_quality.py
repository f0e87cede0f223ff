"""Checking landed records against DuckDB's bare SUMMARIZE, on this machine, in one run: time and memory.

    python -m tests.benchmarks.bench_quality [--size MiB] [--rounds n] [--memory MiB MiB] [--out file]

A CSV file is read once, as the check reads it. Then the check (its contract, the profile, what is unusual beside ten
earlier runs) and ``SUMMARIZE`` alternate in the same process, on the same normalized file and with the same limits: one
pair a round. How long the reading took is told beside them, and so is ``SUMMARIZE`` of the CSV file itself, with
DuckDB's own reader. The peak memory of a check, reading included, is measured with two other sizes, in a process of its
own each. The raw figures are written to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import duckdb

from airflow_provider_sequentum.quality.contract import parse_contract
from airflow_provider_sequentum.quality.drift import find_drift
from airflow_provider_sequentum.quality.engine import MEMORY, Table, Workspace, open_workspace
from airflow_provider_sequentum.quality.judge import judge
from airflow_provider_sequentum.quality.profile import Profile, profile

MEBIBYTE = 1024 * 1024
GOAL, MEMORY_GOAL = 0.7, 1.1
CATEGORIES = ("Audio", "Computers", "Cameras", "Kitchen", "Garden")
CONTRACT = parse_contract(
    {
        "key": "sku",
        "rules": [
            {"rule": "required", "columns": ["sku", "name", "price", "category"]},
            {"rule": "records", "minimum": 1},
            {"rule": "filled", "column": "price", "mostly": 0.9},
            {"rule": "range", "column": "price", "minimum": 0, "maximum": 100_000},
            {"rule": "allowed", "column": "category", "values": list(CATEGORIES)},
            {"rule": "pattern", "column": "url", "pattern": "^https://"},
        ],
    }
)
BYTES_OF_A_RECORD = 133
LEARNT = 10


def make(file: Path, mebibytes: int) -> None:
    """Write a CSV file of about this size, as an agent delivers one."""
    categories = ", ".join(map(repr, CATEGORIES))
    duckdb.sql(
        f"COPY (SELECT 'SKU-' || i AS sku, 'Product ' || hash(i) AS name, [{categories}][i % 5 + 1] AS category, "
        "CASE WHEN i % 50 > 0 THEN printf('%.2f', (i * 7 % 100000) / 100) END AS price, "
        "'https://shop.example/products/' || i || '-' || hash(i + 1) AS url, "
        "DATE '2026-01-01' + (i % 300)::INT AS listed, (i * 13 % 5000)::INT AS reviews "
        f"FROM range({mebibytes * MEBIBYTE // BYTES_OF_A_RECORD}) r(i)) TO '{file}'"
    )


def check(table: Table, history: list[Profile]) -> Profile:
    """What the check does with records that were read."""
    text = table.as_text()
    judgement = judge(text, CONTRACT)
    found = profile(text, agent_id=7, run_id=LEARNT + 1, key=CONTRACT.key, filled=judgement.filled)
    find_drift(found, history)
    return found


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that something takes, and its result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def rounds_of(file: Path, rounds: int) -> dict[str, Any]:
    """Read a file, then measure pairs."""

    def summarize() -> None:
        workspace.rows(f"SUMMARIZE SELECT * FROM {table.sql}")

    with open_workspace() as workspace:
        reading, table = timed(lambda: workspace.load([file]))
        first = check(table, [])
        history = [first.model_copy(update={"run_id": run + 1}) for run in range(LEARNT)]
        summarize()
        pairs = [(timed(lambda: check(table, history))[0], timed(summarize)[0]) for _ in range(rounds)]
        return {"records": table.records, "reading": reading, "pairs": pairs, "csv": _summarized_csv(file)}


def _summarized_csv(file: Path) -> float:
    with tempfile.TemporaryDirectory() as spill:
        options: dict[str, Any] = {"memory_limit": f"{MEMORY}B", "temp_directory": spill}
        with duckdb.connect(config=options) as connection:
            return timed(lambda: connection.execute(f"SUMMARIZE FROM read_csv('{file}', all_varchar = true)"))[0]


def memory_of(file: Path) -> dict[str, Any]:
    """Read and check a file, and return the process's peak memory."""

    def work(workspace: Workspace) -> None:
        check(workspace.load([file]), [])

    with open_workspace() as workspace:
        work(workspace)
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def in_a_process(step: str, file: Path, rounds: int) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_quality", "--step", step, str(file)]
    done = subprocess.run([*command, "--rounds", str(rounds)], check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def spread(what: str, figures: list[float], unit: str) -> str:
    """Return a line with the number of figures, their mean and their standard deviation."""
    deviation = stdev(figures) if len(figures) > 1 else 0.0
    return f"{what:42} n={len(figures)} mean {mean(figures):7.2f} {unit} deviation {deviation:.2f}"


def report(found: dict[str, Any]) -> bool:
    """Print the figures and return whether the goals are met."""
    checks, summaries = ([pair[place] for pair in found["pairs"]] for place in (0, 1))
    ratios = [summary / checked for checked, summary in found["pairs"]]
    print(f"{found['size']:,} MiB of CSV, {found['records']:,} records, read in {found['reading']:.1f} s")
    print(spread("check", checks, "s"))
    print(spread("SUMMARIZE of the normalized file", summaries, "s"))
    print(f"{'SUMMARIZE of the CSV file':42} n=1 {found['csv']:12.2f} s")
    print(spread(f"speed of the check (goal: {GOAL} or more)", ratios, " "))
    small, large = found["memory"]
    growth = large["peak"] / small["peak"]
    for each in (small, large):
        print(f"peak memory for {each['size']:,} MiB: {each['peak'] / MEBIBYTE:.0f} MiB")
    print(f"memory grows by {growth:.2f} (goal: {MEMORY_GOAL} or less)")
    return bool(mean(ratios) >= GOAL and growth <= MEMORY_GOAL)


def main() -> int:
    """Measure and print, or be the process that is measured; return 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_quality", description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="MiB of the CSV file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs=2, default=[200, 2048], help="MiB of the files for the memory")
    parser.add_argument("--out", type=Path, default=Path("build/bench-quality.json"))
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step, file = options.step[0], Path(options.step[1])
        print(json.dumps(memory_of(file) if step == "memory" else rounds_of(file, options.rounds)))
        return 0
    found: dict[str, Any] = {"size": options.size, "memory": []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.csv")
        make(file, options.size)
        found |= in_a_process("rounds", file, options.rounds)
        for size in options.memory:
            make(file, size)
            found["memory"].append({"size": size, **in_a_process("memory", file, options.rounds)})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if report(found) else 1


if __name__ == "__main__":
    sys.exit(main())
