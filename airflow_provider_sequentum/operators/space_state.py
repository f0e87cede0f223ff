"""Where a task that runs the agents of a space keeps its record, and each of its runs its part of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_sequentum.lifecycle.space_record import SpaceRecord
from airflow_provider_sequentum.operators.task_state import TaskState
from airflow_provider_sequentum.runs.record import RunRecord

STATE_KEY = "sequentum_space_runs"


class SpaceState:
    """Where the task keeps the record of the space, and each of its runs its part of it."""

    def __init__(self, context: Mapping[str, Any]) -> None:
        self._state = TaskState(context, STATE_KEY)
        self.record: SpaceRecord | None = None

    @property
    def is_durable(self) -> bool:
        """Whether what is kept here outlives the try."""
        return self._state.is_durable

    def read(self) -> SpaceRecord | None:
        """Return what an earlier try left, or this one before it deferred."""
        self.record = SpaceRecord.from_json(self._state.read())
        return self.record

    def keep(self, record: dict[str, Any] | None) -> None:
        """Keep the record of the space; ``None`` forgets it."""
        self._state.keep(record)
        self.record = SpaceRecord.from_json(record)

    def keep_run(self, agent_id: int, record: dict[str, Any] | None) -> None:
        """Keep the record of one run."""
        if self.record is not None:
            self.keep(self.record.with_run(agent_id, RunRecord.from_json(record)).to_json())


class RunState(TaskState):
    """The part of the record that belongs to one agent."""

    def __init__(self, space: SpaceState, agent_id: int) -> None:
        self._space, self._agent_id = space, agent_id

    @property
    def is_durable(self) -> bool:
        """Whether what is kept here outlives the try."""
        return self._space.is_durable

    def read(self) -> object:
        """Return the agent's record; within a try it is there on every Airflow."""
        runs = (self._space.record.runs if self._space.record is not None else None) or {}
        return runs[self._agent_id].to_json() if self._agent_id in runs else None

    def keep(self, record: dict[str, Any] | None) -> None:
        """Keep the agent's record; ``None`` forgets it."""
        self._space.keep_run(self._agent_id, record)
