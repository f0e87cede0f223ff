from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from airflow_provider_sequentum.sandbox import Sandbox
from tests.integration.sandbox.client import Api, plain

RECORDS = [{"a": "1"}, {"a": "2"}]


@pytest.fixture
def admin(sandbox: Sandbox) -> Iterator[httpx.Client]:
    with httpx.Client(verify=False, base_url=f"{sandbox.base_url}/sandbox", timeout=30) as client:
        yield client


def add_agent(admin: httpx.Client, **fields: Any) -> int:
    answer = admin.post("/agents", json={"name": "Prices", "records": RECORDS} | fields)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def test_another_process_can_find_its_way_in(sandbox: Sandbox) -> None:
    described = plain.get(f"{sandbox.base_url}/sandbox").json()
    assert (described["base_url"], described["api_key"]) == (sandbox.base_url, sandbox.api_key)
    assert described["connection"] == sandbox.connection_uri


def test_agents_are_added_and_their_records_read_back(api: Api, admin: httpx.Client) -> None:
    agent_id = add_agent(admin, output="json", exclusive=True)
    assert admin.get(f"/agents/{agent_id}/records").json() == RECORDS
    assert api.get(f"/agent/{agent_id}")["name"] == "Prices"
    elements = add_agent(admin, name="Elements", records=None, data_set="chemical_elements")
    assert [agent["record_count"] for agent in admin.get("/agents").json()] == [2, 118]
    assert api.status(elements, api.finished(elements))["dataCount"] == 118


def test_a_space_is_added_for_agents_of_its_own(api: Api, admin: httpx.Client) -> None:
    space_id = admin.post("/spaces", json={"name": "Shops"}).json()["id"]
    agent_id = add_agent(admin, space_id=space_id)
    assert api.get("/spaces/search", name="shops")["id"] == space_id
    assert [agent["id"] for agent in api.get(f"/spaces/{space_id}/agents")] == [agent_id]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/agents", {"name": ""}),
        ("/agents", {"name": "x", "outcome": "Great"}),
        ("/agents", {"name": "x", "data_set": "nothing"}),
        ("/agents", {"name": "x", "colour": "red"}),
        ("/faults", {"route": "GET /nothing"}),
        ("/faults", {"route": "*", "fault": "fire"}),
        ("/clock/advance", {"seconds": -1}),
        ("/builder-scripts", {"scripts": ["tragedy"]}),
    ],
)
def test_what_makes_no_sense_is_a_400(admin: httpx.Client, path: str, body: dict[str, Any]) -> None:
    assert admin.post(path, json=body).status_code == 400


def test_runs_are_planned_changed_and_archived(sandbox: Sandbox, api: Api, admin: httpx.Client) -> None:
    agent_id = add_agent(admin)
    assert admin.post(f"/agents/{agent_id}/plans", json=[{"outcome": "Running"}]).status_code == 204
    run_id = api.start(agent_id)
    sandbox.advance(100)
    fate = admin.put(f"/agents/{agent_id}/runs/{run_id}/plan", json={"outcome": "Failure", "duration": 1})
    assert fate.status_code == 204
    assert api.status(agent_id, run_id)["status"] == 6
    assert admin.post(f"/agents/{agent_id}/runs/{run_id}/archive").status_code == 204
    assert api.status(agent_id, run_id)["status"] == 7
    (truth,) = admin.get("/ledger/runs", params={"agent_id": agent_id}).json()
    assert (truth["status"], truth["run_id"]) == ("Failed", run_id)


def test_an_agent_is_archived_and_brought_back(api: Api, admin: httpx.Client) -> None:
    agent_id = add_agent(admin)
    admin.post(f"/agents/{agent_id}/archived/true")
    assert api.post(f"/agent/{agent_id}/start").status_code == 409
    admin.post(f"/agents/{agent_id}/archived/false")
    assert api.post(f"/agent/{agent_id}/start").status_code == 202


