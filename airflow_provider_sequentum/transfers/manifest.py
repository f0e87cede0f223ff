"""The manifest: a file next to the landed files that describes them.

It is written twice. Before the first file is fetched, it is the *plan*: which files of which run will be landed, and
which of their names were already taken. A file gets its name only when it is complete, so a retry that finds the plan
knows that a file which exists now, but did not before, is complete. After the last file, the manifest is *complete*,
with sizes, checksums and record counts.

Its fields are a public contract, listed in ``docs/files-and-records.md``. When it is read, unknown fields are ignored
and missing ones have their defaults, so that manifests of earlier and later versions can be read.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from airflow_provider_sequentum.api.run_status import status_name

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.files import RunFile
    from airflow_provider_sequentum.api.runs import Run


def _inside(name: str) -> str:
    folders = name.split("/")[:-1]
    if not {"", ".", ".."}.isdisjoint(name.split("/")) or any(each.endswith(":") for each in folders):
        raise ValueError("must be inside the folder")
    return name


class LandedFile(BaseModel):
    """One file: what the service lists and, once the file is landed, what was measured.

    :param name: the name in the folder. A manifest with a name that leads out of it is not valid.
    :param original_name: the name on the service, if it differs.
    :param file_type: the service's code for the type of the file.
    :param listed_size: the size in bytes according to the service's list. It may be wrong or missing.
    :param size: the landed size in bytes.
    :param sha256: the checksum of the landed file.
    :param records: the number of records; ``None`` if they cannot be counted while the file is streamed.
    :param source_size: for a converted file, the size in bytes of the file from which it was made.
    :param source_sha256: for a converted file, the checksum of the file from which it was made.
    """

    model_config = ConfigDict(frozen=True)

    file_id: int
    name: Annotated[str, AfterValidator(_inside)]
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
        """The number of bytes that the service sent."""
        return self.size if self.source_sha256 is None else self.source_size

    def is_of(self, file: RunFile) -> bool:
        """Whether the entry is for this file, as the service lists it. A run restarted in place has new files."""
        return (self.file_id, self.listed_size, self.created) == (file.id, file.file_size, file.created)

    def is_same_file(self, other: LandedFile) -> bool:
        """Whether the service would send the same bytes. A run restarted in place delivers new files."""
        if self.source_sha256 is not None or other.source_sha256 is not None:
            return False
        mine, theirs = ((file.file_id, file.name, file.listed_size, file.created) for file in (self, other))
        return mine == theirs


class Form(BaseModel):
    """The form that files with records are converted to. The fields are parameters of the transfer."""

    model_config = ConfigDict(frozen=True)

    file_format: Literal["parquet"] = "parquet"
    partition_by: list[str] = []
    record_schema: dict[str, str] = {}
    encoding: str | None = None
    delimiter: str | None = None


class Manifest(BaseModel):
    """The plan or the result of a transfer to a folder.

    :param format: the version of the file format.
    :param is_complete: whether all files are landed and verified.
    :param run_records: the number of records that the run extracted, as counted by the service.
    :param replaced: names that were already taken in the folder by something that is not from this transfer.
    :param unreadable: the number of entries in the service's list of files that could not be read. Their files may be
        missing.
    :param form: the form that files with records were converted to; ``None`` if all files were landed unchanged.
    :param without_records: files of the run that were to be converted but have no records, so that there is no file.
    :param remove_method: how the run's files are removed from the service after verification. It is written before the
        removal, so that a retry which finds no files on the service knows why.
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
        """Read a manifest. Return ``None`` if the content is not valid; then no file in the folder is trusted."""
        try:
            return cls.model_validate_json(content)
        except ValidationError:
            return None

    def to_json(self) -> bytes:
        """Return the manifest as the content of a file."""
        return (self.model_dump_json(indent=1) + "\n").encode()

    def is_of(self, agent_id: int, run_id: int) -> bool:
        """Whether the manifest belongs to the given run."""
        return (self.agent_id, self.run_id) == (agent_id, run_id)

    def has(self, file: RunFile) -> bool:
        """Whether an entry is for this file, as the service lists it."""
        return any(entry.is_of(file) for entry in [*self.files, *self.without_records])

    def is_removed(self, listed: Collection[RunFile], wanted: Collection[RunFile]) -> bool:
        """Whether all files of the run are landed, and their removal from the service has started.

        Some files may be left, because a removal can end halfway and may not include files of the service itself. A
        wanted file that was not landed means that the run has since been restarted in place.

        :param listed: the files of the run that the service lists.
        :param wanted: those of them that are to be landed, or that must not be removed without being copied.
        """
        if not self.is_complete or self.remove_method is None:
            return False
        landed = {file.file_id for file in [*self.files, *self.without_records]}
        is_any_gone = not listed or not landed <= {file.id for file in listed}
        return is_any_gone and all(map(self.has, wanted))

    @property
    def size(self) -> int:
        """The number of landed bytes."""
        return sum(file.size or 0 for file in self.files)

    @property
    def records(self) -> int | None:
        """The number of landed records; ``None`` unless it is known for every file."""
        counts = [file.records for file in self.files]
        return None if None in counts else sum(count or 0 for count in counts)


def planned_file(file: RunFile, name: str) -> LandedFile:
    """Return the entry of a file that will be landed as ``name``, unchanged or converted."""
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

    Entries of files that an earlier attempt landed keep the measurements of that attempt. If the folder has a file
    under a planned name that is not known to come from this run, the name is listed as replaced: this attempt fetches
    the file, and so does the next one.

    :param files: the files to land. Converted files include their measurements.
    :param previous: the manifest found in the folder, from any run.
    :param present: the names that are taken in the folder.
    :param form: the form that files with records were converted to.
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
    """Return the entries of files that an earlier attempt landed unchanged and that are in the folder, complete."""
    return [
        file
        for file in planned.files
        if file.source_sha256 is None and file.name in present and file.name not in planned.replaced
    ]


def left_over(previous: Manifest, planned: Manifest, listed: Collection[int], present: Collection[str]) -> list[str]:
    """Return the names of files that stay in the folder from another run, or from this run before it was restarted.

    :param previous: the manifest found in the folder, from any run.
    :param listed: the ids of the files of the run that the service lists.
    :param present: the names that are taken in the folder.
    """
    is_of_run = previous.is_of(planned.agent_id, planned.run_id)
    kept = {file.name for file in [*planned.files, *outdated(previous, planned, listed)]}
    files = [file for file in previous.files if not (is_of_run and file.file_id in listed)]
    return sorted({file.name for file in files if file.name in present} - kept)


def outdated(previous: Manifest | None, planned: Manifest, listed: Collection[int]) -> list[LandedFile]:
    """Return the files of the same run that an earlier attempt landed in another form and that the new files replace.

    They are removed, because a table that reads the folder would otherwise contain their records twice. Files that
    another task has made from other files of the run stay.

    :param listed: the ids of the files of the run that the service lists. A file that is no longer listed was replaced
        when the run was restarted.
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
    ]
