"""The file that keeps the types of a table's columns from run to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from airflow_provider_sequentum.exceptions import RunFilesUnavailable, SequentumRequestRefused
from airflow_provider_sequentum.records.columns import parse_type
from airflow_provider_sequentum.transfers.landing import StoredFile

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

ColumnType = Annotated[str, AfterValidator(parse_type)]


class ColumnTypes(BaseModel):
    """The types of a table's columns, as the file stores them.

    :param format: the version of the file format.
    :param agent_id: together with ``run_id``, the run that last added or changed a type.
    :param columns: the types by column.
    :param before: the types before that run. A retry of the run starts from them again.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    agent_id: int
    run_id: int
    columns: dict[str, ColumnType]
    before: dict[str, ColumnType] = {}

    def known_to(self, agent_id: int, run_id: int) -> Mapping[str, str]:
        """Return the types that a run has to use: those from before the run."""
        return self.before if (self.agent_id, self.run_id) == (agent_id, run_id) else self.columns


@dataclass(frozen=True, slots=True)
class TypesFile:
    """The file that stores the types."""

    path: ObjectStoragePath

    def read(self, agent_id: int, run_id: int) -> Mapping[str, str]:
        """Return the types that a run has to use; an empty mapping if there is no file yet.

        :raises SequentumRequestRefused: the file is damaged, or is not a file with column types.
        """
        content = StoredFile(self.path).read()
        if content is None:
            return {}
        try:
            return ColumnTypes.model_validate_json(content).known_to(agent_id, run_id)
        except ValidationError as error:
            raise SequentumRequestRefused(
                f"{self.path} is not a valid file with column types: {error.errors()[0]['msg']}. Nothing was copied. "
                "Restore the file, or delete it: the types are then inferred again from the values of a single run."
            ) from error

    def write(self, agent_id: int, run_id: int, before: Mapping[str, str], columns: Mapping[str, str]) -> None:
        """Store the types of a run, if it added or changed any, and keep those that other runs have added.

        :param before: the types that the run has read.
        :raises RunFilesUnavailable: since then, another run has given one of the columns another type.
        """
        now = self.read(agent_id, run_id)
        for column, kind in columns.items():
            if now.get(column) not in (None, kind, before.get(column)):
                raise RunFilesUnavailable(
                    f"While run {run_id} of agent {agent_id} was landed, another run gave the column {column!r:.100} "
                    f"the type {now[column]}, not {kind}, in {self.path}. A retry lands the run with that type."
                )
        if {**now, **columns} == now:
            return
        types = ColumnTypes(agent_id=agent_id, run_id=run_id, columns={**now, **columns}, before=dict(now))
        file, content = StoredFile(self.path), (types.model_dump_json(indent=1) + "\n").encode()
        if file.read() != content:
            file.replace(content)
