"""The parts of Airflow that an operator sees of its task, in memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from airflow.providers.common.compat.sdk import BaseSensorOperator, TaskDeferred

from airflow_provider_sequentum.airflow_compat.task_state import TaskState
from airflow_provider_sequentum.api.call import Call, Reply
from airflow_provider_sequentum.exceptions import client_errors_as_exceptions
from airflow_provider_sequentum.hooks.connection import SequentumConnection
from airflow_provider_sequentum.hooks.port import AttemptPort, ClientPort
from airflow_provider_sequentum.jobs.record import Stored
from tests.support.service import START, Clock
from tests.support.worker import Worker

T = TypeVar("T")


class StateStore:
    """Airflow 3.3's task state store: JSON values that outlive tries and clears."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.retention: dict[str, timedelta] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any, *, retention: timedelta = timedelta(days=30)) -> None:
        assert value is not None
        self.values[key], self.retention[key] = json.dumps(value), retention

    def clean_up(self, age: timedelta) -> None:
        """Remove what was last changed as long ago as this, as ``airflow db clean`` does."""
        for key in [key for key in self.values if self.retention[key] < age]:
            del self.values[key]

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


@dataclass
class FakeTaskInstance:
    """A task instance over all its tries."""

    task_id: str = "run_agent"
    try_number: int = 1
    max_tries: int = 0
    map_index: int = -1
    dag_id: str = "dag"
    run_id: str = "manual"
    start_date: datetime = START
    first_poke: datetime | None = None
    task: Any = None
    """The operator that Airflow executes."""
    xcoms: dict[tuple[str, int, str], str] = field(default_factory=dict)
    """As JSON texts, as Airflow stores them: by the task, its map index and the key."""

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[self.task_id, self.map_index, key] = json.dumps(value)

    def another_pushes(self, task_id: str, map_index: int, key: str, value: Any) -> None:
        """Let another task of the DAG run push a value."""
        self.xcoms[task_id, map_index, key] = json.dumps(value)

    def xcom_pull(self, task_ids: str | list[str], key: str, map_indexes: int | None = None) -> Any:
        """Return one value, or those of all map indexes, as Airflow does when none is asked for."""
        if map_indexes is not None:
            return json.loads(self.xcoms.get((str(task_ids), map_indexes, key), "null"))
        wanted = [task_ids] if isinstance(task_ids, str) else task_ids
        texts = [text for (task_id, _, name), text in self.xcoms.items() if task_id in wanted and name == key]
        found = [json.loads(text) for text in texts]
        return found[0] if len(found) == 1 and isinstance(task_ids, str) else found

    def get_first_reschedule_date(self, context: Any) -> datetime | None:
        return self.first_poke

    def pushed(self, key: str) -> Any:
        """Return what this task instance pushed."""
        return self.xcom_pull(self.task_id, key, self.map_index)


@dataclass
class FakeTask:
    """
    One task of a DAG run: what Airflow keeps of it between its tries.

    :param clock: the time.
    :param retries: as the DAG author set it.
    :param has_state_store: whether this is Airflow 3.3.
    """

    clock: Clock
    retries: int = 0
    has_state_store: bool = True
    ti: FakeTaskInstance = field(default_factory=FakeTaskInstance)
    store: StateStore = field(default_factory=StateStore)
    tasks: list[Any] = field(default_factory=list)
    """The tasks of its DAG."""
    instances: list[Any] = field(default_factory=list)
    """The task instances of its DAG run, as the database has them."""

    def __post_init__(self) -> None:
        self.ti.max_tries = self.retries
        self.ti.start_date = self.dag_run_start = self.clock.now

    @property
    def context(self) -> Any:
        """What ``execute`` is called with."""
        dag_run = SimpleNamespace(start_date=self.dag_run_start, get_task_instances=lambda: self.instances)
        context: dict[str, Any] = {"ti": self.ti, "dag_run": dag_run, "dag": SimpleNamespace(tasks=self.tasks)}
        if self.has_state_store:
            context["task_state_store"] = self.store
        return context

    def next_attempt(self) -> None:
        """Start the next attempt: Airflow forgets the XComs."""
        self.ti.try_number += 1
        self.ti.start_date = self.clock.now
        self.forget_xcoms()

    def enter(self) -> None:
        """Let a worker begin the attempt, which may have waited in the queue."""
        self.ti.start_date = self.clock.now

    def forget_xcoms(self) -> None:
        """Remove what the task has pushed."""
        for key in [key for key in self.ti.xcoms if key[1] == self.ti.map_index]:
            del self.ti.xcoms[key]

    def clear(self, *, wipes_store: bool = False) -> None:
        """Clear the task, and start its next attempt. Later versions of Airflow may discard the state store then."""
        if wipes_store:
            self.store.values.clear()
        self.ti.max_tries = self.ti.try_number + self.retries
        self.next_attempt()


