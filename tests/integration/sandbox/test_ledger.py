from __future__ import annotations

from datetime import datetime
from pathlib import Path

import httpx

from airflow_provider_sequentum.sandbox import RunPlan, Sandbox
from airflow_provider_sequentum.sandbox.ledger import Effect, RequestEntry
from tests.integration.sandbox.client import Api, plain


def entry_of(sandbox: Sandbox, effect: Effect) -> RequestEntry:
    (entry,) = [entry for entry in sandbox.ledger.requests if entry.number == effect.request]
    return entry


def test_each_effect_names_its_request_its_key_and_what_was_answered(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Failure", duration=1), RunPlan(outcome="Running", ignores_stop=True)])
    other = Api(sandbox, sandbox.add_api_key("other"))
    run_id = api.start(agent.id)
    sandbox.advance(1)
    path = f"/agent/{agent.id}/run/{run_id}"
    sandbox.fail_next("POST /agent/*/stop", "status_after", status=503)
    answers = [other.post(f"{path}/restart"), other.post(f"{path}/stop"), api.post(f"{path}/kill")]
    assert [answer.status_code for answer in answers] == [200, 503, 204]
    effects = sandbox.ledger.effects
    assert [(effect.kind, effect.run_id, effect.key_name) for effect in effects] == [
        ("start", run_id, "default"),
        ("restart", run_id, "other"),
        ("stop", run_id, "other"),
        ("kill", run_id, "default"),
    ]
    entries = [entry_of(sandbox, effect) for effect in effects]
    assert [(entry.method, entry.path, entry.status) for entry in entries] == [
        ("POST", f"/agent/{agent.id}/start", 202),
        ("POST", f"{path}/restart", 200),
        ("POST", f"{path}/stop", 503),
        ("POST", f"{path}/kill", 204),
    ]
    assert all(effect.at <= entry.at for effect, entry in zip(effects, entries, strict=True))


def test_what_was_refused_has_no_effect(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    sandbox.fail_next("POST /agent/*/start", status=409)
    assert api.post(f"/agent/{agent.id}/start").status_code == 409
    assert api.post("/agent/1/start").status_code == 404
    assert sandbox.ledger.effects == []
    assert [entry.status for entry in sandbox.ledger.requests] == [409, 404]


def test_a_schedule_and_the_admin_api_are_no_request(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    every_hour = {"name": "h", "scheduleType": 2, "runEveryCount": 1, "runEveryPeriod": 2}
    assert api.post(f"/agent/{agent.id}/schedules", every_hour).status_code == 201
    session = api.post("/agent-builder/start", {"mode": "prompt", "prompt": "Get all the US states"}).json()[
        "sessionId"
    ]
    assert plain.post(f"{sandbox.base_url}/sandbox/sessions/{session}/cancel").status_code == 204
    sandbox.engine.clock.advance(3700)
    api.get("/agent/all")  # lets the schedule fire
    origins = [(effect.kind, effect.request is None, effect.key_name) for effect in sandbox.ledger.effects]
    assert origins == [
        ("session_start", False, "default"),
        ("session_cancel", True, None),
        ("schedule_fired", True, None),
    ]


def test_the_runs_that_are_going_are_read_by_another_process(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    ended = api.finished(agent.id)
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Running")])
    going = api.start(agent.id)
    with httpx.Client(base_url=f"{sandbox.base_url}/sandbox/ledger", verify=False) as admin:
        runs = {run["run_id"]: run["going"] for run in admin.get("/runs").json()}
        assert runs == {ended: False, going: True}
        assert [run["run_id"] for run in admin.get("/runs", params={"going": True}).json()] == [going]
        assert [run["run_id"] for run in admin.get("/runs", params={"going": False}).json()] == [ended]
        assert admin.get("/runs", params={"going": True, "agent_id": 1}).json() == []
        (start, _) = admin.get("/effects", params={"kind": "start"}).json()
    assert (start["request"], start["key_name"]) == (1, "default")
    assert datetime.fromisoformat(start["at"]) <= sandbox.now


def test_numbers_of_requests_go_on_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    with Sandbox(state_file=file) as sandbox:
        agent = sandbox.add_agent("Prices")
        Api(sandbox).start(agent.id)
        key = sandbox.api_key
    with Sandbox(state_file=file) as sandbox:
        Api(sandbox, key).start(agent.id)
        assert [entry_of(sandbox, start).number for start in sandbox.ledger.starts()] == [1, 2]
