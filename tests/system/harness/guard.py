"""Ends processes whose runner died without a chance to do so: killed, crashed, out of memory.

The runner keeps one guard. It tells it the sessions it starts (``+12345``) and those that are gone (``-12345``)
through a pipe. The pipe breaks when the runner ends, however it ends, and the guard ends what is left.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache

import psutil

PATIENCE = 15.0


def processes_of(sessions: set[int]) -> list[psutil.Process]:
    """Return the living processes of some sessions."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def watch(session: int) -> None:
    """Let the guard end this session if this process dies first."""
    _tell(f"+{session}")


def forget(session: int) -> None:
    """Tell the guard that a session is gone, so that a later one with its number is safe."""
    _tell(f"-{session}")


def _tell(line: str) -> None:
    guard = _guard_of(os.getpid())
    if guard.stdin is None:
        raise RuntimeError("The guard has no pipe")
    guard.stdin.write(f"{line}\n".encode())
    guard.stdin.flush()


@cache
def _guard_of(runner: int) -> subprocess.Popen[bytes]:
    """Start the guard of a process; a fork of the runner gets one of its own."""
    guard = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, start_new_session=True)
    atexit.register(guard.communicate)  # closes the pipe and waits
    return guard


def main() -> None:
    """Listen until the runner is gone, then end what it left."""
    sessions: set[int] = set()
    for line in sys.stdin:
        session = int(line)
        if session > 0:
            sessions.add(session)
        else:
            sessions.discard(-session)
    _signal(sessions, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE
    while processes_of(sessions) and time.monotonic() < deadline:
        time.sleep(0.1)
    _signal(sessions, signal.SIGKILL)


def _signal(sessions: set[int], signal_number: int) -> None:
    for process in processes_of(sessions):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal_number)


if __name__ == "__main__":
    main()
