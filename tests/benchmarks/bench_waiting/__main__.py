"""
Measure how well many waits share one key, print tables, draw a plot.

    python -m tests.benchmarks.bench_waiting [--scale 10] [--only A B pair pollers many others] [--out build/waiting]

Figures are kept in ``<out>/figures.json``, so that parts can be measured again by themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.bench_waiting import others, report, shared_key

PARTS = {
    "A": shared_key.workload_a,
    "B": shared_key.workload_b,
    "pair": shared_key.two_triggerers,
    "pollers": shared_key.single_pollers_on_both,
    "many": others.many_waits,
    "others": others.other_providers,
}


def main() -> None:
    """Measure what is asked for and report all that has been measured."""
    parser = argparse.ArgumentParser(prog="bench_waiting", description="How well many waits share one key.")
    parser.add_argument("--scale", type=float, default=10.0, help="scaled seconds per second (default: %(default)g)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=" ".join(PARTS))
    parser.add_argument("--out", type=Path, default=Path("build/waiting"), help="folder for figures and plot")
    parser.add_argument("--others-python", default=".venv-bench/bin/python", help="environment with other providers")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "figures.json"
    figures: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for part in options.only:
        print(f"measuring {part} ...", file=sys.stderr, flush=True)
        load = os.getloadavg()[0]
        measured = PARTS[part](options.scale, options.others_python)
        loads = {"load_before": load, "load_after": os.getloadavg()[0]}
        figures[part] = {"machine": _machine(), **loads, "scale": options.scale, **measured}
        kept.write_text(json.dumps(figures, indent=1))
    (options.out / "waiting.svg").write_text(report.plot(figures))
    print(report.tables(figures))


def _machine() -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return (
        f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()}, "
        f"Python {platform.python_version()}, Airflow {version('apache-airflow')}, commit {commit.stdout.strip()}"
    )


if __name__ == "__main__":
    main()
