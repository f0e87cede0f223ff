"""A complete Airflow on this machine: its services as separate processes, its REST API as methods."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tests.system.harness.database import Postgres, Sqlite
from tests.system.harness.release import AIRFLOW_2, AIRFLOW_3, WEBSERVER_CONFIG, settings
from tests.system.harness.rest import PATIENCE, AirflowApiError, AirflowClient, DagRun, TaskInstance
from tests.system.harness.service import Service, free_port, stop_all

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Self

    from tests.system.harness.database import Database
    from tests.system.harness.release import Release

BOOT_TIMEOUT = 240.0
FINISHED_RUN = frozenset({"success", "failed"})


class AirflowInstance:
    """An Airflow that starts with ``with`` and leaves nothing behind.

    All its settings come from the environment of its processes; nothing of the caller's own Airflow is read. It
    listens on the loopback interface only and lets every caller in as an administrator.

    :param home: Its ``AIRFLOW_HOME``: database file, task logs and ``services/<name>.log``. Made if missing.
    :param dags_folder: Where it finds DAGs.
    :param python: The interpreter of the environment to run, which decides the version of Airflow.
    :param connections: Connections by id, in URI or JSON form, given by environment variables.
    :param environment: Further environment variables, settings of Airflow among them, for all processes.
    :param database: ``"sqlite"`` for a handful of tasks at a time, ``"postgres"`` for more.
    :param executor: Airflow's executor. Default: the one that runs tasks on this machine.
    :param parallelism: How many tasks may run at the same time.
    :param patience: Seconds a response of the REST API is waited for.
    :param base_path: A path prefix of all its addresses, ``"/air"`` for example.
    """

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        *,
        python: Path | str = sys.executable,
        connections: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        database: Literal["sqlite", "postgres"] = "sqlite",
        executor: str | None = None,
        parallelism: int = 4,
        patience: float = PATIENCE,
        base_path: str = "",
    ) -> None:
        self.home = home.resolve()
        self.dags_folder = dags_folder.resolve()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}{base_path}"
        self.triggerers = ["triggerer"]
        self._python = str(python)
        self._release = _release_of(self._python)
        self._executor = executor or self._release.local_executor[database]
        self._parallelism = parallelism
        self.database: Database = Postgres() if database == "postgres" else Sqlite(self.home)
        """Where the metadata is."""
        self._extra = {f"AIRFLOW_CONN_{conn_id.upper()}": value for conn_id, value in (connections or {}).items()}
        self._extra |= environment or {}
        self._services: dict[str, Service] = {}
        self._environment: dict[str, str] = {}
        self.api = AirflowClient(self.url, major=self._release.major, patience=patience)

    # Life and death

    @property
    def services(self) -> Mapping[str, tuple[str, ...]]:
        """Arguments of ``airflow`` for each service that is started, by its name."""
        return self._release.services

    @property
    def environment(self) -> dict[str, str]:
        """The environment of all its processes."""
        return dict(self._environment)

    @property
    def fernet_key(self) -> str:
        """What Airflow encrypts with."""
        return self._environment["AIRFLOW__CORE__FERNET_KEY"]

    def __enter__(self) -> Self:
        """Make the database, start all services and wait until Airflow reports them healthy."""
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            self._prepare()
            for name in self.services:
                self.start(name)
            self.wait_until_healthy()
            on_failure.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop all services and the database."""
        self.close()

    def close(self) -> None:
        """Stop everything that was started. Safe to call again."""
        try:
            stop_all(self._services.values())
        finally:
            self.api.close()
            self.database.stop()

    def start(self, service: str, *, name: str | None = None) -> None:
        """Start a service, again after a kill or a second one of its kind under another name.

        :param service: A name in :attr:`services`.
        :param name: What to call this one, ``triggerer-2`` for example. Default: like the service.
        """
        name = name or service
        if name not in self._services:
            command = [self._python, "-m", "airflow", *self.services[service]]
            self._services[name] = Service(
                name, command, log_folder=self.home / "services", environment=self._environment
            )
        self._services[name].start()

    def kill(self, name: str, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal to a service and all it forked; SIGKILL is waited for."""
        self._services[name].kill(signal_number)

    def signal_command(self, name: str, signal_number: int) -> None:
        """Send a signal to a service's command, but not to what it forked."""
        os.kill(self._services[name].pid, signal_number)

    def is_running(self, name: str) -> bool:
        """Whether a service's command lives."""
        return self._services[name].is_running

    def pids(self, name: str) -> list[int]:
        """Return the ids of the living processes of a service: the command and what it forked."""
        return [process.pid for process in self._services[name].processes()]

    def service_log(self, name: str) -> str:
        """Return what a service has printed so far."""
        return self._services[name].log_path.read_text(errors="replace")

    def airflow(self, *arguments: str) -> str:
        """Run ``airflow`` with some arguments to its end and return what it printed."""
        result = subprocess.run(
            [self._python, "-m", "airflow", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise RuntimeError(f"airflow {' '.join(arguments)} ended with {result.returncode}:\n{result.stderr}")
        return result.stdout

    def spawn(self, *arguments: str, log_path: Path) -> subprocess.Popen[bytes]:
        """Start ``airflow`` with some arguments and return its process, which the caller ends.

        :param log_path: Where it prints.
        """
        with log_path.open("wb") as log:
            return subprocess.Popen(
                [self._python, "-m", "airflow", *arguments], env=self._environment, stdout=log, stderr=log
            )

    def raise_if_dead(self) -> None:
        """Raise :class:`~.service.ServiceDied` if a service ended although no one asked it to."""
        for service in self._services.values():
            service.raise_if_dead()

    def wait_until_healthy(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Wait until every component reports a heartbeat."""

        def healthy() -> bool:
            health = self.api.health()
            return all(health.get(component) == "healthy" for component in self._release.components)

        self._wait(lambda: bool(self.api.health()), timeout, lambda: "Airflow's API server does not answer")
        self.api.warm_up()
        self._wait(healthy, timeout, lambda: f"Airflow is not healthy: {self.api.health()}")

    def _prepare(self) -> None:
        (self.home / "services").mkdir(parents=True, exist_ok=True)
        if self._release.major < 3:
            (self.home / "webserver_config.py").write_text(WEBSERVER_CONFIG)
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "SEQUENTUM_"))
        }
        self._environment = {
            **inherited,
            **settings(
                self._release,
                home=self.home,
                dags_folder=self.dags_folder,
                database=self.database.start(),
                executor=self._executor,
                parallelism=self._parallelism,
                port=self.port,
                url=self.url,
            ),
            **self._extra,
            # Airflow 2 starts tasks by the bare name of its command.
            "PATH": f"{Path(self._python).parent}:{inherited['PATH']}",
        }
        self.airflow("db", "migrate")

    # Use

    def add_connection(self, conn_id: str, connection: Mapping[str, Any]) -> None:
        """Store a connection in the metadata database, as the form in the UI does."""
        self.api.post("/connections", {"connection_id": conn_id, **connection})

    def wait_for_dag(self, dag_id: str, timeout: float = 60) -> None:
        """Wait until Airflow has parsed a DAG; :class:`TimeoutError` carries the files that cannot be imported."""

        def known() -> bool:
            try:
                self.api.get(f"/dags/{dag_id}")
            except AirflowApiError as error:
                if error.status_code == 404:
                    return False
                raise
            return True

        self._wait(
            known, timeout, lambda: f"Airflow found no DAG {dag_id!r} in {self.dags_folder}{self._import_errors()}"
        )

    def _import_errors(self) -> str:
        errors = self.api.get("/importErrors")["import_errors"]
        return "".join(f"\n{error['filename']}:\n{error['stack_trace']}" for error in errors)

    def trigger(
        self, dag_id: str, conf: Mapping[str, Any] | None = None, timeout: float = 60, run_id: str | None = None
    ) -> DagRun:
        """Start a run of a DAG, as soon as Airflow knows the DAG. With a ``run_id`` of its own, at most once."""
        self.wait_for_dag(dag_id, timeout)
        body: dict[str, Any] = {"conf": dict(conf or {})}
        if run_id is not None:
            body["dag_run_id"] = run_id
        if self._release.major >= 3:
            body["logical_date"] = None
        answer = self.api.post(f"/dags/{dag_id}/dagRuns", body)
        return DagRun(dag_id, answer["dag_run_id"], answer["state"])

    def dag_run(self, run: DagRun) -> DagRun:
        """Look at a run again."""
        return DagRun(run.dag_id, run.run_id, self.api.get(run.path)["state"])

    def wait(self, run: DagRun, timeout: float = 120) -> DagRun:
        """Wait for the end of a DAG run and return it; :class:`TimeoutError` names the tasks' states."""
        current = run

        def finished() -> bool:
            nonlocal current
            current = self.dag_run(run)
            return current.state in FINISHED_RUN

        self._wait(finished, timeout, lambda: f"{run.dag_id} {run.run_id} is {current.state}: {self.states(run)}")
        return current

    def wait_for_task(
        self, run: DagRun, task_id: str, states: Collection[str], timeout: float = 60, map_index: int = -1
    ) -> TaskInstance:
        """Wait until a task is in one of some states, and return it."""
        task = self.task_instance(run, task_id, map_index)

        def reached() -> bool:
            nonlocal task
            task = self.task_instance(run, task_id, map_index)
            return task.state in states

        self._wait(reached, timeout, lambda: f"{task_id} is {task.state}, not {' or '.join(sorted(states))}")
        return task

    def task_instances(self, run: DagRun) -> list[TaskInstance]:
        """Return all tasks of a run, in the order in which they began."""
        answers: list[Any] = []
        page = {"total_entries": 1}
        while len(answers) < page["total_entries"]:
            page = self.api.get(f"{run.path}/taskInstances", limit=100, offset=len(answers))
            answers += page["task_instances"]
        return [TaskInstance.parse(answer) for answer in sorted(answers, key=_by_start)]

    def task_instance(self, run: DagRun, task_id: str, map_index: int = -1) -> TaskInstance:
        """Return one task of a run."""
        return TaskInstance.parse(self.api.get(_task_path(run, task_id, map_index)))

    def states(self, run: DagRun) -> dict[str, str | None]:
        """Return the state of each task of a run."""
        return {
            task.task_id if task.map_index < 0 else f"{task.task_id}[{task.map_index}]": task.state
            for task in self.task_instances(run)
        }

    def log(self, run: DagRun, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """Return the log of one try of a task: the worker's part and the triggerer's."""
        return self.api.log(run, task_id, try_number, map_index)

    def xcom(self, run: DagRun, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """Return what a task pushed; :class:`AirflowApiError` 404 if it pushed nothing under this key.

        Airflow 2 tells it as the text that ``str`` makes of it.
        """
        query = {"deserialize": True} if self._release.major >= 3 else {}
        path = f"{run.path}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.api.get(path, map_index=map_index, **query)["value"]

    def clear(self, run: DagRun, *task_ids: str, downstream: bool = True) -> None:
        """Clear tasks, as the button in the UI does: they run again."""
        body = {
            "dry_run": False,
            "dag_run_id": run.run_id,
            "task_ids": list(task_ids),
            "only_failed": False,
            "include_downstream": downstream,
            "reset_dag_runs": True,
        }
        self.api.post(f"/dags/{run.dag_id}/clearTaskInstances", body)

    def mark(self, run: DagRun, task_id: str, state: Literal["success", "failed"], map_index: int = -1) -> None:
        """Mark a task, as the button in the UI does."""
        body: dict[str, Any] = {"new_state": state}
        if self._release.major < 3:
            body["dry_run"] = False
        self.api.patch(_task_path(run, task_id, map_index), body)

    def wipe_state_store(self, run: DagRun, task_id: str, map_index: int = -1) -> None:
        """Delete all that a task has kept in Airflow's task state store (3.3 and later)."""
        path = f"{run.path}/taskInstances/{task_id}/state-store"
        self.api.send("DELETE", path, params={"map_index": map_index})

    def _wait(self, condition: Callable[[], bool], timeout: float, describe: Callable[[], str]) -> None:
        """Ask again and again until it holds, the time is up, or a service died."""
        deadline = time.monotonic() + timeout
        while not condition():
            self.raise_if_dead()
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{describe()} (after {timeout:g} s; logs of the services: {self.home / 'services'})"
                )
            time.sleep(0.25)


def _release_of(python: str) -> Release:
    """Ask an environment which Airflow it has."""
    question = "from importlib.metadata import version; print(version('apache-airflow'))"
    answer = subprocess.run([python, "-c", question], capture_output=True, text=True, check=True).stdout
    return AIRFLOW_3 if int(answer.partition(".")[0]) >= 3 else AIRFLOW_2


def _task_path(run: DagRun, task_id: str, map_index: int) -> str:
    path = f"{run.path}/taskInstances/{task_id}"
    return path if map_index < 0 else f"{path}/{map_index}"


def _by_start(answer: Mapping[str, Any]) -> str:
    return answer["start_date"] or "~"
