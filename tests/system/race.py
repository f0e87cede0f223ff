"""
Run many short deferred tasks on a real Airflow with PostgreSQL, and count what goes wrong.

Airflow fails a task whose trigger fires before the scheduler has taken in that the task was deferred: with triggers of
0 to 3 seconds, one task in six. Each task here runs an agent for 0 to 3 seconds. Right means: the task succeeded in its
first try, returned its run, and the agent was started once.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from airflow_provider_sequentum.sandbox import Sandbox
from tests.system.harness import AirflowInstance, DagRun
from tests.system.stage import CONNECTION, TEST_DAGS

DAG = "run_agents_mapped"
TASK = "run_agent"


@dataclass(frozen=True)
class Round:
    """What came of one DAG run.

    :param seconds: how long it took.
    :param failed: tasks that did not succeed.
    :param retried: tasks that needed more than one try.
    :param wrong_result: tasks that returned another run than the one started for them.
    :param started: how often each agent was started.
    """

    seconds: float
    failed: int
    retried: int
    wrong_result: int
    started: list[int]

    @property
    def wrong(self) -> int:
        """How many tasks went wrong in any of these ways."""
        return self.failed + self.retried + self.wrong_result + sum(times != 1 for times in self.started)


def race(airflow: AirflowInstance, sandbox: Sandbox, tasks: int, *, seed: int) -> Round:
    """Run ``tasks`` tasks at the same time, each with an agent of its own."""
    chance = random.Random(seed)
    agents = [sandbox.add_agent(f"Racer {seed}/{n}", duration=chance.uniform(0, 3)).id for n in range(tasks)]
    begun = time.monotonic()
    run = airflow.wait(airflow.trigger(DAG, {"agents": agents}, timeout=120), timeout=900)
    seconds = time.monotonic() - begun
    instances = [task for task in airflow.task_instances(run) if task.task_id == TASK]
    starts = {agent: [start.run_id for start in sandbox.ledger.starts(agent)] for agent in agents}
    succeeded = [task for task in instances if task.state == "success"]
    return Round(
        seconds=seconds,
        failed=tasks - len(succeeded),
        retried=sum(task.try_number != 1 for task in instances),
        wrong_result=sum(
            starts[agents[task.map_index]][-1:] != [_result(airflow, run, task.map_index)] for task in succeeded
        ),
        started=[len(runs) for runs in starts.values()],
    )


def _result(airflow: AirflowInstance, run: DagRun, map_index: int) -> int:
    return int(airflow.xcom(run, TASK, map_index=map_index))


def main() -> int:
    """Race, print the figures, and return how many tasks went wrong (at most 1)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--parallelism", type=int, default=8, help="tasks that work at the same time on the worker")
    arguments = parser.parse_args()
    wrong = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="race-")))
        sandbox = stack.enter_context(Sandbox(rate_limit=100_000, space_concurrency=1000, credits=1_000_000.0))
        connection = {"conn_type": "sequentum", "host": sandbox.base_url, "password": sandbox.api_key}
        airflow = stack.enter_context(
            AirflowInstance(
                folder / "airflow",
                TEST_DAGS,
                database="postgres",
                parallelism=arguments.parallelism,
                connections={CONNECTION: json.dumps(connection)},
                environment={"AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": str(arguments.tasks)},
            )
        )
        for number in range(1, arguments.rounds + 1):
            result = race(airflow, sandbox, arguments.tasks, seed=number)
            wrong += result.wrong
            print(
                f"round {number}: {arguments.tasks} tasks in {result.seconds:.0f} s; failed {result.failed}, "
                f"retried {result.retried}, wrong result {result.wrong_result}, "
                f"not started exactly once {sum(times != 1 for times in result.started)}",
                flush=True,
            )
    total = arguments.rounds * arguments.tasks
    print(f"{wrong} of {total} tasks went wrong")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
