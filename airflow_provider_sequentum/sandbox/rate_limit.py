"""The service's rate limit: so many requests per window and key, a short queue, then refusal (API page "errors")."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Verdict:
    """What becomes of a request.

    :param wait: seconds it is held in the queue; 0.0 when it goes through at once.
    :param retry_after: seconds until the limiter has room, when the request is refused; else ``None``.
    """

    wait: float = 0.0
    retry_after: float | None = None


@dataclass
class RateLimiter:
    """The limiter of one key. Times are real seconds of any monotonic clock, given by the caller.

    A fixed window opens with the first request and is followed by the next one; a sliding window looks at
    the time just passed. What keeps within any sliding window keeps within every fixed one.
    """

    limit: int
    window: float
    queue: int
    kind: Literal["fixed", "sliding"] = "fixed"
    _granted: deque[float] = field(default_factory=deque, repr=False)

    def admit(self, now: float) -> Verdict:
        """Let one request through, hold it, or refuse it."""
        while self._granted and self._expired(self._granted[0], now):
            self._granted.popleft()
        if len(self._granted) < self.limit:
            self._granted.append(now if self.kind == "sliding" else self._window_start(now))
            return Verdict()
        queued = sum(moment > now for moment in self._granted)
        free_at = self._granted[len(self._granted) - self.limit] + self.window
        if queued < self.queue:
            self._granted.append(free_at)
            return Verdict(wait=free_at - now)
        return Verdict(retry_after=free_at - now)

    def _expired(self, granted: float, now: float) -> bool:
        return granted + self.window <= now

    def _window_start(self, now: float) -> float:
        return self._granted[-1] if self._granted else now
