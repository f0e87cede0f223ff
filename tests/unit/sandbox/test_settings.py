from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

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
    assert Dialect().wait(0.2) == "1"
    assert Dialect().wait(30.1) == "31"
    date = parsedate_to_datetime(Dialect(retry_after="date").wait(100))
    assert 95 < (date - datetime.now(UTC)).total_seconds() <= 100


def test_changes_are_checked() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.rate_limit = 0
    with pytest.raises(ValidationError):
        Dialect.model_validate({"download": 418})
