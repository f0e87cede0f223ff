"""When a request is sent again, after how long, and until when. One policy for both clients, decided from the error.

Repeated are transport errors, 429 and 5xx. A call that is not safe to repeat is repeated only when the
server certainly did nothing with it. At most 5 attempts (``ClientSettings.max_attempts``); being rate limited
is a delay rather than a failure, so it takes twice as many. Waits double from 1 s to at most 30 s with jitter;
``Retry-After`` takes precedence up to 120 s, and a longer one is left to the caller. The jitter added to it
doubles as well, because clients that come back together are refused together, and where a limit slides,
``Retry-After`` can be a moment.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception

from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import ConnectionNotMade, HttpStatusError, SequentumError
from airflow_provider_sequentum.api.text import one_line

FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
LONGEST_RETRY_AFTER = 120.0

_MOMENT = 0.001
"""Seconds. With less than this left, nothing is worth sending."""

log = logging.getLogger(__name__)


class Deadline:
    """The time after which a call is given up.

    :param within: seconds from now; ``None`` sets no limit.
    :param clock: gives the time in seconds.
    """

    def __init__(self, within: float | None, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._within = math.inf if within is None else float(within)
        self._ends = clock() + self._within
        self.last_error: SequentumError | None = None

    @property
    def remaining(self) -> float:
        """Seconds that are left."""
        remaining = self._ends - self._clock()
        return remaining if remaining >= _MOMENT else 0.0

    def check(self, call: Call[Any]) -> None:
        """Raise the call's last error, or one that says that nothing was sent, when no time is left."""
        if self.remaining > 0:
            return
        if self.last_error is not None:
            raise self.last_error
        raise ConnectionNotMade(
            f"Could not {call.purpose} ({call.request}) within {self._within:g} s: the time passed while the request "
            "waited for its turn. Nothing was sent. Try again later.",
            purpose=call.purpose,
            request=call.request,
        )


def may_repeat(error: BaseException | None, *, safe_to_repeat: bool) -> bool:
    """Return whether the same request should be sent again after an error.

    :param error: what the last attempt raised.
    :param safe_to_repeat: whether the call has the same effect when it is sent twice.
    """
    if not isinstance(error, SequentumError) or not error.transient:
        return False
    if isinstance(error, HttpStatusError) and (error.retry_after or 0.0) > LONGEST_RETRY_AFTER:
        return False
    return safe_to_repeat or not error.may_have_acted


def is_last_attempt(error: BaseException | None, attempt: int, max_attempts: int) -> bool:
    """Return whether the attempt with this number (from 1) was the last one."""
    return attempt >= (2 * max_attempts if getattr(error, "status_code", None) == 429 else max_attempts)


def seconds_to_wait(error: BaseException | None, attempt: int, jitter: float) -> float:
    """Return how long to wait after an attempt.

    :param error: what the attempt raised.
    :param attempt: its number, from 1.
    :param jitter: a random number from 0 to 1, so that many clients do not come back at the same moment.
    """
    longest = float(min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)))
    if isinstance(error, HttpStatusError) and error.retry_after is not None:
        return error.retry_after + longest * jitter
    return longest * (0.5 + 0.5 * jitter)


AttemptCounter = Callable[[RetryCallState], int]


def _all_attempts(state: RetryCallState) -> int:
    return state.attempt_number


def retrying(
    call: Call[Any],
    max_attempts: int,
    sleep: Callable[[float], None],
    deadline: Deadline,
    count_attempts: AttemptCounter = _all_attempts,
    longest_wait: float = math.inf,
) -> Retrying:
    """Return the policy for the blocking client.

    :param call: what is sent.
    :param max_attempts: how often, at most.
    :param sleep: waits that many seconds.
    :param deadline: when the call is given up; no pause lasts beyond it.
    :param count_attempts: number of the attempt, from 1; a download counts those without progress only.
    :param longest_wait: seconds between two attempts at most, whatever the server says.
    """
    return Retrying(sleep=sleep, **_options(call, max_attempts, deadline, count_attempts, longest_wait))


def async_retrying(
    call: Call[Any], max_attempts: int, sleep: Callable[[float], Awaitable[None]], deadline: Deadline
) -> AsyncRetrying:
    """Return the policy for the asynchronous client; parameters as for :func:`retrying`."""
    return AsyncRetrying(sleep=sleep, **_options(call, max_attempts, deadline, _all_attempts, math.inf))


def _options(
    call: Call[Any], max_attempts: int, deadline: Deadline, count_attempts: AttemptCounter, longest_wait: float
) -> dict[str, Any]:
    def pause(state: RetryCallState, jitter: float) -> float:
        return min(seconds_to_wait(_error(state), count_attempts(state), jitter), longest_wait)

    def is_over(state: RetryCallState) -> bool:
        # Waiting out a Retry-After that ends after the deadline would be of no use.
        return is_last_attempt(_error(state), count_attempts(state), max_attempts) or (
            pause(state, 0.0) >= deadline.remaining
        )

    def before_pause(state: RetryCallState) -> None:
        error = _error(state)
        deadline.last_error = error if isinstance(error, SequentumError) else None
        log.warning(
            "Attempt %d failed; retrying in %.1f s. %s",
            state.attempt_number,
            state.upcoming_sleep,
            one_line(str(error)),
        )

    return {
        "retry": retry_if_exception(lambda error: may_repeat(error, safe_to_repeat=call.safe_to_repeat)),
        "stop": is_over,
        "wait": lambda state: min(pause(state, random.random()), deadline.remaining),  # noqa: S311
        "before_sleep": before_pause,
        "reraise": True,
    }


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
