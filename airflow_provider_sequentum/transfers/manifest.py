"""The manifest: a file beside the landed ones that says what they are.

It is written twice. Before the first file is fetched it is the *plan*: which files of which run are going to be landed,
and which of their names were taken already. Files take their name only when they are whole, so a retry that finds the
plan knows that a file which is there, and was not there before, is whole. After the last file it is *complete*, with
sizes, checksums and record counts.

Its fields are a contract, listed in ``docs/files-and-records.md``. When it is read, unknown fields are ignored and
absent ones have their defaults, so that manifests of earlier and later versions are understood.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_provider_sequentum.api.run_status import status_name

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.files import RunFile
    from airflow_provider_sequentum.api.runs import Run


class LandedFile(BaseModel):
    """One file: what the service says of it and, once it is landed, what was measured.

    :param name: its name in the folder.
    :param original_name: its name on the service, where that is another one.
    :param file_type: the service's code of what the file is.
    :param listed_size: bytes by the service's list; may be wrong or missing.
    :param size: bytes that were landed.
    :param sha256: their checksum.
    :param records: number of records; ``None`` where the format is not one that can be counted in passing.
    :param source_size: of a converted file, bytes of the file that it was made of.
    :param source_sha256: of a converted file, the checksum of the file that it was made of.
    """

    model_config = ConfigDict(frozen=True)

    file_id: int
    name: str
    original_name: str | None = None
    file_type: int | None = None
    listed_size: int | None = None
    created: datetime | None = None
    size: int | None = None
    sha256: str | None = None
    records: int | None = None
    source_size: int | None = None
    source_sha256: str | None = None

    @property
    def fetched_size(self) -> int | None:
        """Bytes that the service sent."""
        return self.size if self.source_sha256 is None else self.source_size

    def is_of(self, file: RunFile) -> bool:
        """Whether the entry is about this file, as the service lists it. A run restarted in place delivers others."""
        mine, theirs = self.created and self.created.timestamp(), file.created and file.created.timestamp()
        return (self.file_id, self.listed_size, mine) == (file.id, file.file_size, theirs)

    def is_same_file(self, other: LandedFile) -> bool:
        """Whether the service would hand out the same bytes. A run restarted in place delivers new files."""
        if self.source_sha256 is not None or other.source_sha256 is not None:
            return False
        mine, theirs = (
            (file.file_id, file.name, file.listed_size, file.created and file.created.timestamp())
            for file in (self, other)
        )
        return mine == theirs


class Form(BaseModel):
    """What files with records are converted to. The fields are the parameters of the transfer."""

    model_config = ConfigDict(frozen=True)

    file_format: Literal["parquet"] = "parquet"
    partition_by: list[str] = []
    record_schema: dict[str, str] = {}
    encoding: str | None = None
    delimiter: str | None = None


class Manifest(BaseModel):
    """What a transfer does to a folder.

    :param format: the version of these fields.
    :param is_complete: all files are landed and verified.
    :param run_records: records the run extracted, by the service's count.
    :param replaced: names that were taken in the folder before, by something that did not come from this transfer.
    :param unreadable: how many entries of the service's list of files could not be read. Their files may be missing.
    :param form: what files with records were converted to; ``None`` if all were landed as they are.
    :param without_records: files of the run that were converted and gave no file, since they hold no records.
    :param remove_method: how the run's files are removed from the service once all is verified; written before the
        removal, so that a retry which finds nothing on the service knows why.
    """

    format: Literal[1] = 1
    agent_id: int
    agent_name: str | None = None
    run_id: int
    run_status: str | None = None
    run_records: int | None = None
    is_complete: bool = False
    files: list[LandedFile] = []
    replaced: list[str] = []
    unreadable: int = 0
    form: Form | None = None
    without_records: list[LandedFile] = []
    remove_method: str | None = None

    @classmethod
    def parse(cls, content: bytes) -> Self | None:
        """Read a manifest; ``None`` if it is not one, so that nothing in the folder is trusted."""
        try:
            return cls.model_validate_json(content)
        except ValidationError:
            return None

    def to_json(self) -> bytes:
        """Return the manifest as the bytes of a file."""
        return (self.model_dump_json(indent=1) + "\n").encode()

    def is_of(self, agent_id: int, run_id: int) -> bool:
        """Whether the manifest belongs to that run."""
        return (self.agent_id, self.run_id) == (agent_id, run_id)

    def is_removed(self, listed: Collection[RunFile], wanted: Collection[RunFile]) -> bool:
        """Whether all files of the run are landed, and their removal from the service has started.

        Some may be left: a removal can end half-way, and the service's own files may outlive it. A file that is wanted
        and was not landed is one of a run that was restarted in place since.

        :param listed: the files that the service has of the run.
        :param wanted: those of them that are to be landed, or that must not be removed uncopied.
        """
        if not self.is_complete or self.remove_method is None:
            return False
        landed = {file.file_id: file for file in [*self.files, *self.without_records]}
        is_any_gone = not listed or not landed.keys() <= {file.id for file in listed}
        return is_any_gone and all(file.id in landed and landed[file.id].is_of(file) for file in wanted)

    @property
    def size(self) -> int:
        """Bytes landed."""
        return sum(file.size or 0 for file in self.files)

    @property
    def records(self) -> int | None:
        """Records landed; ``None`` unless every file's are known."""
        counts = [file.records for file in self.files]
        return None if None in counts else sum(count or 0 for count in counts)


