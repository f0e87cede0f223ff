"""What is stored and sent, as this version writes it: ``python -m tests.support.records_corpus`` adds it to the corpus.

Each file is JSON with ``kind``, which says who reads it, and ``value``. Files are never changed or removed, because a
later version has to read what an earlier one wrote; a version that writes something else adds a folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseOperator, TaskDeferred

from airflow_provider_sequentum import __version__
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.assets.announced_runs import AnnouncedRuns
from airflow_provider_sequentum.jobs.siblings import Announcement, PlannedStart
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from airflow_provider_sequentum.runs.schedules import PausedSchedules, ResumedSchedules
from airflow_provider_sequentum.runs.sense import SensorConfig
from airflow_provider_sequentum.transfers.column_types import ColumnTypes
from airflow_provider_sequentum.transfers.manifest import Form, LandedFile, Manifest
from tests.support.airflow import FakeTask, use_fakes
from tests.support.builder import FakeBuilder, first_event, use_builder
from tests.support.service import START, Clock, FakeService, Plan
from tests.support.tries import fire, fire_space
from tests.support.worker import Worker

CORPUS = Path(__file__).parents[1] / "data" / "records-corpus"
PLANS = [Plan(RunStatus.FAILURE), Plan(RunStatus.FAILURE), Plan()]
RUN: dict[str, Any] = {
    "input_parameters": {"url": "https://shop.example"},
    "timeout": 3600,
    "restarts": 2,
    "poll_interval": 60,
    "min_records": 1,
    "max_errors": 5,
    "on_empty": "fail",
    "deferrable": True,
}

SESSION: dict[str, Any] = {"timeout": 3600, "poll_interval": 30, "agent_name": "Prices", "deferrable": True}


def written() -> Iterator[tuple[str, str, Any]]:
    """Return what is written: its kind, a name, and the value."""
    yield from _of_runs("run", lambda: StartAgentRunOperator(task_id="job", agent_id=7, parallelism=2, **RUN), fire)
    yield from _of_runs("space", lambda: StartSpaceRunsOperator(task_id="job", space_id=1, **RUN), fire_space)
    yield from _of_sessions()
    sensor = {"agent_id": 7, "since": START, "deferrable": True, "poke_interval": 30}
    yield "sensor-config", "since", SensorConfig(**sensor).to_json()
    yield "announced-runs", "some", AnnouncedRuns(run_ids=(101, 103), floor=100, newest=103).to_json()
    paused = PausedSchedules(agent_id=7, max_tries=2, paused={5: START, 6: None})
    start = PlannedStart(agent_id=7, credits=2.5, run_id=101)
    announcement = Announcement(task_id="job", starts=(start,), pending=(start.updated(run_id=None),))
    yield "announcement", "some", announcement.to_json()
    yield "paused-schedules", "some", paused.to_json()
    yield "resumed-schedules", "some", ResumedSchedules(agent_id=7, max_tries=2, resumed=(5, 6)).to_json()
    file = LandedFile(file_id=1, name="out.csv", original_name="Out.csv", file_type=2, listed_size=10, created=START)
    landed = file.model_copy(update={"size": 10, "sha256": "0" * 64, "records": 2})
    common: dict[str, Any] = {"agent_id": 7, "agent_name": "Prices", "run_id": 101, "run_status": "Success"}
    for name, manifest in {
        "plan": Manifest(**common, run_records=2, files=[file], replaced=["out.csv"]),
        "complete": Manifest(**common, run_records=2, files=[landed], is_complete=True, remove_method="RemoveAllFiles"),
        "converted": Manifest(
            **common,
            files=[landed.model_copy(update={"name": "a=1/out.parquet", "source_size": 10, "source_sha256": "1" * 64})],
            is_complete=True,
            form=Form(partition_by=["a"], record_schema={"price": "decimal(9,2)"}, encoding="cp1252", delimiter=";"),
            without_records=[file.model_copy(update={"file_id": 2, "source_size": 5, "source_sha256": "2" * 64})],
        ),
    }.items():
        yield "manifest", name, json.loads(manifest.to_json())
    types = ColumnTypes(agent_id=7, run_id=101, columns={"a": "integer", "b": "date"}, before={"a": "integer"})
    yield "column-types", "some", types.model_dump(mode="json")


def _of_runs(kind: str, make: Any, fire: Any) -> Iterator[tuple[str, str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        worker = Worker(FakeService(Clock(), plans=list(PLANS)))
        use_fakes(patch, worker)
        task = FakeTask(worker.service.clock)
        task.ti.map_index = 0
        yield from _of_deferrals(kind, make, task, worker, lambda deferral: fire(worker, deferral))
        claim = task.ti.pushed("sequentum_claim")
        if claim is not None:
            yield "claim", f"{kind}-answered", claim


def _of_sessions() -> Iterator[tuple[str, str, Any]]:
    def make() -> AgentBuilderOperator:
        prompt = "Pull the prices from https://shop.example"
        return AgentBuilderOperator(task_id="job", prompt=prompt, followups=["Add the stock."], **SESSION)

    with pytest.MonkeyPatch.context() as patch:
        worker = Worker(FakeBuilder(Clock()))
        use_builder(patch, worker)
        task = FakeTask(worker.service.clock)
        yield from _of_deferrals("session", make, task, worker, lambda deferral: first_event(deferral.trigger))


def _of_deferrals(kind: str, make: Any, task: FakeTask, worker: Worker, fire: Any) -> Iterator[tuple[str, str, Any]]:
    operator: BaseOperator = make()
    kwargs: dict[str, Any] | None = None
    for number in range(9):
        try:
            if kwargs is None:
                operator.execute(task.context)
            else:
                operator.resume_execution("execute_complete", kwargs, task.context)
            break
        except TaskDeferred as deferral:
            path, arguments = deferral.trigger.serialize()
            yield f"{kind}-trigger", str(number), {"path": path, "arguments": arguments}
            worker.deadline = None
            event = fire(deferral)
            yield f"{kind}-event", str(number), event
            kwargs, operator = {**(deferral.kwargs or {}), "event": event}, make()
    for number, record in enumerate(worker.kept):
        if record is not None:
            yield f"{kind}-record", f"{number:02}", record


def main() -> None:
    """Add what this version writes to the corpus."""
    folder = CORPUS / __version__
    folder.mkdir(parents=True)
    seen: list[Any] = []
    for kind, name, value in written():
        if value in seen:
            continue
        seen.append(value)
        text = json.dumps({"kind": kind, "value": value}, indent=1, sort_keys=True)
        (folder / f"{kind}-{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
