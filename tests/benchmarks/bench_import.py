"""What importing the provider's modules costs a DAG file.

    python -m tests.benchmarks.bench_import [rounds]

Every measurement is a fresh process in which ``airflow.sdk`` and common-compat, which any DAG file with a provider's
operator needs, are imported already. The code is compiled, as it is after an installation. The median of the rounds
counts. Exits with 1 if a module that DAG files import is above the limit.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

from airflow_provider_sequentum.get_provider_info import get_provider_info

LIMIT_MS = 10.0
ROUNDS = 7
PROGRAM = """
import sys, time
from airflow.sdk import DAG, BaseHook, BaseOperator, BaseSensorOperator, task
from airflow.providers.common.compat.sdk import AirflowException, BaseOperatorLink, conf
known = set(sys.modules)
began = time.perf_counter()
__import__(sys.argv[1])
spent = time.perf_counter() - began
print(spent * 1000, len(set(sys.modules) - known))
"""


def modules_of(*kinds: str) -> list[str]:
    """Return the modules of these kinds that the provider's metadata names."""
    entries = [entry for kind in kinds for entry in get_provider_info()[kind]]
    return [module for entry in entries for module in entry.get("python-modules") or [entry["python-module"]]]


def measure(module: str, home: str) -> tuple[float, int]:
    """Return milliseconds and number of new modules of one import in a fresh process."""
    environment = {**os.environ, "AIRFLOW_HOME": home}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", PROGRAM, module]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    spent, modules = answer.split()[-2:]
    return float(spent), int(modules)


def main() -> int:
    """Print the table and return the exit code."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    in_dag_files = modules_of("operators", "sensors", "transfers")
    elsewhere = modules_of("hooks", "triggers")
    above = []
    print(f"{'module':<56}{'median ms':>10}{'min ms':>8}{'modules':>9}")
    with tempfile.TemporaryDirectory(prefix="airflow-home-") as home:
        for module in (*in_dag_files, *elsewhere):
            measure(module, home)  # compiles
            results = [measure(module, home) for _ in range(rounds)]
            times = [spent for spent, _ in results]
            median = statistics.median(times)
            print(f"{module:<56}{median:>10.1f}{min(times):>8.1f}{results[0][1]:>9}")
            if module in in_dag_files and median > LIMIT_MS:
                above.append(module)
    if above:
        print(f"Above the limit of {LIMIT_MS:g} ms:", *above)
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
