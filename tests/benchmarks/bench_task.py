"""What the legs of a deferred task cost a worker, in CPU time above a task of BashOperator's.

    python -m tests.benchmarks.bench_task [rounds]

Every leg is a fresh process, as on a worker. What any task of Airflow needs is imported before it is measured.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.benchmarks.loopback_server import loopback_server

ROUNDS = 7
GOALS_MS = {"first": 20.0, "resume": 10.0}
KEY = "sk-" + "aB3dE5fG7h" * 4
"""As long as the service's keys are: what is done for each of its characters counts."""
PROGRAM = """
import json, sys, time
from types import SimpleNamespace
from airflow.sdk import DAG, BaseHook, BaseOperator
from airflow.providers.common.compat.sdk import TaskDeferred, conf
import asyncio, logging, subprocess, tempfile
import airflow.sdk.execution_time.supervisor  # the process that forks the task has it

class Instance:
    task_id, dag_id, run_id, map_index, try_number, max_tries, start_date = "t", "d", "r", -1, 1, 0, None
    def xcom_push(self, key, value): json.dumps(value)
    def xcom_pull(self, **_): return None

class Store:
    values = {}
    def get(self, key, default=None): return self.values.get(key, default)
    def set(self, key, value, **_): self.values[key] = value
    def delete(self, key): self.values.pop(key, None)

context = {"ti": Instance(), "dag_run": SimpleNamespace(start_date=None), "task_state_store": Store()}
leg, record = sys.argv[1], json.loads(sys.argv[2])
known = set(sys.modules)
began = time.process_time()
if leg == "bash":
    from airflow.providers.standard.operators.bash import BashOperator
    BashOperator(task_id="t", bash_command="true").execute(context)
else:
    from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
    task = StartAgentRunOperator(task_id="t", agent_id=7, deferrable=True)
    if leg == "first":
        try:
            task.execute(context)
        except TaskDeferred as deferral:
            record = deferral.kwargs
    else:
        run = {"id": 42, "configId": 7, "status": 10}
        task.execute_complete(context, {"agent_id": 7, "run_id": 42, "outcome": "ended", "run": run}, **record)
spent = time.process_time() - began

from pydantic import BaseModel

def below(kind):
    return {kind}.union(*map(below, kind.__subclasses__()))

models = [kind for kind in below(BaseModel) if kind.__module__.startswith("airflow_provider_sequentum.")]
told = {
    "milliseconds": spent * 1000,
    "record": record,
    "modules": sorted(set(sys.modules) - known),
    "built": sorted(kind.__name__ for kind in models if kind.__pydantic_complete__),
    "annotated_by_text": sorted(
        kind.__name__ for kind in models if any(isinstance(each, str) for each in kind.__annotations__.values())
    ),
}
print()
print(json.dumps(told))
"""


@dataclass
class Leg:
    """What a leg cost, and what it did that costs something.

    :param milliseconds: CPU time.
    :param record: what it hands on to the next leg.
    :param modules: what it imported.
    :param built: the provider's pydantic models whose schema it built.
    :param annotated_by_text: those whose annotations pydantic had to read as text.
    """

    milliseconds: float
    record: object
    modules: list[str]
    built: list[str]
    annotated_by_text: list[str]


def measure(leg: str, environment: dict[str, str], record: object = None) -> Leg:
    """Run a leg in a process of its own: ``first``, ``resume``, or ``bash``, which is a task of BashOperator."""
    command = [sys.executable, "-c", PROGRAM, leg, json.dumps(record or {})]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return Leg(**json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def environment_of_tasks() -> Iterator[dict[str, str]]:
    """Give the environment of a task's process; its connection leads to a service on the loopback interface."""
    with tempfile.TemporaryDirectory() as home, loopback_server() as url:
        connection = {"conn_type": "sequentum", "host": url, "password": KEY}
        environment = {**os.environ, "AIRFLOW_HOME": home, "AIRFLOW_CONN_SEQUENTUM_DEFAULT": json.dumps(connection)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        yield environment


def main() -> int:
    """Print the table; return 1 if a leg is above its goal."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with environment_of_tasks() as environment:
        record = measure("first", environment).record  # compiles
        measure("bash", environment)
        above = []
        floor = statistics.median(measure("bash", environment).milliseconds for _ in range(rounds))
        print(f"BashOperator: {floor:.1f} ms")
        for leg, goal in GOALS_MS.items():
            results = [measure(leg, environment, record) for _ in range(rounds)]
            extra = statistics.median(result.milliseconds for result in results) - floor
            has_client = "airflow_provider_sequentum.api.client" in results[0].modules
            print(f"{leg} leg: {extra:.1f} ms above it, goal {goal:.0f} ms{', without a client' * (not has_client)}")
            above += [leg] if extra > goal else []
    return int(bool(above))


if __name__ == "__main__":
    sys.exit(main())
