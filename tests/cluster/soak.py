"""
An hour of steady load in a few minutes: does anything in the triggerer grow?

The service's time runs faster, so that an hour of runs passes in the given minutes. A real Airflow waits for them in
its triggerer, whose memory, file handles, connections and tasks are counted all the time, from outside and from inside.
The exit code says whether anything grows.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from airflow_provider_sequentum.sandbox import Sandbox
from tests.cluster.growth import Sample, growths
from tests.system.harness import AirflowInstance
from tests.system.stage import CHECKOUT, CONNECTION

DAGS = CHECKOUT / "tests" / "cluster" / "dags"
INTERVAL = 5.0
"""Seconds between two samples."""
TASKS_PER_RUN = 6
SECONDS_BETWEEN_RUNS = 20.0
SHORTEST, LONGEST = 20.0, 90.0
"""Real seconds that an agent's run takes."""
SHOWN = 12
"""How many samples are printed."""


class Soak:
    """
    The load and the samples of it.

    :param airflow: what is loaded.
    :param sandbox: the service.
    :param census: the file the triggerer counts into.
    :param seed: of the runs' durations.
    """

    def __init__(self, airflow: AirflowInstance, sandbox: Sandbox, census: Path, seed: int) -> None:
        self._airflow = airflow
        self._sandbox = sandbox
        self._census = census
        self._chance = random.Random(seed)
        self._started = time.monotonic()
        self.started = 0

    def add_load(self, tasks: int = TASKS_PER_RUN) -> None:
        """Start so many waits."""
        scale = self._sandbox.engine.clock.scale
        agents = []
        for _ in range(tasks):
            self.started += 1
            duration = self._chance.uniform(SHORTEST, LONGEST) * scale
            agents.append(self._sandbox.add_agent(f"Agent {self.started}", records=[{"n": 1}], duration=duration).id)
        self._airflow.trigger("soak", {"agents": agents})

    def sample(self) -> Sample:
        """Look at the triggerer."""
        inside = self._latest_census()
        processes = [psutil.Process(pid) for pid in self._airflow.pids("triggerer")]
        connections = [link for process in processes for link in process.net_connections("tcp")]
        port = int(self._sandbox.base_url.rpartition(":")[2])
        return Sample(
            at=time.monotonic() - self._started,
            waits=int(inside["waits"]),
            memory=sum(process.memory_full_info().uss for process in processes) / 1e6,
            handles=sum(process.num_fds() for process in processes),
            connections=sum(bool(link.raddr) and link.raddr.port == port for link in connections),
            tasks=int(inside["tasks"]),
            objects=int(inside["objects"]),
        )

    def wait_for_rest(self, timeout: float) -> None:
        """Wait until nothing is waited for any more."""
        deadline = time.monotonic() + timeout
        while self._open_runs() or self._latest_census()["waits"]:
            if time.monotonic() > deadline:
                raise TimeoutError("The waits do not end")
            time.sleep(1)
        time.sleep(3 * INTERVAL)

    def _open_runs(self) -> int:
        runs = self._airflow.api.get("/dags/soak/dagRuns", limit=100, order_by="-start_date")["dag_runs"]
        return sum(run["state"] not in ("success", "failed") for run in runs)

    def _latest_census(self) -> dict[str, Any]:
        deadline = time.monotonic() + 120
        while not self._census.exists() or "\n" not in self._census.read_text():
            if time.monotonic() > deadline:
                raise TimeoutError("The triggerer does not count")
            time.sleep(0.5)
        latest: dict[str, Any] = json.loads(self._census.read_text().splitlines()[-1])
        return latest


def soak(folder: Path, minutes: float, seed: int) -> int:
    """Load, measure, print, and return how many figures grow."""
    seconds = minutes * 60
    with ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox(time_scale=3600 / seconds, space_concurrency=1000, credits=1_000_000.0))
        connection = {"conn_type": "sequentum", "host": sandbox.base_url, "password": sandbox.api_key}
        airflow = stack.enter_context(
            AirflowInstance(
                folder / "airflow",
                DAGS,
                database="postgres",
                connections={CONNECTION: json.dumps(connection)},
                environment={"PYTHONPATH": str(CHECKOUT), "STORM_LAKE": (folder / "lake").as_uri()},
            )
        )
        census = folder / "census.ndjson"
        airflow.trigger("census", {"path": str(census), "interval": INTERVAL, "seconds": 2 * seconds + 600})
        running = Soak(airflow, sandbox, census, seed)
        running.add_load(1)  # what is loaded with the first wait is no growth
        running.wait_for_rest(300)
        before, load = running.sample(), _under_load(running, seconds)
        running.wait_for_rest(300)
        after = running.sample()
        failed = int(airflow.api.get("/dags/soak/dagRuns", state="failed")["total_entries"])
    print(f"{running.started} waits in {minutes:g} minutes, which were an hour for the service; failed: {failed}\n")
    step = max(1, len(load) // SHOWN)
    _print([before, *load[::step], after])
    found = growths(before, load, after)
    print("\n" + ("\n".join(found) or "Nothing grows."))
    return len(found) + failed


def _under_load(running: Soak, seconds: float) -> list[Sample]:
    samples: list[Sample] = []
    started = next_load = time.monotonic()
    while time.monotonic() < started + seconds:
        if time.monotonic() >= next_load:
            running.add_load()
            next_load += SECONDS_BETWEEN_RUNS
        samples.append(running.sample())
        time.sleep(INTERVAL)
    return samples


def _print(samples: list[Sample]) -> None:
    print("| second | waits | memory, MB | handles | connections | tasks | objects |")
    print("| ---: |" + " ---: |" * 6)
    for sample in samples:
        print(
            f"| {sample.at:.0f} | {sample.waits} | {sample.memory:.0f} | {sample.handles} | {sample.connections} "
            f"| {sample.tasks} | {sample.objects} |"
        )


def main() -> int:
    """Soak, and return whether anything grows."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="how long an hour lasts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        return min(soak(Path(folder), options.minutes, options.seed), 1)


if __name__ == "__main__":
    sys.exit(main())
