"""The sandbox's clock: it can run faster than real time and be moved forward."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

# Real seconds between two readings of the clock while waiting.
_READ_EVERY = 0.05


class Clock:
    """UTC time that starts at ``start`` and runs ``scale`` times as fast as real time.

    :param scale: sandbox seconds per real second, above 0; 1.0 is real time.
    :param start: the time to start at; default the machine's own time.
    :param monotonic: source of real seconds; replaced in tests.
    """

    def __init__(
        self,
        scale: float = 1.0,
        start: datetime | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._base = start or datetime.now(UTC)
        self._base_real = monotonic()
        self._scale = _checked_scale(scale)

    @property
    def scale(self) -> float:
        """Sandbox seconds per real second."""
        return self._scale

    def now(self) -> datetime:
        """The sandbox's present time."""
        with self._lock:
            return self._now()

    def advance(self, seconds: float) -> datetime:
        """Move the clock forward.

        :param seconds: sandbox seconds, not negative, because effects that happened cannot be undone.
        """
        if seconds < 0:
            raise ValueError("the clock can only be moved forward")
        with self._lock:
            self._base += timedelta(seconds=seconds)
            return self._now()

    def set_scale(self, scale: float) -> None:
        """Run at another speed from now on; the present time stays what it is."""
        with self._lock:
            self._base, self._base_real = self._now(), self._monotonic()
            self._scale = _checked_scale(scale)

    async def nap(self) -> None:
        """Sleep a little, for a handler that checks repeatedly whether something has happened.

        Short, so that :meth:`advance` is noticed soon, and shorter still when time runs fast.
        """
        await asyncio.sleep(min(_READ_EVERY, max(0.002, _READ_EVERY / self._scale)))

    def _now(self) -> datetime:
        return self._base + timedelta(seconds=(self._monotonic() - self._base_real) * self._scale)


def _checked_scale(scale: float) -> float:
    if scale <= 0:
        raise ValueError("the time scale must be above 0")
    return scale
