"""How each example comes to run in the demo: what someone has to do for it, and what proves that it did its work.

Most examples are just triggered. Some wait for something to happen: a day, a run that a colleague starts, a person's
answer. On the sandbox the demo does these things itself and says so. On the real service it starts nothing and answers
nothing that the DAG does not do by itself, but the two DAGs with a schedule are switched on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg

from airflow_provider_sequentum.api import ClientSettings, SequentumClient, runs
from airflow_provider_sequentum.sandbox.run_plan import RunPlan
from tests.system import quickstart
from tests.system.harness import DagRun

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from airflow_provider_sequentum.sandbox import Sandbox
    from tests.system.harness import TaskInstance
    from tests.system.stage import Stage

SHOWN_ROWS = 5
PATIENCE = 120.0
SECONDS_TO_READ = 8.0


class Scene:
    """An example that is triggered and then runs by itself.

    :param stage: where it runs.
    :param dag_id: the example.
    :param say: tells the person who watches what happens.
    """

    def __init__(self, stage: Stage, dag_id: str, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._airflow = stage.airflow
        self._dag_id = dag_id
        self._say = say

    def begin(self) -> DagRun:
        """Bring about a run of the DAG and return it."""
        return self._airflow.trigger(self._dag_id)

    def accompany(self, run: DagRun, task: TaskInstance) -> None:
        """Do what a task waits for. Called for every change of a task's state."""

    def outcome(self) -> tuple[bool, str]:
        """Return whether what came of it is right, and what to show of it. The DAG run has succeeded."""
        return True, ""

    def _runs(self) -> dict[str, DagRun]:
        """Return the DAG's runs by their ids."""
        listed = self._airflow.api.get(f"/dags/{self._dag_id}/dagRuns", limit=100)["dag_runs"]
        return {run["dag_run_id"]: DagRun(self._dag_id, run["dag_run_id"], run["state"]) for run in listed}

    def _run_after(self, known: Collection[str]) -> DagRun:
        """Wait for a run that Airflow starts by itself, other than those that were known before."""
        deadline = time.monotonic() + PATIENCE
        while not (new := [run for run_id, run in self._runs().items() if run_id not in known]):
            self._airflow.raise_if_dead()
            if time.monotonic() > deadline:
                raise TimeoutError(f"Airflow started no run of {self._dag_id} within {PATIENCE:g} s")
            time.sleep(0.5)
        return new[0]

    def _compare(self, where: str, columns: list[str], rows: list[quickstart.Row]) -> tuple[bool, str]:
        """Compare a table with what the sandbox delivers; its first rows are shown."""
        shown = f"The table {where} has {len(rows)} rows. The first ones:\n\n{_as_text(columns, rows[:SHOWN_ROWS])}"
        if self._stage.sandbox is None:
            return bool(rows), shown
        wrong = quickstart.differences(quickstart.read_data_file(), (columns, rows))
        if wrong:
            return False, "\n  ".join([f"{shown}\n\nThey are not the rows of the sandbox's data file:", *wrong])
        file = quickstart.DATA_FILE.name
        return True, f"{shown}\n\nAll {len(rows)} rows equal those of the sandbox's data file, {file}."


class Quickstart(Scene):
    """The quickstart, whose table is compared with the sandbox's data."""

    def outcome(self) -> tuple[bool, str]:
        """Compare the table in DuckDB."""
        return self._compare(f"in {self._stage.table}", *quickstart.read_table(self._stage.table))


class Scheduled(Scene):
    """A DAG with a schedule, which is switched off until someone switches it on."""

    def begin(self) -> DagRun:
        """Switch it on: Airflow starts the run of today."""
        self._airflow.wait_for_dag(self._dag_id)
        known = self._runs()
        self._airflow.api.patch(f"/dags/{self._dag_id}", {"is_paused": False})
        self._say(f"DAG {self._dag_id} is switched on; its schedule starts the run of today")
        return self._run_after(known)


class DailyLoad(Scheduled):
    """The daily load, whose table in PostgreSQL is compared with the sandbox's data."""

    def outcome(self) -> tuple[bool, str]:
        """Compare the table in PostgreSQL."""
        query = "SELECT state, abbreviation, capital, admitted::text AS admitted FROM states ORDER BY state"
        with psycopg.connect(self._stage.warehouse_dsn) as connection:
            cursor = connection.execute(query)
            columns = [column.name for column in cursor.description or []]
            return self._compare("states in PostgreSQL", columns, cursor.fetchall())


