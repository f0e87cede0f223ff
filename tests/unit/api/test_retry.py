from __future__ import annotations

import pytest

from airflow_provider_sequentum.api.errors import (
    ConnectionNotMade,
    HttpStatusError,
    ResponseLost,
    SequentumConfigurationError,
    SequentumError,
    UnexpectedResponse,
)
from airflow_provider_sequentum.api.retry import is_last_attempt, may_repeat, seconds_to_wait


@pytest.mark.parametrize(
    ("error", "safe", "unsafe"),
    [
        (ConnectionNotMade("x"), True, True),
        (HttpStatusError("x", status_code=429), True, True),
        (ResponseLost("x", may_have_acted=True), True, False),
        (HttpStatusError("x", status_code=503, may_have_acted=True), True, False),
        (UnexpectedResponse("x", may_have_acted=True), False, False),
        (HttpStatusError("x", status_code=400), False, False),
        (HttpStatusError("x", status_code=401), False, False),
        (HttpStatusError("x", status_code=409), False, False),
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
    assert may_repeat(HttpStatusError("x", retry_after=120, status_code=429), safe_to_repeat=False)
    assert not may_repeat(HttpStatusError("x", retry_after=121, status_code=429), safe_to_repeat=True)


@pytest.mark.parametrize(("error", "attempts"), [(ResponseLost("x"), 5), (HttpStatusError("x", status_code=429), 10)])
def test_attempts_are_bounded(error: SequentumError, attempts: int) -> None:
    assert not is_last_attempt(error, attempts - 1, max_attempts=5)
    assert is_last_attempt(error, attempts, max_attempts=5)


@pytest.mark.parametrize(("attempt", "shortest", "longest"), [(1, 0.5, 1), (2, 1, 2), (5, 8, 16), (9, 15, 30)])
def test_waits_double_up_to_a_bound(attempt: int, shortest: float, longest: float) -> None:
    assert seconds_to_wait(ResponseLost("x"), attempt, jitter=0.0) == shortest
    assert seconds_to_wait(ResponseLost("x"), attempt, jitter=1.0) == longest


def test_retry_after_is_never_undercut() -> None:
    assert seconds_to_wait(HttpStatusError("x", retry_after=60, status_code=429), 1, jitter=0.0) == 60
    assert seconds_to_wait(HttpStatusError("x", retry_after=0, status_code=503), 1, jitter=0.5) == 0.5
    assert seconds_to_wait(HttpStatusError("x", retry_after=2, status_code=429), 9, jitter=0.0) == 2


def test_who_is_refused_again_and_again_comes_back_at_an_ever_more_different_time() -> None:
    waits = [
        seconds_to_wait(HttpStatusError("x", retry_after=2, status_code=429), attempt, jitter=1.0)
        for attempt in (1, 2, 3, 9)
    ]
    assert waits == [3, 4, 6, 32]
