"""The files of a run: of what kind each is, which of them are wanted, and whether they are all there.

Based on https://docs.sequentum.com/concepts/runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.files import DELIVERED, EXTRACTED, INTERNAL, RunFile
from airflow_provider_sequentum.runs.describe import comma_list, describe_run
from airflow_provider_sequentum.runs.phases import phase_of

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run

SCREENSHOTS = "screenshots"
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that is not wanted.

    :param parameter: what leaves it out: ``file_kinds`` or ``file_patterns``.
    :param by_author: the DAG author set that parameter; it is not its default.
    """

    file: RunFile
    parameter: str
    by_author: bool

    def __str__(self) -> str:
        return f"{named(self.file)} (kind {self.file.kind}, left out by {self.parameter})"


@dataclass(frozen=True, slots=True)
class Selection:
    """The files that are wanted and those that are not, both by id.

    :param kinds: the kinds the DAG author asked for; ``None`` where the default applies.
    """

    chosen: list[RunFile]
    left_out: list[LeftOut]
    kinds: Sequence[str] | None

    @property
    def delivered_left_out(self) -> list[LeftOut]:
        """Delivered files that are not wanted."""
        return [each for each in self.left_out if each.file.kind == DELIVERED]

    @property
    def author_left_out_records(self) -> bool:
        """Whether files that may hold the records are left out because the DAG author's filter says so."""
        if self.kinds is not None and DELIVERED not in self.kinds:
            return True
        return any(each.by_author and each.file.kind in (DELIVERED, EXTRACTED) for each in self.left_out)


def select(listed: Iterable[RunFile], kinds: Sequence[str] | None, patterns: Sequence[str]) -> Selection:
    """Choose files by kind and by name.

    A file that is listed twice counts once, and is chosen if one of its entries is: what is fetched by its id is the
    same, and its records would be there twice.

    :param listed: the files of a run.
    :param kinds: some of ``parameters.FileKind``; a file of any of them is chosen. ``None``: the delivered ones.
    :param patterns: shell patterns (``*.csv``), case-sensitive; a file is chosen if its name, or the last part of a
        name that is a path, fits any of them.
    """
    chosen: dict[int, RunFile] = {}
    left_out: dict[int, LeftOut] = {}
    for file in sorted(listed, key=lambda each: each.id):
        if not _kinds_of(file) & set((DELIVERED,) if kinds is None else kinds):
            left_out.setdefault(file.id, LeftOut(file, "file_kinds", by_author=kinds is not None))
        elif not any(_fits(file.name or "", pattern) for pattern in patterns):
            left_out.setdefault(file.id, LeftOut(file, "file_patterns", by_author=True))
        else:
            chosen.setdefault(file.id, file)
    return Selection(list(chosen.values()), [each for number, each in left_out.items() if number not in chosen], kinds)


def _kinds_of(file: RunFile) -> set[str]:
    kind = file.kind
    # The API has no file type for screenshots, so an image is recognized by its name.
    is_image = kind != INTERNAL and (file.name or "").lower().endswith(_IMAGE_SUFFIXES)
    return {kind, SCREENSHOTS} if is_image else {kind}


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[2], pattern)


def why_incomplete(run: Run) -> str | None:
    """Say why the run's files may not be complete; ``None`` if they are."""
    if phase_of(run).is_over:
        return None
    state = describe_run(run)
    return f"It is not known to have ended ({state}), so its files may not be complete. Wait for its end first."


def why_removed(run: Run, listed: Collection[RunFile]) -> str | None:
    """Say why the run's files must be gone; ``None`` if they are there or there never were any."""
    if listed or not (records := _records_of(run)):
        return None
    return f"It extracted {records} records, but has no files: they were removed, or never delivered."


def why_records_missing(run: Run, selection: Selection) -> str | None:
    """Say why the run's records are in none of the chosen files; ``None`` if they are there or were not asked for."""
    records = _records_of(run)
    if not records or selection.author_left_out_records:
        return None
    if any(file.kind in (DELIVERED, EXTRACTED) for file in selection.chosen):
        return None
    return f"It extracted {records} records, but no file that may hold them is selected. Its files: " + (
        listing(selection.left_out) or "none"
    )


def why_all_empty(run: Run, selection: Selection, sizes: Iterable[int | None]) -> str | None:
    """Say why files without a byte cannot be all of the run's records; ``None`` if they may be.

    :param sizes: bytes of the chosen files, as they were landed.
    """
    records = _records_of(run)
    if not records or not selection.chosen or selection.author_left_out_records or any(sizes):
        return None
    return f"It extracted {records} records, but all files that are to be copied are empty: " + listing(
        selection.chosen
    )


def listing(files: Sequence[RunFile | LeftOut]) -> str:
    """Name files in a sentence; of many, the first ones and how many more there are."""
    return comma_list(named(each) if isinstance(each, RunFile) else each for each in files)


def named(file: RunFile) -> str:
    """Return what a message calls a file."""
    if not file.name:
        return f"file {file.id}"
    return repr(file.name if len(file.name) <= _LONGEST_NAME else f"{file.name[:_LONGEST_NAME]}...")


def _records_of(run: Run) -> int | None:
    return run.data_count or run.export_count
