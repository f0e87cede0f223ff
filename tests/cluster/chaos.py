"""
A storm over a distributed Airflow, and what came of it.

Jobs come in, each for the provider's operator and for a plain one that starts a run and asks until it is over.
Meanwhile parts of the installation are killed, the network misbehaves, and people click. Then the service's ledger is
compared with Airflow's database. The exit code says whether anything went wrong with the provider's jobs.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psycopg

from tests.cluster.breaking import Breaking
from tests.cluster.canary import Search, Sighting
from tests.cluster.evidence import Database, gather_cases, search_everything
from tests.cluster.invariants import GRACE, violations
from tests.cluster.people import ROWS, TASK, People, Population
from tests.cluster.plan import Storm, plan_storm
from tests.cluster.report import Findings, explain, render
from tests.cluster.service import DashboardUser, SandboxService
from tests.cluster.wire import TRIES, Verdict, describe, judge
from tests.system.harness import Cluster
from tests.system.stage import CHECKOUT, CONNECTION

DAGS = CHECKOUT / "tests" / "cluster" / "dags"
POPULATIONS: tuple[Population, ...] = ("provider", "plain")
RECORD = "wire.jsonl"
"""The file with what was recorded in front of the service."""
PATIENCE = 15.0
"""Seconds a response of Airflow's API is waited for while parts of it may be dead."""
SETTLING_TIMEOUT = 300.0


@dataclass(frozen=True)
class World:
    """The installation, the service, and the secrets that must stay secret."""

    folder: Path
    cluster: Cluster
    service: SandboxService
    dashboard_user: DashboardUser
    keys: dict[str, str]
    marker: str

    @property
    def lake(self) -> Path:
        """Where files are landed."""
        return self.folder / "lake"

    @property
    def database(self) -> Database:
        """Airflow's metadata."""
        return Database(self.cluster.postgres.dsn)


@contextmanager
def open_world(folder: Path) -> Iterator[World]:
    """Start everything, with a key for each population."""
    with ExitStack() as stack:
        key = f"sk-canary-{secrets.token_hex(16)}"
        service = SandboxService(folder / "service", key, record=folder / RECORD)
        stack.callback(service.stop)
        service.start()
        keys = {"provider": key, "plain": service.add_key("plain")}
        lake = folder / "lake"
        lake.mkdir()
        environment = {"STORM_LAKE": lake.as_uri()}
        cluster = stack.enter_context(Cluster(folder / "airflow", DAGS, environment=environment, patience=PATIENCE))
        for conn_id, name in ((CONNECTION, "provider"), ("plain", "plain")):
            connection = {"conn_type": "sequentum", "host": service.base_url, "password": keys[name]}
            cluster.add_connection(conn_id, connection)
        for way in ("deferred", "worker", "plain"):
            cluster.wait_for_dag(f"storm_{way}", timeout=120)
        dashboard_user = DashboardUser(service, service.add_key("dashboard user"))
        yield World(folder, cluster, service, dashboard_user, keys, f"marker-{secrets.token_hex(8)}")


