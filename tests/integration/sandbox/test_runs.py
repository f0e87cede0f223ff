from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_provider_sequentum.sandbox import RunPlan, Sandbox
from tests.integration.sandbox.client import Api

RUN_FIELDS = {
    "id",
    "configId",
    "configName",
    "spaceId",
    "organizationId",
    "organizationName",
    "sequence",
    "parallelism",
    "parallelMaxConcurrency",
    "parallelExport",
    "parallelSet",
    "startTime",
    "endTime",
    "created",
    "status",
    "message",
    "configVersion",
    "actionCount",
    "pageCount",
    "dynamicPageCount",
    "requestCount",
    "dataCount",
    "inputCount",
    "errorCount",
    "exportCount",
    "traffic",
    "runTimeSec",
    "serverName",
    "tableType",
    "tag",
}


def test_a_start_answers_the_run_record(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    answer = api.post(f"/agent/{agent.id}/start", {"isRunSynchronously": False})
    assert answer.status_code == 202
    run = answer.json()
    assert set(run) == RUN_FIELDS
    assert (run["configId"], run["status"], run["endTime"], run["tableType"]) == (agent.id, 3, None, None)
    assert api.status(agent.id, run["id"])["tableType"] == "run"


def test_a_run_lives_through_its_statuses(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices", records=[{"n": n} for n in range(100)], duration=10, queue_seconds=5)
    run_id = api.start(agent.id)
    seen = [(api.status(agent.id, run_id)["status"], api.status(agent.id, run_id)["dataCount"])]
    for step in (5.5, 4.5, 4.7, 1):
        sandbox.advance(step)
        run = api.status(agent.id, run_id)
        seen.append((run["status"], run["dataCount"]))
    run = api.status(agent.id, run_id)
    assert [status for status, _ in seen] == [4, 3, 1, 2, 10]
    assert seen[0][1] == 0 < seen[2][1] < seen[3][1] == 100
    assert run["exportCount"] == 100
    assert run["tableType"] == "history"


@pytest.mark.parametrize("body", [None, {}, {"IsRunSynchronously": False, "INPUTPARAMETERS": "{}", "other": 1}])
def test_a_start_needs_no_body_and_takes_names_in_any_case(sandbox: Sandbox, api: Api, body: object) -> None:
    agent = sandbox.add_agent("Prices")
    assert api.post(f"/agent/{agent.id}/start", body).status_code == 202


@pytest.mark.parametrize(
    "body",
    [
        {"inputParameters": {"url": "x"}},
        {"inputParameters": "[1]"},
        {"parallelism": 0},
        {"parallelism": 51},
        {"parallelism": "2"},
        {"parallelExport": "Separate"},
        {"logLevel": "Debug"},
        {"logMode": "Json"},
        {"isExclusive": 1},
        {"isRunSynchronously": True, "parallelism": 2},
        [],
    ],
)
def test_a_bad_body_is_a_400_and_starts_nothing(sandbox: Sandbox, api: Api, body: object) -> None:
    agent = sandbox.add_agent("Prices")
    answer = api.post(f"/agent/{agent.id}/start", body)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert set(answer.json()) == {"type", "title", "status", "detail", "instance"}
    assert sandbox.ledger.starts() == []


@pytest.mark.parametrize("path", ["/agent/1/start", "/agent/1/run/2/stop", "/agent/1/run/2/restart"])
def test_what_is_unknown_is_a_404(api: Api, path: str) -> None:
    assert api.post(path).status_code == 404


def test_stop_and_kill_have_no_body(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices", outcome="Running")
    run_id = api.start(agent.id)
    for verb in ("stop", "kill"):
        answer = api.post(f"/agent/{agent.id}/run/{run_id}/{verb}")
        assert (answer.status_code, answer.content) == (204, b"")
    assert api.status(agent.id, run_id)["status"] == 8
    assert api.post(f"/agent/{agent.id}/run/{run_id}/stop").status_code == 409
    assert (len(sandbox.ledger.stops), len(sandbox.ledger.kills)) == (1, 1)


def test_a_failure_is_restarted_in_place(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Failure", duration=1)])
    run_id = api.finished(agent.id)
    assert api.status(agent.id, run_id)["status"] == 6
    answer = api.post(f"/agent/{agent.id}/run/{run_id}/restart")
    assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (200, run_id, 3)
    sandbox.advance(5)
    assert api.status(agent.id, run_id)["status"] == 10
    assert [run["id"] for run in api.get(f"/agent/{agent.id}/runs")] == [run_id]
    assert sandbox.ledger.runs()[0].attempts == 2


@pytest.mark.parametrize(("form", "content"), [("run_id", b'{"runId":'), ("empty", b"")])
def test_a_restart_may_answer_less(sandbox: Sandbox, api: Api, form: str, content: bytes) -> None:
    sandbox.dialect.restart_response = form  # type: ignore[assignment]
    agent = sandbox.add_agent("Prices", outcome="Failure")
    run_id = api.finished(agent.id)
    answer = api.post(f"/agent/{agent.id}/run/{run_id}/restart")
    assert answer.status_code == 200
    assert answer.content.startswith(content)


def test_an_archived_failure_is_failed_and_final(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices", outcome="Failure")
    run_id = api.finished(agent.id)
    sandbox.archive(agent.id, run_id)
    run = api.status(agent.id, run_id)
    assert (run["status"], run["tableType"]) == (7, "history")
    assert api.post(f"/agent/{agent.id}/run/{run_id}/restart").status_code == 409


def test_runs_are_listed_newest_first(sandbox: Sandbox, api: Api) -> None:
    agent, other = sandbox.add_agent("Prices"), sandbox.add_agent("Others")
    ids = [api.start(agent.id) for _ in range(3)]
    api.start(other.id)
    assert [run["id"] for run in api.get(f"/agent/{agent.id}/runs")] == ids[::-1]
    assert [run["id"] for run in api.get(f"/agent/{agent.id}/runs", maxRecords=2)] == ids[:0:-1]
    assert api.http.get(f"/agent/{agent.id}/runs", params={"maxRecords": 0}).status_code == 400


@pytest.mark.parametrize(("statuses", "written"), [("integer", 10), ("numeric_string", "10"), ("name", "Success")])
def test_a_status_may_be_written_otherwise(sandbox: Sandbox, api: Api, statuses: str, written: object) -> None:
    agent = sandbox.add_agent("Prices")
    run_id = api.finished(agent.id)
    sandbox.dialect.statuses = statuses  # type: ignore[assignment]
    assert api.status(agent.id, run_id)["status"] == written


@pytest.mark.parametrize("code", [200, 201, 202])
def test_a_start_may_answer_less_and_with_another_code(sandbox: Sandbox, api: Api, code: int) -> None:
    agent = sandbox.add_agent("Prices")
    sandbox.dialect.start_code, sandbox.dialect.start_response = code, "run_id"  # type: ignore[assignment]
    answer = api.post(f"/agent/{agent.id}/start")
    assert (answer.status_code, set(answer.json())) == (code, {"runId", "status"})


@pytest.mark.parametrize(
    ("form", "body"), [("object", '{"Prices":[{"a":1}]}'), ("array", '[{"a":1}]'), ("text", "a\r\n1\r\n")]
)
def test_a_synchronous_start_answers_the_records(api: Api, sandbox: Sandbox, form: str, body: str) -> None:
    sandbox.dialect.synchronous_response = form  # type: ignore[assignment]
    agent = sandbox.add_agent("Prices", records=[{"a": 1}], duration=0.1)
    assert api.post(f"/agent/{agent.id}/start", {"isRunSynchronously": True}).text == body


def test_a_synchronous_start_has_a_deadline(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices", outcome="Running")
    answer = api.post(f"/agent/{agent.id}/start", {"isRunSynchronously": True, "timeout": 1})
    assert answer.status_code == 504
    assert sandbox.ledger.runs()[0].status == "Running"


@pytest.mark.parametrize(
    ("method", "files", "parameters"),
    [("RemoveAllFiles", [], '{"a": 1}'), ("RemoveAllFilesAndAgentInput", [], None)],
)
def test_a_runs_data_is_deleted(
    sandbox: Sandbox, api: Api, method: str, files: list[object], parameters: str | None
) -> None:
    agent = sandbox.add_agent("Prices")
    run_id = api.finished(agent.id, inputParameters='{"a": 1}')
    path = f"/agent/{agent.id}/run/{run_id}"
    assert api.http.delete(path, params={"removeMethod": method}).status_code == 200
    assert api.get(f"{path}/files") == files
    assert sandbox.engine.run(agent.id, run_id).options.input_parameters == parameters
    assert api.http.delete(path).status_code == 200
    assert api.http.get(f"{path}/status").status_code == 404


def test_a_deletion_is_refused_while_the_run_goes_on(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    run_id = api.start(agent.id)
    assert api.http.delete(f"/agent/{agent.id}/run/{run_id}").status_code == 400


def test_starts_from_many_threads_are_all_counted(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices", duration=0.01)
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: api.start(agent.id), range(100)))
    assert len(set(ids)) == 100 == len(sandbox.ledger.starts(agent.id))
    sandbox.advance(10)
    assert {run.status for run in sandbox.ledger.runs(agent.id)} == {"Success"}
