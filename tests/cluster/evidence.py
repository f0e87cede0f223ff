"""Gathers what is known after a storm: rows of Airflow's database, the service's ledger, the landed files."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from airflow_provider_sequentum.sandbox.ledger import ActualRun, Effect, RequestEntry
from tests.cluster.canary import Search, Sighting
from tests.cluster.facts import Case, Intervention, RunFact, TaskFact
from tests.cluster.people import TASK, Click, Lifetime, Placed
from tests.system.harness import DagRun

# The connections are where the key is meant to be, encrypted.
KEY_TABLES = frozenset({"connection"})
TASKS = "SELECT dag_id, run_id, task_id, state, try_number, end_date FROM task_instance"
RESULTS = "SELECT dag_id, run_id, task_id, value FROM xcom WHERE key = 'return_value'"
OPEN = "SELECT count(*) AS number FROM dag_run WHERE state NOT IN ('success', 'failed')"
LIFETIMES = "SELECT id, job_type, start_date, latest_heartbeat FROM job"
HOLDER = """
    SELECT task.pid, trigger.triggerer_id FROM task_instance task LEFT JOIN trigger ON trigger.id = task.trigger_id
    WHERE task.dag_id = %s AND task.run_id = %s AND task.task_id = %s
"""
STOP_PATH = re.compile(r"/run/(?P<run>\d+)/(stop|kill)$")
LIST_PATH = re.compile(r"/agent/(?P<agent>\d+)/runs$")
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"


class Database:
    """Airflow's metadata, read behind its back."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Return what a query finds."""
        with psycopg.connect(self._dsn, row_factory=dict_row) as connection:
            return connection.execute(query.encode(), values or None).fetchall()

    def open_runs(self) -> int:
        """Return how many DAG runs have not ended."""
        return int(self.rows(OPEN)[0]["number"])

    def holder(self, run: DagRun, task_id: str) -> dict[str, int | None]:
        """Return who has a task: its process's ``pid`` while it is running, its ``triggerer_id`` while deferred."""
        return self.rows(HOLDER, run.dag_id, run.run_id, task_id)[0]

    def results(self) -> dict[tuple[str, str], int]:
        """Return which run each job's task has returned, by DAG and run."""
        rows = self.rows(RESULTS)
        return {(row["dag_id"], row["run_id"]): int(row["value"]) for row in rows if row["task_id"] == TASK}

    def lifetimes(self) -> dict[int, Lifetime]:
        """Return when each triggerer and scheduler gave signs of life."""
        return {
            row["id"]: Lifetime(row["job_type"], row["start_date"], row["latest_heartbeat"])
            for row in self.rows(LIFETIMES)
        }

    def tables(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield every table that must not hold a key, with its rows."""
        for table in self.rows(TABLES):
            name = table["tablename"]
            if name not in KEY_TABLES:
                yield name, self.rows(f'SELECT * FROM "{name}"')


def gather_cases(
    placed: Iterable[Placed],
    database: Database,
    effects: Iterable[Effect],
    truths: Iterable[ActualRun],
    requests: Iterable[RequestEntry],
    clicks: Iterable[Click],
    lake: Path,
) -> list[Case]:
    """Return what is known of each job."""
    tasks = {(row["dag_id"], row["run_id"], row["task_id"]): row for row in database.rows(TASKS)}
    results = database.results()
    runs = runs_by_agent(effects, truths, requests)
    interventions = _interventions(clicks, database.lifetimes())
    cases = []
    for place in placed:
        run, job = place.run, place.job
        row, landing = tasks[run.dag_id, run.run_id, TASK], tasks.get((run.dag_id, run.run_id, "land"))
        result = results.get((run.dag_id, run.run_id))
        cases.append(
            Case(
                name=job.name,
                population=place.population,
                task=TaskFact(
                    state=row["state"],
                    ended=row["end_date"],
                    result=result,
                    tries=row["try_number"],
                ),
                runs=runs[place.agent_id],
                interventions=interventions[place],
                landing=landing["state"] if landing is not None else None,
                landed_rows=landed_rows(lake / job.name),
            )
        )
    return cases


def _interventions(clicks: Iterable[Click], lifetimes: Mapping[int, Lifetime]) -> dict[Placed, list[Intervention]]:
    found: dict[Placed, list[Intervention]] = defaultdict(list)
    for click in clicks:
        heard = click.is_heard(lifetimes)
        found[click.placed].append(Intervention(kind=click.deed, asked=click.asked, done=click.done, heard=heard))
    return found


def runs_by_agent(
    effects: Iterable[Effect], truths: Iterable[ActualRun], requests: Iterable[RequestEntry]
) -> dict[int, list[RunFact]]:
    """Return the runs that were started through the API, oldest first, for each agent."""
    requests = list(requests)
    true = {truth.run_id: truth for truth in truths}
    stops = Counter(
        (int(stop["run"]), request.status is not None and request.status < HTTPStatus.BAD_REQUEST)
        for request in requests
        if (stop := STOP_PATH.search(request.path))
    )
    lost = {request.number for request in requests if request.fault is not None}
    looks = [(int(look["agent"]), request) for request in requests if (look := LIST_PATH.search(request.path))]
    found: dict[int, list[RunFact]] = defaultdict(list)
    for effect in effects:
        if effect.kind == "start" and effect.run_id is not None and effect.agent_id is not None:
            truth = true[effect.run_id]
            if effect.request in lost:  # the task does not know the run before a look at the list has shown it
                stops += Counter(
                    (effect.run_id, look.fault is None)
                    for agent, look in looks
                    if agent == effect.agent_id and look.at >= effect.at
                )
            found[effect.agent_id].append(
                RunFact(
                    run_id=effect.run_id,
                    started=effect.at,
                    ended=truth.finished,
                    status=truth.status,
                    stops_refused=stops[effect.run_id, False],
                    stops_taken=stops[effect.run_id, True],
                )
            )
    return found


def landed_rows(folder: Path) -> int:
    """Return how many rows the CSV files in a folder hold."""
    total = 0
    for path in folder.glob("*.csv"):
        with path.open(newline="") as file:
            total += max(0, sum(1 for _ in csv.reader(file)) - 1)
    return total


def search_everything(search: Search, database: Database, folders: Iterable[Path], broker: str) -> list[Sighting]:
    """Look for the needles in every table but the connections, every file of some folders, and the broker."""
    found = [sighting for folder in folders for sighting in search.in_files(folder)]
    for table, rows in database.tables():
        found += search.in_rows(table, rows)
    return found + search.in_rows("redis", [{name: value} for name, value in broker_contents(broker).items()])


def broker_contents(address: str) -> dict[str, bytes]:
    """Return what is in a Redis, by key."""
    import redis

    readers = {b"string": "get", b"list": "lrange", b"hash": "hgetall", b"set": "smembers", b"zset": "zrange"}
    contents: dict[str, bytes] = {}
    with redis.Redis.from_url(address) as client:
        for key in client.scan_iter():
            kind = client.type(key)
            bounds = (0, -1) if kind in (b"list", b"zset") else ()
            value = getattr(client, readers[kind])(key, *bounds)
            contents[key.decode()] = value if isinstance(value, bytes) else repr(value).encode()
    return contents
