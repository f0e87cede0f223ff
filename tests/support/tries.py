"""One try of a task that works with runs, through all its deferrals."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from airflow.providers.common.compat.sdk import BaseOperator, TaskDeferred

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import from_client
from airflow_provider_sequentum.jobs.record import fields_of
from airflow_provider_sequentum.runs.wait import RunEvent, WaitSpec, wait_for_runs
from tests.support.airflow import FakeTask
from tests.support.worker import Worker


def fire(worker: Worker, deferral: TaskDeferred) -> dict[str, Any]:
    """Wait as the trigger does, and return its event."""
    path, arguments = deferral.trigger.serialize()
    assert path.endswith("AgentRunTrigger")
    return _event(worker, arguments)


def fire_space(worker: Worker, deferral: TaskDeferred) -> dict[str, Any]:
    """Wait as the trigger of a space's runs does, and return its event."""
    path, arguments = deferral.trigger.serialize()
    assert path.endswith("SpaceRunsTrigger")
    return {"events": [_event(worker, wait) for wait in arguments["waits"]]}


def _event(worker: Worker, arguments: dict[str, Any]) -> dict[str, Any]:
    worker.deadline = None
    [(outcome, run)] = wait_for_runs(worker, [WaitSpec.from_json(arguments)])
    ids = {"agent_id": arguments["agent_id"], "run_id": run.id if run is not None else arguments["run_id"]}
    record = run.model_dump(mode="json") if run is not None else None
    if isinstance(outcome, SequentumError):
        error = from_client(outcome, "sequentum_default")
        event = RunEvent(**ids, **fields_of(error), run=record)
    else:
        event = RunEvent(**ids, outcome=outcome, run=record)
    return json.loads(json.dumps(event.to_json()))  # type: ignore[no-any-return]


def run_try(
    worker: Worker,
    task: FakeTask,
    make: Callable[[], BaseOperator],
    fire: Callable[[Worker, TaskDeferred], dict[str, Any]] = fire,
) -> Any:
    """Run one try of the task to its end; a new operator for each piece of it, as in Airflow."""
    try:
        return make().execute(task.context)
    except TaskDeferred as deferral:
        pending = deferral
    while True:
        event = fire(worker, pending)
        try:
            return make().resume_execution("execute_complete", {**(pending.kwargs or {}), "event": event}, task.context)
        except TaskDeferred as deferral:
            pending = deferral
