"""The parsed parameters of the operators that read or write files in a storage."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import BeforeValidator, model_validator

from airflow_provider_sequentum import parameters as p
from airflow_provider_sequentum.api.choices import RemoveMethod
from airflow_provider_sequentum.api.files import EXTRACTED
from airflow_provider_sequentum.jobs.record import Configuration, Count, Flag, Id, Text, choice_of
from airflow_provider_sequentum.records.columns import parse_type
from airflow_provider_sequentum.records.formats import TextOptions
from airflow_provider_sequentum.runs.agent_lookup import AgentConfig
from airflow_provider_sequentum.transfers.destination import parse_place, parse_places

MAX_NAME_LENGTH = 200
"""The maximum length of the name of an input file, in characters."""

_NOT_IN_A_NAME = re.compile(r"[\\/\x00-\x1f\x7f\ud800-\udfff]")


def _parse_file_kinds(value: object) -> list[str]:
    return [p.parse_choice(kind, get_args(p.FileKind)) for kind in p.parse_texts(value)]


def _parse_partition_by(value: object) -> list[str]:
    columns = p.parse_texts(value)
    if len(set(columns)) < len(columns):
        raise ValueError(f"must name each column once, not {p.shown(value)}")
    return columns


def _parse_record_schema(value: object) -> dict[str, str]:
    found: dict[str, str] = json.loads(p.parse_json_object(value))
    return {column: p.parse_named(f"[{column!r:.80}]", parse_type, name) for column, name in found.items()}


def _parse_max_parallel_files(value: object) -> int:
    number = p.parse_count(value)
    if number == 0:
        raise ValueError("must be 1 or more, not 0")
    return number


def _parse_learn_from(value: object) -> int:
    number = p.parse_count(value)
    if not 5 <= number <= 30:
        raise ValueError(f"must be 5 to 30, not {number}")
    return number


def _parse_file_name(value: object) -> str:
    name = p.parse_text(value).strip()
    if name in (".", "..") or len(name) > MAX_NAME_LENGTH or _NOT_IN_A_NAME.search(name):
        raise ValueError(f"must be a file name without a folder, of at most {MAX_NAME_LENGTH} characters")
    return name


def _parse_landed_files(value: object) -> list[str]:
    if isinstance(value, Sequence) and not value:
        raise ValueError("must name at least one landed file: the run delivered none")
    return parse_places(value)


Texts = Annotated[tuple[str, ...], BeforeValidator(p.parse_texts)]
Place = Annotated[str, BeforeValidator(parse_place)]
Places = Annotated[tuple[str, ...], BeforeValidator(parse_places)]
LandedFiles = Annotated[tuple[str, ...], BeforeValidator(_parse_landed_files)]
Encoding = Annotated[str, BeforeValidator(p.parse_encoding)]
Delimiter = Annotated[str, BeforeValidator(p.parse_delimiter)]


class _ReadsText(Configuration):
    """What all operators that read records have.

    See the parameters of the operators for the meaning of the fields of each class.
    """

    may_be_blank: ClassVar[frozenset[str]] = frozenset({"delimiter"})

    storage_conn_id: Text | None = None
    encoding: Encoding | None = None
    delimiter: Delimiter | None = None

    @property
    def text_options(self) -> TextOptions:
        """How files with text are read."""
        return {"encoding": self.encoding, "delimiter": self.delimiter}


class TransferConfig(AgentConfig, _ReadsText):
    """The parameters of :class:`~.run_files.RunFilesToObjectStorageOperator`."""

    nothing_was: ClassVar[str] = "copied"

    run_id: Id
    destination: Place
    file_kinds: Annotated[tuple[str, ...], BeforeValidator(_parse_file_kinds)] | None = None
    file_patterns: Texts = ("*",)
    max_parallel_files: Annotated[int, BeforeValidator(_parse_max_parallel_files)] = 8
    skip_on_empty: Flag = False
    file_format: Annotated[p.FileFormat, choice_of(p.FileFormat)] | None = None
    partition_by: Annotated[tuple[str, ...], BeforeValidator(_parse_partition_by)] = ()
    record_schema: Annotated[Mapping[str, str], BeforeValidator(_parse_record_schema)] = {}
    schema_file: Place | None = None
    remove_method: Annotated[RemoveMethod, choice_of(RemoveMethod)] | None = None

    @model_validator(mode="after")
    def _has_format(self) -> Self:
        of_a_format = ("partition_by", "record_schema", "schema_file", "encoding", "delimiter")
        given = [name for name in of_a_format if (value := getattr(self, name)) and not p.is_unset(value)]
        if given and self.file_format is None:
            raise ValueError(f"{given[0]} requires file_format: it does not apply to files that land unchanged")
        return self

    @model_validator(mode="after")
    def _keeps_the_types_of_one_table(self) -> Self:
        if self.file_format is None or self.schema_file is not None:
            return self
        only_some = self.file_patterns != ("*",)
        if only_some or EXTRACTED in (self.file_kinds or ()):
            raise ValueError(
                f"{'file_patterns' if only_some else f'file_kinds={EXTRACTED!r}'} with file_format requires "
                "schema_file: tables that share the default file overwrite each other's column types"
            )
        return self


class InputFileConfig(Configuration):
    """The parameters of :class:`~.input_files.ObjectStorageToInputFilesOperator`."""

    nothing_was: ClassVar[str] = "uploaded"

    sequentum_conn_id: Text = "sequentum_default"
    storage_conn_id: Text | None = None
    source: Place | None = None
    rows: Any = None
    space_id: Id | None = None
    agent_id: Id | None = None
    file_name: Annotated[str, BeforeValidator(_parse_file_name)] | None = None
    encoding: Encoding = "utf-8"
    max_bytes: Count = 64 * 1024 * 1024

    @model_validator(mode="after")
    def _has_one_of_each(self) -> Self:
        pairs = [("source", "rows"), ("space_id", "agent_id")]
        wrong = [pair for pair in pairs if (getattr(self, pair[0]) is None) is (getattr(self, pair[1]) is None)]
        if wrong:
            raise ValueError(". ".join(f"Give either {one} or {other}" for one, other in wrong))
        return self


class CheckConfig(AgentConfig, _ReadsText):
    """The parameters of :class:`~airflow_provider_sequentum.operators.run_records.CheckRunRecordsOperator`."""

    nothing_was: ClassVar[str] = "published"

    run_id: Id
    files: LandedFiles
    contract: Any = None
    contract_file: Place | None = None
    contract_schema: Text | None = None
    profiles: Place | None = None
    on_drift: Annotated[p.OnDrift, choice_of(p.OnDrift)] = "fail"
    learn_from: Annotated[int, BeforeValidator(_parse_learn_from)] = 20
    destination: Place | None = None
    pin_version: Flag = False

    @model_validator(mode="after")
    def _has_one_contract(self) -> Self:
        if self.contract is not None and self.contract_file is not None:
            raise ValueError("contract and contract_file cannot both be given")
        return self


class ChangesConfig(_ReadsText):
    """The parameters of :class:`~airflow_provider_sequentum.operators.run_changes.RunChangesOperator`."""

    nothing_was: ClassVar[str] = "compared"

    files: LandedFiles
    key: Texts
    pointer: Place
    destination: Place | None = None
    ignore_columns: Texts = ()
    on_unchanged: Annotated[p.OnUnchanged, choice_of(p.OnUnchanged)] = "succeed"


class DeletionConfig(Configuration):
    """The parameters of :class:`~airflow_provider_sequentum.operators.retention.DeleteRunsOperator`."""

    nothing_was: ClassVar[str] = "deleted"

    sequentum_conn_id: Text = "sequentum_default"
    storage_conn_id: Text | None = None
    agent_id: Id
    older_than_days: Count
    manifests: Places
    remove_method: Annotated[RemoveMethod, choice_of(RemoveMethod)] = "RemoveAllFiles"
    dry_run: Flag = True
