"""A task instance outside of Airflow: what of it outlives a try, and how its tries and deferrals follow each other."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator

if TYPE_CHECKING:
    from airflow.triggers.base import TriggerEvent


class StateStore(dict[str, str]):
    """Airflow 3.3's task state store: JSON values under keys."""

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self[key]) if key in self else default

    def set(self, key: str, value: Any) -> None:
        self[key] = json.dumps(value)

    def delete(self, key: str) -> None:
        self.pop(key, None)


class TaskInstance:
    """What operators ask of a task instance."""

    def __init__(self, try_number: int, max_tries: int) -> None:
        self.task_id = "build"
        self.map_index = -1
        self.try_number = try_number
        self.max_tries = max_tries
        self.start_date = datetime.now(UTC)
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = json.loads(json.dumps(value))

    def xcom_pull(self, task_ids: str, key: str, map_indexes: int | None = None) -> Any:
        is_own = (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.xcoms.get(key) if is_own else None


class TaskWorld:
    """
    One task instance through its tries.

    :param retries: the task's retries.
    :param durable: whether there is a task state store, as there is since Airflow 3.3.
    """

    def __init__(self, retries: int = 0, *, durable: bool = True) -> None:
        self.store = StateStore()
        self.durable = durable
        self.retries = retries
        self.ti = TaskInstance(1, retries)
        self.deferrals = 0

    @property
    def xcoms(self) -> dict[str, Any]:
        return self.ti.xcoms

    @property
    def context(self) -> Any:
        store = {"task_state_store": self.store} if self.durable else {}
        return {"ti": self.ti, **store}

    def retry(self) -> None:
        """Let the next try begin; Airflow wipes the XComs of the one before."""
        self.ti = TaskInstance(self.ti.try_number + 1, self.ti.max_tries)

    def clear(self) -> None:
        """Clear the task, as Airflow does: the tries go on counting and ``max_tries`` is raised."""
        self.ti = TaskInstance(self.ti.try_number + 1, self.ti.try_number + self.retries)

    def run(self, operator: AgentBuilderOperator) -> Any:
        """Run one try to its end, through all deferrals; each segment gets a new operator, as on a new worker."""
        try:
            return operator.execute(self.context)
        except TaskDeferred as deferral:
            deferred = deferral
        while True:
            self.deferrals += 1
            event = asyncio.run(first_event(deferred.trigger))
            try:
                resumed = again(operator)
                return getattr(resumed, deferred.method_name)(self.context, event=event.payload)
            except TaskDeferred as deferral:
                deferred = deferral


async def first_event(trigger: Any) -> TriggerEvent:
    """Run a trigger as a triggerer does, from its serialized form; it has to end right after its only event."""
    path, arguments = trigger.serialize()
    rebuilt = type(trigger)(**json.loads(json.dumps(arguments)))
    assert rebuilt.serialize() == (path, arguments)
    events: list[TriggerEvent] = [event async for event in rebuilt.run()]
    assert len(events) == 1
    json.dumps(events[0].payload)
    return events[0]


def again(operator: AgentBuilderOperator) -> AgentBuilderOperator:
    """Return the operator as another process builds it from the same DAG."""
    names = [*operator.template_fields, "finish", "on_ready", "keep_session", "on_ambiguous_start", "on_lost_session"]
    names += ["deferrable", "poll_interval", "task_id", "retries", "execution_timeout"]
    return AgentBuilderOperator(**{name: getattr(operator, name) for name in names})
