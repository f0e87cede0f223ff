"""The records of a run: its delivered files, fetched one after the other and read in constant memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Protocol, TypeVar

from airflow_provider_sequentum.api import Call, SequentumClient, files, runs
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import (
    RunFilesUnavailable,
    RunRecordsUnreadable,
    SequentumRequestRefused,
    about_run,
    client_errors_as_exceptions,
)
from airflow_provider_sequentum.records.formats import RecordsUnreadable, format_of
from airflow_provider_sequentum.runs.files import select, why_incomplete, why_records_missing, why_removed

T = TypeVar("T")

ReadFile = Callable[[IO[bytes], str], Iterator[T]]
"""Reads one file, given with its name."""


class RunFileSource(Protocol):
    """What reading needs of the hook."""

    sequentum_conn_id: str

    @property
    def client(self) -> SequentumClient:
        """The blocking client."""

    def send(self, call: Call[T]) -> T:
        """Send one request and return its answer."""


def read_run(
    source: RunFileSource, agent_id: int | str, run_id: int | str, pattern: str, read: ReadFile[T]
) -> Iterator[T]:
    """Yield what ``read`` makes of each delivered file.

    A file is on the worker's disk while it is read, without a name, so that nothing of it stays whatever happens.

    :param pattern: a shell pattern; only files whose names fit it.
    :raises RunRecordsUnreadable: a file cannot be read; the message names it.
    :raises RunFilesUnavailable: the run is still going, or the worker's disk is full.
    :raises SequentumRequestRefused: the run extracted records, but its files are gone.
    """
    run = source.send(runs.status(agent_id, run_id))
    with about_run(run.agent_id, run.id):
        yield from _read_files(source, run, pattern, read)


def _read_files(source: RunFileSource, run: Run, pattern: str, read: ReadFile[T]) -> Iterator[T]:
    if reason := why_incomplete(run):
        raise RunFilesUnavailable(f"Run {run.id} of agent {run.agent_id}: {reason}")
    listed = source.send(files.list_files(run.agent_id, run.id))
    if reason := why_removed(run, listed):
        raise SequentumRequestRefused(f"Run {run.id} of agent {run.agent_id}: {reason}")
    selection = select(listed, None, [pattern])
    if reason := why_records_missing(run, selection):
        raise SequentumRequestRefused(f"Run {run.id} of agent {run.agent_id}: {reason}")
    wanted = selection.chosen
    with _naming(run.agent_id, run.id):
        for file in wanted:
            format_of(file.name or "")
    for file in wanted:
        with _temporary_file(file.name) as stream:
            with client_errors_as_exceptions(source.sequentum_conn_id), _naming_disk(file.name):
                source.client.download(agent_id=run.agent_id, run_id=run.id, file=file, destination=stream)
                stream.seek(0)
            with _naming(run.agent_id, run.id):
                yield from read(stream, file.name or "")


def _temporary_file(name: str | None) -> IO[bytes]:
    with _naming_disk(name):
        return tempfile.TemporaryFile()


@contextmanager
def _naming_disk(name: str | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFilesUnavailable(
            f"{name!r} could not be kept in the worker's temporary folder {tempfile.tempdir or ''} while it is read: "
            f"{error}. The variable TMPDIR names another folder. The run's files are untouched on the service."
        ) from error


@contextmanager
def _naming(agent_id: int, run_id: int) -> Iterator[None]:
    try:
        yield
    except RecordsUnreadable as error:
        raise RunRecordsUnreadable(
            f"The records of run {run_id} of agent {agent_id} cannot be read. {error} The files are untouched on the "
            "service; leave this one out by a pattern, or land it and look."
        ) from error
