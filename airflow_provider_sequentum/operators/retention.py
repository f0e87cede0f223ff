"""The operator that deletes old runs from the service."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowTaskTimeout, BaseOperator

from airflow_provider_sequentum.api.choices import RemoveMethod
from airflow_provider_sequentum.exceptions import (
    SequentumException,
    about_run,
    client_errors_as_exceptions,
    value_errors_as_exceptions,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sequentum.api.files import RunFile
    from airflow_provider_sequentum.runs.retention import Deletion

DELETION_KEY = "deletion"
"""XCom key of the summary."""

log = logging.getLogger(__name__)


class DeleteRunsOperator(BaseOperator):
    """Delete the old runs of an agent, or their files, from the service after the files were copied.

    By default (``dry_run=True``) nothing is deleted: the log and the XCom say what would be. **A deletion cannot be
    undone.** A run is deleted only if a complete manifest of
    :class:`~airflow_provider_sequentum.transfers.run_files.RunFilesToObjectStorageOperator` contains every delivered
    file that the service lists for it, and all files of the manifest exist and have the recorded checksums; they are
    read to verify this. Runs that have not ended are kept, and so are runs of unknown age.

    Returns the ids of the runs that were deleted, or would be. A summary (``agent_id``, ``dry_run``, ``deleted``,
    ``kept`` with the reason for each run, ``in_doubt``, ``is_cut`` and ``oldest_listed``) is pushed under the XCom key
    ``deletion``, also after an error, with what was deleted until then; ``in_doubt`` is the run whose deletion was not
    answered.

    The age of a run is determined by the service's clock. If that clock is ahead of the worker's, and only the ``Date``
    of a response says so, the worker's clock is used.

    The service lists the newest 1,000 runs of an agent. Older runs are not considered; ``is_cut`` says that there may
    be some.

    ``None`` and an empty string leave a parameter unset.

    .. seealso:: https://docs.sequentum.com/api-reference/agents/delete-run

    :param agent_id: the agent, as an int or a string of digits.
    :param older_than_days: delete runs that ended at least this many days ago; a whole number.
    :param manifests: one folder or several that contain the manifests, directly or in subfolders: the ``destination``
        of the transfers, or a folder above it.
    :param remove_method: ``RemoveAllFiles`` (default), ``RemoveAllFilesAndAgentInput`` or ``RemoveEntireRun``. Logs and
        other files are removed as well, whether they were copied or not.
    :param dry_run: only report what would be deleted. Default: True. As a template field it is called ``is_dry_run``.
    :param sequentum_conn_id: the Airflow connection to Sequentum Cloud.
    :param storage_conn_id: the connection of the object storage, if it is not part of ``manifests``.
    :raises SequentumRequestRefused: a parameter is invalid, or the service does not know the agent; nothing
        was deleted, and the task is not retried.
    :raises RunFilesUnavailable: the storage cannot be read.
    :raises SequentumUnavailable: the service did not respond. A retry continues.
    """

    template_fields: Sequence[str] = (
        "agent_id",
        "older_than_days",
        "manifests",
        "remove_method",
        "is_dry_run",
        "sequentum_conn_id",
        "storage_conn_id",
    )
    ui_color = "#e3f1ee"

    def __init__(
        self,
        *,
        agent_id: int | str,
        older_than_days: int | str,
        manifests: str | Sequence[str],
        remove_method: RemoveMethod | str | None = "RemoveAllFiles",
        dry_run: bool | str | None = True,
        sequentum_conn_id: str = "sequentum_default",
        storage_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.older_than_days = older_than_days
        self.manifests = manifests
        self.remove_method = remove_method
        self.is_dry_run = dry_run  # dry_run is a method of every operator, which "airflow tasks test" calls
        self.sequentum_conn_id = sequentum_conn_id
        self.storage_conn_id = storage_conn_id

    def execute(self, context: Context) -> list[int]:
        """Delete the runs. Returns their ids."""
        from airflow_provider_sequentum.hooks.connection import SequentumConnection
        from airflow_provider_sequentum.hooks.port import ClientPort
        from airflow_provider_sequentum.runs.retention import Deletion, delete_old_runs
        from airflow_provider_sequentum.transfers.configurations import DeletionConfig
        from airflow_provider_sequentum.transfers.destination import open_destination
        from airflow_provider_sequentum.transfers.landed_runs import find_landed_runs

        config = DeletionConfig.of(self, dry_run=self.is_dry_run)
        with value_errors_as_exceptions(config.fate):
            folders = [open_destination(each, config.storage_conn_id) for each in config.manifests]
        older_than = timedelta(days=min(config.older_than_days, MAX_DAYS))
        landed = find_landed_runs(folders, config.agent_id)

        def why_not_landed(run_id: int, listed: Sequence[RunFile]) -> str | None:
            reasons = [run.why_not(listed) for run in landed.get(run_id, [])]
            if None in reasons:
                return None
            return "; ".join(filter(None, reasons)) or "No manifest says that it is landed"

        result = Deletion(config.agent_id, config.dry_run)
        hook = SequentumConnection(config.sequentum_conn_id)
        try:
            with about_run(config.agent_id), client_errors_as_exceptions(config.sequentum_conn_id):
                delete_old_runs(ClientPort(hook), result, older_than, config.remove_method, why_not_landed)
        except (Exception, AirflowTaskTimeout) as error:
            self._tell_what_is_gone(context, result, error)
            raise
        finally:
            hook.close()
        context["ti"].xcom_push(key=DELETION_KEY, value=result.summary())
        return result.deleted

    def _tell_what_is_gone(self, context: Context, result: Deletion, error: BaseException) -> None:
        """Say what was deleted before an error: it cannot be undone, and the service does not list it any more."""
        if result.dry_run:
            return
        fate = f"{result.describe()} The XCom {DELETION_KEY!r} of this attempt has the ids. A retry continues."
        if isinstance(error, SequentumException):
            error.args = (f"{error} {fate}", *error.args[1:])
        else:
            error.add_note(fate)
        try:
            context["ti"].xcom_push(key=DELETION_KEY, value=result.summary())
        except Exception:
            log.exception("The XCom %r could not be pushed: %s", DELETION_KEY, result.summary())


MAX_DAYS = 36500
"""More would leave the calendar."""
