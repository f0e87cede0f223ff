"""The transfer that lands a run's files in object storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.lifecycle.arguments import parse_choice, parse_id
from airflow_provider_sequentum.lifecycle.choices import FILE_KINDS, REMOVE_METHODS

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, ObjectStoragePath
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_sequentum.transfers.run_files_transfer import Landed, RunFilesTransfer, TransferOptions

TRANSFER_KEY = "transfer"
"""XCom key of the transfer's summary."""


class RunFilesToObjectStorageOperator(BaseOperator):
    """
    Copy the files of a run to object storage.

    Files are streamed, so their size doesn't matter, and each appears under its name only when it is whole. A manifest
    (``_sequentum_manifest.json``) beside them holds sizes, checksums and record counts. A retry fetches only what is
    missing. Give every run a folder of its own: files of another run with the same names are replaced.

    Returns the list of landed paths, an empty one if the run delivered nothing. A summary (``manifest``, ``files``,
    ``fetched``, ``bytes``, ``records``) is under the XCom key ``transfer``.

    .. seealso:: https://docs.sequentum.com/concepts/runs

    :param agent_id: the agent, as an int or a string of digits.
    :param run_id: the run, as an int or a string of digits. It has to be over.
    :param destination: the folder to write to, anything ``ObjectStoragePath`` takes: ``s3://conn_id@bucket/folder``,
        ``gs://...``, ``abfs://...``, ``file:///...``.
    :param file_kinds: which files: some of ``delivered`` (the data; the default), ``extracted``, ``logs`` and
        ``screenshots`` (images by their names).
    :param file_patterns: shell patterns such as ``*.csv``, case-sensitive; only files whose names fit one of them.
    :param max_parallel_files: how many files are copied at the same time. Default 8. Each takes two requests, one of
        which counts against the key's request limit.
    :param remove_method: remove the run's files from the service once all are landed and have been read back:
        ``RemoveAllFiles``, ``RemoveAllFilesAndAgentInput`` or ``RemoveEntireRun``. That can't be undone. It is refused
        if delivered files are left out by ``file_kinds`` or ``file_patterns``; logs and other files go too. Default:
        nothing is removed.
    :param sequentum_conn_id: the Sequentum connection.
    :param storage_conn_id: the connection of the object storage, if it is not part of ``destination``.
    :raises RunFilesUnavailable: a file could not be written or read back, or the run is still going. A retry goes on
        where the last try ended.
    :raises SequentumRequestRefused: the run or its files are gone, or an argument is wrong.
    """

    template_fields: Sequence[str] = (
        "agent_id",
        "run_id",
        "destination",
        "file_patterns",
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
        file_kinds: Sequence[str] = FILE_KINDS[:1],
        file_patterns: str | Sequence[str] = "*",
        max_parallel_files: int = 8,
        remove_method: str | None = None,
        sequentum_conn_id: str = "sequentum_default",
        storage_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.run_id = run_id
        self.destination = destination
        self.file_kinds = [parse_choice("file_kinds", kind, FILE_KINDS) for kind in file_kinds]
        self.file_patterns = file_patterns
        if max_parallel_files < 1:
            raise ValueError(f"max_parallel_files must be 1 or more, not {max_parallel_files}.")
        self.max_parallel_files = max_parallel_files
        self.remove_method = remove_method and parse_choice("remove_method", remove_method, REMOVE_METHODS)
        self.sequentum_conn_id = sequentum_conn_id
        self.storage_conn_id = storage_conn_id
        self._transfer: RunFilesTransfer | None = None
        self._landed: Landed | None = None

    def execute(self, context: Context) -> list[str]:
        """Copy the files. Returns the landed paths."""
        from airflow_provider_sequentum.hooks.sequentum import SequentumHook
        from airflow_provider_sequentum.reporting.asset_events import tell_outlets
        from airflow_provider_sequentum.transfers.run_files_transfer import RunFilesTransfer

        try:
            agent_id, run_id = parse_id("agent_id", self.agent_id), parse_id("run_id", self.run_id)
        except ValueError as error:
            raise SequentumRequestRefused(
                f"{error} Nothing was copied (connection {self.sequentum_conn_id!r})."
            ) from error
        hook = SequentumHook(self.sequentum_conn_id)
        self._transfer = RunFilesTransfer(hook, agent_id, run_id, self._folder(), self._options(), self.log)
        self._landed = self._transfer.carry_out()
        context["ti"].xcom_push(key=TRANSFER_KEY, value=self._landed.summary())
        tell_outlets(context, self._landed.summary())
        return self._landed.paths

    def on_kill(self) -> None:
        """Abandon the copies under way; what is whole stays for the next try."""
        if self._transfer is not None:
            self._transfer.stop()

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:  # noqa: ARG002
        """Tell OpenLineage what was read and written; called by its provider, where that is installed."""
        from airflow_provider_sequentum.reporting.lineage import transfer_lineage

        return None if self._landed is None else transfer_lineage(self._landed)

    def _folder(self) -> ObjectStoragePath:
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        # Below Airflow 3.2 a conn_id of None hides the one in the address.
        options = {"conn_id": self.storage_conn_id} if self.storage_conn_id else {}
        try:
            folder = ObjectStoragePath(self.destination, **options)
            folder.fs  # noqa: B018 - the file system is looked for when it is first asked for
        except (ValueError, ImportError) as error:
            raise SequentumRequestRefused(
                f"Can't write to destination={self.destination!r}: {error}. Is the Airflow provider of this storage "
                "installed? Nothing was copied."
            ) from error
        return folder

    def _options(self) -> TransferOptions:
        from airflow_provider_sequentum.transfers.run_files_transfer import TransferOptions

        patterns = [self.file_patterns] if isinstance(self.file_patterns, str) else list(self.file_patterns)
        return TransferOptions(
            file_kinds=self.file_kinds,
            file_patterns=patterns,
            max_parallel_files=self.max_parallel_files,
            remove_method=self.remove_method,
        )
