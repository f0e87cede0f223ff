from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from airflow_provider_sequentum.sandbox import Sandbox
from tests.integration.sandbox.client import Api, until

PROMPT = {"mode": "prompt", "prompt": "List the capital of every US state"}


@pytest.fixture
def single_shot() -> Iterator[Api]:
    with Sandbox(builder_era="single_shot", rate_limit=100_000) as sandbox:
        yield Api(sandbox)


def session(api: Api, **body: object) -> str:
    answer = api.post("/agent-builder/start", PROMPT | body)
    assert answer.status_code == 200
    return str(answer.json()["sessionId"])


def test_a_stateful_session_from_start_to_rows(sandbox: Sandbox, api: Api) -> None:
    session_id = session(api)
    path = f"/agent-builder/{session_id}"
    assert api.get(f"{path}/status") == {
        "status": "processing",
        "lastEventIndex": 1,
        "configId": None,
        "agentName": None,
        "error": None,
    }
    assert api.http.get(f"{path}/conversation").status_code == 409
    sandbox.advance(10)
    assert api.get(f"{path}/status")["status"] == "ready"
    page = api.get(f"{path}/events", lastEventIndex=-1)
    assert [event["eventIndex"] for event in page["events"]] == list(range(page["lastEventIndex"] + 1))
    last = page["events"][-1]
    assert (last["type"], last["hasBrowserUrl"]) == ("ready_for_interaction", True)
    assert api.http.get(f"/agent/{last['configId']}").status_code == 404
    finished = api.post(f"{path}/finish", {"agentName": "Capitals"}).json()
    assert finished == {"success": True, "error": None, "agentId": last["configId"]}
    assert api.get(f"{path}/status")["configId"] == finished["agentId"]
    done = api.get(f"{path}/events", lastEventIndex=page["lastEventIndex"])["events"]
    assert [(event["type"], event["agentName"], event["commandCount"]) for event in done] == [
        ("completed", "Capitals", 1)
    ]
    spoken = api.get(f"{path}/conversation")
    assert (spoken["configId"], spoken["totalMessageCount"]) == (finished["agentId"], 3)
    run_id = api.finished(finished["agentId"])
    assert api.status(finished["agentId"], run_id)["dataCount"] == 50


def test_events_are_held_until_there_is_news(sandbox: Sandbox, api: Api) -> None:
    session_id = session(api)
    sandbox.advance(10)
    index = api.get(f"/agent-builder/{session_id}/events")["lastEventIndex"]
    answers: list[object] = []
    poll = threading.Thread(
        target=lambda: answers.append(Api(sandbox).get(f"/agent-builder/{session_id}/events", lastEventIndex=index))
    )
    before = len(sandbox.ledger.requests)
    poll.start()
    until(lambda: api.get(f"/agent-builder/{session_id}/status") and len(sandbox.ledger.requests) > before + 3)
    assert answers == []
    api.post(f"/agent-builder/{session_id}/followup", {"message": "Sort it."})
    poll.join(10)
    assert answers[0]["events"][0]["type"] == "user_prompt"  # type: ignore[index]


def test_an_events_call_without_news_ends_with_the_same_index(sandbox: Sandbox, api: Api) -> None:
    sandbox.settings.long_poll_seconds = 0.1
    session_id = session(api)
    sandbox.advance(10)
    index = api.get(f"/agent-builder/{session_id}/events")["lastEventIndex"]
    assert api.get(f"/agent-builder/{session_id}/events", lastEventIndex=index) == {
        "events": [],
        "lastEventIndex": index,
    }


def test_a_cancelled_session_cannot_be_finished(sandbox: Sandbox, api: Api) -> None:
    session_id = session(api)
    sandbox.advance(10)
    assert api.post(f"/agent-builder/{session_id}/cancel").json() == {"success": True, "error": None}
    assert api.post(f"/agent-builder/{session_id}/finish").status_code == 409
    assert api.get(f"/agent-builder/{session_id}/status")["status"] == "cancelled"


def test_a_refusal_of_the_stateful_builder_is_a_200(api: Api) -> None:
    answer = api.post("/agent-builder/start", {"mode": "prompt", "prompt": "short"})
    assert (answer.status_code, answer.json()["success"], answer.json()["sessionId"]) == (200, False, None)
    assert "10 to 5000" in answer.json()["error"]


@pytest.mark.parametrize("key", ["agentId", "configId", "id", "none"])
def test_finish_may_tell_the_agent_otherwise(sandbox: Sandbox, api: Api, key: str) -> None:
    sandbox.dialect.finish_id = key  # type: ignore[assignment]
    session_id = session(api)
    sandbox.advance(10)
    assert set(api.post(f"/agent-builder/{session_id}/finish").json()) - {"success", "error"} == {key} - {"none"}


def test_a_phase_may_be_reported(sandbox: Sandbox, api: Api) -> None:
    sandbox.dialect.builder_phase = True
    session_id = session(api)
    sandbox.advance(10)
    assert api.get(f"/agent-builder/{session_id}/status")["phase"] == "ready_to_finish"


def test_huge_sessions_come_through(sandbox: Sandbox, api: Api) -> None:
    sandbox.script_sessions("huge")
    session_id = session(api)
    sandbox.advance(10)
    page = api.get(f"/agent-builder/{session_id}/events")
    assert len(page["events"]) == 5000
    assert max(len(event.get("imageBase64", "")) for event in page["events"]) > 10 * 1024 * 1024


def test_a_single_shot_session(single_shot: Api) -> None:
    answer = single_shot.post("/agent-builder/start", {"prompt": PROMPT["prompt"]}).json()
    assert set(answer) == {"sessionId"}
    path = f"/agent-builder/{answer['sessionId']}"
    first = single_shot.get(f"{path}/status")
    assert set(first) == {"status", "agentId", "agentName", "error", "agentElapsedSeconds", "browserIoSeconds"}
    assert (first["status"], first["agentId"]) == ("processing", None)
    single_shot.sandbox.advance(3.5)
    ready = single_shot.get(f"{path}/status")
    assert (ready["status"], ready["agentName"]) == ("ready", "Us states")
    assert single_shot.get(f"/agent/{ready['agentId']}")["name"] == "Us states"
    single_shot.sandbox.advance(1)
    assert single_shot.get(f"{path}/status")["status"] == "completed"
    assert single_shot.post(f"{path}/stop").status_code == 204
    single_shot.sandbox.advance(400)
    assert single_shot.http.get(f"{path}/status").status_code == 404


def test_single_shot_has_three_endpoints_only(single_shot: Api) -> None:
    session_id = session(single_shot)
    path = f"/agent-builder/{session_id}"
    answers = [single_shot.http.get(f"{path}/{verb}") for verb in ("events", "conversation")]
    answers += [single_shot.post(f"{path}/{verb}", {"message": "x"}) for verb in ("followup", "finish", "cancel")]
    assert {answer.status_code for answer in answers} == {404}
    assert single_shot.post(f"{path}/stop").status_code == 204
    assert single_shot.get(f"{path}/status")["status"] == "cancelled"


def test_single_shot_refuses_with_a_problem(single_shot: Api) -> None:
    assert single_shot.post("/agent-builder/start", {"prompt": "  short   "}).status_code == 400
    assert single_shot.post("/agent-builder/start", {}).status_code == 400


def test_an_unknown_session_is_a_404(api: Api) -> None:
    assert api.http.get("/agent-builder/nope/status").status_code == 404
    assert api.post("/agent-builder/nope/stop").status_code == 404