def test_faults_are_added_listed_and_cleared(api: Api, admin: httpx.Client) -> None:
    fault = {"route": "GET /spaces", "status": 502, "times": None}
    assert admin.post("/faults", json=fault).status_code == 201
    assert api.http.get("/spaces").status_code == 502
    assert [waiting["route"] for waiting in admin.get("/faults").json()] == ["GET /spaces"]
    admin.delete("/faults")
    assert api.http.get("/spaces").status_code == 200
    requests = admin.get("/ledger/requests").json()
    assert [(entry["status"], entry["fault"]) for entry in requests] == [(502, "status"), (200, None)]


def test_time_is_moved_and_sped_up(sandbox: Sandbox, admin: httpx.Client) -> None:
    before = sandbox.now
    admin.post("/clock/advance", json={"seconds": 3600})
    assert (sandbox.now - before).total_seconds() >= 3600
    assert admin.put("/clock/scale", json={"scale": 50}).status_code == 204
    assert sandbox.engine.clock.scale == 50


def test_settings_and_forms_are_changed_or_refused_whole(sandbox: Sandbox, admin: httpx.Client) -> None:
    assert admin.patch("/settings", json={"rate_limit": 7, "builder_era": "single_shot"}).json()["rate_limit"] == 7
    assert sandbox.sessions.era == "single_shot"
    assert admin.patch("/dialect", json={"download": 307, "times": "utc"}).status_code == 200
    assert admin.patch("/dialect", json={"download": 200, "times": "sundial"}).status_code == 400
    assert (sandbox.dialect.download, sandbox.dialect.times) == (307, "utc")
    assert admin.patch("/settings", json={"warp": 9}).status_code == 400


def test_credits_and_keys_are_given(sandbox: Sandbox, api: Api, admin: httpx.Client) -> None:
    assert admin.post("/credits", json={"amount": -5000}).json() == {"balance": 0}
    assert api.post(f"/agent/{add_agent(admin)}/start").status_code == 422
    key = admin.post("/api-keys", json={"name": "ci"}).json()["api_key"]
    assert Api(sandbox, key).get("/billing/credits")["availableCredits"] == 0
    assert admin.post("/api-keys", json={"name": "ci"}).status_code == 409


def test_sessions_are_scripted_and_cancelled(sandbox: Sandbox, api: Api, admin: httpx.Client) -> None:
    assert admin.post("/builder-scripts", json={"scripts": ["slow"]}).status_code == 204
    body = {"mode": "prompt", "prompt": "Get all the US states"}
    session_id = api.post("/agent-builder/start", body).json()["sessionId"]
    sandbox.advance(30)
    assert api.get(f"/agent-builder/{session_id}/status")["status"] == "processing"
    assert admin.post(f"/sessions/{session_id}/cancel").status_code == 204
    assert api.get(f"/agent-builder/{session_id}/status")["status"] == "cancelled"
    kinds = [effect["kind"] for effect in admin.get("/ledger/effects").json()]
    assert kinds == ["session_start", "session_cancel"]


def test_effects_are_filtered_and_leaks_counted(sandbox: Sandbox, api: Api, admin: httpx.Client) -> None:
    one, other = add_agent(admin), add_agent(admin)
    api.start(one)
    api.start(other)
    effects = admin.get("/ledger/effects", params={"kind": "start", "agent_id": other}).json()
    assert [effect["agent_id"] for effect in effects] == [other]
    plain.get(f"{sandbox.storage.origin}/storage/1/2/3", headers={"Authorization": "ApiKey x"})
    assert [leak["known_key"] for leak in admin.get("/ledger/leaks").json()] == [False]
    assert admin.get("/ledger/rate-limited").json() == []


def test_a_page_of_another_site_gets_no_answer(admin: httpx.Client) -> None:
    assert admin.get("/agents", headers={"Host": "evil.example"}).status_code == 403
    assert admin.post("/clock/advance", json={"seconds": 1}, headers={"Host": "evil.example:80"}).status_code == 403
