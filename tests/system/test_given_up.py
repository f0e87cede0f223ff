"""A task that gives up leaves nothing going, whatever made it give up, and says what became of its job."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.remote_jobs import TASK, Case, RemoteJobs, until

if TYPE_CHECKING:
    from airflow_provider_sequentum.sandbox import Sandbox
    from tests.system.harness import AirflowInstance
    from tests.system.stage import Stage

pytestmark = pytest.mark.slow

KINDS = ("run", "mapped", "space", "session")
MODES = ("worker", "deferred")
REFUSED = [Case(kind, mode) for kind in KINDS for mode in MODES]
BROKEN = [Case(kind, mode, {"broken": what}) for what in ("XComs", "state store") for kind in KINDS for mode in MODES]
FATES = ("asked to stop", "has been stopped", "runs have ended", "cancelled", "may be running")
WITHIN = 90.0
SLOW_START = 300.0
"""Seconds in which ``airflow dags test`` has read all DAGs of the stage, on a busy machine."""


@pytest.fixture(scope="module")
def sandbox(stage: Stage) -> Iterator[Sandbox]:
    if stage.airflow.api.major < 3:
        pytest.skip("Airflow 2.11 has no task state store")
    sandbox = stage.sandbox
    assert sandbox is not None
    seconds = sandbox.settings.builder_seconds
    sandbox.settings.rate_limit, sandbox.settings.builder_seconds = 10_000, 600.0
    yield sandbox
    sandbox.settings.builder_seconds = seconds
    sandbox.faults.clear()


def given_up(airflow: AirflowInstance, sandbox: Sandbox, cases: list[Case], *, refused: bool) -> list[str]:
    """Run all cases at the same time, and return what is wrong."""
    jobs = [RemoteJobs(sandbox, case) for case in cases]
    if refused:
        for job in jobs:
            job.refuse_status()
    runs = [job.start(airflow) for job in jobs]
    ends = [airflow.wait(run, timeout=400).state for run in runs]
    until(lambda: all(job.is_over() for job in jobs), WITHIN)
    wrong = []
    for job, run, end in zip(jobs, runs, ends, strict=True):
        logs = [airflow.log(run, TASK, 1, index) for index in job.map_indexes]
        silent = [log for log in logs if not any(fate in log for fate in FATES)] if job.started() else []
        if end != "failed" or not job.is_over() or silent:
            wrong.append(f"{job.case}: {end}, started {job.started()}, going {job.going()}\n" + "\n".join(silent))
    return wrong


@pytest.mark.parametrize("mode", MODES)
def test_a_status_that_is_refused_for_good_leaves_nothing_going(stage: Stage, sandbox: Sandbox, mode: str) -> None:
    cases = [case for case in REFUSED if case.mode == mode]
    wrong = given_up(stage.airflow, sandbox, cases, refused=True)
    sandbox.faults.clear()
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("broken", ["XComs", "state store"])
@pytest.mark.parametrize("mode", MODES)
def test_what_airflow_cannot_store_leaves_nothing_going(stage: Stage, sandbox: Sandbox, mode: str, broken: str) -> None:
    cases = [case for case in BROKEN if case.mode == mode and case.params["broken"] == broken]
    wrong = given_up(stage.airflow, sandbox, cases, refused=False)
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["run", "space", "session"])
def test_ctrl_c_in_dag_test_leaves_nothing_going(
    stage: Stage, sandbox: Sandbox, kind: str, mode: str, tmp_path: Path
) -> None:
    job = RemoteJobs(sandbox, Case(kind, mode))
    dag_id = f"job_{kind}_{mode}"
    stage.airflow.wait_for_dag(dag_id)
    log = tmp_path / "log"
    process = stage.airflow.spawn("dags", "test", dag_id, "--conf", json.dumps(job.params), log_path=log)
    try:
        assert until(lambda: sum(job.going()) == job.expected(), SLOW_START), log.read_text()
        if mode == "deferred":
            assert until(lambda: "running trigger in line" in log.read_text(), WITHIN), log.read_text()
        process.send_signal(signal.SIGINT)
        assert until(lambda: process.poll() is not None, WITHIN), log.read_text()
    finally:
        process.kill()
    assert job.is_over(), log.read_text()
    assert any(fate in log.read_text() for fate in FATES), log.read_text()
