"""Whatever text the service sends, on PostgreSQL: each task ends as its job did, and the triggerer lives on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.remote_jobs import TASK, Case, RemoteJobs

if TYPE_CHECKING:
    from airflow_provider_sequentum.sandbox import Sandbox
    from tests.system.harness import DagRun
    from tests.system.stage import Stage

pytestmark = pytest.mark.slow

CASES = [Case(kind, mode) for kind in ("run", "mapped", "space", "session") for mode in ("worker", "deferred")]
TEXT = r'"A\u0000B\u001b[31mC\ud83dD\u202eE\r\nF"'
TEXTS = dict.fromkeys(("message", "name", "configName", "description", "content", "title", "plan", "error"), TEXT)
MEGABYTES = dict.fromkeys(("message", "description", "content"), "M" * 5_000_000)
ALTERATIONS: dict[str, dict[str, Any]] = {
    "controls and half an emoji": {"raw_values": {**TEXTS, "dataCount": "NaN", "pageCount": "NaN"}},
    "byte order mark": {"prefix": "\ufeff"},
    "5 MB": {"values": MEGABYTES},
}
MAX_MESSAGE_LENGTH, MAX_LINE_LENGTH, MAX_REPORT_LENGTH = 2_000, 4_000, 48_000
"""Bytes of what the service says of a run, of an exception that repeats it, and of a task's summary."""
SECONDS = 20.0
"""How long a job takes. On a busy machine Airflow fails tasks whose triggers fire before its scheduler has taken in
that they were deferred (apache/airflow #66374); a task that is never retried then ends otherwise than its job."""
XCOMS = {"run": "run", "mapped": "run", "space": "runs", "session": "session"}


@pytest.fixture
def sandbox(stage: Stage) -> Iterator[Sandbox]:
    if stage.airflow.api.major < 3:
        pytest.skip("Airflow 2.11 is tested on SQLite, which stores what PostgreSQL refuses")
    sandbox = stage.sandbox
    assert sandbox is not None
    seconds = sandbox.settings.builder_seconds
    sandbox.settings.rate_limit, sandbox.settings.builder_seconds = 10_000, SECONDS
    yield sandbox
    sandbox.settings.builder_seconds = seconds
    sandbox.faults.clear()


def texts(value: Any) -> Iterator[str]:
    """Return every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for element in value.values():
            yield from texts(element)
    elif isinstance(value, list):
        for element in value:
            yield from texts(element)


@pytest.mark.parametrize("alteration", list(ALTERATIONS))
@pytest.mark.parametrize("outcome", ["success", "failed"])
def test_each_task_ends_as_its_job_did_and_the_triggerer_lives_on(
    stage: Stage, sandbox: Sandbox, alteration: str, outcome: str
) -> None:
    airflow = stage.airflow
    bystander = RemoteJobs(sandbox, Case("run", "deferred"))
    bystanding = bystander.start(airflow)
    airflow.wait_for_task(bystanding, TASK, {"deferred"}, timeout=120)
    [triggerer, *_] = before = airflow.pids("triggerer")
    sandbox.fail_next("*", "altered", times=None, **ALTERATIONS[alteration])
    ending = "Success" if outcome == "success" else "Failed"
    script = "success" if outcome == "success" else "unrecoverable_error"
    jobs = [RemoteJobs(sandbox, case, duration=SECONDS, outcome=ending, script=script) for case in CASES]
    runs = [job.start(airflow) for job in jobs]
    ends = {str(job.case): airflow.wait(run, timeout=400).state for job, run in zip(jobs, runs, strict=True)}
    sandbox.faults.clear()
    logs = "\n\n".join(
        f"{job.case}\n{airflow.log(run, TASK, 1, job.map_indexes[0])[-6000:]}"
        for job, run in zip(jobs, runs, strict=True)
        if ends[str(job.case)] != outcome
    )
    assert ends == dict.fromkeys(map(str, CASES), outcome), logs
    assert set(before) <= set(airflow.pids("triggerer")), airflow.service_log("triggerer")[-6000:]
    assert airflow.pids("triggerer")[0] == triggerer
    assert airflow.task_instance(bystanding, TASK).state == "deferred"
    for job, run in zip(jobs, runs, strict=True):
        for index in job.map_indexes:
            is_readable_and_bounded(stage, run, job.case, index)
    airflow.mark(bystanding, TASK, "failed")


def is_readable_and_bounded(stage: Stage, run: DagRun, case: Case, map_index: int) -> None:
    summary = stage.airflow.xcom(run, TASK, XCOMS[case.kind], map_index)
    assert len(json.dumps(summary).encode()) <= MAX_REPORT_LENGTH
    for text in texts(summary):
        assert text.replace("\n", "").isprintable(), (case, text)
        assert len(text.encode()) <= MAX_LINE_LENGTH, case
        assert "M" * (MAX_MESSAGE_LENGTH + 1) not in text, case
