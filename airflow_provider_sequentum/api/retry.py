"""The retry policy of both clients: when a request is sent again, after which time, and until when.

Requests are repeated after transport errors, 429 and 5xx. A call that is not safe to repeat is only repeated if the
server certainly did not process it. There are at most 5 attempts (``ClientSettings.max_attempts``), and twice as many
after 429, because being rate limited is a delay rather than a failure. Waits double from 1 s to at most 30 s, with
jitter. ``Retry-After`` takes precedence up to 120 s; a longer one is left to the caller. The jitter added to it doubles
as well, because clients that retry at the same time are refused together, and ``Retry-After`` can be very short if the
limit is a sliding window.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from typing import Any

from tenacity import RetryCallState, retry_if_exception

from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import ConnectionNotMade, HttpStatusError, SequentumError
from airflow_provider_sequentum.api.text import one_line

FIRST_WAIT = 1.0
MAX_WAIT = 30.0
MAX_RETRY_AFTER = 120.0

_MOMENT = 0.001
"""Seconds. If less time than this is left, nothing is sent."""

log = logging.getLogger(__name__)


class Deadline:
    """The time at which the client gives up on a call.

    :param within: seconds from now; ``None`` means no limit.
    :param clock: returns the time in seconds.
    """

    def __init__(self, within: float | None, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._within = math.inf if within is None else float(within)
        self._ends = clock() + self._within
        self._paused_at: float | None = None
        self.last_error: SequentumError | None = None

    @property
    def remaining(self) -> float:
        """Seconds that are left."""
        remaining = self._ends - (self._clock() if self._paused_at is None else self._paused_at)
        return remaining if remaining >= _MOMENT else 0.0

    def pause(self) -> None:
        """Stop counting the time, until :meth:`go_on` is called."""
        if self._paused_at is None:
            self._paused_at = self._clock()

    def go_on(self) -> None:
        """Count the time again."""
        if self._paused_at is not None:
            self._ends += self._clock() - self._paused_at
            self._paused_at = None

    def check(self, call: Call[Any]) -> None:
        """Raise the last error of the call, or else a ``ConnectionNotMade``, if no time is left."""
        if self.remaining > 0:
            return
        if self.last_error is not None:
            raise self.last_error
        reason = f"it was not sent within {self._within:g} s, the allowed time, because it waited for the request limit"
        raise call.error(ConnectionNotMade, reason, advice="Try again later.")


def may_repeat(error: BaseException | None, *, safe_to_repeat: bool) -> bool:
    """Return whether to send the same request again after an error."""
    if not isinstance(error, SequentumError) or not error.transient:
        return False
    if isinstance(error, HttpStatusError) and (error.retry_after or 0.0) > MAX_RETRY_AFTER:
        return False
    return safe_to_repeat or not error.may_have_acted


def is_last_attempt(error: BaseException | None, attempt: int, max_attempts: int) -> bool:
    """Return whether the attempt with this number (from 1) was the last one."""
    return attempt >= (2 * max_attempts if getattr(error, "status_code", None) == 429 else max_attempts)


def seconds_to_wait(error: BaseException | None, attempt: int, jitter: float) -> float:
    """Return the seconds to wait after an attempt that raised an error.

    :param attempt: its number, from 1.
    :param jitter: a random number from 0 to 1, so that many clients do not retry at the same time.
    """
    longest = float(min(MAX_WAIT, FIRST_WAIT * 2 ** (attempt - 1)))
    if isinstance(error, HttpStatusError) and error.retry_after is not None:
        return error.retry_after + longest * jitter
    return longest * (0.5 + 0.5 * jitter)


def retry_options(
    call: Call[Any],
    max_attempts: int,
    deadline: Deadline,
    *,
    longest_wait: float = math.inf,
    count_attempts: Callable[[RetryCallState], int] = lambda state: state.attempt_number,
) -> dict[str, Any]:
    """Return the policy as arguments of tenacity's ``Retrying`` and ``AsyncRetrying``.

    :param max_attempts: how often to send the call at most.
    :param deadline: when to give up on the call; no pause lasts longer.
    :param longest_wait: maximum seconds between two attempts, even if the server asks for more.
    :param count_attempts: returns the number of the attempt, from 1; a download only counts those without progress.
    """

    def pause(state: RetryCallState, jitter: float) -> float:
        return min(seconds_to_wait(_error(state), count_attempts(state), jitter), longest_wait)

    def is_over(state: RetryCallState) -> bool:
        # Waiting for a Retry-After that ends after the deadline would be useless.
        is_last = is_last_attempt(_error(state), count_attempts(state), max_attempts)
        return is_last or pause(state, 0.0) >= deadline.remaining

    def before_pause(state: RetryCallState) -> None:
        error = _error(state)
        text = "The error is the same." if str(error) == str(deadline.last_error) else one_line(str(error))
        deadline.last_error = error if isinstance(error, SequentumError) else None
        number, wait = state.attempt_number, state.upcoming_sleep
        log.warning("Try %d of a request failed; trying again in %.1f s. %s", number, wait, text)

    return {
        "retry": retry_if_exception(lambda error: may_repeat(error, safe_to_repeat=call.safe_to_repeat)),
        "stop": is_over,
        "wait": lambda state: min(pause(state, random.random()), deadline.remaining),  # noqa: S311
        "before_sleep": before_pause,
        "reraise": True,
    }


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
