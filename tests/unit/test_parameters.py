from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, get_args
from uuid import UUID

import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.parameters import (
    OnClear,
    parse_amount,
    parse_choice,
    parse_count,
    parse_flag,
    parse_id,
    parse_json_object,
    parse_seconds,
    parse_text,
    parse_time,
    plain,
)
from airflow_provider_sequentum.runs.record import RunConfig
from airflow_provider_sequentum.sessions.record import SessionConfig


class NumPyInt:
    """As NumPy's integers: no ``int``, but it stands for one."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


class NumPyArray:
    def tolist(self) -> list[float]:
        return [1, 2.5]


class LazyOutput(Sequence[Any]):
    """As the output of a mapped task: a sequence that fetches its items when they are asked for."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]


class OldLazyOutput:
    """As that of Airflow 2: it can be iterated over and indexed, and is no registered sequence."""

    def __getitem__(self, index: int) -> int:
        return [1, 2][index]


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


# One table: what every parameter makes of every kind of value

REFUSED, DEFAULT = object(), object()
KINDS = {
    "id": ["agent_id", "proxy_pool_id", "pinned_version"],
    "version": ["expected_version"],
    "count": ["parallelism", "parallel_max_concurrency", "restarts", "min_records", "max_errors"],
    "amount": ["min_credits", "credit_limit"],
    "seconds": ["timeout", "poll_interval", "restart_delay", "stop_grace"],
    "flag": [
        "wait_for_completion",
        "deferrable",
        "is_exclusive",
        "is_wait_on_failure",
        "check_schedules",
        "report_cost",
        "stop_overdue",
    ],
    "choice": [
        "on_timeout",
        "retry_mode",
        "on_clear",
        "credit_limit_period",
        "on_ambiguous_start",
        "on_empty",
        "parallel_export",
        "log_level",
        "log_mode",
    ],
    "json": ["input_parameters"],
    "text": ["agent_name", "sequentum_conn_id"],
}
TABLE: list[tuple[Any, dict[str, Any]]] = [
    (None, dict.fromkeys(KINDS, DEFAULT)),
    ("", dict.fromkeys(KINDS, DEFAULT)),
    ("  ", dict.fromkeys(KINDS, DEFAULT)),
    (0, {"count": 0, "amount": 0.0, "seconds": 0.0}),
    ("0", {"count": 0, "amount": 0.0, "seconds": 0.0, "text": "0"}),
    (7, {"id": 7, "version": 7, "count": 7, "amount": 7.0, "seconds": 7.0}),
    ("7", {"id": 7, "version": 7, "count": 7, "amount": 7.0, "seconds": 7.0, "text": "7"}),
    (" 7 ", {"id": 7, "version": 7, "count": 7, "amount": 7.0, "seconds": 7.0, "text": " 7 "}),
    (7.0, {"amount": 7.0, "seconds": 7.0}),
    (7.5, {"amount": 7.5, "seconds": 7.5}),
    ("7.5", {"amount": 7.5, "seconds": 7.5, "text": "7.5"}),
    (Fraction(15, 2), {"amount": 7.5, "seconds": 7.5}),
    (Decimal(7), {"id": 7, "version": 7, "count": 7, "amount": 7.0, "seconds": 7.0}),
    (Decimal("7.5"), {"amount": 7.5, "seconds": 7.5}),
    (Decimal("NaN"), {}),
    (Decimal("Infinity"), {}),
    (NumPyInt(7), {"id": 7, "version": 7, "count": 7, "amount": 7.0, "seconds": 7.0}),
    (NumPyInt(0), {"count": 0, "amount": 0.0, "seconds": 0.0}),
    (Level.HIGH, {"id": 3, "version": 3, "count": 3, "amount": 3.0, "seconds": 3.0}),
    (-1, {}),
    ("-1", {"text": "-1"}),
    (True, {"flag": True}),
    (False, {"flag": False}),
    ("True", {"flag": True, "text": "True"}),
    (" false ", {"flag": False, "text": " false "}),
    (timedelta(minutes=2), {"seconds": 120.0}),
    (timedelta(0), {"seconds": 0.0}),
    (timedelta(seconds=-1), {}),
    (pendulum.duration(minutes=2), {"seconds": 120.0}),
    (float("nan"), {}),
    ("nan", {"text": "nan"}),
    (float("inf"), {}),
    ("{{ x }}", {"text": "{{ x }}"}),
    (datetime(2026, 1, 31, tzinfo=UTC), {}),
    (date(2026, 1, 31), {}),
    ([7], {}),
    ({7}, {}),
    (b"7", {}),
    (LazyOutput(7), {}),
    ({}, {"json": "{}"}),
    ({"a": 1}, {"json": '{"a": 1}'}),
    ('{"a": 1}', {"json": '{"a": 1}', "text": '{"a": 1}'}),
    ({"a": LazyOutput(1, 2)}, {"json": '{"a": [1, 2]}'}),
    ("pinned", {"version": "pinned", "text": "pinned"}),
    ("Pinned", {"text": "Pinned"}),
    (object(), {}),
]


