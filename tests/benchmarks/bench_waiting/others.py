"""What waiting costs the process that waits, in real time: ten thousand waits, and the triggers of other providers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from tests.benchmarks.bench_waiting.service import Service, Workload
from tests.benchmarks.bench_waiting.stub import Stub

MANY, MANY_AGENTS = 10_000, 200
FEW, FEW_AGENTS = 1000, 20
LONG = 86_400.0
"""Seconds that the runs take: nothing ends while it is measured."""


def many_waits(_scale: float, _others_python: str) -> dict[str, Any]:
    """Ten thousand waits in one process, of few agents and of as many, beside triggers that only sleep."""
    floor = _host(sys.executable, "floor", MANY, MANY_AGENTS, "-")
    return {"floor": floor, "ours": _ours(MANY_AGENTS), "listed": _ours(MANY)}


def _ours(agents: int) -> dict[str, Any]:
    with Service(Workload("C", agents, (LONG,) * MANY), scale=1.0) as service:
        _, runs = service.start_runs()
        connection = json.loads(service.connection)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as named:
            json.dump([(run.agent_id, run.run_id) for run in runs], named)
            named.flush()
            environment = {"BENCH_KEY": connection["password"], "BENCH_RUNS": named.name}
            ours = _host(sys.executable, "ours", MANY, agents, connection["host"], environment)
        report = service.report()
    return ours | {"refused": report.refused, "per_minute": report.per_window, "service_cpu": report.cpu_share}


def other_providers(_scale: float, others_python: str) -> dict[str, Any]:
    """A thousand waits: ours, dbt Cloud's and Airbyte's, each against the same stub."""
    figures: dict[str, Any] = {}
    for kind in ("floor", "ours", "dbt", "airbyte"):
        with Stub(FEW_AGENTS, FEW) as stub:
            python = others_python if kind in ("dbt", "airbyte") else sys.executable
            figures[kind] = _host(python, kind, FEW, FEW_AGENTS, stub.url)
            figures[kind] |= {"connections": stub.connections, "requests": stub.requests}
    figures["versions"] = _versions(others_python)
    return figures


def _host(
    python: str, kind: str, waits: int, agents: int, url: str, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    command = [python, "-m", "tests.benchmarks.bench_waiting.host", kind, str(waits), str(agents), url]
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, **(environment or {})})
    if done.returncode != 0 or not done.stdout:
        raise RuntimeError(f"hosting {kind} failed: {done.stderr.decode()[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _versions(others_python: str) -> dict[str, str]:
    names = ["apache-airflow", "apache-airflow-providers-dbt-cloud", "apache-airflow-providers-airbyte"]
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names!r}}}))"
    done = subprocess.run([others_python, "-c", code], capture_output=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions
