from __future__ import annotations

import pytest

from airflow_provider_sequentum.api.errors import (
    AnswerLost,
    BadRequest,
    Conflict,
    ConnectionNotMade,
    RateLimited,
    SequentumConfigurationError,
    SequentumError,
    ServerError,
    Unauthorized,
    UnexpectedAnswer,
)
from airflow_provider_sequentum.api.retry import is_last_attempt, may_repeat, seconds_to_wait


@pytest.mark.parametrize(
    ("error", "safe", "unsafe"),
    [
        (ConnectionNotMade("x"), True, True),
        (RateLimited("x", status_code=429), True, True),
        (AnswerLost("x", may_have_acted=True), True, False),
        (ServerError("x", status_code=503, may_have_acted=True), True, False),
        (UnexpectedAnswer("x", may_have_acted=True), False, False),
        (BadRequest("x"), False, False),
        (Unauthorized("x"), False, False),
        (Conflict("x"), False, False),
        (SequentumConfigurationError("x"), False, False),
        (OSError("disk full"), False, False),
        (None, False, False),
    ],
)
def test_a_call_is_repeated_only_where_that_can_help_and_not_harm(
    error: BaseException | None, safe: bool, unsafe: bool
) -> None:
    assert may_repeat(error, safe_to_repeat=True) is safe
    assert may_repeat(error, safe_to_repeat=False) is unsafe


def test_a_longer_retry_after_is_left_to_the_caller() -> None:
    assert may_repeat(RateLimited("x", retry_after=120), safe_to_repeat=False)
    assert not may_repeat(RateLimited("x", retry_after=121), safe_to_repeat=True)


@pytest.mark.parametrize(("error", "attempts"), [(AnswerLost("x"), 5), (RateLimited("x"), 10)])
def test_attempts_are_bounded(error: SequentumError, attempts: int) -> None:
    assert not is_last_attempt(error, attempts - 1, max_attempts=5)
    assert is_last_attempt(error, attempts, max_attempts=5)


@pytest.mark.parametrize(("attempt", "shortest", "longest"), [(1, 0.5, 1), (2, 1, 2), (5, 8, 16), (9, 15, 30)])
def test_waits_double_up_to_a_bound(attempt: int, shortest: float, longest: float) -> None:
    assert seconds_to_wait(AnswerLost("x"), attempt, jitter=0.0) == shortest
    assert seconds_to_wait(AnswerLost("x"), attempt, jitter=1.0) == longest


def test_retry_after_is_never_undercut() -> None:
    assert seconds_to_wait(RateLimited("x", retry_after=60), 1, jitter=0.0) == 60
    assert seconds_to_wait(ServerError("x", retry_after=0), 1, jitter=0.5) == 0.5
    assert seconds_to_wait(RateLimited("x", retry_after=2), 9, jitter=0.0) == 2


def test_who_is_refused_again_and_again_comes_back_at_an_ever_more_different_time() -> None:
    waits = [seconds_to_wait(RateLimited("x", retry_after=2), attempt, jitter=1.0) for attempt in (1, 2, 3, 9)]
    assert waits == [3, 4, 6, 32]
