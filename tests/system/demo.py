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

from tests.system.demo_scenes import SCENES, Scene
from tests.system.harness import AirflowApiError
from tests.system.harness.airflow import FINISHED_RUN
from tests.system.stage import CHECKOUT, EXAMPLES, Service, Stage

if TYPE_CHECKING:
    from tests.system.harness import DagRun, TaskInstance

FOLDER = CHECKOUT / ".demo"
LATEST = FOLDER / "latest"
SANDBOX_TIMEOUT = 300.0
SERVICE_TIMEOUT = 3600.0
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
        self._scene = SCENES.get(dag_id, Scene)(stage, dag_id, self._say)
        self._began = time.monotonic()

    def run(self) -> bool:
        """Run the DAG, tell what its tasks do, and return whether all went as it should."""
        run = self._scene.begin()
        self._say(f"DAG {self._dag_id} started: {self._airflow.url}/dags/{self._dag_id}/runs/{run.run_id}")
        run = self._follow(run, SANDBOX_TIMEOUT if self._stage.sandbox else SERVICE_TIMEOUT)
        self._say(f"DAG {self._dag_id} ended: {run.state}")
        if run.state == "success":
            is_right, shown = self._scene.outcome()
            print(f"\n{shown}" if shown else "", flush=True)
            return is_right
        for task in self._airflow.task_instances(run):
            if task.state == "failed":
                log = self._airflow.log(run, task.task_id, task.try_number, task.map_index)
                print(f"\nThe log of {_name(task)}:\n{log}")
        return False

    def _follow(self, run: DagRun, timeout: float) -> DagRun:
        """Tell every change of a task's state until the run ends."""
        deadline = time.monotonic() + timeout
        told: dict[str, str | None] = {}
        while True:
            current = self._airflow.dag_run(run)
            for task in self._airflow.task_instances(run):
                name = _name(task)
                if task.state not in OPEN_STATES and told.get(name) != task.state:
                    told[name] = task.state
                    self._say(f"  {name:<18} {task.state:<14} {self._describe(run, task)}".rstrip())
                    self._scene.accompany(run, task)
            if current.state in FINISHED_RUN:
                return current
            if time.monotonic() > deadline:
                raise TimeoutError(f"{run.dag_id} did not end within {timeout:g} s: {self._airflow.states(run)}")
            time.sleep(0.5)

    def _describe(self, run: DagRun, task: TaskInstance) -> str:
        """Say what a task that ended returned, and what it waited for if it says so."""
        if task.state not in {"success", "failed"}:
            return ""
        value = self._xcom(run, task, "return_value")
        if session := self._xcom(run, task, "session"):
            return f"session {session['session_id']}: {session['status']}" + (f", agent {value}" if value else "")
        if summary := self._xcom(run, task, "run"):
            facts = f"{summary['status']}, {summary['records']} records"
            return f"run {summary['run_id']} of agent {summary['agent_id']}: {facts}"
        if self._xcom(run, task, "transfer"):
            return "\n".join([f"{len(value)} file" + "s" * (len(value) != 1), *(f"{'':>44}{path}" for path in value)])
        return "" if value is None else f"returned {value}"

    def _xcom(self, run: DagRun, task: TaskInstance, key: str) -> Any:
        try:
            return self._airflow.xcom(run, task.task_id, key, task.map_index)
        except AirflowApiError as error:
            if error.status_code == 404:
                return None
            raise

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", flush=True)


def main() -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description="Run an example DAG on a real Airflow.")
    examples = sorted(path.stem for path in EXAMPLES.glob("*.py"))
    parser.add_argument(
        "--dag", default="quickstart", choices=examples, help="an example in dags_examples/ (default: quickstart)"
    )
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


def _name(task: TaskInstance) -> str:
    return task.task_id if task.map_index < 0 else f"{task.task_id}[{task.map_index}]"


if __name__ == "__main__":
    sys.exit(main())
