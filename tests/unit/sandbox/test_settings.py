from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from airflow_provider_sequentum.sandbox.settings import Dialect, Settings

MOMENT = datetime(2026, 9, 30, 23, 59, 59, 999999, tzinfo=UTC)


@pytest.mark.parametrize(
    ("times", "first", "text"),
    [
        ("utc", False, "2026-09-30T23:59:59.999Z"),
        ("seven_digits", True, "2026-09-30T23:59:59.9999990"),
        ("mixed", True, "2026-09-30T23:59:59.999Z"),
        ("mixed", False, "2026-09-30T23:59:59.9999990"),
    ],
)
def test_times_are_written_as_asked(times: str, first: bool, text: str) -> None:
    assert Dialect.model_validate({"times": times}).time(MOMENT, first=first) == text


def test_no_time_is_null() -> None:
    assert Dialect().time(None) is None


def test_retry_after_is_whole_seconds_or_a_date() -> None:
    assert Dialect().wait(0.2, MOMENT) == "1"
    assert Dialect().wait(30.1, MOMENT) == "31"
    assert Dialect(retry_after="date").wait(100, MOMENT) == "Thu, 01 Oct 2026 00:01:39 GMT"


def test_a_skewed_clock_shows_in_every_form_of_a_time() -> None:
    behind = Dialect(clock_skew_seconds=-86_400, times="utc", retry_after="date")
    assert behind.time(MOMENT) == "2026-09-29T23:59:59.999Z"
    assert behind.http_date(MOMENT) == "Tue, 29 Sep 2026 23:59:59 GMT"
    assert behind.wait(1, MOMENT) == "Wed, 30 Sep 2026 00:00:00 GMT"
    assert behind.by_sandbox_clock(behind.by_service_clock(MOMENT)) == MOMENT


def test_changes_are_checked() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.rate_limit = 0
    with pytest.raises(ValidationError):
        Dialect.model_validate({"download": 418})
