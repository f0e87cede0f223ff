from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from airflow_provider_sequentum.sandbox import RunPlan, Sandbox
from airflow_provider_sequentum.sandbox.runs import RunOptions
from tests.integration.sandbox.client import Api, plain, send, until

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


def test_a_fault_applies_to_matching_requests_only(sandbox: Sandbox, api: Api) -> None:
    one, other = sandbox.add_agent("One"), sandbox.add_agent("Other")
    sandbox.fail_next(f"POST /agent/{one.id}/start", times=None)
    assert api.start(other.id)
    assert [api.post(f"/agent/{one.id}/start").status_code for _ in range(3)] == [503] * 3
    sandbox.faults.clear()
    assert api.start(one.id)


def test_a_typo_in_a_route_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="no route matches"):
        sandbox.fail_next("POST /agents/{agent_id}/start")


def test_the_status_of_a_run_can_be_refused_for_good_while_it_may_be_stopped(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices", outcome="Running")
    refused, other = api.start(agent.id), api.start(agent.id)
    sandbox.fail_next(f"GET /agent/{agent.id}/run/{refused}/status", status=401, body="No run access", times=None)
    path = f"/agent/{agent.id}/run/{refused}"
    assert [api.http.get(f"{path}/status").status_code for _ in range(3)] == [401] * 3
    assert api.status(agent.id, other)["id"] == other
    assert [api.post(f"{path}/{verb}").status_code for verb in ("stop", "kill")] == [204, 204]
    assert [run.run_id for run in sandbox.ledger.going] == [other]


def test_a_status_is_not_found_for_a_while_although_the_run_goes_on(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices", outcome="Running")
    run_id = api.start(agent.id)
    sandbox.fail_next("GET /agent/{agent_id}/run/{run_id}/status", status=404, seconds=0.3)
    path = f"/agent/{agent.id}/run/{run_id}/status"
    assert [api.http.get(path).status_code for _ in range(2)] == [404, 404]
    assert [run.run_id for run in sandbox.ledger.going] == [run_id]
    until(lambda: api.http.get(path).status_code == 200)


def test_a_start_is_refused_while_another_run_is_said_to_go(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    body = '{"message": "Agent is already running"}'
    sandbox.fail_next(START, status=409, body=body, headers={"Content-Type": "application/json"}, seconds=0.3)
    refusal = api.post(f"/agent/{agent.id}/start")
    assert (refusal.status_code, refusal.json()["message"]) == (409, "Agent is already running")
    until(lambda: api.post(f"/agent/{agent.id}/start").status_code == 202)
    assert len(sandbox.ledger.starts(agent.id)) == 1


def test_a_start_is_done_at_once_and_answered_late(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    sandbox.fail_next(START, "late", delay=0.5)
    before = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(api.start, agent.id)
        until(lambda: sandbox.ledger.starts(agent.id) != [])
        assert time.monotonic() - before < 0.5
        assert sandbox.ledger.requests == []
        assert answer.result() == sandbox.ledger.starts(agent.id)[0].run_id
    assert time.monotonic() - before >= 0.5


def test_a_start_is_done_and_never_answered(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    sandbox.fail_next(START, "never")
    with pytest.raises(httpx.ReadTimeout):
        api.http.post(f"/agent/{agent.id}/start", timeout=0.3)
    (start,) = sandbox.ledger.starts(agent.id)
    (entry,) = sandbox.ledger.requests
    assert (entry.number, entry.status, entry.fault) == (start.request, None, "never")


def test_closing_ends_answers_that_never_come() -> None:
    with ThreadPoolExecutor(1) as pool:
        with Sandbox() as sandbox:
            api, agent = Api(sandbox), sandbox.add_agent("Prices")
            sandbox.fail_next(START, "never")
            waiting = pool.submit(api.post, f"/agent/{agent.id}/start")
            until(lambda: sandbox.ledger.requests != [])
            assert not waiting.done()
        until(waiting.done)


def test_an_answer_names_another_run_and_another_agent(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    mine, other = api.start(agent.id), api.start(agent.id)
    sandbox.fail_next("GET *", "altered", values={"id": other, "configId": 7}, where={"id": mine}, times=None)
    status = api.status(agent.id, mine)
    assert (status["id"], status["configId"]) == (other, 7)
    assert [run["id"] for run in api.get(f"/agent/{agent.id}/runs")] == [other, other]
    assert {run.run_id for run in sandbox.ledger.runs()} == {mine, other}


@pytest.mark.parametrize("path", ["runs", "run/{run_id}/status"])
def test_raw_text_is_put_into_an_answer(sandbox: Sandbox, api: Api, path: str) -> None:
    agent = sandbox.add_agent("Prices")
    run_id = api.start(agent.id)
    route = f"/agent/{agent.id}/{path.format(run_id=run_id)}"
    sandbox.fail_next(
        f"GET {route}",
        "altered",
        prefix="\ufeff",
        raw_values={"message": r'"\ud83d\u0000\n\u001b[31m"', "dataCount": "NaN"},
    )
    answer = api.http.get(route)
    assert answer.content.startswith(b"\xef\xbb\xbf")
    assert rb'"message": "\ud83d\u0000\n\u001b[31m"' in answer.content
    assert b'"dataCount": NaN' in answer.content
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert api.http.get(route).json()


def test_a_message_of_five_megabytes(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    run_id = api.start(agent.id)
    fault = {"route": "GET *", "fault": "altered", "values": {"message": "x" * 5_000_000}}
    assert plain.post(f"{sandbox.base_url}/sandbox/faults", json=fault).status_code == 201
    assert len(api.status(agent.id, run_id)["message"]) == 5_000_000


def test_a_start_answers_with_another_id_and_the_ledger_with_the_real_one(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    sandbox.fail_next(START, "altered", values={"id": 1})
    assert api.start(agent.id) == 1
    (start,) = sandbox.ledger.starts()
    assert start.run_id == sandbox.ledger.runs()[0].run_id != 1


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_a_stop_is_accepted_and_not_carried_out_for_a_time(sandbox: Sandbox, api: Api, verb: str) -> None:
    agent = sandbox.add_agent("Prices")
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Running", stop_delay=60, stop_seconds=1)])
    run_id = api.start(agent.id)
    sandbox.advance(5)
    assert api.post(f"/agent/{agent.id}/run/{run_id}/{verb}").status_code == 204
    sandbox.advance(50)
    assert api.status(agent.id, run_id)["status"] == 1
    assert [run.run_id for run in sandbox.ledger.going] == [run_id]
    sandbox.advance(15)
    assert api.status(agent.id, run_id)["status"] == 8
    assert sandbox.ledger.going == []


def test_a_cancellation_is_accepted_and_not_carried_out(sandbox: Sandbox, api: Api) -> None:
    session = api.post("/agent-builder/start", {"mode": "prompt", "prompt": "Get all the US states"}).json()[
        "sessionId"
    ]
    json_type = {"Content-Type": "application/json"}
    sandbox.fail_next(
        "POST /agent-builder/{session_id}/cancel",
        status=200,
        body='{"success": true, "error": null}',
        headers=json_type,
    )
    assert api.post(f"/agent-builder/{session}/cancel").json() == {"success": True, "error": None}
    assert api.get(f"/agent-builder/{session}/status")["status"] == "processing"
    assert sandbox.ledger.of_kind("session_cancel") == []


def test_storage_redirects_to_anywhere_and_serves_pages(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    run_id = api.finished(agent.id)
    download = f"/agent/{agent.id}/run/{run_id}/file/1001/download"
    signed = httpx.URL(api.http.get(download).headers["location"])
    key = f"Authorization: ApiKey {sandbox.api_key}"
    for location in ("javascript:alert(1)", "data:text/csv,a", "http://169.254.169.254/latest", "//evil.example/x"):
        redirect: dict[str, Any] = {"status": 302, "headers": {"Location": location}, "body": ""}
        sandbox.fail_next("GET /storage/*", **redirect)
        sandbox.fail_next("GET /agent/*/download", **redirect)
        for origin, target, header in (
            (sandbox.base_url, f"/api/v1{download}", key),
            (sandbox.storage.origin, signed.raw_path.decode(), "Accept: */*"),
        ):
            # httpx refuses some of these by itself.
            answer = send(origin, target, ["Host: localhost", header])
            assert (answer.status_code, answer.headers["location"]) == (302, location)
    sandbox.fail_next("GET /storage/*", "html")
    page = plain.get(signed)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")


def test_a_list_of_runs_is_cut_at_a_thousand_without_a_word(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices", duration=0)
    sandbox.settings.space_concurrency = 2000
    sandbox.engine.add_credits(2000)
    first, *_ = [sandbox.engine.start(agent.id, RunOptions()).id for _ in range(1001)]
    runs = api.get(f"/agent/{agent.id}/runs", maxRecords=1000)
    assert len(runs) == 1000
    assert first not in {run["id"] for run in runs}
    assert len(api.get(f"/agent/{agent.id}/runs")) == 50
    assert api.status(agent.id, first)["id"] == first