class Performance:
    """A storm as it happens."""

    def __init__(self, world: World, storm: Storm, populations: Sequence[Population]) -> None:
        self.world = world
        self.breaking = Breaking(world.cluster, world.service)
        self.people = People(world.cluster, world.service, world.dashboard_user, world.database.holder, world.marker)
        started = time.monotonic()
        for job in storm.jobs:
            for population in populations:
                self.people.asking.add(started + job.at, partial(self.people.ask, job, population))
        for death in storm.deaths:
            self.breaking.agenda.add(started + death.at, partial(self.breaking.strike, death))
        for squall in storm.squalls:
            self.breaking.agenda.add(started + squall.at, partial(self.breaking.disturb, squall))

    def run(self, seconds: float) -> None:
        """Let it rage, then wait until all has come to rest or will not."""
        stop = threading.Event()
        agendas = (self.breaking.agenda, self.people.asking, self.people.clicking)
        with ThreadPoolExecutor(len(agendas)) as threads:
            working = [threads.submit(agenda.work, stop) for agenda in agendas]
            try:
                _wait(working, seconds, lambda: False)
                say(f"The storm is over; waiting for the jobs to end. DAG runs that go on: {self._open_runs()}.")
                _wait(working, SETTLING_TIMEOUT, self._is_quiet)
                say(f"DAG runs that go on: {self._open_runs()}. Looking whether the service's runs end.")
                # What is to be stopped has this long.
                _wait(working, GRACE.total_seconds(), self._all_runs_have_ended)
            finally:
                stop.set()

    def _is_quiet(self) -> bool:
        return self.people.asking.is_empty() and self.breaking.calm() and self._open_runs() == 0

    def _all_runs_have_ended(self) -> bool:
        return all(run.finished is not None for run in self.world.service.runs())

    def _open_runs(self) -> int | None:
        try:
            return self.world.database.open_runs()
        except psycopg.OperationalError:
            return None

    def findings(self, command: str) -> Findings:
        """Compare, count and search."""
        world, people = self.world, self.people
        cases = gather_cases(
            people.placed,
            world.database,
            world.service.effects(),
            world.service.runs(),
            world.service.requests(),
            people.clicks,
            world.lake,
        )
        sightings = self._search()
        control = sightings.pop("marker")
        if not {"file", "column"} <= {sighting.place.split()[0] for sighting in control}:
            raise RuntimeError(f"The search does not find what is there: {control}")
        return Findings(
            command=command,
            broken={
                "Killed": self.breaking.deaths,
                "Network and service faults": self.breaking.squalls,
                "People": people.deeds,
                "Services that gave up and were started again": self.breaking.collapses,
            },
            cases=cases,
            violations=violations(cases, datetime.now(UTC), ROWS),
            sightings=sightings,
            looked_in=f"The same search found a word that is no secret in {len(control)} places.",
        )

    def verdicts(self) -> list[Verdict]:
        """Let the checker of the simulation decide, from what was recorded on the wire in front of the service."""
        world, people = self.world, self.people
        census = DashboardUser(world.service, world.service.add_key("census"))
        for run in world.service.runs():
            census.look(run.agent_id, run.run_id)
        return judge(
            people.placed,
            (world.folder / RECORD).read_text().splitlines(),
            world.database.rows(TRIES, TASK, TASK),
            world.database.results(),
            people.clicks,
            world.database.lifetimes(),
            world.cluster.home,
        )

    def _search(self) -> dict[str, list[Sighting]]:
        world = self.world
        needles = {**world.keys, "marker": world.marker}
        search = Search(needles, world.cluster.fernet_key)
        folders = [world.cluster.home, world.lake]
        found = search_everything(search, world.database, folders, world.cluster.broker)
        found += [Sighting("provider", f"storage: {leak.path}") for leak in world.service.leaks()]
        return {name: [sighting for sighting in found if sighting.needle == name] for name in needles}


def _wait(working: Sequence[Future[None]], seconds: float, is_over: Callable[[], bool]) -> None:
    """Wait until something holds or the time is up; raise what broke one of the helpers that work at the same time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not is_over():
        for work in working:
            if work.done():
                work.result()
        time.sleep(1)


def say(text: str) -> None:
    """Tell whoever waits, with the time."""
    print(f"{datetime.now(UTC):%H:%M:%S}  {text}", flush=True)


def main() -> int:
    """Raise a storm, print what came of it, and return how much went wrong with the provider (at most 1)."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long the storm lasts")
    parser.add_argument("--without-plain", action="store_true", help="leave out the operator to compare with")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep logs and files in this new folder")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command = f'make chaos CHAOS="--seed {options.seed} --minutes {options.minutes:g}"'
    populations = POPULATIONS[:1] if options.without_plain else POPULATIONS
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        say("Starting a distributed Airflow and the sandbox.")
        with open_world(folder) as world:
            seconds = options.minutes * 60
            performance = Performance(world, plan_storm(options.seed, seconds), populations)
            say(f"The storm begins: {options.minutes:g} minutes, seed {options.seed}.")
            performance.run(seconds)
            verdicts = performance.verdicts()
            findings = performance.findings(command)
        print(f"\n{render(findings)}\n\n{explain(findings)}", flush=True)
        print("\nThe checker of the simulation, on what was recorded in front of the service:")
        for population in populations:
            print(describe(verdicts, population), flush=True)
    finally:
        if options.keep is not None:
            shutil.copytree(folder, options.keep, symlinks=True)
        shutil.rmtree(folder)
    broken = any(verdict.broken for verdict in verdicts if verdict.placed.population == "provider")
    return 1 if broken or findings.wrong("provider") else 0


if __name__ == "__main__":
    sys.exit(main())
