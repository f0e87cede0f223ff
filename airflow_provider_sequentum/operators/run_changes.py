"""The operator that finds what changed between a run's records and those that were published before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_sequentum.exceptions import (
    RunRecordsUnreadable,
    SequentumSkipped,
    value_errors_as_exceptions,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_sequentum.transfers.configurations import ChangesConfig
    from airflow_provider_sequentum.transfers.publishing import PublishingStorage

CHANGES_KEY = "changes"
"""XCom key of the summary, for a task that is skipped."""


class RunChangesOperator(BaseOperator):
    """Compare the landed files of a run with those that were published before, record by record, by a key.

    The records that were added, changed and removed are written to ``added.parquet``, ``changed.parquet`` and
    ``removed.parquet`` in the folder ``_changes`` next to the landed files. As the last step, a small JSON file, the
    *pointer*, is moved to this run: it names the files that were published last, and those before. So each run is
    compared with the one before it exactly once: an attempt that was killed is repeated with the same result.

    Returns a summary: ``added``, ``changed``, ``removed``, ``unchanged`` (numbers of records), ``changed_columns``
    (in how many of the changed records each column has another value; for at most 100 columns, and
    ``more_changed_columns`` says how many are left out), ``files`` (the three paths) and
    ``compared_with`` (the files of the run before; empty for the first run, whose records are all added). It is the
    extra of the asset events too, and under the XCom key ``changes``, where a skipped task leaves it.

    Records are compared by their meaning: no value and an empty string are equal, and so are ``9.5`` and ``9.50``. The
    files are read as by ``iter_records``; cells of CSV files stay text. Needs the extra ``quality``.

    Set ``max_active_runs=1`` for the DAG. If two runs are compared at the same time, one task fails and is retried.

    ``None`` and an empty string leave a parameter unset.

    :param files: paths of the landed files, as
        :class:`~airflow_provider_sequentum.transfers.run_files.RunFilesToObjectStorageOperator` returns them.
    :param key: the column, or the columns, that tell one record from another.
    :param pointer: path of the JSON file that names what was published last. It lies outside of the folders of single
        runs and is made by the first run. Each set of files that is compared needs one of its own.
    :param destination: the folder for the files with changes. Default: ``_changes`` in the folder that the files
        have in common.
    :param ignore_columns: columns whose values do not count, such as the time of the extraction.
    :param on_unchanged: what to do if no record changed: ``succeed`` (default), or ``skip`` the task, so that it emits
        no asset event. The pointer moves in either case.
    :param encoding: of text files. Default: by their byte order mark, else UTF-8.
    :param delimiter: of CSV files. Default: a comma, a tab in ``.tsv``.
    :param storage_conn_id: the connection of the object storage, if it is not part of the paths.
    :raises RunRecordsNotComparable: there are no records, the key is missing, empty or repeated in some, or the pointer
        does not fit these files. Nothing was published; not retried.
    :raises RunRecordsUnreadable: a file is damaged. Nothing was published; not retried.
    :raises RunFilesUnavailable: a file could not be read or written, another run was published at the same time, or
        the worker has too little memory or disk. A retry starts the comparison again.
    :raises SequentumRequestRefused: a parameter is wrong.
    :raises SequentumSkipped: nothing changed, and ``on_unchanged="skip"``.
    """

    template_fields: Sequence[str] = (
        "files",
        "key",
        "pointer",
        "destination",
        "ignore_columns",
        "on_unchanged",
        "encoding",
        "delimiter",
        "storage_conn_id",
    )
    ui_color = "#e3f1ee"

    def __init__(
        self,
        *,
        files: str | Sequence[str],
        key: str | Sequence[str],
        pointer: str,
        destination: str | None = None,
        ignore_columns: str | Sequence[str] | None = None,
        on_unchanged: str | None = "succeed",
        encoding: str | None = None,
        delimiter: str | None = None,
        storage_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.files = files
        self.key = key
        self.pointer = pointer
        self.destination = destination
        self.ignore_columns = ignore_columns
        self.on_unchanged = on_unchanged
        self.encoding = encoding
        self.delimiter = delimiter
        self.storage_conn_id = storage_conn_id
        self._compared: tuple[PublishingStorage, list[str], dict[str, Any]] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Compare, write the changes and move the pointer. Returns the summary."""
        from airflow_provider_sequentum.quality.engine import open_workspace
        from airflow_provider_sequentum.quality.published import publish_changes
        from airflow_provider_sequentum.records.formats import RecordsUnreadable
        from airflow_provider_sequentum.reporting.asset_events import add_extra
        from airflow_provider_sequentum.transfers.configurations import ChangesConfig

        config = ChangesConfig.of(self)
        with value_errors_as_exceptions(config.fate):
            storage = _storage(config)
        try:
            publication = publish_changes(
                storage,
                open_workspace,
                config.files,
                key=config.key,
                ignored=config.ignore_columns,
                **config.text_options,
            )
        except RecordsUnreadable as error:
            raise RunRecordsUnreadable(f"The records cannot be compared. {error} Nothing was published.") from error
        summary = publication.summary()
        self._compared = storage, [*config.files, *publication.compared_with], summary
        context["ti"].xcom_push(key=CHANGES_KEY, value=summary)
        self.log.info(
            "Records: %d added, %d changed, %d removed, %d unchanged.",
            *(summary[name] for name in ("added", "changed", "removed", "unchanged")),
        )
        if publication.changes.is_empty and config.on_unchanged == "skip":
            raise SequentumSkipped(f"Nothing changed. Records: {summary['unchanged']:,}.")
        add_extra(context, summary)
        return summary

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:  # noqa: ARG002
        """Return what was read and written; called by the OpenLineage provider, if it is installed."""
        from airflow_provider_sequentum.reporting.lineage import changes_lineage

        if self._compared is None:
            return None
        storage, read, summary = self._compared
        written = {storage.open(path).path: summary[name] for name, path in summary["files"].items()}
        return changes_lineage([storage.open(path).path for path in read], written)


def _storage(config: ChangesConfig) -> PublishingStorage:
    from airflow_provider_sequentum.transfers.destination import common_folder, open_destination
    from airflow_provider_sequentum.transfers.landing import CHANGES_FOLDER
    from airflow_provider_sequentum.transfers.publishing import PublishingStorage

    conn_id = config.storage_conn_id
    for path in config.files:
        open_destination(path, conn_id)
    folder = config.destination or f"{common_folder(config.files)}/{CHANGES_FOLDER}"
    pointer = open_destination(config.pointer, conn_id)
    return PublishingStorage(pointer, open_destination(folder, conn_id), conn_id)
