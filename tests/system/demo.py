"""``make demo``: run an example DAG on a real Airflow and say what happens.

The sandbox stands in for Sequentum Cloud. With ``SEQUENTUM_API_KEY`` (and ``SEQUENTUM_BASE_URL``) in the environment
the real service is used. Everything is written below ``.demo/``.
"""

from __future__ import annotations

import argparse
import fcntl
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from tests.system import quickstart
from tests.system.harness import AirflowApiError
from tests.system.harness.airflow import FINISHED_RUN
from tests.system.stage import CHECKOUT, Service, Stage

if TYPE_CHECKING:
    from tests.system.harness import DagRun, TaskInstance

FOLDER = CHECKOUT / ".demo"
LATEST = FOLDER / "latest"
SANDBOX_TIMEOUT = 300.0
SERVICE_TIMEOUT = 3600.0
SHOWN_ROWS = 5
OPEN_STATES = frozenset({None, "scheduled", "queued"})


class Demo:
    """One demonstration.

    :param stage: The Airflow it happens on.
    :param dag_id: The example.
    """

    def __init__(self, stage: Stage, dag_id: str) -> None:
        self._stage = stage
        self._airflow = stage.airflow
        self._dag_id = dag_id
        self._began = time.monotonic()

    def run(self) -> bool:
        """Run the DAG, tell what its tasks do, and return whether all went as it should."""
        run = self._airflow.trigger(self._dag_id)
        self._say(f"DAG {self._dag_id} started: {self._airflow.url}/dags/{self._dag_id}/runs/{run.run_id}")
        run = self._follow(run, SANDBOX_TIMEOUT if self._stage.sandbox else SERVICE_TIMEOUT)
        self._say(f"DAG {self._dag_id} ended: {run.state}")
        if run.state != "success":
            for task in self._airflow.task_instances(run):
                if task.state == "failed":
                    print(f"\nThe log of {task.task_id}:\n{self._airflow.log(run, task.task_id, task.try_number)}")
            return False
        return self._check_table() if self._dag_id == "quickstart" else True

    def _follow(self, run: DagRun, timeout: float) -> DagRun:
        """Tell every change of a task's state until the run ends."""
        deadline = time.monotonic() + timeout
        told: dict[str, str | None] = {}
        while True:
            current = self._airflow.dag_run(run)
            for task in self._airflow.task_instances(run):
                name = task.task_id if task.map_index < 0 else f"{task.task_id}[{task.map_index}]"
                if task.state not in OPEN_STATES and told.get(name) != task.state:
                    told[name] = task.state
                    self._say(f"  {name:<14} {task.state:<10} {self._describe(run, task)}".rstrip())
            if current.state in FINISHED_RUN:
                return current
            if time.monotonic() > deadline:
                raise TimeoutError(f"{run.dag_id} did not end within {timeout:g} s: {self._airflow.states(run)}")
            time.sleep(0.5)

    def _describe(self, run: DagRun, task: TaskInstance) -> str:
        """Say what a task that succeeded returned, and what it waited for if it says so."""
        if task.state != "success":
            return ""
        value = self._xcom(run, task, "return_value")
        if session := self._xcom(run, task, "session"):
            return f"session {session['session_id']} built agent {value}"
        if summary := self._xcom(run, task, "run"):
            return f"run {value} of agent {summary['agent_id']}: {summary['status']}, {summary['records']} records"
        if isinstance(value, list):
            return "\n".join([f"{len(value)} file" + "s" * (len(value) != 1), *(f"{'':>36}{path}" for path in value)])
        return "" if value is None else f"returned {value}"

    def _xcom(self, run: DagRun, task: TaskInstance, key: str) -> Any:
        try:
            return self._airflow.xcom(run, task.task_id, key, task.map_index)
        except AirflowApiError as error:
            if error.status_code == 404:
                return None
            raise

    def _check_table(self) -> bool:
        """Show the first rows and compare all of them with what the sandbox delivers."""
        columns, rows = quickstart.read_table(self._stage.table)
        print(f"\nThe table in {self._stage.table} has {len(rows)} rows. The first ones:\n")
        _print_table(columns, rows[:SHOWN_ROWS])
        if self._stage.sandbox is None:
            return bool(rows)
        wrong = quickstart.differences(quickstart.read_data_file(), (columns, rows))
        if wrong:
            print("\nThey are not the rows of the sandbox's data file:", *wrong, sep="\n  ")
            return False
        print(f"\nAll {len(rows)} rows equal those of the sandbox's data file, {quickstart.DATA_FILE.name}.")
        return True

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", flush=True)


def main() -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description="Run an example DAG on a real Airflow.")
    parser.add_argument("--dag", default="quickstart", help="an example in dags_examples/ (default: quickstart)")
    parser.add_argument("--keep-running", action="store_true", help="keep Airflow and the sandbox until Ctrl-C")
    options = parser.parse_args()
    # A SIGTERM unwinds the stack as Ctrl-C does, so that everything is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated"))
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("A demo is running already in this checkout. Stop it first.", file=sys.stderr)
            return 2
        shutil.rmtree(LATEST, ignore_errors=True)
        try:
            return _perform(options.dag, keep_running=options.keep_running)
        except KeyboardInterrupt:
            print("\nStopped.")
            return 130


def _perform(dag_id: str, *, keep_running: bool) -> int:
    service = Service.from_environment()
    stage = Stage(LATEST, service=service)
    began = time.monotonic()
    print("Starting Airflow" + ("" if service else " and the sandbox") + " ...", flush=True)
    with stage:
        print(f"Airflow is up after {time.monotonic() - began:.0f} s: {stage.airflow.url}")
        print(f"Sequentum Cloud: {stage.sandbox.base_url + ' (sandbox)' if stage.sandbox else 'the real service'}\n")
        passed = Demo(stage, dag_id).run()
        print("\nThe demo passed." if passed else "\nThe demo FAILED.")
        if keep_running:
            _wait(stage, dag_id)
        else:
            print("To look around in the browser: make demo-ui")
        print("Stopping ...", flush=True)
    return 0 if passed else 1


def _wait(stage: Stage, dag_id: str) -> None:
    print(f"\nAirflow   {stage.airflow.url}/dags/{dag_id} (everyone on this machine is an administrator)")
    if stage.sandbox:
        print(f"Sandbox   {stage.sandbox.base_url}")
    print("Ctrl-C stops both.", flush=True)
    while True:
        stage.airflow.raise_if_dead()
        time.sleep(1)


def _print_table(columns: list[str], rows: list[quickstart.Row]) -> None:
    lines = [tuple(columns), *[tuple("" if value is None else value for value in row) for row in rows]]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        print("  " + "  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