def planned_file(file: RunFile, name: str) -> LandedFile:
    """Return the entry of a file that is going to be landed under ``name``, as it is or converted."""
    return LandedFile(
        file_id=file.id,
        name=name,
        original_name=None if file.name == name else file.name,
        file_type=None if file.file_type is None else int(file.file_type),
        listed_size=file.file_size,
        created=file.created,
    )


def plan(
    run: Run,
    files: list[LandedFile],
    previous: Manifest | None,
    present: Collection[str],
    form: Form | None = None,
) -> Manifest:
    """Return the plan of a transfer.

    Entries of files that an earlier attempt landed carry what was measured then. What is in the folder under a planned
    name and cannot be told to come from this run is listed as replaced: it is fetched, now and by the next attempt.

    :param files: the files to land; those that were converted with what was measured.
    :param previous: the manifest found in the folder, of whatever run.
    :param present: names that are taken in the folder.
    :param form: what files with records were converted to.
    """
    is_of_run = previous is not None and previous.is_of(run.agent_id, run.id)
    known = {file.name: file for file in previous.files} if previous and is_of_run else {}
    foreign = set(previous.replaced) if previous and not previous.is_complete else set()
    entries, replaced = [], []
    for file in files:
        before = known.get(file.name) if file.name in present and file.name not in foreign else None
        if before is not None and before.is_same_file(file):
            entries.append(before)
            continue
        entries.append(file)
        if file.name in present and (before is None or file.source_sha256 is None):
            replaced.append(file.name)
    return Manifest(
        agent_id=run.agent_id,
        agent_name=run.config_name,
        run_id=run.id,
        run_status=status_name(run.status),
        run_records=run.data_count,
        files=entries,
        replaced=replaced,
        form=form,
    )


def landed_before(planned: Manifest, present: Collection[str]) -> list[LandedFile]:
    """Return the entries whose files are in the folder already, whole: an earlier attempt landed them as they are."""
    return [
        file
        for file in planned.files
        if file.source_sha256 is None and file.name in present and file.name not in planned.replaced
    ]


def left_over(previous: Manifest, planned: Manifest, listed: Collection[int], present: Collection[str]) -> list[str]:
    """Return names of files of another run, or of this one before it was restarted, that stay in the folder.

    :param previous: the manifest found in the folder, of whatever run.
    :param listed: ids of the files that the service has of the run.
    :param present: names that are taken in the folder.
    """
    is_of_run = previous.is_of(planned.agent_id, planned.run_id)
    kept = {file.name for file in [*planned.files, *outdated(previous, planned, listed)]}
    files = [file for file in previous.files if not (is_of_run and file.file_id in listed)]
    return sorted({file.name for file in files if file.name in present} - kept)


def outdated(previous: Manifest | None, planned: Manifest, listed: Collection[int]) -> list[LandedFile]:
    """Return files that an earlier attempt landed of the same run in another form, and that the new ones replace.

    They are removed: a table that reads the folder would have their records twice. What another task has made of other
    files of the run stays.

    :param listed: ids of the files that the service has of the run. One that it has no more was replaced by a restart.
    """
    if previous is None or not previous.is_of(planned.agent_id, planned.run_id):
        return []
    entries = [*planned.files, *planned.without_records]
    names, landed = {file.name for file in planned.files}, {file.file_id for file in entries}
    converted = {file.file_id for file in entries if file.source_sha256}
    foreign = set() if previous.is_complete else set(previous.replaced)
    return [
        file
        for file in previous.files
        if (file.source_sha256 is not None or file.file_id in converted)
        and (file.file_id in landed or file.file_id not in listed)
        and file.name not in names | foreign
        and _is_below(file.name)
    ]


def _is_below(name: str) -> bool:
    """Whether a name that a manifest has stays in its folder."""
    return {"", ".", ".."}.isdisjoint(name.split("/"))
