from __future__ import annotations

import re
from itertools import pairwise

from airflow_provider_sequentum.sandbox import ExtraFile, RunPlan, Sandbox
from tests.integration.sandbox.client import Api, plain

HOSTILE = "<script>alert('x')</script>\" onload=\"y"


def page(sandbox: Sandbox, path: str) -> str:
    answer = plain.get(sandbox.base_url + path)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    return answer.text


def test_every_link_leads_somewhere(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    api.finished(agent.id)
    api.post("/agent-builder/start", {"mode": "prompt", "prompt": "Get all the US states"})
    sandbox.advance(10)
    todo, seen = ["/"], set()
    while todo:
        path = todo.pop()
        seen.add(re.sub(r"\?.*", "", path))
        answer = plain.get(path if path.startswith("http") else sandbox.base_url + path)
        assert answer.status_code == 200, path
        if "text/html" in answer.headers["content-type"] and path != "/docs":
            links = [link.replace("&amp;", "&") for link in re.findall(r'href="([^"]+)"', answer.text)]
            todo += [link for link in links if re.sub(r"\?.*", "", link) not in seen]
    assert {"/", "/docs", f"/agents/{agent.id}"} <= seen
    assert sum("/runs/" in path for path in seen) == 1
    assert sum(path.startswith("/sessions/") for path in seen) == 1
    assert sum("/storage/" in path for path in seen) == 2


def test_text_is_escaped_everywhere(sandbox: Sandbox, api: Api) -> None:
    extra = [ExtraFile(name=HOSTILE, content="x")]
    agent = sandbox.add_agent(HOSTILE, records=[{HOSTILE: HOSTILE}], description=HOSTILE, extra_files=extra)
    run_id = api.finished(agent.id, inputParameters='{"x": "' + "<script>" + '"}')
    session = api.post("/agent-builder/start", {"mode": "prompt", "prompt": HOSTILE}).json()["sessionId"]
    sandbox.advance(10)
    api.post(f"/agent-builder/{session}/followup", {"message": HOSTILE})
    for path in ("/", f"/agents/{agent.id}", f"/agents/{agent.id}/runs/{run_id}", f"/sessions/{session}"):
        text = page(sandbox, path)
        assert "&lt;script&gt;" in text, path
        assert "<script" not in text, path
        assert '" onload' not in text, path


def test_a_page_of_nothing_is_a_404(sandbox: Sandbox) -> None:
    for path in ("/agents/1", "/agents/1/runs/2", "/sessions/x", "/nowhere"):
        assert plain.get(sandbox.base_url + path).status_code == 404


def test_status_is_in_colour_and_files_have_the_names_of_their_types(sandbox: Sandbox, api: Api) -> None:
    odd = [ExtraFile(name="b", content="x", file_type=None), ExtraFile(name="c", content="x", file_type=99)]
    agent = sandbox.add_agent("Prices", extra_files=odd)
    plans = [RunPlan(outcome=outcome) for outcome in ("Success", "Failure", "Skipped", "Running", "Queuing")]
    sandbox.plan_runs(agent.id, [*plans, RunPlan(working_status="<Odd>", duration=1000)])
    runs = [api.start(agent.id) for _ in range(6)]
    sandbox.advance(500)
    shown = [
        re.search(r'<span class="status (\w+)">([^<]*)</span>', page(sandbox, f"/agents/{agent.id}/runs/{run}"))
        for run in runs
    ]
    assert [badge.groups() for badge in shown if badge] == [
        ("good", "Success"),
        ("bad", "Failure"),
        ("ended", "Skipped"),
        ("active", "Running"),
        ("waiting", "Queuing"),
        ("active", "&lt;Odd&gt;"),
    ]
    types = re.findall(r"</a></td><td>([^<]*)</td><td>\d+</td>", page(sandbox, f"/agents/{agent.id}/runs/{runs[0]}"))
    assert types == ["Data", "not given", "99", "Log (text)"]


def test_pages_link_back_and_say_what_started_a_run(sandbox: Sandbox, api: Api) -> None:
    prompt = {"mode": "prompt", "prompt": "Get all the US states"}
    session = api.post("/agent-builder/start", prompt).json()["sessionId"]
    sandbox.advance(10)
    agent_id = api.post(f"/agent-builder/{session}/finish").json()["agentId"]
    assert f'href="/sessions/{session}"' in page(sandbox, f"/agents/{agent_id}")
    assert f'href="/agents/{agent_id}"' in page(sandbox, f"/sessions/{session}")
    every_hour = {"name": "h", "scheduleType": 2, "runEveryCount": 1, "runEveryPeriod": 2}
    schedule = api.post(f"/agent/{agent_id}/schedules", every_hour).json()["id"]
    by_request = api.start(agent_id)
    sandbox.advance(3700)
    by_schedule = api.get(f"/agent/{agent_id}/runs")[0]["id"]
    text = page(sandbox, f"/agents/{agent_id}/runs/{by_request}")
    assert text.index('href="/"') < text.index(f'href="/agents/{agent_id}"') < text.index("<h1>")
    request = sandbox.ledger.starts()[0].request
    assert f"request {request} with the API key &#x27;default&#x27;, sent by python-httpx/" in text
    assert f'href="/sessions/{session}"' in text
    anchor = f"schedule-{schedule}"
    assert f'href="/agents/{agent_id}#{anchor}"' in page(sandbox, f"/agents/{agent_id}/runs/{by_schedule}")
    assert f'id="{anchor}"' in page(sandbox, f"/agents/{agent_id}")


def chart(text: str) -> dict[str, list[float]]:
    """The heights of the lines of a page's chart, from 0 to 1."""
    lines = re.findall(r'<path class="(\w+)" d="M([^"]+)"', text)
    return {name: [(150 - float(point.split(",")[1])) / 130 for point in points.split(" L")] for name, points in lines}


def test_a_chart_shows_how_the_records_came(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices", duration=100)
    run = f"/agents/{agent.id}/runs/{api.start(agent.id)}"
    assert "No records yet." in page(sandbox, run)
    sandbox.advance(50)
    extracted = chart(page(sandbox, run))["extracted"]
    assert extracted == sorted(extracted)
    assert (extracted[0], extracted[-1]) == (0, 1)
    assert 0.33 < extracted[len(extracted) // 2] < 0.42, "15 of the 40 s since the first record"
    sandbox.advance(1000)
    text = page(sandbox, run)
    lines = chart(text)
    assert (lines["extracted"][-1], lines["exported"][-1]) == (1, 1)
    assert lines["exported"][50] == 0
    assert "<title>50 records extracted, 50 exported</title>" in text
    assert lines == chart(page(sandbox, run)), "after its end a run does not change"


def test_a_chart_shows_a_restart_as_a_new_start(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices", duration=10)
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Failure"), RunPlan()])
    run_id = api.start(agent.id)
    sandbox.advance(20)
    api.post(f"/agent/{agent.id}/run/{run_id}/restart").raise_for_status()
    sandbox.advance(20)
    extracted = chart(page(sandbox, f"/agents/{agent.id}/runs/{run_id}"))["extracted"]
    drops = [later for earlier, later in pairwise(extracted) if later < earlier]
    assert drops == [0]
    assert extracted[-1] == 1


def test_what_goes_on_is_loaded_again_until_it_is_over(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    run = f"/agents/{agent.id}/runs/{api.start(agent.id)}"
    session = api.post("/agent-builder/start", {"mode": "prompt", "prompt": "Get all the US states"}).json()[
        "sessionId"
    ]
    paths = (run, f"/sessions/{session}")
    assert ['http-equiv="refresh"' in page(sandbox, path) for path in paths] == [True, True]
    sandbox.advance(60)
    assert ['http-equiv="refresh"' in page(sandbox, path) for path in paths] == [False, False]
