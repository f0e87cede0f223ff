"""The service in a process of its own: the sandbox with its limits enforced, its time scaled."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import psutil

from tests.benchmarks.bench_waiting.scaled_time import ScaledTime

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

WINDOW = 60.0
"""Seconds, scaled as everything else."""
_STANDSTILL = 1e-9
"""A speed of time at which a thousand runs can be started at the same moment."""


@dataclass(frozen=True)
class Workload:
    """
    Runs to wait for.

    :param name: what the tables call it.
    :param agents: how many agents they are spread over, in turn.
    :param durations: how long each takes, in seconds.
    """

    name: str
    agents: int
    durations: tuple[float, ...]


@dataclass(frozen=True)
class StartedRun:
    """A run of the workload."""

    agent_id: int
    run_id: int


@dataclass(frozen=True)
class Report:
    """
    What the service saw.

    :param finished: when each run truly ended, by run id.
    :param per_window: requests of each window, counted from the first request on.
    :param paths: how often each kind of request came.
    :param refused: requests answered with 429.
    :param refused_starts: starts among them.
    :param cpu_share: processor time of the service for each second of real time, at most 1.
    """

    finished: dict[int, datetime]
    per_window: list[int]
    paths: dict[str, int]
    refused: int
    refused_starts: int
    cpu_share: float


class Service:
    """
    The sandbox with a workload started in it.

    :param workload: the runs.
    :param scale: scaled seconds per real second.
    """

    def __init__(self, workload: Workload, scale: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, workload, scale), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self.connection, self.spare_agent = self._answer()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.join()

    connection: str
    spare_agent: int

    def start_runs(self) -> tuple[ScaledTime, list[StartedRun]]:
        """Start the workload's runs, all at once, and let time run fast from now on."""
        self._pipe.send("start")
        started: tuple[ScaledTime, list[StartedRun]] = self._answer()
        return started

    def report(self) -> Report:
        """Return what the service has seen so far."""
        self._pipe.send("report")
        report: Report = self._answer()
        return report

    def _answer(self) -> Any:
        if not self._pipe.poll(120):
            raise RuntimeError("the sandbox does not answer")
        return self._pipe.recv()


def _serve(pipe: Connection, workload: Workload, scale: float) -> None:
    from airflow_provider_sequentum.sandbox import server
    from airflow_provider_sequentum.sandbox.request_gate import RequestGate
    from airflow_provider_sequentum.sandbox.settings import Dialect

    def scaled_gate(*arguments: Any) -> ASGIApp:
        return _in_scaled_seconds(RequestGate(*arguments), scale)

    vars(server)["RequestGate"] = scaled_gate
    sandbox = server.Sandbox(
        time_scale=_STANDSTILL,
        rate_window_seconds=WINDOW / scale,
        space_concurrency=1_000_000,
        credits=1_000_000.0,
        # Otherwise each start would look through all runs for an exclusive one.
        dialect=Dialect(exclusive_conflict="queue"),
    )
    with sandbox:
        agents = [sandbox.add_agent(f"Agent {number:04}", records=[]) for number in range(workload.agents)]
        spare = sandbox.add_agent("Spare", records=[], duration=30.0)
        pipe.send((sandbox.connection_uri, spare.id))
        busy = (0.0, 0.0)
        while True:
            match pipe.recv():
                case "start":
                    runs = _start(sandbox, agents, workload.durations)
                    time = ScaledTime.from_now(scale, sandbox.now)
                    sandbox.engine.clock.set_scale(scale)
                    busy = -_cpu_seconds(), -monotonic()
                    pipe.send((time, runs))
                case "report":
                    share = (_cpu_seconds() + busy[0]) / (monotonic() + busy[1])
                    pipe.send(_report(sandbox, share))


def _start(sandbox: Any, agents: list[Any], durations: tuple[float, ...]) -> list[StartedRun]:
    """Start all runs and give them their slots in one go: one by one, ten thousand of them would take an hour."""
    from airflow_provider_sequentum.sandbox.run_plan import RunPlan
    from airflow_provider_sequentum.sandbox.runs import RunOptions

    engine, now = sandbox.engine, sandbox.engine.settle()
    runs = [
        engine._new_run(agents[number % len(agents)], RunOptions(), now, RunPlan(duration=duration))
        for number, duration in enumerate(durations)
    ]
    engine.touch()
    engine.settle()
    return [StartedRun(run.agent_id, run.id) for run in runs]


def _cpu_seconds() -> float:
    return sum(psutil.Process().cpu_times()[:2])


def _report(sandbox: Any, cpu_share: float) -> Report:
    requests = list(sandbox.ledger.requests)
    begun = requests[0].at if requests else sandbox.now
    windows = Counter(int((entry.at - begun).total_seconds() // WINDOW) for entry in requests)
    refused = [entry for entry in requests if entry.status == 429]
    return Report(
        finished={run.run_id: run.finished for run in sandbox.ledger.runs() if run.finished is not None},
        per_window=[windows[number] for number in range(max(windows, default=-1) + 1)],
        paths=dict(Counter(_kind_of(entry.method, entry.path) for entry in requests)),
        refused=len(refused),
        refused_starts=sum(entry.path.endswith("/start") for entry in refused),
        cpu_share=cpu_share,
    )


def _kind_of(method: str, path: str) -> str:
    return method + " " + "/".join("N" if part.isdecimal() else part for part in path.split("/"))


def _in_scaled_seconds(app: ASGIApp, scale: float) -> ASGIApp:
    """The sandbox's limiter counts real seconds, and says so: translate what it says for those who live faster."""

    async def translated(scope: Scope, receive: Receive, send: Send) -> None:
        async def translating(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, f"{float(value) * scale:g}".encode())
                    if name.lower() in (b"x-ratelimit-window-seconds", b"retry-after")
                    else (name, value)
                    for name, value in message["headers"]
                ]
            await send(message)

        await app(scope, receive, translating)

    return translated
