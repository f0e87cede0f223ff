"""One transfer of a run's files: what is there is kept, the rest is fetched, all of it verified, then written down."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_sequentum.api import SequentumClient, files, runs
from airflow_provider_sequentum.api.errors import NotFound
from airflow_provider_sequentum.exceptions import RunFilesUnavailable, SequentumRequestRefused
from airflow_provider_sequentum.hooks.errors import errors_as_airflow_exceptions
from airflow_provider_sequentum.lifecycle.file_selection import Selection, select, why_incomplete, why_removed
from airflow_provider_sequentum.transfers.contents import Measure, Measuring, MeasuringBeside
from airflow_provider_sequentum.transfers.copying import Progress, copy_all
from airflow_provider_sequentum.transfers.landing import OBJECT_STORES, Writable, landing
from airflow_provider_sequentum.transfers.manifest import (
    LandedFile,
    Manifest,
    landed_before,
    left_over,
    plan,
    planned_file,
)
from airflow_provider_sequentum.transfers.names import MANIFEST_NAME, landing_names, unfinished_of
from airflow_provider_sequentum.transfers.storage_errors import storage_errors

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath
    from airflow.sdk.types import Logger

    from airflow_provider_sequentum.api.files import RunFile
    from airflow_provider_sequentum.api.runs import RemoveMethod, Run
    from airflow_provider_sequentum.hooks.sequentum import SequentumHook

READ_SIZE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions:
    """What to land, and how: the parameters of :class:`~.run_files.RunFilesToObjectStorageOperator` by these names."""

    file_kinds: Sequence[str]
    file_patterns: Sequence[str]
    max_parallel_files: int
    remove_method: str | None


@dataclass(frozen=True, slots=True)
class Landed:
    """
    What a transfer brought about.

    :param folder: the destination.
    :param manifest: the complete manifest.
    :param fetched: how many of its files were fetched by this try.
    :param origin: the service they came from: scheme and host.
    """

    folder: ObjectStoragePath
    manifest: Manifest
    fetched: int
    origin: str

    @property
    def paths(self) -> list[str]:
        """Where the files are."""
        return [str(self.folder / file.name) for file in self.manifest.files]

    def summary(self) -> dict[str, Any]:
        """Return what a downstream task may want to know, as plain JSON values."""
        return {
            "agent_id": self.manifest.agent_id,
            "run_id": self.manifest.run_id,
            "manifest": str(self.folder / MANIFEST_NAME),
            "files": len(self.manifest.files),
            "fetched": self.fetched,
            "bytes": self.manifest.size,
            "records": self.manifest.records,
        }


@dataclass(frozen=True, slots=True)
class _Found:
    """What is at the destination before the transfer: files with their sizes, and the manifest among them."""

    sizes: dict[str, int]
    manifest: Manifest | None


class RunFilesTransfer:
    """
    A transfer of one run's files to one folder.

    :param hook: the connection.
    :param agent_id: the agent.
    :param run_id: the run.
    :param folder: the destination.
    :param options: what to land, and how.
    :param log: the task's log.
    """

    def __init__(
        self,
        hook: SequentumHook,
        agent_id: int,
        run_id: int,
        folder: ObjectStoragePath,
        options: TransferOptions,
        log: Logger,
    ) -> None:
        self._hook = hook
        self._agent_id, self._run_id = agent_id, run_id
        self._folder = folder
        self._options = options
        self._log = log
        self._progress = Progress()

    def stop(self) -> None:
        """Abandon the copies under way. Safe in a signal handler."""
        self._progress.stop()

    def carry_out(self) -> Landed:
        """
        Land the files and, if that was asked for, remove them from the service.

        :raises RunFilesUnavailable: the run is still going, a file could not be written, or is not what was fetched.
        :raises SequentumRequestRefused: the run's files are gone.
        """
        there = self._look_at_folder()
        run = self._run()
        listed = self._listed() if run is not None else []
        if run is None or not listed:
            landed = self._landed_and_removed_before(there, run)
            if landed is not None:
                return landed
        if run is None:
            why = (
                "It may have been deleted, or the connection leads to another service. Check the ids and the base URL."
            )
            raise self._refused(f"The service doesn't know the run. {why} Nothing was copied.")
        self._check_run(run, listed)
        selection = select(listed, self._options.file_kinds, self._options.file_patterns)
        self._check_removal(selection)
        self._log.info("Run %s left %d files; %d of them are wanted.", run.id, len(listed), len(selection.chosen))
        return self._land(run, selection, there)

    # Looking

    def _look_at_folder(self) -> _Found:
        with self._storage_errors("look into"):
            if self._folder.protocol not in OBJECT_STORES:
                self._folder.mkdir(parents=True, exist_ok=True)
            sizes = self._sizes()
            has_manifest = MANIFEST_NAME in sizes
            content = (self._folder / MANIFEST_NAME).read_bytes() if has_manifest else b""
        return _Found(sizes, Manifest.parse(content))

    def _sizes(self) -> dict[str, int]:
        file_system = self._folder.fs
        file_system.invalidate_cache(self._folder.path)
        try:
            entries = file_system.ls(self._folder.path, detail=True)
        except FileNotFoundError:  # what an object store says of a folder without files
            return {}
        return {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries if entry["type"] == "file"}

    def _run(self) -> Run | None:
        with errors_as_airflow_exceptions(self._hook.sequentum_conn_id):
            try:
                return self._hook.client.send(runs.status(self._agent_id, self._run_id))
            except NotFound:
                return None

    def _listed(self) -> list[RunFile]:
        return self._hook.send(files.list_files(self._agent_id, self._run_id))

    # Checking

    def _check_run(self, run: Run, listed: list[RunFile]) -> None:
        if reason := why_incomplete(run):
            raise RunFilesUnavailable(f"Run {run.id} of agent {run.agent_id}: {reason} Nothing was copied.")
        if reason := why_removed(run, listed):
            raise self._refused(reason)

    def _check_removal(self, selection: Selection) -> None:
        if self._options.remove_method is not None and selection.delivered_left_out:
            names = ", ".join(repr(name) for name in selection.delivered_left_out[:5])
            raise self._refused(
                f"remove_method would remove delivered files that were not to be copied: {names}. Copy them too, or "
                "leave remove_method out. Nothing was copied and nothing removed."
            )

    def _landed_and_removed_before(self, there: _Found, run: Run | None) -> Landed | None:
        """Return what an earlier try landed, if it was interrupted after it had removed the files from the service."""
        manifest = there.manifest
        if (
            manifest is None
            or not manifest.is_complete
            or manifest.remove_method is None
            or (manifest.agent_id, manifest.run_id) != (self._agent_id, self._run_id)
        ):
            return None
        for file in manifest.files:
            if there.sizes.get(file.name) != file.size or self._measure(file.name) != _measure_of(file):
                raise RunFilesUnavailable(
                    f"{self._folder / file.name} is not what an earlier try landed, and the run's files were removed "
                    f"from the service{'' if run else ' with the run'}: it can't be fetched again."
                )
        self._log.info("An earlier try landed %d files and removed them from the service.", len(manifest.files))
        return self._landed(manifest, 0)

    # Landing

    def _land(self, run: Run, selection: Selection, there: _Found) -> Landed:
        names = landing_names([file.name for file in selection.chosen])
        chosen = dict(zip(names, selection.chosen, strict=True))
        planned = plan(run, [planned_file(file, name) for name, file in chosen.items()], there.manifest, there.sizes)
        self._say_what_is_there(planned, there)
        self._sweep(unfinished_of([MANIFEST_NAME, *chosen], there.sizes))
        self._write_manifest(planned)
        kept = self._verified_before(planned, there)
        missing = [file for file in planned.files if file.name not in kept]
        fetched = self._fetch([(chosen[file.name], file) for file in missing])
        measured = {**kept, **dict(zip((file.name for file in missing), fetched, strict=True))}
        manifest = planned.model_copy(
            update={
                "files": [_measured(file, measured[file.name]) for file in planned.files],
                "is_complete": True,
                "remove_method": self._options.remove_method,
            }
        )
        self._verify(manifest, read_again={file.name for file in missing})
        if empty := [file.name for file in manifest.files if not file.size]:
            self._log.warning("%d files are empty, as they are on the service: %s", len(empty), ", ".join(empty[:5]))
        self._write_manifest(manifest)
        self._remove()
        return self._landed(manifest, len(missing))

    def _say_what_is_there(self, planned: Manifest, there: _Found) -> None:
        if planned.replaced:
            self._log.warning(
                "Replacing %d files in %s of unknown or other origin.", len(planned.replaced), self._folder
            )
        if names := left_over(there.manifest, planned):
            self._log.warning(
                "Run %s left %d files in %s that this run doesn't replace: %s",
                there.manifest and there.manifest.run_id,
                len(names),
                self._folder,
                ", ".join(names[:5]),
            )

    def _sweep(self, unfinished: list[str]) -> None:
        """Remove what a killed try left half-written. A try that still writes it fails, and this one takes over."""
        with self._storage_errors("tidy up"):
            for name in unfinished:
                (self._folder / name).unlink(missing_ok=True)

    def _verified_before(self, planned: Manifest, there: _Found) -> dict[str, Measure]:
        kept = {}
        for file in landed_before(planned, there.sizes):
            measure = self._measure(file.name)
            if file.sha256 is None or measure == _measure_of(file):
                kept[file.name] = measure
        if kept:
            self._log.info("%d files are there already, whole; they are not fetched again.", len(kept))
        return kept

    def _fetch(self, wanted: list[tuple[RunFile, LandedFile]]) -> list[Measure]:
        if not wanted:
            return []
        self._progress.expect(len(wanted), sum(file.file_size or 0 for file, _ in wanted))
        workers = min(self._options.max_parallel_files, len(wanted))
        with (
            # A client of its own: it has to stop sleeping when the task is killed.
            SequentumClient(self._hook.settings, sleep=self._progress.sleep) as client,
            ThreadPoolExecutor(workers, thread_name_prefix="measuring") as threads,
        ):
            measures = copy_all(
                wanted,
                lambda item: self._fetch_one(client, threads, *item),
                workers,
                self._progress,
                lambda progress: self._log.info("%s", progress),
            )
        self._log.info("Fetched %s.", self._progress)
        return measures

    def _fetch_one(self, client: SequentumClient, threads: Executor, file: RunFile, entry: LandedFile) -> Measure:
        target = self._folder / entry.name
        measuring = MeasuringBeside(Measuring(entry.name), threads)
        with (
            errors_as_airflow_exceptions(self._hook.sequentum_conn_id),
            self._storage_errors("write", entry.name),
            landing(target, entry.listed_size) as stream,
        ):
            client.download(
                agent_id=self._agent_id,
                run_id=self._run_id,
                file=file,
                destination=_Copy(stream, measuring, self._progress),
            )
            measure = measuring.result()
            if entry.listed_size and not measure.size:
                raise RunFilesUnavailable(
                    f"The service lists {entry.listed_size} bytes of {file.name!r} of run {self._run_id}, but sent "
                    f"none. Nothing was written to {target}. A retry fetches it again."
                )
        self._progress.finished()
        return measure

    def _measure(self, name: str) -> Measure:
        measuring = Measuring(name)
        with self._storage_errors("read", name), (self._folder / name).open("rb") as stream:  # type: ignore[no-untyped-call]
            while data := stream.read(READ_SIZE):
                measuring.write(data)
        return measuring.result()

    # Finishing

    def _verify(self, manifest: Manifest, read_again: set[str]) -> None:
        """Compare what the storage has with what was fetched: its sizes, and its bytes if the originals are to go."""
        with self._storage_errors("look into"):
            sizes = self._sizes()
        for file in manifest.files:
            if sizes.get(file.name) != file.size:
                raise self._spoiled(file, f"the storage has {sizes.get(file.name)} bytes of it, not {file.size}")
            if manifest.remove_method is None:
                continue
            if file.listed_size is not None and file.listed_size != file.size:
                raise RunFilesUnavailable(
                    f"The service lists {file.listed_size} bytes of {file.name!r}, but sent {file.size}. The files "
                    "have been landed; because of the doubt none was removed from the service."
                )
            if file.name in read_again and self._measure(file.name) != _measure_of(file):
                raise self._spoiled(file, "the storage gives back something else than was sent to it")

    def _write_manifest(self, manifest: Manifest) -> None:
        with self._storage_errors("write", MANIFEST_NAME), landing(self._folder / MANIFEST_NAME) as stream:
            stream.write(manifest.to_json())

    def _remove(self) -> None:
        method = self._options.remove_method
        if method is None:
            return
        with errors_as_airflow_exceptions(self._hook.sequentum_conn_id):
            try:
                self._hook.client.send(runs.delete(self._agent_id, self._run_id, cast("RemoveMethod", method)))
            except NotFound:
                self._log.info("Run %s was removed from the service already.", self._run_id)
                return
        self._log.info("Removed from the service, by %s: run %s of agent %s.", method, self._run_id, self._agent_id)

    def _landed(self, manifest: Manifest, fetched: int) -> Landed:
        return Landed(self._folder, manifest, fetched, self._hook.settings.origin)

    def _storage_errors(self, verb: str, name: str = "") -> AbstractContextManager[None]:
        return storage_errors(f"Could not {verb} {self._folder / name if name else self._folder}")

    def _refused(self, reason: str) -> SequentumRequestRefused:
        return SequentumRequestRefused(
            f"The files of run {self._run_id} of agent {self._agent_id} can't be landed. {reason} "
            f"(connection {self._hook.sequentum_conn_id!r})"
        )

    def _spoiled(self, file: LandedFile, reason: str) -> RunFilesUnavailable:
        """Remove a file that is not right, so that the next try fetches it again, and return the error to raise."""
        target = self._folder / file.name
        with self._storage_errors("remove", file.name):
            target.unlink(missing_ok=True)
        return RunFilesUnavailable(
            f"{target} was not right: {reason}. It has been removed there. The run's files are untouched on the "
            "service. A retry fetches it again."
        )


class _Copy:
    """Takes the bytes of a download: to the storage, past the measuring, with a word to the progress."""

    def __init__(self, stream: Writable, measuring: MeasuringBeside, progress: Progress) -> None:
        self._write = stream.write
        self._measuring = measuring
        self._progress = progress

    def write(self, data: bytes, /) -> None:
        self._progress.moved(len(data))
        self._write(data)
        self._measuring.write(data)


def _measure_of(file: LandedFile) -> Measure:
    return Measure(file.size or 0, file.sha256 or "", file.records)


def _measured(file: LandedFile, measure: Measure) -> LandedFile:
    return file.model_copy(update={"size": measure.size, "sha256": measure.sha256, "records": measure.records})
