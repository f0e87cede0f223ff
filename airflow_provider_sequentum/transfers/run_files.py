"""The transfer operator that copies the files of a run to object storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_sequentum.airflow_compat.extra_links import push_address
from airflow_provider_sequentum.exceptions import about_run, value_errors_as_exceptions
from airflow_provider_sequentum.reporting.links import RUN_LINK_KEY, AgentRunLink

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_sequentum.transfers.configurations import TransferConfig
    from airflow_provider_sequentum.transfers.conversion import Conversion
    from airflow_provider_sequentum.transfers.landing import LandingFolder
    from airflow_provider_sequentum.transfers.run_files_transfer import Landed, RunFilesTransfer

TRANSFER_KEY = "transfer"
"""The XCom key of the summary of the transfer."""


class RunFilesToObjectStorageOperator(BaseOperator):
    """Copy the files of a run to object storage.

    Files are streamed, so their size does not matter, and each file appears under its name only when it is complete. A
    manifest next to them (``_sequentum_manifest.json``) contains sizes, checksums and record counts. A retry only
    fetches the files that are missing. Use a separate folder for each run: files of another run with the same names are
    replaced.

    Returns the list of landed paths, which is empty if the run has no records and no file is selected. A summary is
    pushed to the XCom key ``transfer``: ``agent_id``, ``run_id``, ``manifest``, ``files``, ``fetched``, ``bytes``,
    ``records`` and ``unreadable``, the number of entries in the service's list that could not be read and whose files
    are not copied.

    A parameter that is ``None`` or an empty string is treated as unset.

    .. seealso:: https://docs.sequentum.com/concepts/runs

    :param agent_id: the id of the agent, as an int or a string of digits. Give this or ``agent_name``.
    :param agent_name: the agent's exact and unique name. Adds one API request.
    :param run_id: the id of the run, as an int or a string of digits. The run must have ended.
    :param destination: the folder to write to: ``s3://conn_id@bucket/folder``, ``gs://...``, ``abfs://...``,
        ``file:///...`` or an absolute path. It is refused if it has empty segments (two slashes in a row), segments
        ``.`` or ``..``, backslashes, ``?`` or ``#``.
    :param file_kinds: the kinds of files to copy, one or several of: ``delivered`` (the data, and files whose kind the
        service does not state; the default), ``extracted``, ``logs`` and ``screenshots`` (recognized by image names).
    :param file_patterns: one or several case-sensitive shell patterns such as ``*.csv``. Only files whose names match
        one of them are copied. Default: ``*``.
    :param skip_on_empty: skips the task if no file is selected, for a table that only some runs have. Default: the task
        fails if the run has records and they may be in a file that is not selected, and else succeeds.
    :param max_parallel_files: the number of files copied at the same time, at least 1. Default: 8. Each file takes two
        requests, one of which counts against the request limit of the key.
    :param file_format: ``parquet`` converts files with records (CSV, JSON, NDJSON, Excel, Parquet) before they land.
        Other files, such as logs and images, are landed unchanged. If a file cannot be converted, nothing is published.
        Requires the extra ``arrow``. Default: all files are landed unchanged.
    :param partition_by: with ``file_format``, one or several columns to partition by: the records are written to
        Hive-style folders ``column=value``. Default: each file of the run becomes one file.
    :param record_schema: with ``file_format``, a mapping of columns to types: ``string``, ``integer``, ``number``,
        ``boolean``, ``date``, ``timestamp``, ``timestamptz``, ``decimal(10,2)``, ``time`` or ``binary``. Other columns
        keep the types from earlier runs, and the types of new columns are inferred from their values.
    :param schema_file: the JSON file that stores the column types from run to run; use one for each table. Required
        with ``file_patterns`` and with the kind ``extracted``. Default: ``_sequentum_schema_agent-<agent_id>.json`` in
        the folder above ``destination``.
    :param encoding: the encoding of text files that are converted. Default: the one that the byte order mark indicates,
        else UTF-8.
    :param delimiter: the delimiter of CSV files that are converted. Default: a comma, or a tab in ``.tsv`` files.
    :param remove_method: removes the run's files from the service after all files have been landed and read back:
        ``RemoveAllFiles``, ``RemoveAllFilesAndAgentInput`` or ``RemoveEntireRun``. This cannot be undone. It is refused
        if ``file_kinds`` or ``file_patterns`` leave out delivered files. Logs and other files are removed too.
        Default: nothing is removed.
    :param sequentum_conn_id: the id of the Sequentum connection.
    :param storage_conn_id: the id of the object storage connection, if it is not part of ``destination``.
    :raises RunFilesUnavailable: a file could not be written or read back, the run has not ended, it has records but
        all its files are empty, or a run that was landed at the same time gave one of its columns another type. A retry
        continues where the last attempt ended.
    :raises RunRecordsUnreadable: a file to be converted is damaged, or a value is not valid for its column's type.
        Nothing was published; not retried.
    :raises SequentumRequestRefused: the run or its files no longer exist, a parameter is invalid, a library for
        ``file_format`` is not installed, or the run has records but none of its delivered or extracted files is
        selected, although ``file_kinds`` includes them. Not retried.
    :raises SequentumSkipped: no file is selected, and ``skip_on_empty`` is set.
    """

    template_fields: Sequence[str] = (
        "agent_id",
        "agent_name",
        "run_id",
        "destination",
        "file_kinds",
        "file_patterns",
        "skip_on_empty",
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
    operator_extra_links = (AgentRunLink(),)
    ui_color = "#e3f1ee"

    def __init__(
        self,
        *,
        agent_id: int | str | None = None,
        agent_name: str | None = None,
        run_id: int | str,
        destination: str,
        file_kinds: str | Sequence[str] | None = None,
        file_patterns: str | Sequence[str] | None = None,
        skip_on_empty: bool | str = False,
        max_parallel_files: int | str | None = 8,
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
        self.agent_name = agent_name
        self.run_id = run_id
        self.destination = destination
        self.file_kinds = file_kinds
        self.file_patterns = file_patterns
        self.skip_on_empty = skip_on_empty
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
        self._transfer: RunFilesTransfer | None = None
        self._landed: Landed | None = None

    def execute(self, context: Context) -> list[str]:
        """Copy the files and return the landed paths."""
        from airflow_provider_sequentum.hooks.connection import SequentumConnection
        from airflow_provider_sequentum.reporting.asset_events import add_extra
        from airflow_provider_sequentum.transfers.configurations import TransferConfig
        from airflow_provider_sequentum.transfers.destination import open_destination
        from airflow_provider_sequentum.transfers.landing import LandingFolder
        from airflow_provider_sequentum.transfers.run_files_transfer import RunFilesTransfer

        config = TransferConfig.of(self)
        hook = SequentumConnection(config.sequentum_conn_id)
        config = config.with_agent_id(hook)
        with value_errors_as_exceptions(config.fate):
            folder = LandingFolder(open_destination(config.destination, config.storage_conn_id))
            conversion = _conversion(config, folder)
        self._transfer = RunFilesTransfer(
            hook=hook,
            agent_id=config.agent_id,
            run_id=config.run_id,
            folder=folder,
            file_kinds=config.file_kinds,
            file_patterns=config.file_patterns,
            skip_on_empty=config.skip_on_empty,
            max_parallel_files=config.max_parallel_files,
            remove_method=config.remove_method,
            log=self.log,
            conversion=conversion,
        )
        with about_run(config.agent_id, config.run_id):
            push_address(context, RUN_LINK_KEY, hook.run_link(config.agent_id, config.run_id))
            self._landed = self._transfer.transfer()
        context["ti"].xcom_push(key=TRANSFER_KEY, value=self._landed.summary())
        add_extra(context, self._landed.summary())
        return self._landed.paths

    def on_kill(self) -> None:
        """Abandon the copies in progress. Complete files stay for the next attempt."""
        if self._transfer is not None:
            self._transfer.progress.stop()

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:  # noqa: ARG002
        """Return the inputs and outputs. Called by the OpenLineage provider, if it is installed."""
        from airflow_provider_sequentum.reporting.lineage import transfer_lineage

        return None if self._landed is None else transfer_lineage(self._landed)


def _conversion(config: TransferConfig, folder: LandingFolder) -> Conversion | None:
    if config.file_format is None:
        return None
    from airflow_provider_sequentum.transfers.column_types import TypesFile
    from airflow_provider_sequentum.transfers.conversion import Conversion
    from airflow_provider_sequentum.transfers.destination import open_destination
    from airflow_provider_sequentum.transfers.landing import MANIFEST_NAME
    from airflow_provider_sequentum.transfers.manifest import Form

    if config.schema_file is None:
        types_file = folder.path.parent / f"_sequentum_schema_agent-{config.agent_id}.json"
    else:
        types_file = open_destination(config.schema_file, config.storage_conn_id)
        if folder.name_here(types_file) == MANIFEST_NAME:
            raise ValueError(
                f"schema_file={str(types_file)!r:.500} is the path of the files' manifest. Choose another name"
            )
    form = {name: getattr(config, name) for name in Form.model_fields}
    return Conversion(Form(**form), TypesFile(types_file))
