"""The transfer that lands a run's files in object storage."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_sequentum.api.choices import RemoveMethod
from airflow_provider_sequentum.exceptions import SequentumRequestRefused, about_run
from airflow_provider_sequentum.parameters import (
    FileFormat,
    FileKind,
    is_unset,
    parse_choice,
    parse_count,
    parse_delimiter,
    parse_encoding,
    parse_id,
    parse_json_object,
    parse_named,
    parse_texts,
    shown,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_sequentum.transfers.conversion import Conversion
    from airflow_provider_sequentum.transfers.landing import LandingFolder
    from airflow_provider_sequentum.transfers.run_files_transfer import Landed, RunFilesTransfer

T = TypeVar("T")

TRANSFER_KEY = "transfer"
"""XCom key of the transfer's summary."""

DEFAULT_PARALLEL_FILES = 8


class RunFilesToObjectStorageOperator(BaseOperator):
    """Copy the files of a run to object storage.

    Files are streamed, so their size does not matter, and each appears under its name only when it is whole. A manifest
    (``_sequentum_manifest.json``) beside them holds sizes, checksums and record counts. A retry fetches only what is
    missing. Give every run a folder of its own: files of another run with the same names are replaced.

    Returns the list of landed paths, an empty one if the run delivered nothing. A summary (``agent_id``, ``run_id``,
    ``manifest``, ``files``, ``fetched``, ``bytes``, ``records``, and ``unreadable``: how many entries of the service's
    list could not be read, so that their files are not copied) is under the XCom key ``transfer``.

    ``None`` and an empty string leave a parameter unset.

    .. seealso:: https://docs.sequentum.com/concepts/runs

    :param agent_id: the agent, as an int or a string of digits.
    :param run_id: the run, as an int or a string of digits. It has to be over.
    :param destination: the folder to write to: ``s3://conn_id@bucket/folder``, ``gs://...``, ``abfs://...``,
        ``file:///...`` or an absolute path. It is refused if it has empty segments (two slashes in a row), segments
        ``.`` or ``..``, backslashes, ``?`` or ``#``.
    :param file_kinds: which files: one or some of ``delivered`` (the data, and files whose kind the service does not
        state; the default), ``extracted``, ``logs`` and ``screenshots`` (images by their names).
    :param file_patterns: a shell pattern such as ``*.csv`` or some of them, case-sensitive; only files whose names fit
        one of them. Default ``*``.
    :param max_parallel_files: how many files are copied at the same time, 1 or more. Default 8. Each takes two
        requests, one of which counts against the key's request limit.
    :param file_format: ``parquet`` converts files with records (CSV, JSON, NDJSON, Excel, Parquet) while they land.
        Other files, such as logs and images, land as they are. Nothing is published if a file cannot be converted.
        Needs the extra ``arrow``. Default: all files land as they are.
    :param partition_by: a column or some of them, for ``file_format``: records land in folders ``column=value``, as
        Hive has them. Default: each file of the run becomes one.
    :param record_schema: a mapping of columns to types, for ``file_format``: ``string``, ``integer``, ``number``,
        ``boolean``, ``date``, ``timestamp``, ``timestamptz``, ``decimal(10,2)``, ``time`` or ``binary``. Other columns
        have the types that earlier runs gave them, and new ones are typed by their values.
    :param schema_file: the JSON file that keeps the types of columns from run to run, one for each table. Default:
        ``_sequentum_schema_agent-<agent_id>.json`` in the folder above ``destination``.
    :param encoding: of text files that are converted. Default: by their byte order mark, else UTF-8.
    :param delimiter: of CSV files that are converted. Default: a comma, a tab in ``.tsv``.
    :param remove_method: remove the run's files from the service once all are landed and have been read back:
        ``RemoveAllFiles``, ``RemoveAllFilesAndAgentInput`` or ``RemoveEntireRun``. That cannot be undone. It is refused
        if delivered files are left out by ``file_kinds`` or ``file_patterns``; logs and other files go too. Default:
        nothing is removed.
    :param sequentum_conn_id: the Sequentum connection.
    :param storage_conn_id: the connection of the object storage, if it is not part of ``destination``.
    :raises RunFilesUnavailable: a file could not be written or read back, the run is still going, or it has records
        and all its files are empty. A retry continues where the last attempt ended.
    :raises RunRecordsUnreadable: a file that is to be converted is damaged, or a value is none of its column's type.
        Nothing was published; not retried.
    :raises SequentumRequestRefused: the run or its files are gone, a parameter is wrong, a library for ``file_format``
        is not installed, or the run has records and none of its files is selected although neither ``file_kinds`` nor
        ``file_patterns`` leaves them out.
    """

    template_fields: Sequence[str] = (
        "agent_id",
        "run_id",
        "destination",
        "file_kinds",
        "file_patterns",
        "max_parallel_files",
        "file_format",
        "partition_by",
        "record_schema",
        "schema_file",
        "encoding",
        "delimiter",
        "remove_method",
        "sequentum_conn_id",
        "storage_conn_id",
    )
    ui_color = "#e3f1ee"

    def __init__(
        self,
        *,
        agent_id: int | str,
        run_id: int | str,
        destination: str,
        file_kinds: str | Sequence[str] | None = None,
        file_patterns: str | Sequence[str] | None = None,
        max_parallel_files: int | str | None = DEFAULT_PARALLEL_FILES,
        file_format: str | None = None,
        partition_by: str | Sequence[str] | None = None,
        record_schema: Mapping[str, str] | str | None = None,
        schema_file: str | None = None,
        encoding: str | None = None,
        delimiter: str | None = None,
        remove_method: str | None = None,
        sequentum_conn_id: str = "sequentum_default",
        storage_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.run_id = run_id
        self.destination = destination
        self.file_kinds = file_kinds
        self.file_patterns = file_patterns
        self.max_parallel_files = max_parallel_files
        self.file_format = file_format
        self.partition_by = partition_by
        self.record_schema = record_schema
        self.schema_file = schema_file
        self.encoding = encoding
        self.delimiter = delimiter
        self.remove_method = remove_method
        self.sequentum_conn_id = sequentum_conn_id
        self.storage_conn_id = storage_conn_id
        # A typing error shows when the DAG is parsed; what a template makes of a field is known when the task runs.
        for name, parse in _CHECKED_EARLY.items():
            if _is_literal(getattr(self, name)):
                parse_named(name, parse, getattr(self, name))
        self._check_has_format()
        self._transfer: RunFilesTransfer | None = None
        self._landed: Landed | None = None

    def execute(self, context: Context) -> list[str]:
        """Copy the files. Returns the landed paths."""
        from airflow_provider_sequentum.hooks.connection import SequentumConnection
        from airflow_provider_sequentum.reporting.asset_events import add_extra
        from airflow_provider_sequentum.transfers.run_files_transfer import RunFilesTransfer

        conn_id = "sequentum_default" if is_unset(self.sequentum_conn_id) else self.sequentum_conn_id
        parsed = {name: self._parsed(name, parse) for name, parse in {**_IDS, **_CHECKED_EARLY}.items()}
        folder = self._folder()
        self._transfer = RunFilesTransfer(
            **{name: parsed[name] for name in _OF_THE_TRANSFER},
            folder=folder,
            conversion=self._conversion(parsed, folder),
            hook=SequentumConnection(conn_id),
            log=self.log,
        )
        with about_run(self._transfer.agent_id, self._transfer.run_id):
            self._landed = self._transfer.transfer()
        context["ti"].xcom_push(key=TRANSFER_KEY, value=self._landed.summary())
        add_extra(context, self._landed.summary())
        return self._landed.paths

    def on_kill(self) -> None:
        """Abandon the copies under way; what is whole stays for the next attempt."""
        if self._transfer is not None:
            self._transfer.progress.stop()

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:  # noqa: ARG002
        """Return what was read and written; called by the OpenLineage provider, if it is installed."""
        from airflow_provider_sequentum.reporting.lineage import transfer_lineage

        return None if self._landed is None else transfer_lineage(self._landed)

    def _folder(self) -> LandingFolder:
        from airflow_provider_sequentum.transfers.landing import LandingFolder, open_destination, without_password

        conn_id = None if is_unset(self.storage_conn_id) else self.storage_conn_id
        try:
            return LandingFolder(open_destination(self.destination, conn_id))
        except ValueError as error:
            shown = without_password(self.destination)
            raise SequentumRequestRefused(
                f"Cannot write to destination={shown!r:.500}: {error}. Nothing was copied."
            ) from error

    def _check_has_format(self) -> None:
        if is_unset(self.file_format):
            given = [name for name in _OF_A_FORMAT if getattr(self, name) and not is_unset(getattr(self, name))]
            if given:
                raise ValueError(f"{given[0]} needs file_format: files that land as they are have no use for it")

    def _conversion(self, parsed: Mapping[str, Any], folder: LandingFolder) -> Conversion | None:
        if parsed["file_format"] is None:
            return None
        from airflow_provider_sequentum.transfers.column_types import TypesFile
        from airflow_provider_sequentum.transfers.conversion import Conversion
        from airflow_provider_sequentum.transfers.landing import MANIFEST_NAME, open_named
        from airflow_provider_sequentum.transfers.manifest import Form

        conn_id = None if is_unset(self.storage_conn_id) else self.storage_conn_id
        if is_unset(self.schema_file):
            types_file = folder.path.parent / f"_sequentum_schema_agent-{parsed['agent_id']}.json"
        else:
            try:
                types_file = open_named("schema_file", self.schema_file, conn_id)
            except ValueError as error:
                raise SequentumRequestRefused(f"{error}. Nothing was copied.") from error
            if folder.name_here(types_file) == MANIFEST_NAME:
                raise SequentumRequestRefused(
                    f"schema_file={str(types_file)!r:.500} is where the manifest of the files is written. Nothing was "
                    "copied. Choose another name."
                )
        form = {name: parsed[name] for name in Form.model_fields}
        return Conversion(Form(**form), TypesFile(types_file))

    def _parsed(self, name: str, parse: Callable[[Any], T]) -> T:
        try:
            return parse_named(name, parse, getattr(self, name))
        except ValueError as error:
            raise SequentumRequestRefused(
                f"{error}. Nothing was copied (connection {self.sequentum_conn_id!r})."
            ) from error


def _parse_file_kinds(value: object) -> list[str] | None:
    kinds = parse_texts(value)
    return None if kinds is None else [parse_choice(kind, FileKind) for kind in kinds]


def _parse_partition_by(value: object) -> list[str]:
    columns = parse_texts(value) or []
    if len(set(columns)) < len(columns):
        raise ValueError(f"must name each column once, not {shown(value)}")
    return columns


def _parse_record_schema(value: object) -> dict[str, str]:
    from airflow_provider_sequentum.records.columns import parse_type

    if is_unset(value):
        return {}
    found: dict[str, str] = json.loads(parse_json_object(value))
    return {column: parse_named(f"[{column!r:.80}]", parse_type, name) for column, name in found.items()}


def _parse_max_parallel_files(value: object) -> int:
    number = DEFAULT_PARALLEL_FILES if is_unset(value) else parse_count(value)
    if number == 0:
        raise ValueError("must be 1 or more, not 0")
    return number


_IDS: dict[str, Callable[[Any], Any]] = {"agent_id": parse_id, "run_id": parse_id}
_CHECKED_EARLY: dict[str, Callable[[Any], Any]] = {
    "file_kinds": _parse_file_kinds,
    "file_patterns": lambda value: parse_texts(value) or ["*"],
    "max_parallel_files": _parse_max_parallel_files,
    "file_format": lambda value: None if is_unset(value) else parse_choice(value, FileFormat),
    "partition_by": _parse_partition_by,
    "record_schema": _parse_record_schema,
    "encoding": lambda value: None if is_unset(value) else parse_encoding(value),
    "delimiter": parse_delimiter,
    "remove_method": lambda value: None if is_unset(value) else parse_choice(value, RemoveMethod),
}
"""The parameters that are checked when the DAG is parsed, where they hold their value already."""

_OF_A_FORMAT = ("partition_by", "record_schema", "schema_file", "encoding", "delimiter")
_OF_THE_TRANSFER = (
    "agent_id",
    "run_id",
    "file_kinds",
    "file_patterns",
    "max_parallel_files",
    "remove_method",
)


def _is_literal(value: object) -> bool:
    """Whether a field holds its value already, and neither a template nor another task's output."""
    if isinstance(value, Mapping):
        return all(map(_is_literal, [*value, *value.values()]))
    if isinstance(value, list | tuple):
        return all(map(_is_literal, value))
    return value is None or isinstance(value, int | float) or (isinstance(value, str) and "{" not in value)
