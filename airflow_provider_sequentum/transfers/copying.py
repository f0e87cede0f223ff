"""Doing many copies at once: bounded, abandoned as soon as one fails, with a word on how it goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

PROGRESS_INTERVAL = 10.0
"""Seconds between two lines on the progress."""

_MEBIBYTE = 1024 * 1024


class Abandoned(Exception):
    """A copy was given up because another one failed, or because the task was killed."""


class Progress:
    """
    What copies report while they work, and where they learn that they are to stop.

    It is there before the copies are, so that a stop that comes early is not lost.
    """

    def __init__(self) -> None:
        self._files = self._size = 0
        self._done = 0
        self._bytes = 0
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def expect(self, files: int, size: int) -> None:
        """
        Begin to count.

        :param files: how many files there are to copy.
        :param size: how many bytes that is, as far as is known.
        """
        self._files, self._size = files, size
        self._begun = time.monotonic()

    def stop(self) -> None:
        """Make every copy end at its next step. Safe in a signal handler."""
        self._stop.set()

    def sleep(self, seconds: float) -> None:
        """Sleep, unless the copies are to stop."""
        if self._stop.wait(seconds):
            raise Abandoned

    def moved(self, size: int) -> None:
        """Note that bytes were copied."""
        if self._stop.is_set():
            raise Abandoned
        with self._lock:
            self._bytes += size

    def finished(self) -> None:
        """Note that a file is complete."""
        with self._lock:
            self._done += 1

    def __str__(self) -> str:
        passed = max(time.monotonic() - self._begun, 1e-9)
        return (
            f"{self._done} of {self._files} files, {self._bytes / _MEBIBYTE:.1f} of {self._size / _MEBIBYTE:.1f} MiB, "
            f"{self._bytes / _MEBIBYTE / passed:.1f} MiB/s"
        )


def copy_all(
    items: Sequence[T], copy: Callable[[T], R], workers: int, progress: Progress, say: Callable[[Progress], Any]
) -> list[R]:
    """
    Copy every item, some at a time, and return the results in order.

    When one copy fails no further one begins, those under way are abandoned, and its error is raised. The same happens
    when something interrupts the calling thread, such as the task's time running out.

    :param copy: copies one item, reporting to ``progress``.
    :param workers: how many at a time.
    :param say: called every :data:`PROGRESS_INTERVAL` seconds.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="run-files") as pool:
        futures = [pool.submit(copy, item) for item in items]
        try:
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=PROGRESS_INTERVAL, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if waiting:
                    say(progress)
        except BaseException:
            progress.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]
