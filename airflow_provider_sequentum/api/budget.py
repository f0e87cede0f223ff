"""The request budget of an API key: how many requests a process may send without being refused by the server.

The service allows a number of requests per window and key (100 per 60 s unless raised) and states both in every
response. All clients of a key in a process share one budget. It never sleeps: it returns how long to wait, and each
client waits in its own way, so it blocks neither a thread nor an event loop.

A request counts from the moment it is admitted until one window after its response, plus a short margin for clocks
with a coarse resolution. The server counts it at some moment in between, so a process that is the only user of its key
never exceeds the limit, whenever the server's windows start.
If others use the same key, a refusal (429) halves the limit of this process, and each window without a refusal restores
a tenth of the key's limit.

Requests with a share below 1 are polls. They have the lowest priority, and adapt to a rate that leaves room for the
other users of the key, see :class:`PollPace`.
"""

from __future__ import annotations

import hashlib
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

DEFAULT_LIMIT = 100
DEFAULT_WINDOW = 60.0
"""Seconds."""
DEFAULT_PAUSE = 5.0
"""Seconds for which a refusal delays the requests of a key if the server does not state a time."""
MAX_PAUSE = 120.0
"""Maximum number of seconds for which a refusal delays the requests of a key."""

_MARGIN = 0.05
"""Seconds."""
_RESERVATION = 1.5
"""Seconds for which a waiting request keeps others from being admitted. The clients try again more often than that."""
_LEARNING_INTERVAL = 1.0
"""Seconds. Limits rarely change, and reading the headers costs more than all other work of the budget."""
_LARGEST_LIMIT = 1_000_000
_MAX_WINDOW = 3600.0

FIRST_PACE = 0.2
"""The part of the limit that the polls of a process use while nothing is known about other users of the key."""
HELD = 1.5
"""Seconds above the usual response time that show that the service queued a request, because the limit is used up."""

_GROWTH = 1.5
"""Factor for each window while no level has failed."""
_CUBIC = 0.0005
_IN_USE = 0.7
"""A level is only raised if at least this part of it is used: otherwise it proves nothing."""
_PROVEN = 1.25
"""Windows that a level has to last before it counts as good."""
_DEAF = 5.0
"""Seconds after a delayed or refused request in which further ones count as the same event: requests that are queued
together are released together."""
_RELIEF = 0.8
"""Part of the level used for a window after such an event: queued requests count in the following window."""
_PROBE_INTERVAL = 5.0
"""Seconds between two polls while the service seems to queue them."""
_BURST = 3
"""Polls that may be sent without spacing, to make up for a moment in which none could be sent."""
_ADVANCE = 2
"""Polls that may be sent before their turn, if it is known that they will find a change."""


class PollPace:
    """The part of the key's limit that this process uses for polls, found without talking to other users of the key.

    The service does not state how much of a key's limit is used up. But before it refuses requests, it queues up to ten
    until the window ends. So a late response to a poll shows in time that the limit was exceeded, and by how much: if
    a poll was queued for the last sixth of a window, requests are sent a sixth too fast. The level that failed is
    remembered, approached again and then exceeded in small steps, as TCP does with CUBIC (RFC 9438): fast while it is
    far away, slowly near the level that failed.
    """

    def __init__(self) -> None:
        self.level = FIRST_PACE
        self._failed: float | None = None
        self._base = FIRST_PACE
        self._windows = 0
        self._return_after = 0.0
        self._deaf_until = -math.inf
        self._excess = 0.0

    def window_passed(self, *, in_use: bool) -> None:
        """Process that a window has passed without a delayed or refused request."""
        if not in_use:
            return
        self._windows += 1
        if self._failed is None:
            self.level = min(self.level * _GROWTH, 1.0)
        else:
            self.level = min(self._failed + _CUBIC * (self._windows - self._return_after) ** 3, 1.0)

    def exceeded(self, excess: float, now: float, deaf_for: float = _DEAF) -> bool:
        """Process that the key's limit was exceeded; return whether this is a new event.

        :param excess: the part of a window for which a request was queued or refused.
        :param deaf_for: seconds in which further requests of this kind belong to the same event.
        """
        if now < self._deaf_until:
            if excess <= self._excess or self._failed is None:
                return False
            self.level = self._failed  # the same event, but the excess is larger than it seemed
        else:
            self._deaf_until = now + deaf_for
            self._failed = self.level
        self._excess = excess
        # Twice the excess, because not all excess requests are ours: the others may be starts, which do not slow down.
        self._base = self.level = self._failed * min(max((1.0 - excess) ** 2, 0.4), 0.9)
        self._windows = 0
        # Random, so that processes do not raise their levels at the same time.
        self._return_after = math.cbrt((self._failed - self._base) / _CUBIC) * random.uniform(0.8, 1.2)  # noqa: S311
        return True


