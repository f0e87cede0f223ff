"""One process of an Airflow installation, with everything it forks."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.system.harness import guard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LOG_TAIL_LINES = 40


def free_port() -> int:
    """Return a TCP port on the loopback interface that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServiceDied(Exception):
    """A service ended although no one asked it to. The message carries the end of its log."""


class Service:
    """A command that runs until it is stopped or killed. Its output goes to one file, over restarts too.

    It leads a session of its own: a Ctrl-C in the terminal reaches only the runner, and whatever the command
    forks can be found again by the session, even when its parent is dead.

    :param name: What to call it in messages and the log file's name.
    :param command: Program and arguments.
    :param log_folder: Where ``<name>.log`` is written.
    :param environment: The complete environment.
    """

    def __init__(self, name: str, command: Sequence[str], *, log_folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.command = list(command)
        self.environment = dict(environment)
        self.log_path = log_folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped_on_purpose = False

    def start(self) -> None:
        """Start the command and return at once."""
        if self.is_running:
            raise RuntimeError(f"{self.name} is running already, as process {self.pid}")
        self._stopped_on_purpose = False
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        guard.watch(self._process.pid)

    @property
    def is_running(self) -> bool:
        """Whether the command itself lives; its children may outlive it."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the command, which is the id of its session too."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    def processes(self) -> list[psutil.Process]:
        """Return the living processes of the session: the command and what it forked."""
        return [] if self._process is None else guard.processes_of({self._process.pid})

    def forget(self) -> None:
        """Tell the guard that no process of the session is left."""
        if self._process is not None:
            guard.forget(self._process.pid)

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal to every process of the service and, if it is SIGKILL, wait until they are gone."""
        self._stopped_on_purpose = True
        kill_all([self], signal_number)
        if signal_number == signal.SIGKILL:
            wait_until_gone([self], timeout=10)

    def raise_if_dead(self) -> None:
        """Raise :class:`ServiceDied` if the command ended by itself."""
        if self._process is None or self.is_running or self._stopped_on_purpose:
            return
        tail = "\n".join(self.log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        raise ServiceDied(f"{self.name} ended with {self._process.returncode}. The end of {self.log_path}:\n{tail}")


def stop_all(services: Iterable[Service], *, patience: float = 15) -> None:
    """Stop services together: SIGTERM, then SIGKILL for what is left after ``patience`` seconds."""
    services = list(services)
    kill_all(services, signal.SIGTERM)
    if not wait_until_gone(services, timeout=patience):
        kill_all(services, signal.SIGKILL)
        if not wait_until_gone(services, timeout=10):
            raise RuntimeError("Processes survived SIGKILL: " + ", ".join(service.name for service in services))


def kill_all(services: Iterable[Service], signal_number: int) -> None:
    """Send a signal to every process of every service."""
    for service in services:
        service._stopped_on_purpose = True
        for process in service.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal_number)


def wait_until_gone(services: Iterable[Service], *, timeout: float) -> bool:
    """Return whether all processes of the services ended within ``timeout`` seconds."""
    services = list(services)
    deadline = time.monotonic() + timeout
    while any(service.is_running or service.processes() for service in services):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    for service in services:
        service.forget()
    return True
