"""A process whose time runs faster: its event loop, ``time.monotonic`` and the calendar, in step with the sandbox's.

Everything that waits in the process (pollers, budgets, retries, read time-outs) then keeps its real constants, and a
workload of an hour takes minutes. What does not get faster is the processor: its time is reported as it is.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

_real_monotonic = time.monotonic
_clock: list[Callable[[], float]] = [_real_monotonic]


def prepare() -> None:
    """Replace ``time.monotonic``, before anything is imported that keeps a reference to it."""

    def monotonic() -> float:
        return _clock[0]()

    time.monotonic = monotonic


@dataclass(frozen=True)
class ScaledTime:
    """
    A clock that ran at real speed until ``base`` and runs ``scale`` times as fast from then on.

    :param scale: scaled seconds per real second.
    :param base: reading of the machine's monotonic clock, which all processes share.
    :param base_utc: the calendar's time at ``base``.
    """

    scale: float
    base: float
    base_utc: datetime

    @classmethod
    def from_now(cls, scale: float, now: datetime | None = None) -> ScaledTime:
        """Begin now."""
        return cls(scale, _real_monotonic(), now or datetime.now(UTC))

    def monotonic(self) -> float:
        """Return what stands in for ``time.monotonic``."""
        return self.base + (_real_monotonic() - self.base) * self.scale

    def utc(self) -> datetime:
        """Return the time of day."""
        return self.base_utc + timedelta(seconds=self.monotonic() - self.base)

    def begin(self) -> None:
        """Let the process live in this time, if :func:`prepare` was called before."""
        _clock[0] = self.monotonic

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on an event loop that lives in this time."""
        scale = self.scale

        class ScaledSelector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> Any:
                return super().select(timeout / scale if timeout and timeout > 0 else timeout)

        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(ScaledSelector())) as runner:
            return runner.run(main)
