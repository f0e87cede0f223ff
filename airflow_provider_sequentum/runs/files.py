"""The files of a run: their kinds, which of them are selected, and whether any are missing.

Based on https://docs.sequentum.com/concepts/runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api.files import DELIVERED, EXTRACTED, INTERNAL, RunFile
from airflow_provider_sequentum.runs.describe import comma_list, counted, describe_run
from airflow_provider_sequentum.runs.phases import phase_of

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run

SCREENSHOTS = "screenshots"
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
_MAX_NAME_LENGTH = 100


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that is not selected.

    :param parameter: the parameter that excludes it: ``file_kinds`` or ``file_patterns``.
    :param by_author: whether the DAG author has set that parameter.
    """

    file: RunFile
    parameter: str
    by_author: bool

    def __str__(self) -> str:
        return f"{named(self.file)} (kind {self.file.kind}, excluded by {self.parameter})"


@dataclass(frozen=True, slots=True)
class Selection:
    """The files that are selected and those that are not, in the order of their ids.

    :param kinds: the kinds that the DAG author has set; ``None`` for the default.
    """

    chosen: list[RunFile]
    left_out: list[LeftOut]
    kinds: Sequence[str] | None

    @property
    def delivered_left_out(self) -> list[LeftOut]:
        """The delivered files that are not selected."""
        return [each for each in self.left_out if each.file.kind == DELIVERED]

    @property
    def author_left_out_records(self) -> bool:
        """Whether a filter of the DAG author excludes files that may contain the records."""
        if self.kinds is not None and DELIVERED not in self.kinds:
            return True
        return any(each.by_author and each.file.kind in (DELIVERED, EXTRACTED) for each in self.left_out)


def select(listed: Iterable[RunFile], kinds: Sequence[str] | None, patterns: Sequence[str]) -> Selection:
    """Select files by kind and by name.

    A file that is listed twice is selected once, if one of its entries is: both have the same id and so the same
    content, and its records would be duplicated.

    :param listed: the files of a run.
    :param kinds: the kinds to select, from ``parameters.FileKind``. ``None``: the delivered files.
    :param patterns: case-sensitive shell patterns (``*.csv``). A file is selected if its name matches any of them, or
        the last part of its name if that is a path.
    """
    chosen: dict[int, RunFile] = {}
    left_out: dict[int, LeftOut] = {}
    for file in sorted(listed, key=lambda each: each.id):
        if not _kinds_of(file) & set((DELIVERED,) if kinds is None else kinds):
            left_out.setdefault(file.id, LeftOut(file, "file_kinds", by_author=kinds is not None))
        elif not any(_matches(file.name or "", pattern) for pattern in patterns):
            left_out.setdefault(file.id, LeftOut(file, "file_patterns", by_author=True))
        else:
            chosen.setdefault(file.id, file)
    return Selection(list(chosen.values()), [each for number, each in left_out.items() if number not in chosen], kinds)


def _kinds_of(file: RunFile) -> set[str]:
    kind = file.kind
    # The API has no file type for screenshots, so an image is recognized by its name.
    is_image = kind != INTERNAL and (file.name or "").lower().endswith(_IMAGE_SUFFIXES)
    return {kind, SCREENSHOTS} if is_image else {kind}


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[2], pattern)


def why_incomplete(run: Run) -> str | None:
    """Return why the run's files may be incomplete; ``None`` if they are complete."""
    if phase_of(run).is_over:
        return None
    state = describe_run(run)
    return f"It is not known to have ended ({state}), so its files may be incomplete. Wait for its end first."


def why_removed(run: Run, listed: Collection[RunFile]) -> str | None:
    """Return why the run's files must have been removed; ``None`` if there are files, or there never were any."""
    if listed or not (records := _records_of(run)):
        return None
    return f"It extracted {counted(records, 'record')}, but has no files: they were removed, or never delivered."


def why_records_missing(run: Run, selection: Selection) -> str | None:
    """Return why no selected file contains the run's records; ``None`` if one may, or only other kinds are wanted."""
    records = _records_of(run)
    kinds = (DELIVERED,) if selection.kinds is None else selection.kinds
    if not records or {DELIVERED, EXTRACTED}.isdisjoint(kinds):
        return None
    if any(file.kind in (DELIVERED, EXTRACTED) for file in selection.chosen):
        return None
    return f"It extracted {counted(records, 'record')}, but no file that may contain them is selected. Its files: " + (
        listing([*selection.left_out, *selection.chosen]) or "none"
    )


def why_all_empty(run: Run, selection: Selection, sizes: Iterable[int | None]) -> str | None:
    """Return why empty files cannot contain the run's records; ``None`` if there is no contradiction.

    :param sizes: the sizes of the landed files in bytes.
    """
    records = _records_of(run)
    if not records or not selection.chosen or selection.author_left_out_records or any(sizes):
        return None
    return f"It extracted {counted(records, 'record')}, but all selected files are empty: " + listing(selection.chosen)


def listing(files: Sequence[RunFile | LeftOut]) -> str:
    """Return a list of files for a message: the first ones, and the number of others."""
    return comma_list(named(each) if isinstance(each, RunFile) else each for each in files)


def named(file: RunFile) -> str:
    """Return the name of a file in messages."""
    if not file.name:
        return f"file {file.id}"
    return repr(file.name if len(file.name) <= _MAX_NAME_LENGTH else f"{file.name[:_MAX_NAME_LENGTH]}...")


def _records_of(run: Run) -> int | None:
    return run.data_count or run.export_count