def use_first_poke(monkeypatch: pytest.MonkeyPatch, ti: FakeTaskInstance) -> None:
    """Let a rescheduled sensor learn from ``ti`` when it first poked: Airflow 2.11 asks its database instead."""
    base = sys.modules[BaseSensorOperator.__module__]
    monkeypatch.setattr(base, "_orig_start_date", lambda **which: ti.first_poke, raising=False)


def use_fakes(monkeypatch: pytest.MonkeyPatch, worker: Worker) -> None:
    """Let hooks and ports talk to the fake service, on its clock."""

    def exchange(
        port: ClientPort, call: Call[T], *, budget_share: float = 1.0, within: float | None = None
    ) -> Reply[T]:
        worker.deadline = port.deadline
        return worker.exchange(call, budget_share=budget_share, within=within)

    def sleep(port: ClientPort, seconds: float) -> None:
        worker.deadline = port.deadline
        worker.sleep(seconds)

    def save(port: AttemptPort, record: Stored | None) -> None:
        port.record, port.is_recorded = record, False
        worker.step()
        save_really(port, record)

    def store(state: TaskState, value: dict[str, Any] | None) -> None:
        worker.kept.append(value)
        store_really(state, value)

    def push(port: AttemptPort, key: str, value: object) -> None:
        worker.step()
        push_really(port, key, value)

    def hurry(port: ClientPort) -> None:
        port.deadline = None

    def send(hook: SequentumConnection, call: Call[T]) -> T:
        with client_errors_as_exceptions(hook.sequentum_conn_id):
            answer: T = worker.service.answer(call)
            return answer

    def push_link(port: AttemptPort, key: str, address: str) -> None:
        worker.step()
        push_link_really(port, key, address)

    save_really, push_really, push_link_really = AttemptPort.save, AttemptPort.push, AttemptPort.push_link
    store_really = TaskState.save
    monkeypatch.setattr(ClientPort, "connect", lambda port: None)
    monkeypatch.setattr(ClientPort, "exchange", exchange)
    monkeypatch.setattr(ClientPort, "now", lambda port: worker.now())
    monkeypatch.setattr(ClientPort, "sleep", sleep)
    monkeypatch.setattr(ClientPort, "hurry", hurry)
    monkeypatch.setattr(AttemptPort, "save", save)
    monkeypatch.setattr(TaskState, "save", store)
    monkeypatch.setattr(AttemptPort, "push", push)
    monkeypatch.setattr(AttemptPort, "push_link", push_link)
    monkeypatch.setattr(SequentumConnection, "send", send)
    monkeypatch.setattr(
        SequentumConnection, "run_link", lambda hook, agent_id, run_id: f"https://ui/{agent_id}/{run_id}"
    )


def deferred_by(action: Callable[[], object]) -> TaskDeferred:
    """Return the deferral that ``action`` ends in."""
    with pytest.raises(TaskDeferred) as caught:
        action()
    return caught.value
