from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from airflow_provider_sequentum.api.call import (
    as_id,
    as_json_text,
    as_session_segment,
    as_time_text,
    only_given,
)
from airflow_provider_sequentum.api.errors import SequentumConfigurationError


@pytest.mark.parametrize(("value", "expected"), [(7, 7), ("7", 7), (" 7 ", 7), (2**63 - 1, 2**63 - 1)])
def test_ids_are_taken_as_numbers_and_as_rendered_text(value: int | str, expected: int) -> None:
    assert as_id(value, "agent_id") == expected


@pytest.mark.parametrize("value", [0, -1, "", "7/../8", "None", "\u0667", True, "9" * 20, "1.0"])
def test_what_is_no_id_is_refused(value: int | str) -> None:
    with pytest.raises(SequentumConfigurationError, match="agent_id"):
        as_id(value, "agent_id")


@pytest.mark.parametrize(("value", "expected"), [("abc-1", "abc-1"), ("a/../b?c#d", "a%2F..%2Fb%3Fc%23d")])
def test_a_session_id_stays_one_segment_of_the_path(value: str, expected: str) -> None:
    assert as_session_segment(value) == expected


@pytest.mark.parametrize("value", ["", " ", ".", "..", "x" * 257])
def test_what_is_no_session_id_is_refused(value: str) -> None:
    with pytest.raises(SequentumConfigurationError):
        as_session_segment(value)


def test_input_parameters_become_json_text() -> None:
    assert as_json_text({"url": "https://münchen.example"}) == '{"url": "https://münchen.example"}'
    assert as_json_text('{"as": "it is"}') == '{"as": "it is"}'
    assert as_json_text(None) is None


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_input_parameters_without_a_json_form_are_refused(value: object) -> None:
    with pytest.raises(SequentumConfigurationError, match="JSON"):
        as_json_text({"value": value})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (date(2026, 11, 22), "2026-11-22"),
        (datetime(2026, 11, 22, 8, 0, tzinfo=UTC), "2026-11-22T08:00:00Z"),
        (datetime(2026, 11, 22, 8, 0, tzinfo=timezone(timedelta(hours=2))), "2026-11-22T06:00:00Z"),
        (datetime(2026, 11, 22, 8, 0), "2026-11-22T08:00:00Z"),  # noqa: DTZ001  # the case in question
        ("today", "today"),
    ],
)
def test_times_are_written_in_utc(value: date | str, expected: str) -> None:
    assert as_time_text(value) == expected


def test_what_is_not_set_is_not_sent() -> None:
    assert only_given(a=None, b=False, c=0, d=date(2026, 1, 2)) == {"b": False, "c": 0, "d": "2026-01-02"}