def test_the_table_has_every_parameter() -> None:
    assert sorted(name for names in KINDS.values() for name in names) == sorted(RunConfig.model_fields)


@pytest.mark.parametrize(("value", "meanings"), TABLE, ids=[repr(value)[:40].split(" at 0x")[0] for value, _ in TABLE])
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in KINDS.items() for name in names])
def test_what_every_parameter_makes_of_every_value(kind: str, name: str, value: Any, meanings: dict[str, Any]) -> None:
    expected = meanings.get(kind, REFUSED)
    operator = SimpleNamespace(**{"agent_id": 7, "sequentum_conn_id": "conn", name: value})
    if expected is REFUSED:
        with pytest.raises(SequentumRequestRefused, match=rf"^{name} must be .*(, not |: ).*\. Nothing was sent"):
            RunConfig.of(operator)
        return
    parsed = getattr(RunConfig.of(operator), name)
    assert parsed == (RunConfig.model_fields[name].default if expected is DEFAULT else expected)
    assert isinstance(parsed, bool) is (kind == "flag" and parsed is not None)


@pytest.mark.parametrize("name", KINDS["choice"])
def test_every_choice_takes_its_values_and_names_them(name: str) -> None:
    with pytest.raises(SequentumRequestRefused) as caught:
        RunConfig.of(SimpleNamespace(agent_id=7, **{name: "no such"}))
    _, _, choices = str(caught.value).partition("one of ")
    names = [choice.strip("' ") for choice in choices.partition(", not ")[0].split(",")]
    assert len(names) > 1
    for choice in names:
        assert getattr(RunConfig.of(SimpleNamespace(agent_id=7, **{name: choice})), name) == choice


def test_all_that_is_wrong_is_said_at_once_with_the_connection() -> None:
    operator = SimpleNamespace(agent_id="x", timeout=-1, sequentum_conn_id="mine")
    with pytest.raises(SequentumRequestRefused, match=r"timeout must .*agent_id must .*connection 'mine'"):
        RunConfig.of(operator)


# Input parameters: what native rendering gives


class Circular(dict[str, Any]):
    pass


