from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from airflow_provider_sequentum.lifecycle.arguments import (
    parse_choice,
    parse_count,
    parse_credits,
    parse_id,
    parse_input_parameters,
    parse_seconds,
    parse_time,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(("value", "expected"), [(7, 7), ("7", 7), (" 42 ", 42), ("007", 7), (2**53, 2**53)])
def test_an_id(value: object, expected: int) -> None:
    assert parse_id("agent_id", value) == expected


@pytest.mark.parametrize("value", [0, -1, "0", "-7", "", "x", "7.0", 7.0, None, "{{ x }}", "\u0667", "\u00b2", [7]])
def test_no_id(value: object) -> None:
    with pytest.raises(ValueError, match="agent_id must be a positive whole number"):
        parse_id("agent_id", value)


@given(st.one_of(st.integers(), st.text(), st.floats(), st.none(), st.booleans()))
def test_whatever_is_given_an_id_is_a_positive_int_or_refused(value: object) -> None:
    good = (isinstance(value, int) and not isinstance(value, bool) and value > 0) or (
        isinstance(value, str) and value.strip().isascii() and value.strip().isdecimal() and int(value) > 0
    )
    if good:
        assert parse_id("agent_id", value) == int(value)  # type: ignore[call-overload]
    else:
        with pytest.raises(ValueError, match="agent_id"):
            parse_id("agent_id", value)


@pytest.mark.parametrize(("value", "expected"), [(None, None), ("", None), (0, 0), ("0", 0), (" 12 ", 12), (5, 5)])
def test_a_count(value: object, expected: int | None) -> None:
    assert parse_count("min_records", value) == expected


@pytest.mark.parametrize("value", [-1, "-1", "x", 1.5, True, "1.5"])
def test_no_count(value: object) -> None:
    with pytest.raises(ValueError, match="min_records must be a whole number of 0 or more"):
        parse_count("min_records", value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), ("", None), (0, 0.0), ("0", 0.0), (0.25, 0.25), ("12.5", 12.5), (100, 100.0), (" 7 ", 7.0)],
)
def test_an_amount_of_credits(value: Any, expected: float | None) -> None:
    assert parse_credits(value) == expected


@pytest.mark.parametrize("value", [-1, -0.01, "-1", "many", float("inf"), "inf", float("nan"), "nan", [], {}])
def test_no_amount_of_credits(value: Any) -> None:
    with pytest.raises(ValueError, match="min_credits must be a number of credits of 0 or more"):
        parse_credits(value)


@pytest.mark.parametrize("value", [None, "", "  "])
def test_no_input_parameters(value: str | None) -> None:
    assert parse_input_parameters(value) is None


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)))
def test_input_parameters_mean_the_same_as_mapping_and_as_text(value: dict[str, Any]) -> None:
    text = parse_input_parameters(value)
    assert text is not None
    assert json.loads(text) == value
    assert parse_input_parameters(json.dumps(value, indent=2)) == text


def test_the_order_of_input_parameters_does_not_matter() -> None:
    assert parse_input_parameters({"a": 1, "b": 2}) == parse_input_parameters({"b": 2, "a": 1})


@pytest.mark.parametrize(
    "value", ["[1]", "7", "null", '"text"', "{", "{'a': 1}", [1], 7, {"a": object()}, {"a": float("nan")}]
)
def test_what_is_no_json_object_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="input_parameters must be a JSON object"):
        parse_input_parameters(value)


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), (5, 5.0), ("2.5", 2.5), (timedelta(minutes=1), 60.0), (0.1, 0.1)]
)
def test_a_duration(value: Any, expected: float | None) -> None:
    assert parse_seconds("timeout", value) == expected


@pytest.mark.parametrize("value", [0, -1, "soon", "", timedelta(0), float("inf"), float("nan"), "nan", [], {}])
def test_no_duration(value: Any) -> None:
    with pytest.raises(ValueError, match="timeout must be a number of seconds above 0"):
        parse_seconds("timeout", value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("2026-01-31T06:00:00Z", datetime(2026, 1, 31, 6, tzinfo=UTC)),
        (" 2026-01-31T06:00:00+02:00 ", datetime(2026, 1, 31, 4, tzinfo=UTC)),
        (datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC)),
    ],
)
def test_a_time(value: Any, expected: datetime | None) -> None:
    assert parse_time("since", value) == expected


@pytest.mark.parametrize("value", ["2026-01-31T06:00:00", "2026-01-31", "now", "", 7, datetime(2026, 1, 31)])  # noqa: DTZ001
def test_no_time(value: Any) -> None:
    with pytest.raises(ValueError, match="since must be a time with an offset"):
        parse_time("since", value)


def test_a_choice() -> None:
    assert parse_choice("on_clear", "join", ("rerun", "join")) == "join"
    with pytest.raises(ValueError, match="on_clear must be one of 'rerun', 'join', not 'stop'"):
        parse_choice("on_clear", "stop", ("rerun", "join"))


@pytest.mark.parametrize(
    "parse",
    [
        partial(parse_id, "agent_id"),
        partial(parse_count, "min_records"),
        parse_credits,
        parse_input_parameters,
        partial(parse_seconds, "timeout"),
        partial(parse_time, "since"),
        partial(parse_choice, "on_clear", choices=("rerun", "join")),
    ],
)
def test_a_refusal_repeats_what_was_given(parse: Callable[[Any], object]) -> None:
    with pytest.raises(ValueError, match=r", not '-7'\.$|, not \[-7\]\.$"):
        parse([-7] if parse is parse_input_parameters else "-7")


@pytest.mark.parametrize(("length", "is_whole"), [(78, True), (79, False)])
def test_a_value_of_up_to_eighty_characters_is_repeated_in_full(length: int, is_whole: bool) -> None:
    value = "x" * length
    with pytest.raises(ValueError, match="agent_id") as caught:
        parse_id("agent_id", value)
    assert (repr(value) in str(caught.value)) is is_whole


def test_a_long_value_is_not_repeated_in_full() -> None:
    with pytest.raises(ValueError, match="agent_id") as caught:
        parse_id("agent_id", "x" * 10_000)
    assert len(str(caught.value)) < 200
