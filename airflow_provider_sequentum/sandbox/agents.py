"""Agents: what they yield and how their runs go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from airflow_provider_sequentum.sandbox.breakages import Breakage
from airflow_provider_sequentum.sandbox.data_sets import Record
from airflow_provider_sequentum.sandbox.run_plan import RunPlan

OutputFormat = Literal["csv", "json", "ndjson", "parquet", "xlsx"]


class FileType(IntEnum):
    """What a file of a run is (known from the service's official client)."""

    DeliveredFile = 1
    ExtractedFiles = 2
    InternalExportFiles = 3
    InternalRuntimeFiles = 4
    InternalTrackingDb = 5
    LogText = 6
    LogHtml = 7
    InternalContentCache = 8


class ExtraFile(BaseModel):
    """A further file that every run of an agent leaves, under any name: also one a client must not trust.

    :param content: the bytes as text; leave out when ``path`` is given.
    :param path: a file on this machine to hand out, for content too large to hold.
    """

    name: str
    content: str = ""
    path: Path | None = None
    file_type: int | None = FileType.DeliveredFile


class Version(BaseModel):
    """One saved version of an agent."""

    version: int
    user_name: str | None
    created: datetime
    comments: str | None
    file_size: int


class Agent(BaseModel):
    """An agent, called a config in the service's own bodies."""

    id: int
    name: str
    description: str = ""
    space_id: int
    start_url: str | None = None
    config_type: int = 1
    input_parameters: dict[str, Any] | None = None
    created: datetime
    updated: datetime
    archived: bool = False
    versions: list[Version]
    active_version: int = 1
    records: list[Record] = Field(repr=False)
    output: OutputFormat = "csv"
    file_name: str = ""
    """Name of the delivered file; default ``output.`` and the format."""
    extra_files: list[ExtraFile] = []
    exclusive: bool = False
    plan: RunPlan = RunPlan()
    """How its runs go unless a planned one says otherwise."""
    runs_started: int = 0
    planned: list[RunPlan] = []
    """How its next runs and restarts go, in order."""
    breakages: list[Breakage] = []
    """What is wrong with its records, each from a run on."""

    def broken_records(self, sequence: int) -> list[Record] | None:
        """The records of its run with that number, counted from 1; ``None`` when nothing is wrong with them."""
        records = self.records
        for breakage in self.breakages:
            if sequence >= (breakage.from_run or 1):
                records = breakage.apply(records)
        return None if records is self.records else records

    def next_plan(self, input_parameters: Mapping[str, Any]) -> RunPlan:
        """The plan of the run or restart that starts now; uses up a planned one.

        Members of the input parameters named ``sandbox_`` and a field of :class:`RunPlan` override it.

        :raises pydantic.ValidationError: when such a member does not fit its field.
        """
        plan = self.planned[0] if self.planned else self.plan
        chosen = {
            name.removeprefix("sandbox_"): value
            for name, value in input_parameters.items()
            if name.removeprefix("sandbox_") in RunPlan.model_fields and name.startswith("sandbox_")
        }
        result = RunPlan.model_validate(plan.model_dump() | chosen) if chosen else plan
        del self.planned[:1]
        return result


def in_order(agents: Iterable[Agent], query: str, limit: int) -> list[Agent]:
    """The agents whose name or description contains ``query``, by name."""
    needle = query.casefold()
    found = [a for a in agents if needle in a.name.casefold() or needle in a.description.casefold()]
    return sorted(found, key=lambda agent: (agent.name.casefold(), agent.id))[:limit]