CIRCULAR = Circular()
CIRCULAR["self"] = CIRCULAR


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (Decimal("1.50"), "1.5"),
        (Decimal("3.00"), "3"),
        (Decimal("1E+2"), "100"),
        (NumPyArray(), "[1, 2.5]"),
        (LazyOutput(1, LazyOutput()), "[1, []]"),
        (OldLazyOutput(), "[1, 2]"),
        ((number for number in (1, 2)), "[1, 2]"),
        ({2, 1}, "[1, 2]"),
        (frozenset({"b", "a"}), '["a", "b"]'),
        (datetime(2026, 1, 31, 6, tzinfo=UTC), '"2026-01-31T06:00:00+00:00"'),
        (pendulum.datetime(2026, 1, 31, 6), '"2026-01-31T06:00:00+00:00"'),
        (date(2026, 1, 31), '"2026-01-31"'),
        (time(6, 30), '"06:30:00"'),
        (timedelta(minutes=1), "60.0"),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Colour.RED, '"red"'),
        (Level.HIGH, "3"),
        ({1: 2, date(2026, 1, 31): 3, Colour.RED: 4}, '{"1": 2, "2026-01-31": 3, "red": 4}'),
        ("\u20ac", '"\u20ac"'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_native_rendering_gives_is_serialised(value: Any, text: str) -> None:
    assert parse_json_object({"a": value}) == f'{{"a": {text}}}'
    json.loads(parse_json_object({"a": {"b": LazyOutput(value)}}) if not isinstance(value, Iterator) else text)


def test_times_of_numpy_and_pandas_are_times_in_any_unit() -> None:
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    for unit in ("s", "ms", "us", "ns"):
        moment = numpy.datetime64("2026-01-31T06:00:00", unit)
        values = [moment, numpy.array([moment]), numpy.timedelta64(5, "s").astype(f"timedelta64[{unit}]")]
        assert [plain(value) for value in values] == ["2026-01-31T06:00:00", ["2026-01-31T06:00:00"], 5.0]
    assert plain(numpy.datetime64("2026-01-31")) == "2026-01-31"
    series = pandas.Series(pandas.to_datetime(["2026-01-31T06:00:00+00:00", None]))
    assert plain([series, pandas.NaT, numpy.datetime64("NaT")]) == [["2026-01-31T06:00:00+00:00", None], None, None]


@pytest.mark.parametrize("exponent", [400, 5_000, 3_000_000, 999_999_999])
def test_a_huge_decimal_takes_no_time(exponent: int) -> None:
    huge = Decimal(f"1E+{exponent}")
    for parse in (parse_id, parse_count, parse_amount, parse_seconds):
        with pytest.raises(ValueError, match="must be"):
            parse(huge)
    with pytest.raises(ValueError, match="must be a JSON object"):
        parse_json_object({"a": huge})


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("-Infinity"),
        b"x",
        object(),
        {b"x": 1},
        CIRCULAR,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_form_in_json_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="must be a JSON object: "):
        parse_json_object({"a": value})


@pytest.mark.parametrize("value", ["[1]", "7", "null", '"text"', "{", "{'a': 1}", '{"a": NaN}', [1], 7, LazyOutput(1)])
def test_what_is_no_json_object_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="must be a JSON object"):
        parse_json_object(value)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.dictionaries(TEXTS, st.recursive(st.none() | st.booleans() | st.integers() | TEXTS, st.lists)))
def test_input_parameters_mean_the_same_as_mapping_and_as_text(value: dict[str, Any]) -> None:
    text = parse_json_object(value)
    assert json.loads(text) == value
    assert parse_json_object(json.dumps(value, indent=2)) == text


def test_the_order_of_input_parameters_does_not_matter() -> None:
    assert parse_json_object({"a": 1, "b": 2}) == parse_json_object({"b": 2, "a": 1})


# Each parser by itself


@pytest.mark.parametrize(("value", "expected"), [(7, 7), ("7", 7), (" 42 ", 42), ("007", 7), (2**53, 2**53)])
def test_an_id(value: object, expected: int) -> None:
    assert parse_id(value) == expected


@pytest.mark.parametrize("value", [0, "0", "7.0", 7.0, "\u0667", "\u00b2", [7], 2**63, "9" * 30])
def test_no_id(value: object) -> None:
    with pytest.raises(ValueError, match="must be a positive whole number"):
        parse_id(value)


@given(st.one_of(st.integers(), st.text(), st.floats(), st.none(), st.booleans()))
def test_whatever_is_given_an_id_is_a_positive_int_or_refused(value: object) -> None:
    good = (isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63) or (
        isinstance(value, str)
        and value.strip().isascii()
        and value.strip().isdecimal()
        and 0 < int(value) < 2**63
        and len(value.strip()) <= 20
    )
    if good:
        assert parse_id(value) == int(value)  # type: ignore[call-overload]
    else:
        with pytest.raises(ValueError, match="must be a positive whole number"):
            parse_id(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-01-31T06:00:00Z", datetime(2026, 1, 31, 6, tzinfo=UTC)),
        (" 2026-01-31T06:00:00+02:00 ", datetime(2026, 1, 31, 4, tzinfo=UTC)),
        (datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC)),
    ],
)
def test_a_time(value: Any, expected: datetime) -> None:
    assert parse_time(value) == expected


