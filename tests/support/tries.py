"""One try of a task that works with runs, through all its deferrals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.providers.common.compat.sdk import BaseOperator, TaskDeferred

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.hooks.errors import as_airflow_exception
from airflow_provider_sequentum.lifecycle.run_wait import RunWaitTerms, wait_for_end
from airflow_provider_sequentum.triggers.run_event import ended_event, error_event
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
    return {"events": [_event(worker, wait) for wait in arguments["waits"]], "carried": arguments["carried"]}


def _event(worker: Worker, arguments: dict[str, Any]) -> dict[str, Any]:
    terms = RunWaitTerms.from_json({name: arguments[name] for name in RunWaitTerms.names()})
    try:
        return ended_event(*worker.perform(wait_for_end(terms)), arguments)
    except SequentumError as error:
        return error_event(as_airflow_exception(error, "sequentum_default"), arguments)


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
            return make().resume_execution("execute_complete", {"event": event}, task.context)
        except TaskDeferred as deferral:
            pending = deferral
