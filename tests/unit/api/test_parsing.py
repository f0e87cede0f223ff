from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pendulum
import pytest
from pydantic import ValidationError

from airflow_provider_sequentum.api.errors import RefusedByServer
from airflow_provider_sequentum.api.parsing import (
    ApiId,
    ApiModel,
    ApiTime,
    Page,
    parse_time,
    read_list,
    read_nothing,
    read_one,
    time_between,
)
from tests.unit.api.support import answer


class Part(ApiModel):
    size: int | None = None


class Thing(ApiModel):
    id: ApiId
    long_name: str | None = None
    made_at: ApiTime | None = None
    parts: list[Part] | None = None


class Flagged(ApiModel):
    flag: bool | None = None
    anything: Any = None
    number: float | None = None
    name: str | None = None


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-09-30T23:59:59Z", "2026-09-30T23:59:59+00:00"),
        ("2026-09-30T23:59:59", "2026-09-30T23:59:59+00:00"),
        ("2026-09-30T23:59:59.9999999", "2026-09-30T23:59:59.999999+00:00"),
        ("2026-09-30T23:59:59.9999999+02:00", "2026-09-30T21:59:59.999999+00:00"),
        ("2026-09-30", "2026-09-30T00:00:00+00:00"),
    ],
)
def test_times_are_aware_and_utc(text: str, expected: str) -> None:
    time = parse_time(text)

    assert isinstance(time, pendulum.DateTime)
    assert time.isoformat() == expected


@pytest.mark.parametrize("value", ["", "soon", 1234567890, None, ["2026"], "0001-01-01T00:00:00+23:00"])
def test_what_is_no_time_does_not_validate(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the text comes from Python
        parse_time(value)


@pytest.mark.parametrize("later", ["2026-11-22T10:00:05.25Z", "2026-11-22T12:00:05.25+02:00", "2026-11-22T09:59:00Z"])
def test_the_time_between_two_times_is_their_difference_and_a_plain_one(later: str) -> None:
    earlier, plain = parse_time("2026-11-22T10:00:00Z"), datetime.fromisoformat(later)
    assert time_between(earlier, parse_time(later)) == plain - datetime.fromisoformat("2026-11-22T10:00:00+00:00")
    assert type(time_between(earlier, parse_time(later))) is timedelta


def test_unknown_fields_are_ignored_and_names_are_camel_case_on_the_wire() -> None:
    thing = read_one(Thing)(answer(_json({"id": 1, "longName": "a", "unheardOf": {"b": 1}})))

    assert thing == Thing(id=1, long_name="a")


def test_null_is_the_same_as_absent() -> None:
    assert read_one(Thing)(answer(_json({"id": 1, "longName": None, "parts": None}))) == Thing(id=1)


def test_a_field_of_an_unexpected_type_counts_as_absent() -> None:
    thing = read_one(Thing)(answer(_json({"id": 1, "longName": ["a"], "madeAt": "soon", "parts": [{"size": "b"}]})))

    assert thing == Thing(id=1, parts=[Part()])


@pytest.mark.parametrize("value", [None, "x", 0, -1, 2**63, [1], 1.5])
def test_an_id_that_cannot_be_one_makes_the_answer_unreadable(value: object) -> None:
    with pytest.raises(ValidationError):
        read_one(Thing)(answer(_json({"id": value})))


@pytest.mark.parametrize("content", [b"", b"  ", b"<html>", b'{"id": 1', b"[]", b"null", b'"text"', b"[" * 100_000])
def test_what_is_not_the_object_does_not_validate(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the text comes from the JSON parser
        read_one(Thing)(answer(content))


def test_ids_that_were_asked_for_stand_in_for_what_the_answer_does_not_say() -> None:
    read = read_one(Thing, longName="known")

    assert read(answer(_json({"id": 1}))).long_name == "known"
    assert read(answer(_json({"id": 1, "longName": None}))).long_name == "known"


@pytest.mark.parametrize("key", ["items", "agents", "runs", "transactions"])
def test_a_page_is_read_from_any_envelope(key: str) -> None:
    page = read_list(Thing)(answer(_json({key: [{"id": 1}, {"id": 2}], "totalRecordCount": 5})))

    assert page == [Thing(id=1), Thing(id=2)]
    assert page.total_record_count == 5


def test_a_page_is_read_from_a_plain_array() -> None:
    page = read_list(Thing)(answer(b'[{"id": 1}]'))

    assert page == [Thing(id=1)]
    assert page.total_record_count is None


def test_credit_history_calls_its_total_otherwise() -> None:
    assert read_list(Thing)(answer(b'{"transactions": [], "totalCount": 7}')).total_record_count == 7


@pytest.mark.parametrize("content", [b"{}", b'{"items": {}}', b"3", b'[{"id": null}]'])
def test_what_is_not_the_list_does_not_validate(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the text comes from pydantic
        read_list(Thing)(answer(content))


@pytest.mark.parametrize("content", [b"", b"OK", b"true", b'{"success": true}'])
def test_any_2xx_is_enough_for_a_call_that_only_acts(content: bytes) -> None:
    assert read_nothing(answer(content, 204)) is None  # type: ignore[func-returns-value]


def test_a_page_of_a_gateway_is_no_sign_that_anything_was_done() -> None:
    with pytest.raises(ValueError, match="page"):
        read_nothing(answer("\n<!doctype html>"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"success": false, "error": "no more credits"}', "no more credits"),
        (b' {"success": false, "message": "busy"}', "busy"),
        (b'{"success": false}', "no reason"),
    ],
)
def test_success_false_is_a_refusal(content: bytes, reason: str) -> None:
    for read in (read_nothing, read_one(Thing), read_list(Thing)):
        with pytest.raises(RefusedByServer, match=reason):
            read(answer(content))


def test_a_page_is_a_list() -> None:
    assert [*Page([1, 2], 9), 3] == [1, 2, 3]


@pytest.mark.parametrize("flag", [True, False])
def test_a_flag_is_no_number(flag: bool) -> None:
    with pytest.raises(ValidationError):
        read_one(Thing)(answer(_json({"id": flag})))
    thing = read_one(Thing)(answer(_json({"id": 1, "parts": [{"size": flag}], "flag": flag, "anything": [flag]})))
    assert thing.parts == [Part()]
    flagged = read_one(Flagged)(answer(_json({"flag": flag, "anything": flag, "number": flag, "name": flag})))
    assert flagged == Flagged(flag=flag, anything=flag)
