from __future__ import annotations

from datetime import UTC, datetime

import pytest

from airflow_provider_sequentum.sandbox.problems import Problem
from airflow_provider_sequentum.sandbox.routes.dates import period
from airflow_provider_sequentum.sandbox.settings import Dialect

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def test_a_date_means_its_whole_day() -> None:
    day = period("2026-03-01", "2026-03-01", NOW, NOW, Dialect())
    assert datetime(2026, 3, 1, tzinfo=UTC) in day
    assert datetime(2026, 3, 1, 23, 59, 59, 999999, tzinfo=UTC) in day
    assert datetime(2026, 3, 2, tzinfo=UTC) not in day


def test_a_time_without_offset_is_utc() -> None:
    assert period("2026-03-01T10:00:00", None, NOW, NOW, Dialect()).start == datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert period("2026-03-01T10:00:00+02:00", None, NOW, NOW, Dialect()).start == datetime(2026, 3, 1, 8, tzinfo=UTC)


@pytest.mark.parametrize("text", ["yesterday", "", "2026-13-01", "9999-12-31T23:59:59-14:00"])
def test_what_is_no_date_is_a_400(text: str) -> None:
    with pytest.raises(Problem) as caught:
        period(text, None, NOW, NOW, Dialect())
    assert caught.value.status == 400


def test_a_period_does_not_end_before_it_starts() -> None:
    with pytest.raises(Problem, match="before"):
        period("2026-03-02", "2026-03-01", NOW, NOW, Dialect())


def test_a_period_is_of_the_services_clock() -> None:
    ahead = Dialect(clock_skew_seconds=3600)
    assert period("2026-03-01T10:00:00Z", None, NOW, NOW, ahead).start == datetime(2026, 3, 1, 9, tzinfo=UTC)
    with pytest.raises(Problem, match="neither"):
        period("0001-01-01", None, NOW, NOW, ahead)