class RequestBudget:
    """The budget of one key on one origin. Safe for use by several threads and tasks; never blocks for long.

    :param clock: returns the time in seconds; tests pass their own.
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
        self._reserved_until = float("-inf")
        self._learnt_at = float("-inf")
        self.pace = PollPace()
        self._pace_window = clock()
        self._polls_in_window = 0
        self._relief_until = float("-inf")
        self._next_poll = float("-inf")
        self._polls: list[float] = []
        """When the polls were sent that have no response yet."""
        self._newest_answered = float("-inf")
        self._last_poll = float("-inf")
        self._usual = 0.2

    def turn(self, *, share: float, per_minute: int | None = None, is_hinted: bool = False) -> float:
        """Admit a poll now, or return how long to wait; parameters and result as for :meth:`admit`.

        Polls are spread evenly over the window, because requests that are sent as soon as they are admitted come in
        bursts, once per window.

        :param is_hinted: whether it is known that the poll will find a change. Then it may be sent before its turn.
        """
        with self._lock:
            now = self._clock()
            if self._seems_held(now) and now - self._last_poll < _PROBE_INTERVAL:
                return HELD / 3
            spacing = self.spacing(share=share, per_minute=per_minute)
            slot = max(self._next_poll, now - _BURST * spacing)
            earliest = slot - _ADVANCE * spacing if is_hinted else slot
            if earliest > now:
                return earliest - now
            wait = self.admit(share=share, per_minute=per_minute, is_poll=True)
            if wait == 0:
                self._next_poll = slot + spacing
            return wait

    def admit(
        self,
        *,
        share: float = 1.0,
        per_minute: int | None = None,
        urgent: bool = False,
        is_poll: bool = False,
        is_of_stop: bool = False,
        goes_first: bool = False,
    ) -> float:
        """Admit a request now, or return how long to wait before trying again.

        :param share: the part of the budget that may be in use for the request to be admitted, from 0 to 1. Polling
            with 0.8 always leaves room for a start.
        :param per_minute: the limit of the client itself.
        :param urgent: admit it even if the budget is used up.
        :param is_poll: whether it is a poll, which gets its response immediately unless the service queues it.
        :param is_of_stop: whether it belongs to stopping something that costs credits. Then only the key's limit
            applies.
        :param goes_first: while such a request waits, no other one is admitted.
        :return: 0 if the request is admitted; it then has to be settled. Otherwise the seconds to wait.
        """
        with self._lock:
            now = self._clock()
            self._recover(now)
            kept = self._window + _MARGIN
            # Computed like the wait below. Otherwise rounding could return a wait of 0, which means "admitted".
            while self._answered and self._answered[0] + kept - now <= 0:
                self._answered.popleft()
            if now < self._paused_until and not (urgent or is_of_stop):
                return self._paused_until - now
            if now < self._reserved_until and not (urgent or goes_first):
                return self._reserved_until - now
            allowed = self._limit if is_of_stop else self._allowed(share, per_minute)
            surplus = self._in_flight + len(self._answered) - allowed
            if surplus < 0 or urgent:
                self._in_flight += 1
                if is_poll:
                    self._note_poll(now)
                return 0.0
            if goes_first:
                self._reserved_until = now + _RESERVATION
            if surplus < len(self._answered):
                return self._answered[surplus] + kept - now
            return kept

    def spacing(self, *, share: float = 1.0, per_minute: int | None = None) -> float:
        """Return the seconds between evenly spread requests; parameters as for :meth:`admit`."""
        with self._lock:
            self._recover(self._clock())
            now = self._clock()
            level = self.pace.level * (_RELIEF if now < self._relief_until else 1.0)
            at_pace = min(share, level) if share < 1 else 1.0
            by_hand = self._allowed(share, per_minute)
            return self._window / min(by_hand, self._allowed(at_pace, None))

    def settle(
        self,
        headers: Mapping[str, str] | None = None,
        *,
        refused_for: float | None = None,
        took: float | None = None,
    ) -> None:
        """Process the end of an admitted request.

        :param headers: headers of its response, ``None`` if there was none.
        :param refused_for: seconds to send no requests, if the response was a 429.
        :param took: seconds until the response to a poll; ``None`` if this does not depend on the service's queue.
        """
        with self._lock:
            now = self._clock()
            self._in_flight -= 1
            self._answered.append(now)
            if took is not None:
                self._poll_answered(now, took, is_answer=headers is not None and refused_for is None)
            if headers is not None and now - self._learnt_at >= _LEARNING_INTERVAL:
                self._learnt_at = now
                self._learn(headers)
            if refused_for is not None:
                self._hold_back(now, refused_for)

    def _allowed(self, share: float, per_minute: int | None) -> int:
        own = self._own_limit if share == 1 else float(self._limit)
        if per_minute is not None:
            own = min(own, per_minute * self._window / 60)
        return max(1, int(own * share))

    def _note_poll(self, now: float) -> None:
        self._pass_windows(now)
        self._polls.append(now)
        self._polls_in_window += 1
        self._last_poll = now

    def _pass_windows(self, now: float) -> None:
        # Longer than the service's windows, so that late responses of a window arrive before it counts as good.
        while now - self._pace_window >= _PROVEN * self._window and not self._seems_held(now):
            in_use = self._polls_in_window >= _PROVEN * _IN_USE * self._limit * min(self.pace.level, 0.8)
            self.pace.window_passed(in_use=in_use)
            self._pace_window = max(self._pace_window + _PROVEN * self._window, now - self._window)
            self._polls_in_window = 0

    def _poll_answered(self, now: float, took: float, *, is_answer: bool) -> None:
        sent_at = min(self._polls, key=lambda at: abs(at - (now - took)), default=now - took)
        if sent_at in self._polls:
            self._polls.remove(sent_at)
        # A poll that was overtaken by a later one was not queued: the service's queue keeps the order.
        is_held = is_answer and took > self._longest_usual and self._newest_answered <= sent_at
        if is_held:
            self._exceeded(now, took)
        if is_answer:
            self._usual += (min(took, 2 * self._longest_usual) - self._usual) / 20
            self._newest_answered = max(self._newest_answered, sent_at)

    @property
    def _longest_usual(self) -> float:
        return HELD + 3 * self._usual

    def _seems_held(self, now: float) -> bool:
        oldest = min(self._polls, default=now)
        return now - oldest > self._longest_usual and self._newest_answered <= oldest

    def _exceeded(self, now: float, seconds: float, deaf_for: float = _DEAF) -> None:
        if self.pace.exceeded(min(seconds / self._window, 1.0), now, deaf_for):
            self._pace_window, self._polls_in_window = now, 0
            self._relief_until = now + self._window

    def _learn(self, headers: Mapping[str, str]) -> None:
        limit = _number(headers.get("x-ratelimit-limit"), _LARGEST_LIMIT)
        window = _number(headers.get("x-ratelimit-window-seconds"), _MAX_WINDOW)
        if limit is not None and int(limit) >= 1 and int(limit) != self._limit:
            self._own_limit *= int(limit) / self._limit
            self._limit = int(limit)
        if window is not None:
            self._window = window

    def _hold_back(self, now: float, seconds: float) -> None:
        self._exceeded(now, seconds, min(seconds, MAX_PAUSE) + _DEAF)
        # Requests that are in flight at the same time are refused together: this is a single event.
        if now >= self._paused_until:
            self._own_limit = max(1.0, self._own_limit / 2)
            self._own_limit_since = now
        self._paused_until = max(self._paused_until, now + min(seconds, MAX_PAUSE))

    def _recover(self, now: float) -> None:
        if self._own_limit < self._limit and now - self._own_limit_since >= self._window:
            self._own_limit = min(float(self._limit), self._own_limit + self._limit / 10)
            self._own_limit_since = now


_budgets: dict[tuple[str, str], RequestBudget] = {}
_budgets_lock = threading.RLock()  # reentrant for the same reason as above


def budget_of(origin: str, api_key: str) -> RequestBudget:
    """Return the budget of a key in this process. The key itself is not stored."""
    identity = (origin, hashlib.sha256(api_key.encode()).hexdigest())
    with _budgets_lock:
        return _budgets.setdefault(identity, RequestBudget())


def _number(text: str | None, largest: float) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 < number <= largest else None
