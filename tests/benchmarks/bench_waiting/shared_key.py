"""The workloads that share one key, on the sandbox with its limits enforced and time scaled."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from tests.benchmarks.bench_waiting.service import Report, Service, Workload
from tests.benchmarks.bench_waiting.waiters import Heard, WaiterProcess, our_triggers, single_pollers, starts

MEDIAN, SIGMA = 300.0, 0.8
"""Of the durations, in seconds: one run in twenty takes less than 80 s, one in twenty more than 19 min."""
PATIENCE = 600.0
"""Seconds after the last end until which a wait has to have heard of its run."""
POLLERS_GIVEN = 1800.0
"""Seconds that single pollers are watched; what has ended and was not heard of by then counts as heard of then."""
STARTS_PER_MINUTE, STARTS = 60, 900


def durations(number: int, seed: int) -> tuple[float, ...]:
    """Return lognormal durations in seconds."""
    generator = random.Random(seed)
    return tuple(MEDIAN * math.exp(generator.gauss(0, SIGMA)) for _ in range(number))


WORKLOAD_A = Workload("A", 20, durations(1000, 1))
WORKLOAD_B = Workload("B", 200, durations(200, 2))


@dataclass
class Outcome:
    """What became of one workload."""

    workload: Workload
    report: Report
    heard: list[Heard]

    def figures(self) -> dict[str, Any]:
        """Return the figures of the tables."""
        at = {run_id: moment for heard in self.heard for run_id, moment in heard.at.items()}
        delays = sorted((at[run_id] - self.report.finished[run_id]).total_seconds() for run_id in at)
        return {
            "delays": [round(delay, 2) for delay in delays],
            "mean": sum(delays) / len(delays),
            "p95": delays[int(0.95 * len(delays))],
            "worst": delays[-1],
            "lost": len(self.workload.durations) - len(delays),
            "errors": [error for heard in self.heard for error in heard.errors][:5],
            "refused": self.report.refused,
            "refused_starts": self.report.refused_starts,
            "most_per_minute": max(self.report.per_window),
            "per_minute": self.report.per_window,
            "requests": self.report.paths,
            "service_cpu": self.report.cpu_share,
            "waiter_cpu": sum(heard.cpu_seconds for heard in self.heard),
            "unanswered": sum(heard.unanswered for heard in self.heard),
        }


def workload_a(scale: float, _others_python: str) -> dict[str, Any]:
    """A thousand runs of twenty agents."""
    return _with_our_triggers(WORKLOAD_A, scale).figures()


def workload_b(scale: float, _others_python: str) -> dict[str, Any]:
    """Two hundred runs of two hundred agents."""
    return _with_our_triggers(WORKLOAD_B, scale).figures()


def two_triggerers(scale: float, _others_python: str) -> dict[str, Any]:
    """Workload A with two triggerers, and a start every second on the same key."""
    with Service(WORKLOAD_A, scale) as service:
        waiters = [WaiterProcess(service.connection, our_triggers) for _ in range(2)]
        starter = WaiterProcess(service.connection, starts)
        for process in (*waiters, starter):
            process.wait_until_ready()
        time, runs = service.start_runs()
        seconds = max(WORKLOAD_A.durations) + PATIENCE
        for number, process in enumerate(waiters):
            process.begin(time, runs[number::2], seconds, is_warm=False)
        starter.begin(time, service.spare_agent, STARTS_PER_MINUTE, STARTS)
        started, failures = starter.result(seconds / scale + 300)
        heard = [process.result(seconds / scale + 300) for process in waiters]
        outcome = Outcome(WORKLOAD_A, service.report(), heard)
    return {**outcome.figures(), "starts": started, "failed_starts": len(failures), "start_errors": failures[:3]}


def single_pollers_on_both(scale: float, _others_python: str) -> dict[str, Any]:
    """Both workloads with the pattern of the other providers. Time runs slower, because they ask so much more."""
    slower = scale / 2
    measured = {
        f"{workload.name} {interval:g}": _with_single_pollers(workload, slower, interval)
        for workload in (WORKLOAD_A, WORKLOAD_B)
        for interval in (30.0, 60.0)
    }
    return {**measured, "scale": slower}


def _with_our_triggers(workload: Workload, scale: float) -> Outcome:
    with Service(workload, scale) as service:
        waiter = WaiterProcess(service.connection, our_triggers)
        waiter.wait_until_ready()
        time, runs = service.start_runs()
        seconds = max(workload.durations) + PATIENCE
        waiter.begin(time, runs, seconds, is_warm=True)
        return Outcome(workload, heard=[waiter.result(seconds / scale + 300)], report=service.report())


def _with_single_pollers(workload: Workload, scale: float, interval: float) -> dict[str, Any]:
    with Service(workload, scale) as service:
        waiter = WaiterProcess(service.connection, single_pollers)
        waiter.wait_until_ready()
        time, runs = service.start_runs()
        waiter.begin(time, runs, POLLERS_GIVEN, interval)
        heard = waiter.result(POLLERS_GIVEN / scale + 300)
        report = service.report()
    until = time.base_utc + timedelta(seconds=POLLERS_GIVEN)
    ended = {run_id: moment for run_id, moment in report.finished.items() if moment <= until}
    unheard = [run_id for run_id in ended if run_id not in heard.at]
    heard.at.update(dict.fromkeys(unheard, until))
    return {**Outcome(workload, report, [heard]).figures(), "lost": len(unheard)}
