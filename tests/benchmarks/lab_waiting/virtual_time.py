"""An event loop whose time costs none: when nothing is ready to run, it is the time of the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

START = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs coroutines that only ever sleep, in virtual seconds from 0."""

    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())
        self._virtual = 0.0

    def time(self) -> float:
        return self._virtual

    def utc(self) -> datetime:
        return START + timedelta(seconds=self._virtual)

    def _run_once(self) -> None:
        # asyncio keeps these two for itself; there is no other way to a clock that jumps.
        if not self._ready and self._scheduled:
            self._virtual = max(self._virtual, self._scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def now() -> float:
    """Return the seconds since the start."""
    return asyncio.get_running_loop().time()
