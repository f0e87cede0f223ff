"""Files a run left behind: list them; download them with ``client.download(...)``.

Based on https://docs.sequentum.com/concepts/runs. A file is fetched through a redirect to storage, which
:mod:`airflow_provider_sequentum.api.download` follows.
"""

from __future__ import annotations

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


def list_files(agent_id: Id, run_id: Id) -> Call[Page[RunFile]]:
    """List the files of a run. The list is empty when the run produced none.

    :return: the files; ``unreadable`` of the list counts those that could not be read.
    """
    agent, run = as_id(agent_id, "agent_id"), as_id(run_id, "run_id")
    path = f"/agent/{agent}/run/{run}/files"
    return Call.get(f"list the files of run {run} of agent {agent}", path, read_list(RunFile, runId=run))
