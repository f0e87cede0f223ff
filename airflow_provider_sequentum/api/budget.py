"""The request budget of an API key: how many requests a process may send, known before the server refuses one.

The service allows a number of requests per window and key (100 per 60 s unless raised) and states both in
every answer. All clients of one key in a process share one budget. It never sleeps itself: it says how long to
wait, and the clients wait in their own way, so neither a thread nor an event loop is ever blocked inside.

A request counts from the moment it is admitted until one window after its answer, and a moment longer for clocks that
tick coarsely. The server counted it somewhere in between, so however its windows lie, a process that is alone on its
key never exceeds the limit.
Where others use the same key, a refusal (429) halves what this process allows itself, and every window without
one gives back a tenth of the limit.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

DEFAULT_LIMIT = 100
DEFAULT_WINDOW = 60.0
"""Seconds."""
DEFAULT_PAUSE = 5.0
"""Seconds a refusal holds back the requests of a key when the server does not say."""
LONGEST_PAUSE = 120.0
"""Seconds a refusal holds back the requests of a key at most."""

_MARGIN = 0.05
"""Seconds."""
_LEARNING_INTERVAL = 1.0
"""Seconds. Limits change rarely, and reading headers costs more than the rest of the budget."""
_LARGEST_LIMIT = 1_000_000
_LONGEST_WINDOW = 3600.0


class RequestBudget:
    """The budget of one key on one origin. Safe across threads and tasks; never blocks for long.

    :param clock: gives the time in seconds; a test hands in its own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()  # a signal handler that stops a run may interrupt its own thread in here
        self._limit = DEFAULT_LIMIT
        self._window = DEFAULT_WINDOW
        self._own_limit = float(DEFAULT_LIMIT)
        self._own_limit_since = clock()
        self._in_flight = 0
        self._answered: deque[float] = deque()
        self._paused_until = float("-inf")
        self._learnt_at = float("-inf")
        self._refusals = 0

    def admit(self, *, share: float = 1.0, per_minute: int | None = None, urgent: bool = False) -> float:
        """Admit a request now, or say how long to wait before asking again.

        :param share: part of the budget the request may help to fill, from 0 to 1. Polling with 0.8 always
            leaves room for a start.
        :param per_minute: the client's own upper bound.
        :param urgent: admit it whatever is left.
        :return: 0 when the request is admitted; it then has to be settled. Otherwise seconds.
        """
        with self._lock:
            now = self._clock()
            self._recover(now)
            kept = self._window + _MARGIN
            # Written like the wait below, or rounding makes a wait of 0, which would mean "admitted".
            while self._answered and self._answered[0] + kept - now <= 0:
                self._answered.popleft()
            if now < self._paused_until and not urgent:
                return self._paused_until - now
            surplus = self._in_flight + len(self._answered) - self._allowed(share, per_minute)
            if surplus < 0 or urgent:
                self._in_flight += 1
                return 0.0
            if surplus < len(self._answered):
                return self._answered[surplus] + kept - now
            return kept

    def spacing(self, *, share: float = 1.0, per_minute: int | None = None) -> float:
        """Return the seconds between requests that are spread evenly over the window; parameters as for :meth:`admit`.

        Polling keeps to this rate: requests that are sent as fast as they are admitted come in bursts, a window apart.
        """
        with self._lock:
            self._recover(self._clock())
            return self._window / self._allowed(share, per_minute)

    @property
    def refusals(self) -> int:
        """How many requests of this process were refused with 429."""
        return self._refusals

    def settle(self, headers: Mapping[str, str] | None = None, *, refused_for: float | None = None) -> None:
        """Take note that an admitted request is over.

        :param headers: headers of its answer, ``None`` if there was none.
        :param refused_for: seconds to hold back, when the answer was a 429.
        """
        with self._lock:
            now = self._clock()
            self._in_flight -= 1
            self._answered.append(now)
            if headers is not None and now - self._learnt_at >= _LEARNING_INTERVAL:
                self._learnt_at = now
                self._learn(headers)
            if refused_for is not None:
                self._refusals += 1
                self._hold_back(now, refused_for)

    def _allowed(self, share: float, per_minute: int | None) -> int:
        own = self._own_limit if per_minute is None else min(self._own_limit, per_minute * self._window / 60)
        return max(1, int(own * share))

    def _learn(self, headers: Mapping[str, str]) -> None:
        limit = _number(headers.get("x-ratelimit-limit"), _LARGEST_LIMIT)
        window = _number(headers.get("x-ratelimit-window-seconds"), _LONGEST_WINDOW)
        if limit is not None and int(limit) >= 1 and int(limit) != self._limit:
            self._own_limit *= int(limit) / self._limit
            self._limit = int(limit)
        if window is not None:
            self._window = window

    def _hold_back(self, now: float, seconds: float) -> None:
        # Requests under way together are refused together: that is one piece of news.
        if now >= self._paused_until:
            self._own_limit = max(1.0, self._own_limit / 2)
            self._own_limit_since = now
        self._paused_until = max(self._paused_until, now + min(seconds, LONGEST_PAUSE))

    def _recover(self, now: float) -> None:
        if self._own_limit < self._limit and now - self._own_limit_since >= self._window:
            self._own_limit = min(float(self._limit), self._own_limit + self._limit / 10)
            self._own_limit_since = now


_budgets: dict[tuple[str, str], RequestBudget] = {}
_budgets_lock = threading.RLock()  # for the same reason as above


def budget_of(origin: str, api_key: str) -> RequestBudget:
    """Return this process's budget of a key. The key itself is not kept."""
    identity = (origin, hashlib.sha256(api_key.encode()).hexdigest())
    with _budgets_lock:
        return _budgets.setdefault(identity, RequestBudget())


def _number(text: str | None, largest: float) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 < number <= largest else None
