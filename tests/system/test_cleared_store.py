"""A clear that discards the task state store: an attempt that finds no record leaves no second job going."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.system.remote_jobs import TASK, Case, RemoteJobs, until, wait_until_started

if TYPE_CHECKING:
    from airflow_provider_sequentum.sandbox import Sandbox
    from tests.system.harness import AirflowInstance, DagRun
    from tests.system.stage import Stage

pytestmark = pytest.mark.slow

JOIN = {"on_clear": "join"}
CASES = [
    Case("run", "deferred"),
    Case("run", "deferred", JOIN),
    Case("run", "worker"),
    Case("mapped", "deferred"),
    Case("mapped", "deferred", JOIN),
    Case("mapped", "worker"),
    Case("space", "deferred"),
    Case("space", "deferred", JOIN),
    Case("space", "worker"),
    Case("session", "deferred"),
    Case("session", "worker"),
]
A_MINUTE = 60.0


@dataclass
class Cleared:
    """What is known of a task a minute after it was cleared and lost its record."""

    states: list[str | None]
    attempts: list[int]
    started: int
    going: list[int]
    log: str
    going_after_mark: list[int]


@pytest.fixture(scope="module")
def cleared(stage: Stage) -> Iterator[dict[str, Cleared]]:
    """All cases at the same time: what takes long is the waiting."""
    if stage.airflow.api.major < 3:
        pytest.skip("Airflow 2.11 has no task state store")
    sandbox = stage.sandbox
    assert sandbox is not None
    seconds = sandbox.settings.builder_seconds
    sandbox.settings.rate_limit, sandbox.settings.builder_seconds = 10_000, 600.0
    # Tasks that wait on the worker keep its slots, so they take turns with the others.
    yield {
        **_clear_all(stage.airflow, sandbox, [case for case in CASES if case.mode == "deferred"]),
        **_clear_all(stage.airflow, sandbox, [case for case in CASES if case.mode == "worker"]),
    }
    sandbox.settings.builder_seconds = seconds


def _clear_all(airflow: AirflowInstance, sandbox: Sandbox, cases: list[Case]) -> dict[str, Cleared]:
    jobs = [RemoteJobs(sandbox, case) for case in cases]
    runs = [job.start(airflow) for job in jobs]
    for job, run in zip(jobs, runs, strict=True):
        wait_until_started(job, timeout=240)
        for index in job.map_indexes:
            waiting = "deferred" if job.case.mode == "deferred" else "running"
            airflow.wait_for_task(run, TASK, {waiting}, map_index=index)
    time.sleep(10)  # until the triggers run
    for job, run in zip(jobs, runs, strict=True):
        _wipe(airflow, job, run)
        airflow.clear(run, TASK)
        _wipe(airflow, job, run)
    time.sleep(A_MINUTE)
    going = [job.going() for job in jobs]
    tasks = [
        [airflow.task_instance(run, TASK, index) for index in job.map_indexes]
        for job, run in zip(jobs, runs, strict=True)
    ]
    started = [job.started() for job in jobs]
    for job, run in zip(jobs, runs, strict=True):
        for index in job.map_indexes:
            airflow.mark(run, TASK, "failed", index)
    until(lambda: all(job.is_over() for job in jobs))
    return {
        str(job.case): Cleared(
            [task.state for task in tasks[number]],
            [task.try_number for task in tasks[number]],
            started[number],
            going[number],
            "\n".join(airflow.log(runs[number], TASK, 2, index) for index in job.map_indexes),
            job.going(),
        )
        for number, job in enumerate(jobs)
    }


def _wipe(airflow: AirflowInstance, job: RemoteJobs, run: DagRun) -> None:
    for index in job.map_indexes:
        airflow.wipe_state_store(run, TASK, index)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_at_most_one_job_is_going_a_minute_after_a_clear_that_wiped_the_store(
    cleared: dict[str, Cleared], case: Case
) -> None:
    found = cleared[str(case)]
    assert max(found.going) <= 1, found
    assert min(found.attempts) == 2, found  # the new attempt has come
    assert sum(found.going_after_mark) == 0, found  # and the one that was going had an owner


@pytest.mark.parametrize("case", [case for case in CASES if case.params != JOIN], ids=str)
def test_a_rerun_continues_with_a_new_job(cleared: dict[str, Cleared], case: Case) -> None:
    found = cleared[str(case)]
    agents = len(found.going)
    assert (found.started, found.going) == (2 * agents, [1] * agents), found
