"""What one try of a task leaves for the next when it runs all agents of a space."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.runs.record import RunRequest

FORMAT = 1
"""Raised when the fields change their meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceRequest:
    """Runs to be started: of every agent of a space, each with the same input parameters (JSON text)."""

    space_id: int
    input_parameters: str | None = None

    def of_agent(self, agent_id: int) -> RunRequest:
        """Return what one agent is asked for."""
        return RunRequest(agent_id=agent_id, input_parameters=self.input_parameters)

    def fingerprint(self) -> str:
        """Return a digest of everything that makes this piece of work what it is."""
        return hashlib.sha256(f"{self.space_id} {self.input_parameters}".encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceRecord:
    """
    The record of one logical attempt: the space's own intent, and a :class:`.RunRecord` for each of its agents.

    :param space_id: the space.
    :param fingerprint: digest of the inputs.
    :param max_tries: the task instance's ``max_tries``, which names the logical attempt.
    :param intended_at: when the runs were about to be started.
    :param runs: the agents' records by the agent's id; ``None`` until the service has answered.
    :param not_started: the agents that the service did not start, and why.
    :param is_ambiguous: the task has failed because runs could not be told from others, so a person has been told.
    :param is_guess: nothing was recorded, because this Airflow keeps nothing between tries.
    :param replaced: the agents' earlier runs. None of them is one that a lost start may have started.
    """

    space_id: int
    fingerprint: str
    max_tries: int
    intended_at: datetime
    runs: Mapping[int, RunRecord] | None = None
    not_started: Mapping[int, str] = field(default_factory=dict)
    is_ambiguous: bool = False
    is_guess: bool = False
    replaced: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def intent_of(self, request: RunRequest) -> RunRecord:
        """Return the record of an agent whose run may have been started by the space's start."""
        return RunRecord(
            agent_id=request.agent_id,
            fingerprint=request.fingerprint(),
            max_tries=self.max_tries,
            intended_at=self.intended_at,
            is_guess=self.is_guess,
            replaced=self.replaced.get(request.agent_id, ()),
        )

    @property
    def all_runs(self) -> Mapping[int, tuple[int, ...]]:
        """Each agent's runs, the ones it has now and the ones they replaced."""
        return {**self.replaced, **{agent: run.all_runs for agent, run in (self.runs or {}).items()}}

    @property
    def is_in_doubt(self) -> bool:
        """Whether runs may have been started whose ids are not known."""
        return self.runs is None or any(run.run_id is None for run in self.runs.values())

    def without_doubts(self) -> SpaceRecord:
        """Return the record where agents whose run was looked for and not found count as not started."""
        runs = self.runs or {}
        lost = {agent: "its start was lost" for agent, run in runs.items() if run.run_id is None}
        known = {agent: run for agent, run in runs.items() if run.run_id is not None}
        return replace(self, runs=known, not_started={**self.not_started, **lost})

    def with_run(self, agent_id: int, run: RunRecord | None) -> SpaceRecord:
        """Return the record with another one for an agent; ``None`` forgets the agent's."""
        others = {other: record for other, record in (self.runs or {}).items() if other != agent_id}
        return replace(self, runs=others if run is None else {**others, agent_id: run})

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        runs = None if self.runs is None else {str(agent): record.to_json() for agent, record in self.runs.items()}
        return {
            "format": FORMAT,
            "space_id": self.space_id,
            "fingerprint": self.fingerprint,
            "max_tries": self.max_tries,
            "intended_at": self.intended_at.isoformat(),
            "runs": runs,
            "not_started": {str(agent): reason for agent, reason in self.not_started.items()},
            "is_ambiguous": self.is_ambiguous,
            "is_guess": self.is_guess,
            "replaced": {str(agent): list(runs) for agent, runs in self.replaced.items()},
        }

    @classmethod
    def from_json(cls, value: object) -> SpaceRecord | None:
        """
        Read what :meth:`to_json` wrote; ``None`` where nothing was written.

        :raises ValueError: something is there and can't be read. That is never taken for "no record", because it could
            hide runs that are going on.
        """
        if value is None:
            return None
        try:
            if not isinstance(value, Mapping) or value["format"] != FORMAT:
                raise ValueError("unknown format")
            fields = {name: item for name, item in value.items() if name != "format"}
            fields["intended_at"] = datetime.fromisoformat(fields["intended_at"])
            fields["not_started"] = {int(agent): str(reason) for agent, reason in fields["not_started"].items()}
            fields["replaced"] = {int(agent): tuple(runs) for agent, runs in fields["replaced"].items()}
            if fields["runs"] is not None:
                fields["runs"] = {int(agent): _read_run(record) for agent, record in fields["runs"].items()}
            return cls(**fields)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"The record of the runs that an earlier try started can't be read ({error}).") from None


def _read_run(value: object) -> RunRecord:
    record = RunRecord.from_json(value)
    if record is None:
        raise ValueError("an empty record of a run")
    return record
