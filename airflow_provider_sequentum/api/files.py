"""Files a run left behind: list them; download them with ``client.download(...)``.

Based on https://docs.sequentum.com/concepts/runs. A file is fetched through a redirect to storage, which
:mod:`airflow_provider_sequentum.api.download` follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from airflow_provider_sequentum.api.call import Call, Id, as_id
from airflow_provider_sequentum.api.parsing import ApiCode, ApiId, ApiMessage, ApiModel, ApiTime, Page, read_list


class FileType(IntEnum):
    """What a file of a run is."""

    DELIVERED_FILE = 1
    """What the run was made for: its data."""
    EXTRACTED_FILES = 2
    INTERNAL_EXPORT_FILES = 3
    INTERNAL_RUNTIME_FILES = 4
    INTERNAL_TRACKING_DB = 5
    LOG_TEXT = 6
    LOG_HTML = 7
    INTERNAL_CONTENT_CACHE = 8


DELIVERED, EXTRACTED, LOGS = "delivered", "extracted", "logs"
INTERNAL = "internal"
"""The kind of the service's own files."""

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

    ``name`` is the server's and may hold anything: make it safe with
    :func:`airflow_provider_sequentum.api.text.safe_file_names` before writing to it. ``file_type`` is a
    :class:`FileType`, or the integer of an unknown one. ``file_size`` is in bytes.
    """

    id: ApiId
    name: ApiMessage | None = None
    file_type: ApiCode[FileType] | None = None
    file_size: int | None = None
    created: ApiTime | None = None
    region_id: int | None = None

    @property
    def kind(self) -> str:
        """What it is for: ``delivered``, ``extracted``, ``logs`` or ``internal``."""
        # A type that is missing or unknown counts as delivered: a file too many is noticed, a lost one is not.
        return _KINDS.get(self.file_type, DELIVERED)


def list_files(agent_id: Id, run_id: Id) -> Call[Page[RunFile]]:
    """List the files of a run. The list is empty when the run produced none.

    :return: the files; ``unreadable`` of the list counts those that could not be read.
    """
    agent, run = as_id(agent_id, "agent_id"), as_id(run_id, "run_id")
    path = f"/agent/{agent}/run/{run}/files"
    return Call.get(f"list the files of run {run} of agent {agent}", path, read_list(RunFile, runId=run))
