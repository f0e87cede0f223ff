from __future__ import annotations

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
