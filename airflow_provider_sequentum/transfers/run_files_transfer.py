"""The transfer of a run's files: keeps landed files, fetches the others, verifies all and writes the manifest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar, cast

from airflow_provider_sequentum.api import SequentumClient, files, runs
from airflow_provider_sequentum.api.errors import HttpStatusError
from airflow_provider_sequentum.api.files import RunFile
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.exceptions import (
    RunFilesUnavailable,
    SequentumRequestRefused,
    SequentumSkipped,
    client_errors_as_exceptions,
)
from airflow_provider_sequentum.runs.describe import comma_list, counted
from airflow_provider_sequentum.runs.files import (
    Selection,
    listing,
    select,
    why_all_empty,
    why_incomplete,
    why_records_missing,
    why_removed,
)
from airflow_provider_sequentum.transfers.conversion import (
    Conversion,
    Converted,
    Fetched,
    converted_name,
    is_converted,
    is_kept,
    source_name,
)
from airflow_provider_sequentum.transfers.landing import (
    MANIFEST_NAME,
    Contents,
    LandingFolder,
    Progress,
    copy_all,
    landing_names,
)
from airflow_provider_sequentum.transfers.manifest import (
    LandedFile,
    Manifest,
    landed_before,
    left_over,
    outdated,
    plan,
    planned_file,
)
from airflow_provider_sequentum.transfers.measuring import Measure, Measuring

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath
    from airflow.sdk.types import Logger

    from airflow_provider_sequentum.api.choices import RemoveMethod
    from airflow_provider_sequentum.api.download import Destination
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.hooks.connection import SequentumConnection

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Landed:
    """The result of a transfer.

    :param folder: the destination.
    :param manifest: the complete manifest.
    :param fetched: the number of its files that this attempt fetched.
    :param origin: the scheme and host of the service from which the files came.
    """

    folder: ObjectStoragePath
    manifest: Manifest
    fetched: int
    origin: str

    @property
    def paths(self) -> list[str]:
        """The paths of the landed files."""
        folder = LandingFolder(self.folder)
        return [folder.where(file.name) for file in self.manifest.files]

    def summary(self) -> dict[str, Any]:
        """Return a summary for downstream tasks, as plain JSON values."""
        return {
            "agent_id": self.manifest.agent_id,
            "run_id": self.manifest.run_id,
            "manifest": str(self.folder / MANIFEST_NAME),
            "files": len(self.manifest.files),
            "fetched": self.fetched,
            "bytes": self.manifest.size,
            "records": self.manifest.records,
            "unreadable": self.manifest.unreadable,
        }


@dataclass(kw_only=True)
class RunFilesTransfer:
    """A transfer of one run's files to one folder.

    The other parameters are the parsed parameters of :class:`~.run_files.RunFilesToObjectStorageOperator`.

    :param file_kinds: the kinds that the DAG author set. ``None`` if unset, to tell a choice from the default.
    :param log: the log of the task.
    :param conversion: how files with records are converted; ``None`` if they are landed unchanged.
    """

    hook: SequentumConnection
    agent_id: int
    run_id: int
    folder: LandingFolder
    file_kinds: Sequence[str] | None
    file_patterns: Sequence[str]
    skip_on_empty: bool
    max_parallel_files: int
    remove_method: str | None
    log: Logger
    conversion: Conversion | None = None
    progress: Progress = field(default_factory=Progress)

    def transfer(self) -> Landed:
        """Land the files and, if requested, remove them from the service.

        :raises RunFilesUnavailable: the run has not ended, a file could not be written, or a landed file differs from
            what was fetched.
        :raises SequentumRequestRefused: the run or its files no longer exist, or no file with its records is selected.
        :raises SequentumSkipped: no file is selected, and the task is to be skipped in this case.
        """
        if self.conversion is not None:
            self.conversion.check_installed([])
        contents = self.folder.contents()
        previous = self._manifest_in(contents)
        run = self._run()
        if run is not None and (reason := why_incomplete(run)):
            raise RunFilesUnavailable(f"Run {run.id} of agent {run.agent_id}: {reason} Nothing was copied.")
        listed = self._listed() if run is not None else Page[RunFile]([])
        selection = select(listed, self.file_kinds, self.file_patterns)
        if previous is not None and previous.is_of(self.agent_id, self.run_id):
            wanted = [*selection.chosen, *(each.file for each in selection.delivered_left_out)]
            if previous.is_removed(listed, wanted):
                return self._landed_before_removal(previous, run, listed, selection)
        if run is None:
            raise self._refused(
                "The service does not know the run. It may have been deleted, or the connection leads to another "
                "service. Check the ids and the base URL. Nothing was copied."
            )
        if reason := why_removed(run, listed):
            raise self._refused(reason)
        self._check_selection(run, selection, listed.left_out)
        found = f"Run {run.id} has {counted(len(listed), 'file')}"
        self.log.info("%s; copying %d to %s.", found, len(selection.chosen), self.folder.path)
        return self._land(run, selection, previous, contents, listed.left_out)

    # Looking up

    def _manifest_in(self, contents: Contents) -> Manifest | None:
        return Manifest.parse(self.folder.read(MANIFEST_NAME)) if MANIFEST_NAME in contents.sizes else None

    def _run(self) -> Run | None:
        with client_errors_as_exceptions(self.hook.sequentum_conn_id):
            try:
                return self.hook.client.send(runs.status(self.agent_id, self.run_id))
            except HttpStatusError as error:
                if error.status_code != 404:
                    raise
                return None

    def _listed(self) -> Page[RunFile]:
        return self.hook.send(files.list_files(self.agent_id, self.run_id))

    def _landed_before_removal(
        self, manifest: Manifest, run: Run | None, listed: Page[RunFile], selection: Selection
    ) -> Landed:
        sizes = self.folder.sizes_below()
        for file in manifest.files:
            if not self._is_unchanged(file, sizes):
                raise RunFilesUnavailable(
                    f"{self.folder.path / file.name} differs from what an earlier attempt landed, and the run's files "
                    f"were removed from the service{'' if run else ' with the run'}: it cannot be fetched again."
                )
        self.log.info("An earlier attempt landed the run's files and removed them from the service.")
        if (selection.chosen or selection.delivered_left_out) and not listed.left_out:
            self.log.info("Some of them are still on the service.")
            self._remove(selection)
        return self._landed(manifest, 0)

    # Checking

    def _check_selection(self, run: Run, selection: Selection, unreadable: int) -> None:
        """Check that no file is left out silently.

        :param unreadable: the number of entries in the service's list that could not be read.
        """
        if unreadable:
            lost = f"The list of the run's files has {counted(unreadable, 'unreadable entry', 'unreadable entries')}."
            if self.remove_method is not None:
                raise self._refused(f"{lost} remove_method would remove the files uncopied. Nothing was copied.")
            self.log.warning("%s Files with such entries are not copied.", lost)
        if self.remove_method is not None and (left_out := selection.delivered_left_out):
            raise self._refused(
                f"remove_method would remove delivered files that are not copied: {listing(left_out)}. Copy them too, "
                "or omit remove_method. Nothing was copied and nothing was removed."
            )
        if self.skip_on_empty and not selection.chosen and not unreadable:
            its_files = listing(selection.left_out) or "none"
            raise SequentumSkipped(
                f"No file of run {run.id} of agent {run.agent_id} is selected, so nothing was copied "
                f"(skip_on_empty=True). Its files: {its_files}"
            )
        if reason := why_records_missing(run, selection):
            raise self._refused(
                f"{reason}. Set file_kinds and file_patterns so that they select it. For a task that copies none of "
                "the records, set file_kinds to other kinds, such as logs. Nothing was copied."
            )
        if selection.left_out:
            level = self.log.info if selection.chosen else self.log.warning
            level("%s not copied: %s", counted(len(selection.left_out), "file"), listing(selection.left_out))

    def _check_names(self, names: list[str], contents: Contents) -> None:
        if taken := sorted(contents.folders.intersection([MANIFEST_NAME, *names])):
            raise RunFilesUnavailable(
                f"{self.folder.path / taken[0]} is a folder, but a file of that name has to be written. Nothing was "
                "copied. Remove the folder, or choose another destination."
            )

    def _check_alone(self, planned: Manifest, previous: Manifest | None) -> None:
        """Check that no other run is being landed under the same names: the files of the two could not be told apart.

        :param previous: the manifest of another run, whose files may be replaced.
        """
        found = self._manifest_in(self.folder.contents())
        if found is None or found == previous or found.is_of(self.agent_id, self.run_id):
            return
        if shared := sorted({file.name for file in found.files} & {file.name for file in planned.files}):
            raise self._refused(
                f"Run {found.run_id} of agent {found.agent_id} was landed in {self.folder.path} at the same time, so "
                f"that {comma_list(map(repr, shared))} may belong to either run. Use a separate folder for each "
                "run, then clear both tasks."
            )

    # Landing

    def _land(
        self, run: Run, selection: Selection, previous: Manifest | None, contents: Contents, unreadable: int
    ) -> Landed:
        # The file with the column types may be in the same folder.
        beside = None if self.conversion is None else self.folder.name_here(self.conversion.types_file.path)
        names = landing_names([self._wanted_name(file) for file in selection.chosen], [beside] if beside else [])
        self._check_names(names, contents)
        chosen = dict(zip(names, selection.chosen, strict=True))
        with TemporaryDirectory(prefix="sequentum-landing-") as work:
            converted = self._convert(Path(work), run, selection, chosen, previous)
            return self._publish(run, selection, chosen, converted, previous, contents, unreadable)

    def _convert(
        self, work: Path, run: Run, selection: Selection, chosen: dict[str, RunFile], previous: Manifest | None
    ) -> Converted:
        """Download the files with records to this machine and convert them, so that a failure publishes nothing."""
        wanted = [(file, planned_file(file, name)) for name, file in chosen.items() if self._is_converted(file)]
        if self.conversion is None or not wanted:
            return Converted()
        own = previous if previous is not None and previous.is_of(self.agent_id, self.run_id) else None
        if own is not None and is_kept(own, [entry for _, entry in wanted], self.conversion.form):
            files = [file for file in own.files if file.source_sha256 is not None]
            sizes = self.folder.sizes_below()
            if all(self._is_unchanged(file, sizes) for file in files):
                self.log.info("%d converted files have already been landed and are complete.", len(files))
                return Converted({file.name: (file, None) for file in files}, own.without_records)
        self.conversion.check_installed([source_name(entry) for _, entry in wanted])
        paths = {entry.name: work / f"fetched-{number}" for number, (_, entry) in enumerate(wanted)}
        measures = self._fetch(wanted, lambda entry: paths[entry.name].open("wb"))
        fetched = [
            Fetched(entry, paths[entry.name], measure) for (_, entry), measure in zip(wanted, measures, strict=True)
        ]
        left = [file.file_size for file in chosen.values() if not self._is_converted(file)]
        if reason := why_all_empty(run, selection, [*(measure.size for measure in measures), *left]):
            raise RunFilesUnavailable(
                f"Run {run.id} of agent {run.agent_id}: {reason}. They may not have been written in full yet. Nothing "
                "was published; a retry fetches the files again."
            )
        return self.conversion.convert(
            self.agent_id, self.run_id, fetched, work, lambda: self.progress.sleep(0), self.log
        )

    def _publish(
        self,
        run: Run,
        selection: Selection,
        chosen: dict[str, RunFile],
        converted: Converted,
        previous: Manifest | None,
        contents: Contents,
        unreadable: int,
    ) -> Landed:
        sizes = self.folder.sizes_below() if self._has_folders(previous) else contents.sizes
        entries = [
            entry
            for name, file in chosen.items()
            for entry in (converted.entries_of(file.id) if self._is_converted(file) else [planned_file(file, name)])
        ]
        form = None if self.conversion is None else self.conversion.form
        planned = plan(run, entries, previous, contents.replaceable | sizes.keys(), form)
        planned = planned.model_copy(
            update={"without_records": list(converted.without_records), "unreadable": unreadable}
        )
        self._check_alone(planned, previous)
        listed = {file.id for file in [*selection.chosen, *(each.file for each in selection.left_out)]}
        self._log_surprises(planned, previous, listed, sizes)
        self._store_types(converted)
        old = outdated(previous, planned, listed)
        # Listed until they are removed, so that a retry removes them if this attempt is killed before.
        self._write_manifest(planned.model_copy(update={"files": [*planned.files, *old]}))
        for file in old:
            self.folder.remove(file.name)
        kept = self._verified_before(planned, sizes)
        missing = [file for file in planned.files if file.source_sha256 is None and file.name not in kept]
        fetched = self._fetch([(chosen[file.name], file) for file in missing], self._target)
        measured = {**kept, **dict(zip((file.name for file in missing), fetched, strict=True))}
        uploaded = self._upload(converted)
        manifest = planned.model_copy(
            update={
                "files": [
                    file.model_copy(update=measured[file.name]._asdict()) if file.name in measured else file
                    for file in planned.files
                ],
                "is_complete": True,
                "remove_method": self.remove_method,
            }
        )
        self._verify(manifest, read_again={*uploaded, *(file.name for file in missing)})
        self._check_bytes(run, selection, manifest)
        self._check_alone(planned, None)
        self._store_types(converted)  # again, because another run may have replaced them at the same time
        self._write_manifest(manifest)
        records = "" if manifest.records is None else f" with {counted(manifest.records, 'record')}"
        self.log.info("Landed %s%s in %s.", counted(len(manifest.files), "file"), records, self.folder.path)
        self._remove(selection)
        return self._landed(manifest, len(missing) + len(uploaded))

    def _is_converted(self, file: RunFile) -> bool:
        return self.conversion is not None and is_converted(file)

    def _wanted_name(self, file: RunFile) -> str | None:
        return converted_name(file.name or "") if self._is_converted(file) else file.name

    def _is_unchanged(self, file: LandedFile, sizes: Mapping[str, int]) -> bool:
        """Whether a file is in the folder as an earlier attempt landed it."""
        return sizes.get(file.name) == file.size and _holds(file, self.folder.measure(file.name))

    def _has_folders(self, previous: Manifest | None) -> bool:
        """Whether some of the files may be in partition folders."""
        return self.conversion is not None or (previous is not None and previous.form is not None)

    def _target(self, entry: LandedFile) -> AbstractContextManager[Destination]:
        return self.folder.write(entry.name, entry.listed_size)

    def _upload(self, converted: Converted) -> list[str]:
        files = [(name, path) for name, (_, path) in converted.files.items() if path is not None]
        if files:
            self.log.info("Publishing %s.", counted(len(files), "converted file"))
            self._copy_all(files, lambda file: self.folder.upload(*file, self.progress))
        return [name for name, _ in files]

    def _store_types(self, converted: Converted) -> None:
        if self.conversion is not None and converted.types:
            self.conversion.types_file.write(self.agent_id, self.run_id, converted.before, converted.types)

    def _log_surprises(
        self, planned: Manifest, previous: Manifest | None, listed: Collection[int], sizes: Mapping[str, int]
    ) -> None:
        for what, of_converted in (("Converting", True), ("Landing under another name", False)):
            renamed = [
                f"{file.original_name!r:.100} as {file.name}"
                for file in planned.files
                if file.original_name and (file.source_sha256 is not None) is of_converted
            ]
            if renamed:
                self.log.info("%s: %s", what, comma_list(renamed))
        if planned.replaced:
            replaced = counted(len(planned.replaced), "file")
            self.log.warning("Replacing %s of unknown or other origin in %s.", replaced, self.folder.path)
        if previous is not None and (left := left_over(previous, planned, listed, sizes)):
            self.log.warning(
                "Run %s left %s in %s that this transfer does not replace: %s",
                previous.run_id,
                counted(len(left), "file"),
                self.folder.path,
                comma_list(left),
            )

    def _verified_before(self, planned: Manifest, sizes: Mapping[str, int]) -> dict[str, Measure]:
        kept = {}
        for file in landed_before(planned, sizes):
            measure = self.folder.measure(file.name)
            # A plan has no checksums yet, so the size in the service's list is compared. If the list is wrong, the file
            # is fetched again.
            is_whole = file.listed_size in (None, measure.size) if file.sha256 is None else _holds(file, measure)
            if is_whole:
                kept[file.name] = measure
        if kept:
            self.log.info("Already landed and complete, so not fetched again: %s.", counted(len(kept), "file"))
        return kept

    def _fetch(
        self,
        wanted: list[tuple[RunFile, LandedFile]],
        target: Callable[[LandedFile], AbstractContextManager[Destination]],
    ) -> list[Measure]:
        """Fetch files, and write each to the stream that ``target`` opens for it."""
        if not wanted:
            return []
        self.progress.expect(len(wanted), sum(file.file_size or 0 for file, _ in wanted))
        # A separate client, whose sleep ends when the task is killed.
        with SequentumClient(self.hook.settings, sleep=self.progress.sleep) as client:
            measures = self._copy_all(wanted, lambda item: self._fetch_one(client, *item, target(item[1])))
        self.log.info("Fetched %s.", self.progress)
        return measures

    def _copy_all(self, items: Sequence[T], copy: Callable[[T], R]) -> list[R]:
        workers = min(self.max_parallel_files, len(items))
        return copy_all(items, copy, workers, self.progress, lambda progress: self.log.info("%s", progress))

    def _fetch_one(
        self,
        client: SequentumClient,
        file: RunFile,
        entry: LandedFile,
        target: AbstractContextManager[Destination],
    ) -> Measure:
        with (
            client_errors_as_exceptions(self.hook.sequentum_conn_id),
            target as stream,
            Measuring(entry.name) as measuring,
        ):
            client.download(
                agent_id=self.agent_id,
                run_id=self.run_id,
                file=file,
                destination=_Copy(stream, measuring, self.progress),
            )
            if entry.listed_size and not measuring.size:
                raise RunFilesUnavailable(
                    f"The service lists {entry.listed_size} bytes of {file.name!r} of run {self.run_id}, but sent "
                    f"none. Nothing was written to {self.folder.path / entry.name}. A retry fetches it again."
                )
        self.progress.finished()
        return measuring.result()

    # Finishing

    def _verify(self, manifest: Manifest, read_again: set[str]) -> None:
        """Compare the storage with what was fetched: the sizes, and the bytes too if the originals will be removed."""
        sizes = self.folder.sizes_below() if manifest.form is not None else self.folder.contents().sizes
        for file in manifest.files:
            if sizes.get(file.name) != file.size:
                raise self._discard(file, f"its size in the storage is {sizes.get(file.name)}, not {file.size} bytes")
            if manifest.remove_method is None:
                continue
            if file.listed_size is not None and file.listed_size != file.fetched_size:
                raise RunFilesUnavailable(
                    f"The service lists {file.listed_size} bytes of {file.name!r}, but sent {file.fetched_size}. "
                    "The files have been landed, but because of the difference, none was removed from the service."
                )
            if file.name in read_again and not _holds(file, self.folder.measure(file.name)):
                raise self._discard(file, "the storage returns different bytes than were written")

    def _check_bytes(self, run: Run, selection: Selection, manifest: Manifest) -> None:
        if reason := why_all_empty(run, selection, (file.fetched_size for file in manifest.files)):
            for file in manifest.files:
                # The next attempt would consider them complete.
                self.folder.remove(file.name)
            raise RunFilesUnavailable(
                f"Run {run.id} of agent {run.agent_id}: {reason}. They may not have been written in full yet. The "
                "empty copies have been removed; a retry fetches the files again."
            )
        if empty := [file.name for file in manifest.files if not file.size]:
            self.log.warning("Empty, as on the service: %s", comma_list(empty))

    def _write_manifest(self, manifest: Manifest) -> None:
        with self.folder.write(MANIFEST_NAME) as stream:
            stream.write(manifest.to_json())

    def _remove(self, selection: Selection) -> None:
        method = self.remove_method
        if method is None:
            return
        if selection.left_out:
            self.log.warning("Removing files that were not copied: %s", listing(selection.left_out))
        with client_errors_as_exceptions(self.hook.sequentum_conn_id):
            try:
                self.hook.client.send(runs.delete(self.agent_id, self.run_id, cast("RemoveMethod", method)))
            except HttpStatusError as error:
                if error.status_code != 404:
                    raise
                self._check_removed(error)
        self.log.info("Removed from the service with %s: run %s of agent %s.", method, self.run_id, self.agent_id)

    def _check_removed(self, error: HttpStatusError) -> None:
        """Find out whether a 404 response to a removal means that nothing was left, or that the run was not reached."""
        if self._run() is None or not self._listed():
            self.log.info("There was nothing left to remove. (%s)", error)
            return
        raise RunFilesUnavailable(
            f"The service answered 404 to the removal of run {self.run_id} of agent {self.agent_id}, but still has "
            "its files. They have been landed; a retry removes them."
        ) from error

    def _landed(self, manifest: Manifest, fetched: int) -> Landed:
        return Landed(self.folder.path, manifest, fetched, self.hook.settings.origin)

    def _refused(self, reason: str) -> SequentumRequestRefused:
        return SequentumRequestRefused(
            f"The files of run {self.run_id} of agent {self.agent_id} cannot be landed. {reason} "
            f"(connection {self.hook.sequentum_conn_id!r})"
        )

    def _discard(self, file: LandedFile, reason: str) -> RunFilesUnavailable:
        """Remove a wrong file, so that the next attempt fetches it again, and return the error to raise."""
        self.folder.remove(file.name)
        return RunFilesUnavailable(
            f"{self.folder.path / file.name} failed verification: {reason}. It has been removed from the storage. "
            "It is still on the service. A retry fetches it again."
        )


class _Copy:
    """Passes the bytes of a download to the storage and the measurement, and their number to the progress."""

    def __init__(self, stream: Destination, measuring: Measuring, progress: Progress) -> None:
        self._write = stream.write
        self._measuring = measuring
        self.progress = progress

    def write(self, data: bytes, /) -> None:
        self.progress.moved(len(data))
        self._write(data)
        self._measuring.write(data)


def _holds(file: LandedFile, measure: Measure) -> bool:
    # The number of records is not compared: another version of this package may count them differently.
    return (file.size, file.sha256) == (measure.size, measure.sha256)
