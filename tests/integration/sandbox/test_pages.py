from __future__ import annotations

import re

from airflow_provider_sequentum.sandbox import ExtraFile, Sandbox
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