@pytest.mark.parametrize("value", ["2026-01-31T06:00:00", "2026-01-31", "now", 7, True, datetime(2026, 1, 31)])  # noqa: DTZ001
def test_no_time(value: Any) -> None:
    with pytest.raises(ValueError, match="must be a time with an offset"):
        parse_time(value)


def parse_on_clear(value: object) -> str:
    return parse_choice(value, get_args(OnClear))


def test_a_choice() -> None:
    assert parse_on_clear("join") == "join"
    with pytest.raises(ValueError, match="must be one of 'rerun', 'join', not 'stop'"):
        parse_on_clear("stop")


PARSERS: list[Callable[[Any], object]] = [
    parse_id,
    parse_count,
    parse_amount,
    parse_seconds,
    parse_time,
    parse_flag,
    parse_text,
    parse_on_clear,
    parse_json_object,
]


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(("length", "is_whole"), [(20, True), (26, True), (27, False), (10_000, False)])
def test_a_refusal_repeats_a_value_of_up_to_eighty_characters(
    parse: Callable[[Any], object], length: int, is_whole: bool
) -> None:
    value = [1] * length  # each item takes three characters
    with pytest.raises(ValueError, match=r"^must be .*, not \[1, 1") as caught:
        parse(value)
    assert str(caught.value).endswith(repr(value)) is is_whole
    assert len(str(caught.value)) < 250


class _Deep:
    def __repr__(self) -> str:
        raise RecursionError


@pytest.mark.parametrize("name", ["timeout", "poll_interval", "stop_grace", "restart_delay"])
@pytest.mark.parametrize("value", [timedelta.max, 1e12, "1e13", 10**12])
def test_a_duration_that_no_date_can_be_moved_by_is_refused(name: str, value: object) -> None:
    with pytest.raises(SequentumRequestRefused, match=f"{name} must be .*from 0 to 3660 days"):
        RunConfig.of(SimpleNamespace(agent_id=7, sequentum_conn_id="c", **{name: value}))


@pytest.mark.parametrize("text", ["a\0b", "half \ud83d", "\udc00"])
@pytest.mark.parametrize("where", ["prompt", "agent_name", "followups", "list of followups", "value", "key"])
def test_what_no_request_and_no_database_takes_is_refused_before_anything_starts(where: str, text: str) -> None:
    cases: dict[str, dict[str, Any]] = {
        "prompt": {"prompt": 20 * "x" + text},
        "agent_name": {"prompt": 20 * "x", "agent_name": text},
        "followups": {"prompt": 20 * "x", "followups": text},
        "list of followups": {"prompt": 20 * "x", "followups": ["a", text]},
        "value": {"agent_id": 7, "input_parameters": {"a": [text]}},
        "key": {"agent_id": 7, "input_parameters": {text: 1}},
    }
    values = cases[where]
    config: Any = RunConfig if "agent_id" in values else SessionConfig
    attributes = SimpleNamespace(sequentum_conn_id="c", **values)
    with pytest.raises(SequentumRequestRefused, match="no NUL character and no half of a surrogate pair"):
        config.of(attributes)


@pytest.mark.parametrize("value", [{1: 2, "1": 3}, {"a": [{True: 1, "True": 2}]}], ids=repr)
def test_two_keys_that_are_one_in_json_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"two keys are .* in JSON"):
        parse_json_object(value)


@pytest.mark.parametrize("value", [10**5000, _Deep(), [_Deep()]], ids=["int", "object", "list"])
@pytest.mark.parametrize("name", ["agent_id", "on_timeout", "timeout", "deferrable"])
def test_a_value_that_cannot_be_shown_is_refused_like_others(name: str, value: object) -> None:
    attributes = SimpleNamespace(**{"agent_id": 7, "sequentum_conn_id": "c", name: value})
    with pytest.raises(SequentumRequestRefused, match=rf"{name} must be .*not this (int|_Deep|list)"):
        RunConfig.of(attributes)


@pytest.mark.parametrize("value", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "1969-12-31T23:59:59Z"])
def test_a_time_at_the_edge_of_the_calendar_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="must be a time with an offset"):
        parse_time(value)
