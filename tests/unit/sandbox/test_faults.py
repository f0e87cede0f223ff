from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from airflow_provider_sequentum.sandbox.app import known_routes
from airflow_provider_sequentum.sandbox.faults import Fault, Faults

START = "POST /agent/{agent_id}/start"


@pytest.mark.parametrize(
    ("route", "method", "path", "matches"),
    [
        (START, "POST", "/agent/7/start", True),
        (START, "GET", "/agent/7/start", False),
        (START, "POST", "/agent/7/run/1/start", False),
        ("POST /agent/7/start", "POST", "/agent/8/start", False),
        ("GET *", "GET", "/agent/7/runs", True),
        ("GET *", "POST", "/agent/7/runs", False),
        ("*", "DELETE", "/agent/7/run/1", True),
        ("* /agent/{agent_id}/runs", "GET", "/agent/7/runs", True),
        ("GET /agent/7.runs", "GET", "/agent/7/runs", False),
    ],
)
def test_a_route_pattern_matches(route: str, method: str, path: str, matches: bool) -> None:
    assert Fault(route=route).matches(method, path) is matches


def test_a_fault_is_used_up() -> None:
    faults = Faults(seed=0)
    faults.add(Fault(route=START, times=2))
    struck = [faults.take("POST", "/agent/1/start") is not None for _ in range(3)]
    assert struck == [True, True, False]
    assert faults.waiting == []


def test_chance_is_seeded() -> None:
    def strikes(seed: int) -> list[bool]:
        faults = Faults(seed)
        faults.add(Fault(route="*", times=None, probability=0.5))
        return [faults.take("GET", "/spaces") is not None for _ in range(200)]

    assert strikes(1) == strikes(1)
    assert strikes(1) != strikes(2)
    assert 50 < sum(strikes(1)) < 150


def test_a_route_that_does_not_exist_is_refused_with_the_routes_that_do() -> None:
    with pytest.raises(ValueError, match=r"no route matches 'POST /agent/\{agent_id\}/begin'.*/start"):
        Faults(0, known_routes()).add(Fault(route="POST /agent/{agent_id}/begin"))


@pytest.mark.parametrize(
    "route", [START, "POST /agent/7/start", "POST /agent/{id}/start", "GET /storage/*", "*", "GET /agent/7/run/1/files"]
)
def test_known_routes_are_taken(route: str) -> None:
    faults = Faults(0, known_routes())
    faults.add(Fault(route=route))
    assert len(faults.waiting) == 1


def test_details_that_do_not_fit_the_kind_are_refused() -> None:
    with pytest.raises(ValidationError, match="no status of its own"):
        Fault(route="*", fault="html", status=500)
    with pytest.raises(ValidationError, match="needs a delay"):
        Fault(route="*", fault="delay")
    with pytest.raises(ValidationError, match="needs a delay"):
        Fault(route="*", fault="late")
    with pytest.raises(ValidationError, match="needs one of them"):
        Fault(route="*", fault="altered", where={"id": 1})
    with pytest.raises(ValidationError, match="'altered' fault"):
        Fault(route="*", values={"id": 1})


class Time:
    """Real seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_fault_of_some_seconds_counts_them_from_its_first_time_on() -> None:
    time = Time()
    faults = Faults(seed=0, monotonic=time)
    faults.add(Fault(route=START, seconds=5))
    time.now += 1000
    assert faults.take("GET", "/spaces") is None
    assert faults.take("POST", "/agent/1/start") is not None
    time.now += 4.9
    assert faults.take("POST", "/agent/1/start") is not None
    assert len(faults.waiting) == 1
    time.now += 0.1
    assert faults.waiting == []
    assert faults.take("POST", "/agent/1/start") is None


def test_seconds_and_times_both_bound_a_fault() -> None:
    time = Time()
    faults = Faults(seed=0, monotonic=time)
    faults.add(Fault(route=START, seconds=5, times=2))
    assert [faults.take("POST", "/agent/1/start") is not None for _ in range(3)] == [True, True, False]


def altered(content: str, **fields: Any) -> bytes:
    return Fault.model_validate({"route": "*", "fault": "altered", **fields}).alter(content.encode())


def test_values_replace_members_wherever_they_are_and_add_none() -> None:
    content = '{"runs": [{"id": 1, "message": null}, {"id": 2}], "id": 3, "n": {"id": null}}'
    assert json.loads(altered(content, values={"id": 9, "message": "x"})) == {
        "runs": [{"id": 9, "message": "x"}, {"id": 9}],
        "id": 9,
        "n": {"id": 9},
    }


def test_only_the_objects_that_were_meant_are_altered() -> None:
    content = '[{"id": 1, "status": 6}, {"id": 2, "status": 6}, {"status": 6}]'
    assert json.loads(altered(content, values={"status": 1}, where={"id": 2})) == [
        {"id": 1, "status": 6},
        {"id": 2, "status": 1},
        {"status": 6},
    ]
    assert json.loads(altered('[{"id": null}, {}]', values={"id": 1}, where={"id": None})) == [{"id": 1}, {}]


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        ("NaN", b"NaN"),
        ("-Infinity", b"-Infinity"),
        (r'"\ud83d"', rb'"\ud83d"'),
        (r'"\u0000\u001b[2J"', rb'"\u0000\u001b[2J"'),
        ('"a\nb\x00"', b'"a\nb\x00"'),
        ("1e999", b"1e999"),
        ('{"a":', b'{"a":'),
        ('"\ud83d"', b'"\xed\xa0\xbd"'),
    ],
)
def test_raw_values_are_written_as_they_are(raw: str, written: bytes) -> None:
    assert (
        altered('{"id": 1, "message": "x"}', raw_values={"message": raw}) == b'{"id": 1, "message": ' + written + b"}"
    )


def test_a_prefix_comes_before_an_answer_that_may_be_anything() -> None:
    assert altered("[1]", prefix="\ufeff") == b"\xef\xbb\xbf[1]"
    assert altered("a,b", prefix="\ufeff") == b"\xef\xbb\xbfa,b"
