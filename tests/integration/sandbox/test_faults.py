from __future__ import annotations

import json
import time

import httpx
import pytest

from airflow_provider_sequentum.sandbox import Sandbox
from tests.integration.sandbox.client import Api

START = "POST /agent/{agent_id}/start"


@pytest.mark.parametrize(("fault", "started"), [("reset_before", 0), ("reset_after", 1)])
def test_a_reset_is_a_reset_with_or_without_the_effect(sandbox: Sandbox, api: Api, fault: str, started: int) -> None:
    agent = sandbox.add_agent("Prices")
    sandbox.fail_next(START, fault=fault)  # type: ignore[arg-type]
    with pytest.raises(httpx.ReadError, match="reset"):
        api.start(agent.id)
    assert len(sandbox.ledger.starts(agent.id)) == started
    entry = sandbox.ledger.requests[-1]
    assert (entry.status, entry.fault) == (None, fault)
    assert api.start(agent.id)


@pytest.mark.parametrize(("fault", "started"), [("status", 0), ("status_after", 1)])
def test_a_status_comes_before_or_after_the_effect(sandbox: Sandbox, api: Api, fault: str, started: int) -> None:
    agent = sandbox.add_agent("Prices")
    sandbox.fail_next(START, fault=fault, status=504, headers={"Retry-After": "7"})  # type: ignore[arg-type]
    answer = api.post(f"/agent/{agent.id}/start")
    assert (answer.status_code, answer.headers["retry-after"]) == (504, "7")
    assert answer.json()["status"] == 504
    assert len(sandbox.ledger.starts(agent.id)) == started


def test_a_body_of_ones_own(sandbox: Sandbox, api: Api) -> None:
    sandbox.fail_next("GET *", status=402, body="no credits")
    assert api.http.get("/spaces").text == "no credits"


def test_an_answer_is_cut_off(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    sandbox.fail_next(START, fault="truncated")
    with pytest.raises(httpx.RemoteProtocolError):
        api.start(agent.id)
    assert len(sandbox.ledger.starts(agent.id)) == 1


@pytest.mark.parametrize("fault", ["garbage", "html", "empty"])
def test_an_answer_is_not_what_it_should_be(sandbox: Sandbox, api: Api, fault: str) -> None:
    agent = sandbox.add_agent("Prices")
    sandbox.fail_next(START, fault=fault)  # type: ignore[arg-type]
    answer = api.post(f"/agent/{agent.id}/start")
    assert answer.status_code == 202
    with pytest.raises((json.JSONDecodeError, UnicodeDecodeError)):
        answer.json()
    assert len(sandbox.ledger.starts(agent.id)) == 1


def test_an_answer_is_late(sandbox: Sandbox, api: Api) -> None:
    sandbox.fail_next("GET /spaces", fault="delay", delay=0.2)
    before = time.monotonic()
    assert api.http.get("/spaces").status_code == 200
    assert time.monotonic() - before >= 0.2


def test_only_matching_requests_are_struck(sandbox: Sandbox, api: Api) -> None:
    one, other = sandbox.add_agent("One"), sandbox.add_agent("Other")
    sandbox.fail_next(f"POST /agent/{one.id}/start", times=None)
    assert api.start(other.id)
    assert [api.post(f"/agent/{one.id}/start").status_code for _ in range(3)] == [503] * 3
    sandbox.faults.clear()
    assert api.start(one.id)


def test_a_typo_in_a_route_is_told(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="no route matches"):
        sandbox.fail_next("POST /agents/{agent_id}/start")