class FailingRun(Scene):
    """What becomes of a run that fails for good."""

    def begin(self) -> DagRun:
        """Let the run and its two restarts fail, on the sandbox."""
        if self._stage.sandbox is not None:
            failure = RunPlan(outcome="Failure", message="The page did not load.")
            self._stage.sandbox.plan_runs(int(self._stage.example_agent_id), [failure] * 3)
            self._say("The sandbox lets the next run fail, and its two restarts too")
        return super().begin()


class SomebodyElsesRun(Scene):
    """A DAG that a run wakes which no one in Airflow started."""

    def begin(self) -> DagRun:
        """Start a run as a colleague does, on the sandbox; on the real service trigger the DAG by hand."""
        sandbox = self._stage.sandbox
        if sandbox is None:
            self._say("The DAG lands the newest run that ended well; any run that ends later wakes it again")
            return super().begin()
        self._airflow.wait_for_dag(self._dag_id)
        self._say("The watcher looks at the agent's runs for the first time")
        self._wait_for_first_look(sandbox)
        known = self._runs()
        settings = ClientSettings(api_key=sandbox.api_key, base_url=sandbox.base_url)
        with SequentumClient(settings) as client:
            run = client.send(runs.start(self._stage.example_agent_id))
        self._say(f"A colleague starts run {run.id} of agent {run.agent_id}; Airflow doesn't know of it")
        return self._run_after(known)

    def _wait_for_first_look(self, sandbox: Sandbox) -> None:
        deadline = time.monotonic() + PATIENCE
        looks = f"/agent/{self._stage.example_agent_id}/runs"
        while sum(entry.path.endswith(looks) for entry in tuple(sandbox.ledger.requests)) < 2:
            self._airflow.raise_if_dead()
            if time.monotonic() > deadline:
                raise TimeoutError(f"The watcher did not look within {PATIENCE:g} s")
            time.sleep(0.5)


class Conversation(Scene):
    """A conversation with the Agent Builder, in which a person is asked."""

    ANSWERS = ("The first one", "Yes, keep them")

    def begin(self) -> DagRun:
        """Let the builder ask two questions, on the sandbox."""
        self._answers = iter(self.ANSWERS)
        if self._stage.sandbox is not None:
            self._stage.sandbox.script_sessions("asks_twice")
        return super().begin()

    def accompany(self, run: DagRun, task: TaskInstance) -> None:
        """Answer as a person does in the UI, but by Airflow's REST API; on the real service leave it to the person."""
        if not task.task_id.startswith("ask_") or task.state not in {"awaiting_input", "deferred"}:
            return
        page = f"{self._airflow.url}{run.path}/tasks/{task.task_id}/required_actions"
        path = f"{run.path}/taskInstances/{task.task_id}/-1/hitlDetails"
        question = " ".join(self._airflow.api.get(path)["body"].replace("*", "").split())
        self._say(f"  A person is asked. {question}")
        if self._stage.sandbox is None:
            self._say(f"  Answer at {page.replace('/dagRuns/', '/runs/')}")
            return
        # A question that is answered at once finds the task's process still ending, and Airflow kills it.
        time.sleep(SECONDS_TO_READ)
        text = next(self._answers, None)
        choice: dict[str, Any] = {"chosen_options": ["Answer"], "params_input": {"answer": text}}
        if text is None:
            choice = {"chosen_options": ["Approve"]}
        self._airflow.api.patch(path, choice)
        self._say(f"  The demo answers in the person's place: {text or 'Approve'}")


SCENES: dict[str, type[Scene]] = {
    "quickstart": Quickstart,
    "daily_to_postgres": DailyLoad,
    "build_once_run_daily": Scheduled,
    "partial_results": FailingRun,
    "on_agent_run": SomebodyElsesRun,
    "person_in_the_loop": Conversation,
}
"""The examples that need more than to be triggered."""


def _as_text(columns: list[str], rows: list[quickstart.Row]) -> str:
    lines = [tuple(columns), *[tuple("" if value is None else value for value in row) for row in rows]]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        "  " + "  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
