"""The files of a run: list them here, and download them with ``client.download(...)``.

Based on https://docs.sequentum.com/concepts/runs. Files are downloaded through a redirect to storage,
which :mod:`airflow_provider_sequentum.api.download` follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from airflow_provider_sequentum.api.call import Call, Id, as_id
from airflow_provider_sequentum.api.parsing import ApiCode, ApiId, ApiMessage, ApiModel, ApiTime, Page, read_list


class FileType(IntEnum):
    """The type of a file of a run."""

    DELIVERED_FILE = 1
    """The data that the run delivers."""
    EXTRACTED_FILES = 2
    INTERNAL_EXPORT_FILES = 3
    INTERNAL_RUNTIME_FILES = 4
    INTERNAL_TRACKING_DB = 5
    LOG_TEXT = 6
    LOG_HTML = 7
    INTERNAL_CONTENT_CACHE = 8


DELIVERED, EXTRACTED, LOGS = "delivered", "extracted", "logs"
INTERNAL = "internal"
"""The kind of files that the service keeps for itself."""

_KINDS: Mapping[int | None, str] = {
    FileType.DELIVERED_FILE: DELIVERED,
    FileType.EXTRACTED_FILES: EXTRACTED,
    FileType.LOG_TEXT: LOGS,
    FileType.LOG_HTML: LOGS,
    FileType.INTERNAL_EXPORT_FILES: INTERNAL,
    FileType.INTERNAL_RUNTIME_FILES: INTERNAL,
    FileType.INTERNAL_TRACKING_DB: INTERNAL,
    FileType.INTERNAL_CONTENT_CACHE: INTERNAL,
}


class RunFile(ApiModel):
    """A file of a run.

    ``name`` comes from the server and may contain anything: make it safe with
    :func:`airflow_provider_sequentum.api.text.safe_file_names` before you use it as a file name. ``file_type`` is a
    :class:`FileType`, or an integer if the type is unknown. ``file_size`` is in bytes.
    """

    id: ApiId
    name: ApiMessage | None = None
    file_type: ApiCode[FileType] | None = None
    file_size: int | None = None
    created: ApiTime | None = None
    region_id: int | None = None

    @property
    def kind(self) -> str:
        """The purpose of the file: ``delivered``, ``extracted``, ``logs`` or ``internal``."""
        # A missing or unknown type counts as delivered: a surplus file is noticed, a missing one is not.
        return _KINDS.get(self.file_type, DELIVERED)


def list_files(agent_id: Id, run_id: Id) -> Call[Page[RunFile]]:
    """List the files of a run. The list is empty if the run produced none.

    :return: the files; ``unreadable`` of the list is the number of those that could not be read.
    """
    agent, run = as_id(agent_id, "agent_id"), as_id(run_id, "run_id")
    path = f"/agent/{agent}/run/{run}/files"
    return Call.get(f"list the files of run {run} of agent {agent}", path, read_list(RunFile, runId=run))
