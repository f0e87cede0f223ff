from __future__ import annotations

import json
import threading
from pathlib import Path

import httpx
import pytest

from airflow_provider_sequentum.sandbox import RunPlan, Sandbox
from tests.integration.sandbox.client import Api, plain, until


def test_everything_survives_in_a_state_file(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.json"
    with Sandbox(state_file=file) as sandbox:
        api, key = Api(sandbox), sandbox.api_key
        agent = sandbox.add_agent("Prices", records=[{"a": "1"}])
        done, failing = api.finished(agent.id), 0
        sandbox.plan_runs(agent.id, [RunPlan(outcome="Failure", duration=60)])
        failing = api.start(agent.id)
        session = api.post("/agent-builder/start", {"mode": "prompt", "prompt": "Get all the US states"}).json()
    with Sandbox(state_file=file) as sandbox:
        api = Api(sandbox, key)
        assert [run["id"] for run in api.get(f"/agent/{agent.id}/runs")] == [failing, done]
        assert len(api.get(f"/agent/{agent.id}/run/{done}/files")) == 2
        sandbox.advance(60)
        assert api.status(agent.id, failing)["status"] == 6
        assert api.get(f"/agent-builder/{session['sessionId']}/status")["status"] == "ready"
        assert len(sandbox.ledger.starts(agent.id)) == 2


def test_the_state_is_on_disk_as_soon_as_a_start_is_answered(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.json"
    with Sandbox(state_file=file) as sandbox:
        agent = sandbox.add_agent("Prices")
        run_id = Api(sandbox).start(agent.id)
        assert str(run_id) in json.loads(file.read_text())["runs"]


def test_a_data_folder_becomes_agents_and_data_sets(tmp_path: Path) -> None:
    (tmp_path / "shop prices.csv").write_text("sku,price\nA1,9.50\n")
    with Sandbox(data_folder=tmp_path) as sandbox:
        api = Api(sandbox)
        (agent,) = api.get("/agent/all")
        assert agent["name"] == "shop prices"
        session = api.post("/agent-builder/start", {"mode": "prompt", "prompt": "Get the shop prices"}).json()
        sandbox.advance(10)
        built = api.post(f"/agent-builder/{session['sessionId']}/finish").json()["agentId"]
        assert sandbox.engine.agent(built).records == [{"sku": "A1", "price": "9.50"}]


def test_a_file_that_came_since_is_a_new_agent_beside_what_is_remembered(tmp_path: Path) -> None:
    folder, file = tmp_path / "data", tmp_path / "sandbox.json"
    folder.mkdir()
    (folder / "us_states.csv").write_text("name\nmine\n")
    with Sandbox(data_folder=folder, state_file=file, sample_agents=True) as sandbox:
        assert sorted(agent["name"] for agent in Api(sandbox).get("/agent/all")) == ["chemical_elements", "us_states"]
    (folder / "us_states.csv").write_text("name\nchanged\n")
    (folder / "late.json").write_text('[{"a": 1}]')
    with Sandbox(data_folder=folder, state_file=file, sample_agents=True) as sandbox:
        agents = {agent["name"]: agent["id"] for agent in Api(sandbox).get("/agent/all")}
        assert sorted(agents) == ["chemical_elements", "late", "us_states"]
        assert sandbox.engine.agent(agents["us_states"]).records == [{"name": "mine"}]
        assert sandbox.engine.agent(agents["late"]).records == [{"a": 1}]


def test_an_agent_takes_its_records_from_a_file(sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('[{"a": 1}]')
    assert sandbox.add_agent("A", file=file).records == [{"a": 1}]
    with pytest.raises(ValueError, match="not both"):
        sandbox.add_agent("A", file=file, records=[])


def test_sample_agents_come_when_asked_for() -> None:
    with Sandbox(sample_agents=True) as sandbox:
        assert {agent["name"] for agent in Api(sandbox).get("/agent/all")} == {"us_states", "chemical_elements"}
        assert all(agent.plan.duration > 10 for agent in sandbox.engine.state.agents.values()), "time to watch a run"


def test_the_connection_is_what_airflow_reads(sandbox: Sandbox) -> None:
    connection = json.loads(sandbox.connection_uri)
    assert connection == {
        "conn_type": "sequentum",
        "host": sandbox.base_url,
        "password": sandbox.api_key,
        "extra": {
            "run_link_template": f"{sandbox.base_url}/agents/{{agent_id}}/runs/{{run_id}}",
            "session_link_template": f"{sandbox.base_url}/sessions/{{session_id}}",
        },
    }


def test_the_links_of_the_connection_lead_to_the_pages_of_a_run_and_a_session(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    run_id = api.finished(agent.id)
    body = {"mode": "prompt", "prompt": "Get all the US states"}
    session_id = api.post("/agent-builder/start", body).json()["sessionId"]
    links = json.loads(sandbox.connection_uri)["extra"]
    run_page = plain.get(links["run_link_template"].format(agent_id=agent.id, run_id=run_id))
    assert (run_page.status_code, f"Run {run_id}" in run_page.text) == (200, True)
    session_page = plain.get(links["session_link_template"].format(session_id=session_id))
    assert (session_page.status_code, f"Session {session_id}" in session_page.text) == (200, True)


def test_a_taken_port_is_an_error_and_leaves_nothing_open() -> None:
    with Sandbox() as sandbox:
        port = httpx.URL(sandbox.base_url).port
        before = threading.active_count()
        with pytest.raises(OSError, match="in use"), Sandbox(storage_port=port or 0):
            pass
        assert threading.active_count() == before


def test_closing_ends_held_calls_and_threads() -> None:
    before = threading.active_count()
    with Sandbox(long_poll_seconds=600) as sandbox:
        api = Api(sandbox)
        session = api.post("/agent-builder/start", {"mode": "prompt", "prompt": "Get all the US states"}).json()
        sandbox.advance(10)
        path = f"/agent-builder/{session['sessionId']}/events"
        index = api.get(path)["lastEventIndex"]
        held = threading.Thread(target=lambda: api.http.get(path, params={"lastEventIndex": index}))
        held.start()
        until(held.is_alive)
    held.join(10)
    assert not held.is_alive()
    until(lambda: threading.active_count() <= before)


def test_time_runs_as_fast_as_asked() -> None:
    with Sandbox(time_scale=100, rate_limit=100_000) as sandbox:
        api = Api(sandbox)
        agent = sandbox.add_agent("Prices", duration=30)
        run_id = api.start(agent.id)
        until(lambda: api.status(agent.id, run_id)["status"] == 10)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [({"rate_limit": 0}, "rate_limit"), ({"builder_era": "c"}, "builder_era"), ({"warp": 9}, "warp")],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Sandbox(**settings)  # type: ignore[arg-type]
