"""Agents, schedules, spaces, analytics, billing, input files over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.sandbox import RunPlan, Sandbox
from tests.integration.sandbox.client import Api

FOREVER = {"startDate": "2000-01-01", "endDate": "2999-01-01"}


def names(agents: list[dict[str, Any]]) -> list[str]:
    return [agent["name"] for agent in agents]


def test_agents_come_as_an_array_or_a_page(sandbox: Sandbox, api: Api) -> None:
    for name in ("beta", "Alpha", "gamma"):
        sandbox.add_agent(name)
    assert names(api.get("/agent/all")) == ["Alpha", "beta", "gamma"]
    assert names(api.get("/agent/all", sortOrder=1)) == ["gamma", "beta", "Alpha"]
    assert names(api.get("/agent/all", pageIndex=2)) == ["Alpha", "beta", "gamma"]
    page = api.get("/agent/all", pageIndex=2, recordsPerPage=2)
    assert (set(page), names(page["agents"]), page["totalRecordCount"]) == (
        {"agents", "totalRecordCount"},
        ["gamma"],
        3,
    )
    sandbox.dialect.paged_key = "items"
    assert names(api.get("/agent/all", pageIndex=1, recordsPerPage=2)["items"]) == ["Alpha", "beta"]
    assert api.http.get("/agent/all", params={"pageIndex": 0, "recordsPerPage": 2}).status_code == 400


def test_agents_are_filtered(sandbox: Sandbox, api: Api) -> None:
    ran, idle = sandbox.add_agent("Ran"), sandbox.add_agent("Idle")
    api.finished(ran.id)

    def ids(**query: object) -> list[int]:
        return [agent["id"] for agent in api.get("/agent/all", **query)]

    assert ids(status=10) == [ran.id]
    assert ids(name="IDL") == [idle.id]
    assert ids(configType=3) == []
    assert ids(spaceId=2) == []
    assert ids(sortColumn="lastActivity") == [idle.id, ran.id]
    assert ids(sortColumn="status", sortOrder=1) == [ran.id, idle.id]
    assert api.get(f"/agent/{idle.id}")["status"] is None
    idle.archived = True
    assert ids() == [ran.id]


def test_agents_are_searched_by_name_and_description(sandbox: Sandbox, api: Api) -> None:
    one = sandbox.add_agent("Prices", description="of chairs")
    other = sandbox.add_agent("CHAIRS")
    assert [agent["id"] for agent in api.get("/agent/search", query="chair")] == [other.id, one.id]
    assert len(api.get("/agent/search", query="chair", maxRecords=1)) == 1


def test_a_restored_version_is_a_new_version(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    assert api.post(f"/agent/{agent.id}/version/1/restore", {"content": "Undo."}).status_code == 204
    versions = api.get(f"/agent/{agent.id}/versions")
    assert [(version["version"], version["comments"]) for version in versions] == [(2, "Undo."), (1, None)]
    assert api.get(f"/agent/{agent.id}")["version"] == 2
    assert api.post(f"/agent/{agent.id}/version/9/restore", {"content": "?"}).status_code == 404


def test_schedules_are_made_changed_and_removed(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices", duration=1)
    path = f"/agent/{agent.id}/schedules"
    body: dict[str, Any] = {"name": "Hourly", "scheduleType": 2, "runEveryCount": 1, "runEveryPeriod": 2}
    answer = api.post(path, body)
    assert answer.status_code == 201
    schedule = answer.json()
    assert (schedule["configId"], schedule["timezone"], schedule["isEnabled"]) == (agent.id, "UTC", True)
    one = f"{path}/{schedule['id']}"
    assert api.get(path) == [api.get(one)]
    upcoming = api.get("/analytics/schedules/upcoming")
    assert upcoming[0]["scheduleId"] == schedule["id"]
    sandbox.advance(3 * 3600 + 5)
    assert len(api.get(f"/agent/{agent.id}/runs")) == 3
    changed = api.http.put(one, json=body | {"name": "Cron", "scheduleType": 3, "cronExpression": "0 9 * * 1,4"})
    assert (changed.json()["schedule"], changed.json()["id"]) == ("0 9 * * 1,4", schedule["id"])
    assert api.post(f"{one}/disable").status_code == 204
    assert (api.get(one)["isEnabled"], api.get(one)["nextRunTime"]) == (False, None)
    assert api.get("/analytics/schedules/upcoming") == []
    assert api.post(f"{one}/enable").status_code == 204
    assert api.get(one)["nextRunTime"] is not None
    assert api.http.delete(one).status_code == 204
    assert api.http.get(one).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "x", "scheduleType": 9},
        {"name": "x", "scheduleType": 3, "cronExpression": "often"},
        {"name": "x", "scheduleType": 1, "startTime": "2001-01-01T00:00:00"},
        {"name": "x", "timezone": "Nowhere"},
        {"name": "x", "inputParameters": "[]"},
        {"name": "x", "scheduleType": 2, "runEveryCount": 1, "runEveryPeriod": 0},
    ],
)
def test_a_schedule_that_makes_no_sense_is_a_400(sandbox: Sandbox, api: Api, body: dict[str, Any]) -> None:
    agent = sandbox.add_agent("Prices")
    assert api.post(f"/agent/{agent.id}/schedules", body).status_code == 400
    assert api.get(f"/agent/{agent.id}/schedules") == []


def test_a_space_runs_all_its_agents(sandbox: Sandbox, api: Api) -> None:
    assert sandbox.add_space("Shops").id == 2
    good, busy = sandbox.add_agent("Good", space_id=2), sandbox.add_agent("Busy", space_id=2, exclusive=True)
    sandbox.add_agent("Elsewhere")
    sandbox.dialect.exclusive_conflict = "refuse"
    api.start(busy.id)
    assert api.get("/spaces/search", name="shops")["id"] == 2
    assert [agent["id"] for agent in api.get("/spaces/2/agents")] == [good.id, busy.id]
    answer = api.post("/spaces/2/run-all", {"inputParameters": '{"a": 1}'})
    assert answer.status_code == 200
    result = answer.json()
    assert (result["totalAgents"], result["agentsStarted"], result["agentsFailed"]) == (2, 1, 1)
    failed = result["results"][1]
    assert (failed["success"], failed["runId"], failed["errorMessage"]) == (False, None, "Agent is already running")
    assert sandbox.ledger.starts(good.id)[0].input_parameters == '{"a": 1}'


def test_runs_are_summed_up(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices", records=[{"n": n} for n in range(10)])
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Failure"), RunPlan(error_count=2), RunPlan(outcome="Stopped")])
    for _ in range(3):
        api.finished(agent.id)
    api.start(agent.id)
    summary = api.get("/analytics/runs/summary", includeDetails=True, **FOREVER)
    counts = [
        summary[f"{name}Runs"]
        for name in ("total", "completed", "failed", "completedWithErrors", "running", "queued", "stopped")
    ]
    assert counts == [4, 0, 1, 1, 1, 0, 1]
    assert summary["failedRunDetails"][0]["status"] == 6
    assert api.get("/analytics/runs/summary", status="failed", **FOREVER)["totalRuns"] == 1
    assert api.http.get("/analytics/runs/summary", params={"status": "Odd"}).status_code == 400
    records = api.get("/analytics/records/summary", agentId=agent.id, **FOREVER)
    assert (records["totalRecordsExtracted"], records["totalErrors"], records["runCount"]) == (20, 3, 4)


def test_failures_are_diagnosed(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    assert "no failed run" in api.get(f"/analytics/agents/{agent.id}/latest-failure")["message"]
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Failure", message="Login expired.")])
    run_id = api.finished(agent.id)
    api.finished(agent.id)
    found = api.get(f"/analytics/agents/{agent.id}/latest-failure")
    assert found == api.get(f"/analytics/agents/{agent.id}/runs/{run_id}/diagnostics")
    assert (found["runId"], found["errorMessage"], found["stats"]["errorCount"]) == (run_id, "Login expired.", 1)
    assert found["possibleCauses"]


def test_runs_are_billed(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    sandbox.plan_runs(agent.id, [RunPlan(credits=2), RunPlan(credits=5)])
    ids = [api.finished(agent.id) for _ in range(2)]
    assert api.get("/billing/credits")["availableCredits"] == 993
    assert api.get("/billing/spending")["totalSpent"] == 7
    history = api.get("/billing/history", recordsPerPage=2)
    assert [movement["amount"] for movement in history["transactions"]] == [-5, -2]
    assert (history["totalCount"], history["pageIndex"]) == (3, 1)
    agents = api.get("/billing/agents", sortColumn="cost", sortOrder=1, **FOREVER)
    assert (agents["agents"][0]["cost"], agents["totalCost"]) == (7, 7)
    assert api.get("/billing/agents", usageTypes="Proxy Data", **FOREVER)["totalCost"] == 0
    usage = api.get(f"/billing/agents/{agent.id}", timeUnit="month", **FOREVER)
    assert (usage["usageTypes"][0]["type"], sum(usage["usageTypes"][0]["data"])) == ("RunUsage", 7)
    runs = api.get(f"/billing/agents/{agent.id}/runs", sortColumn="cost", sortOrder=1, recordsPerPage=1, **FOREVER)
    assert ([run["runId"] for run in runs["runs"]], runs["totalRecordCount"], runs["totalCost"]) == ([ids[1]], 2, 5)
    assert api.http.get("/billing/agents").status_code == 400


def test_input_files_are_stored_once_per_name(sandbox: Sandbox, api: Api) -> None:
    for content in (b"a", b"longer"):
        answer = api.http.post("/input-files/space/1", files={"files": ("in.csv", content)})
        assert answer.json() == [{"name": "in.csv", "size": len(content)}]
    assert [(file.name, file.size) for file in sandbox.engine.state.input_files] == [("in.csv", 6)]
    assert api.http.post("/input-files/space/9", files={"files": ("in.csv", b"a")}).status_code == 404
