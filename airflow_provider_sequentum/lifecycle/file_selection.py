"""Which of a run's files are wanted, and whether they are all there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.files import FileType, RunFile
from airflow_provider_sequentum.lifecycle.choices import FILE_KINDS
from airflow_provider_sequentum.runs.phases import Phase, phase_of
from airflow_provider_sequentum.runs.describe import describe_run

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run

_DELIVERED, _EXTRACTED, _LOGS, _SCREENSHOTS = FILE_KINDS
_INTERNAL_TYPES = frozenset(
    {
        FileType.INTERNAL_EXPORT_FILES,
        FileType.INTERNAL_RUNTIME_FILES,
        FileType.INTERNAL_TRACKING_DB,
        FileType.INTERNAL_CONTENT_CACHE,
    }
)
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp")


def _is_screenshot(file: RunFile) -> bool:
    # The API has no file type for screenshots, so an image is told by its name.
    return file.file_type not in _INTERNAL_TYPES and (file.name or "").lower().endswith(_IMAGE_SUFFIXES)


_KINDS: Mapping[str, Callable[[RunFile], bool]] = {
    _DELIVERED: lambda file: file.file_type == FileType.DELIVERED_FILE,
    _EXTRACTED: lambda file: file.file_type == FileType.EXTRACTED_FILES,
    _LOGS: lambda file: file.file_type in (FileType.LOG_TEXT, FileType.LOG_HTML),
    _SCREENSHOTS: _is_screenshot,
}


@dataclass(frozen=True, slots=True)
class Selection:
    """
    The files that are wanted, by id, and delivered ones that are not.

    :param chosen: the files.
    :param delivered_left_out: names of delivered files that the patterns or kinds leave out.
    """

    chosen: list[RunFile]
    delivered_left_out: list[str]


def select(listed: Iterable[RunFile], kinds: Sequence[str], patterns: Sequence[str]) -> Selection:
    """
    Choose files by kind and by name.

    :param listed: the files of a run.
    :param kinds: some of ``FILE_KINDS``; a file of any of them is chosen.
    :param patterns: shell patterns (``*.csv``), case-sensitive; a file whose name fits any of them is chosen.
    """
    in_order = sorted(listed, key=lambda file: file.id)
    chosen = [
        file
        for file in in_order
        if any(_KINDS[kind](file) for kind in kinds) and any(fnmatchcase(file.name or "", each) for each in patterns)
    ]
    left_out = [file.name or f"file {file.id}" for file in in_order if _KINDS[_DELIVERED](file) and file not in chosen]
    return Selection(chosen, left_out)


def why_incomplete(run: Run) -> str | None:
    """Say why the run's files may not be complete; ``None`` if they are."""
    if phase_of(run) is not Phase.ACTIVE:
        return None
    return f"It is still going ({describe_run(run)}), so its files may not be complete. Wait for its end first."


def why_removed(run: Run, listed: Collection[RunFile]) -> str | None:
    """Say why the run's files must have been removed; ``None`` if they are there or there never were any."""
    records = run.data_count or run.export_count
    return f"It extracted {records} records, but has no files: they were removed." if records and not listed else None
