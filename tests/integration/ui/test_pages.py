"""What the pages show, and what they never show."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from airflow.models.log import Log
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session

from airflow_provider_sequentum.operators.run_records import RECORDS_KEY
from airflow_provider_sequentum.reporting.links import SESSION_SUMMARY_KEY
from airflow_provider_sequentum.sandbox import RunPlan
from airflow_provider_sequentum.ui import app as ui
from airflow_provider_sequentum.ui import tasks
from airflow_provider_sequentum.ui.pages import AGENTS_ON_A_PAGE
from tests.integration.ui.conftest import RUN_ID
from tests.support import airflow_rows as rows

if TYPE_CHECKING:
    from tests.integration.ui.conftest import Stage

HOSTILE = """<script>alert(1)</script>"><img src=x onerror=alert(2)>{{ 7 * 7 }}"""


def tags_of(page: str) -> set[str]:
    return set(re.findall(r"<(\w+)", page))


def finished(stage: Stage, outcome: str = "Success", **plan: object) -> int:
    agent = stage.sandbox.add_agent(f"Prices {HOSTILE}", records=[{"name": HOSTILE, "price": 9.5}] * 20)
    stage.sandbox.plan_runs(agent.id, [RunPlan.model_validate({"outcome": outcome, "duration": 0.0, **plan})])
    run = stage.start(agent.id, state="success" if outcome == "Success" else "failed")
    stage.sandbox.advance(10)
    stage.until(lambda: f"</span> {outcome}" in stage.tab().text or f">{outcome}</span>" in stage.tab().text)
    return run.id


def test_a_task_of_others_costs_nothing(stage: Stage) -> None:
    with create_session() as session:
        rows.add_task(session, "sales", RUN_ID, "other", operator="PythonOperator")
    shown = stage.tab(task_id="other")
    assert "Nothing is shown for this task: it does not run an agent" in shown.text
    assert stage.sandbox.ledger.requests == []
    assert stage.tab(task_id="missing").text == shown.text
    assert "data-verb" not in shown.text
    assert stage.act("stop", task_id="other").status_code == 404


@pytest.mark.parametrize(
    ("state", "heading", "ending"),
    [
        ("queued", "No run yet", "which one."),
        ("deferred", "No run yet", "which one."),
        ("failed", "No run", "which one. Its log says why."),
        ("skipped", "No run", "which one."),
        ("upstream_failed", "No run", "which one."),
    ],
)
def test_a_task_of_ours_without_a_run_says_so(stage: Stage, state: str, heading: str, ending: str) -> None:
    with create_session() as session:
        rows.add_task(session, "sales", RUN_ID, "extract", state=state)
    page = stage.tab().text
    assert f"<h1>{heading}</h1>" in page
    assert f"<p>This task has not started a run, or has not stored {ending}</p>" in page
    assert stage.sandbox.ledger.requests == []


@pytest.mark.parametrize("operator", ["RunFilesToObjectStorageOperator", "DeleteRunsOperator"])
def test_a_task_of_ours_that_has_no_run_is_not_called_foreign(stage: Stage, operator: str) -> None:
    with create_session() as session:
        rows.add_task(session, "sales", RUN_ID, "land", operator=operator, state="success")
    page = stage.tab(task_id="land").text
    assert "Nothing is shown for this task" in page
    assert "provider" not in page


def test_a_session_of_the_agent_builder(stage: Stage) -> None:
    summary = {"session_id": "abc", "status": "processing", "link": "https://cloud/sessions/abc", "note": None}
    ended = summary | {"status": "cancelled", "link": "javascript:alert(1)", "note": "It was cancelled."}
    with create_session() as session:
        run = rows.add_task(session, "sales", RUN_ID, "build", operator="AgentBuilderOperator")
        rows.add_xcom(session, run, "build", "session", summary)
        rows.add_task(session, "sales", RUN_ID, "ended", operator="AgentBuilderOperator", state="failed")
        rows.add_xcom(session, run, "ended", "session", ended)
    active, over = stage.tab(task_id="build").text, stage.tab(task_id="ended").text
    assert '<a href="https://cloud/sessions/abc" data-outside>' in active
    assert "none yet" in active
    assert "<p>It was cancelled.</p>" in over
    assert "none yet" not in over
    assert "javascript:" not in over


def test_a_failure_shows_what_is_known_of_it(stage: Stage) -> None:
    run_id = finished(stage, "Failure", message="Timed out.")
    text = stage.until(lambda: page if "Suggested actions" in (page := stage.tab().text) else "")
    assert f'id="run-{run_id}"' in text
    assert "The service says: Timed out." in text
    assert "Possible causes" in text
    assert re.search(r"From the service, \d+ s ago", text)
    assert "Attempts of the task" in text


def test_the_files_and_the_first_rows_of_one(stage: Stage) -> None:
    run_id = finished(stage)
    text = stage.until(lambda: page if "output.csv" in (page := stage.tab().text) else "")
    file_id = re.findall(r'data-file="(\d+)"', text)[0]
    query = f"run_id={RUN_ID.replace(' ', '%20').replace('+', '%2B')}&task_id=extract&map_index=-1"
    path = f"/dags/sales/preview?{query}&sequentum_run={run_id}"
    viewer = stage.as_("viewer")
    shown = stage.until(lambda: page if "<td>9.5</td>" in (page := viewer.get(f"{path}&file={file_id}").text) else "")
    assert shown.count("<tr>") == 1 + 10, "the head and the first ten rows"
    assert "script" not in tags_of(shown)
    assert viewer.get(f"{path}&file=999999").status_code == 404
    assert viewer.get(f"{path}x&file={file_id}").status_code == 404


def test_texts_of_the_service_are_texts(stage: Stage) -> None:
    finished(stage, "Failure", message=HOSTILE)
    stage.until(lambda: "Suggested actions" in stage.tab().text)
    stage.until(lambda: "Prices" in stage.as_("viewer").get("/agents").text)
    for page in (stage.tab().text, stage.as_("viewer").get("/agents").text):
        assert "alert(1)" in page
        assert "img" not in tags_of(page)
        assert page.count("<script") == 1, "our own"
        assert not re.search(r"<[^>]*\son\w+=", page)
        assert "{{ 7 * 7 }}" in page


def check_of(agent_id: int, run_id: int, **more: object) -> dict[str, object]:
    """What CheckRunRecordsOperator pushes."""
    return {
        "agent_id": agent_id, "run_id": run_id, "verdict": "failed", "records": 1200, "breaches": [f"price {HOSTILE}"],
        "more_breaches": 3, "learnt_from": 20, "quarantined_records": 7, "quarantined": [], "page": "s3://lake/r.html",
    } | more  # fmt: skip


ODD: list[dict[str, object]] = [
    {"seconds": 10**400},
    {"records": 10**400, "run_id": 9},
    {"run_id": 10**400},
    {"cost": 10**400, "task_cost": {"credits": 10**400, "runs": [1]}},
    {"status": "half \ud83d", "message": "half \ud83d"},
    {"link": "https://["},
]


@pytest.mark.parametrize("odd", ODD, ids=[next(iter(each)) for each in ODD])
def test_an_odd_xcom_breaks_neither_its_tab_nor_the_page_of_all_agents(stage: Stage, odd: dict[str, object]) -> None:
    with create_session() as session:
        run = rows.add_task(session, "sales", RUN_ID, "extract")
        rows.add_xcom(session, run, "extract", "run", {"agent_id": 7, "run_id": 8, "status": "Success"} | odd)
        rows.add_task(session, "sales", RUN_ID, "check", operator="CheckRunRecordsOperator")
        rows.add_xcom(session, run, "check", RECORDS_KEY, check_of(7, 8, verdict="\ud83d", quarantined_records=10**400))
    for page in (stage.tab(), stage.tab(task_id="check"), stage.as_("viewer").get("/agents")):
        assert page.status_code == 200


def test_the_check_of_a_runs_records_is_on_its_tab_and_on_the_checks_own(stage: Stage) -> None:
    with create_session() as session:
        run = rows.add_task(session, "sales", RUN_ID, "extract")
        rows.add_xcom(session, run, "extract", "run", {"agent_id": 7, "run_id": 8, "status": "Success"})
        rows.add_task(session, "sales", RUN_ID, "check", operator="CheckRunRecordsOperator")
        rows.add_xcom(session, run, "check", RECORDS_KEY, check_of(7, 8))
        rows.add_task(session, "sales", RUN_ID, "other_check", operator="CheckRunRecordsOperator")
        rows.add_xcom(session, run, "other_check", RECORDS_KEY, check_of(7, 9, verdict="passed", breaches=[]))
    for page in (stage.tab().text, stage.tab(task_id="check").text):
        assert "Run 8 was checked by the task check:" in page
        assert '<span class="status bad">failed</span>. Records: 1,200; in quarantine: 7.' in page
        assert "price &lt;script&gt;" in page
        assert "and 3 more" in page
        assert "s3://lake/r.html" in page
        assert "other_check" not in page
        assert "No run yet" not in page
        assert page.count("<script") == 1, "our own"
    assert '<span class="status good">passed</span>' in stage.tab(task_id="other_check").text


@pytest.mark.parametrize(
    "value", [None, 7, [], {}, {"agent_id": 7, "run_id": 8}, {"agent_id": "7", "run_id": 8, "verdict": "passed"}]
)
def test_an_xcom_that_is_no_check_is_none(stage: Stage, value: object) -> None:
    with create_session() as session:
        run = rows.add_task(session, "sales", RUN_ID, "check", operator="CheckRunRecordsOperator")
        rows.add_xcom(session, run, "check", RECORDS_KEY, value)
    assert "Check of the records" not in stage.tab(task_id="check").text


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        ({"credits": 9.5, "runs": [6, 7, 8], "is_complete": True}, "9.5 credits, 3 runs</dd>"),
        ({"credits": 3, "runs": [8], "is_complete": False}, "3 credits, 1 run, not all known</dd>"),
        ({"credits": "3", "runs": [8], "is_complete": True}, None),
        ({"credits": 3, "runs": 8}, None),
        (7, None),
    ],
)
def test_what_a_task_has_cost(stage: Stage, cost: object, shown: str | None) -> None:
    summary = {"agent_id": 7, "run_id": 8, "status": "Success", "cost": 3.0, "task_cost": cost}
    with create_session() as session:
        run = rows.add_task(session, "sales", RUN_ID, "extract")
        rows.add_xcom(session, run, "extract", "run", summary)
    page = stage.tab().text
    assert "<dd>3 credits</dd>" in page
    assert ("Cost of the task" in page) is (shown is not None)
    assert shown is None or shown in page


def test_a_link_that_is_none_of_the_web_is_not_shown(stage: Stage) -> None:
    with create_session() as session:
        run = rows.add_task(session, "sales", RUN_ID, "extract")
        summary = {"agent_id": 7, "run_id": 8, "status": "Success", "link": "javascript:alert(1)"}
        rows.add_xcom(session, run, "extract", "run", summary)
    assert "javascript:" not in stage.tab().text


@pytest.mark.parametrize(
    "value", [None, 7, "text", [], [7], {"agent_id": "7", "run_id": 8}, {"agent_id": True, "run_id": 1}, {"run_id": 1}]
)
def test_an_xcom_that_is_no_summary_is_none(stage: Stage, value: object) -> None:
    with create_session() as session:
        run = rows.add_task(session, "sales", RUN_ID, "extract", operator="PythonOperator")
        rows.add_xcom(session, run, "extract", "run", value)
    assert "Nothing is shown for this task" in stage.tab().text
    assert stage.as_("viewer").get("/agents").status_code == 200


def test_every_response_restricts_the_browser(stage: Stage) -> None:
    finished(stage)
    paths = ("/agents", "/static/page.js", "/static/page.css", "/static/nothing", "/dags/sales/task?run_id=a&task_id=b")
    answers = [stage.as_("admin").get(path) for path in paths]
    answers += [stage.as_(None).get(path) for path in paths] + [stage.act("stop", "viewer")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
    for page in (stage.tab().text, stage.as_("admin").get("/agents").text):
        assert "style=" not in page
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", page.replace('href="https://example.com/run"', ""))


def test_the_key_is_in_no_response(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(stage, "Failure")
    stage.until(lambda: "Suggested actions" in stage.tab().text)
    pages = [stage.tab("admin").text, stage.as_("admin").get("/agents").text, stage.act("stop").text]
    broken = {"conn_type": "sequentum", "host": "ftp://example.com", "password": stage.sandbox.api_key}
    monkeypatch.setenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT", json.dumps(broken))
    stage.cached.expire("sequentum_default")
    pages.append(stage.until(lambda: page if "problem" in (page := stage.tab("admin").text) else ""))
    for page in pages:
        assert stage.sandbox.api_key not in page


def test_the_service_is_away(stage: Stage) -> None:
    run_id = finished(stage)
    stage.until(lambda: "From the service" in stage.tab().text)
    stage.sandbox.close()
    stage.cached.expire("sequentum_default")
    text = stage.until(lambda: page if 'class="problem"' in (page := stage.tab().text) else "", 30)
    assert f'id="run-{run_id}"' in text
    assert "From the service" in text, "the last figures, with their age"


def test_the_service_has_no_room_for_the_key(stage: Stage) -> None:
    run_id = finished(stage)
    stage.until(lambda: "From the service" in stage.tab().text)
    stage.sandbox.fail_next("*", status=429, headers={"Retry-After": "30"}, times=None)
    stage.cached.expire("sequentum_default")
    asked = len(stage.sandbox.ledger.requests)
    text = stage.until(lambda: page if 'class="problem"' in (page := stage.tab().text) else "")
    assert f'id="run-{run_id}"' in text
    assert "429" in text
    for _ in range(20):
        assert stage.tab().status_code == 200
    assert len(stage.sandbox.ledger.requests) - asked <= 4, "each question once, whoever reloads"


def test_ten_people_who_reload_do_not_ask_the_service_more(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(stage)
    monkeypatch.setattr("airflow_provider_sequentum.ui.cache.REQUESTS_PER_MINUTE", 4)
    stage.cached.expire("sequentum_default")
    asked = len(stage.sandbox.ledger.requests)
    roles = [("viewer", "user")[number % 2] for number in range(40)]
    with ThreadPoolExecutor(10) as people:
        answers = list(people.map(lambda role: stage.tab(role).status_code, roles))
    assert set(answers) == {200}
    assert len(stage.sandbox.ledger.requests) - asked <= 4


def test_a_message_of_five_megabytes_leaves_the_page_small(stage: Stage) -> None:
    finished(stage, "Failure", message="Out of memory. " * 350_000)
    text = stage.tab().text
    assert "Out of memory." in text
    assert len(text) < 30_000
    assert len(stage.as_("viewer").get("/agents").text) < 30_000


def test_what_others_push_under_the_same_key_is_not_read_whole(stage: Stage) -> None:
    """``run`` is a name that anyone may give an XCom: its rows of any size are not loaded for a page."""
    finished(stage)
    large = {"agent_id": 990, "run_id": 991, "status": "Success", "padding": "x" * 5_000_000}
    with create_session() as session:
        run = rows.add_task(session, "other", "r", "load", operator="PythonOperator")
        rows.add_xcom(session, run, "load", "run", large)
        run = rows.add_task(session, "sales", "r", "extract")
        rows.add_xcom(session, run, "extract", "run", large)
    text = stage.as_("viewer").get("/agents").text
    assert "990" not in text
    assert text.count("<svg") == 1
    viewer = stage.as_("viewer")
    assert "has not started a run" in viewer.get("/dags/sales/task?run_id=r&task_id=extract").text


def test_a_run_of_another_agent_than_the_task_s_is_not_shown(stage: Stage) -> None:
    """Who may edit the XComs of a DAG may not thereby read the files of another agent with the task's key."""
    own = stage.sandbox.add_agent("Own")
    other = stage.sandbox.add_agent("Other", records=[{"secret": "plans"}])
    stage.sandbox.plan_runs(other.id, [RunPlan(duration=0.0)])
    stage.start(own.id, record=False)
    victim = stage.start(other.id, dag_id="secret", state="success")
    stage.sandbox.advance(10)
    with create_session() as session:
        row = session.query(XComModel).filter_by(dag_id="sales", key="run").one()
        row.value = json.dumps({"agent_id": other.id, "run_id": victim.id, "status": "Success"})
    asked = len(stage.sandbox.ledger.requests)
    text = stage.tab("user").text
    assert f"Run {victim.id}" not in text
    assert len(stage.sandbox.ledger.requests) == asked
    path = f"/dags/sales/preview?run_id={quote(RUN_ID, safe='')}&task_id=extract&sequentum_run={victim.id}&file=1"
    assert stage.as_("user").get(path).status_code == 404


def test_an_action_whose_api_server_went_away_is_not_under_way_for_ever(stage: Stage) -> None:
    stage.start(stage.sandbox.add_agent("Prices").id)
    with create_session() as session:
        log = Log("sequentum_stop", owner="Ann", owner_display_name="Ann", dag_id="sales", task_id="extract")
        log.run_id, log.map_index = RUN_ID, -1
        log.extra = json.dumps({"outcome": "It was requested.", "is_over": False})
        log.dttm = datetime.now(UTC) - timedelta(hours=1)
        session.add(log)
    text = stage.tab("user").text
    assert "in progress." not in text
    assert "its result is unknown" in text


def test_a_connection_that_only_the_workers_have(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stage.start(stage.sandbox.add_agent("Prices").id)
    monkeypatch.delenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT")
    text = stage.until(lambda: page if "only the workers" in (page := stage.tab().text) else "")
    assert f"Run {run.id}" in text
    assert "As the task stored it" in text


def test_the_page_of_agents_asks_for_names_and_credits_and_not_for_each_agent(stage: Stage) -> None:
    with create_session() as session:
        rows.add_history(session, "sales", count=60, agents=20, first_agent_id=500, conn_id="sequentum_default")
    text = stage.until(lambda: page if "1,000" in (page := stage.as_("viewer").get("/agents").text) else "")
    assert text.count("<svg") == 20
    assert text.count("<rect") == 60
    asked = {entry.path for entry in stage.sandbox.ledger.requests}
    assert asked == {"/billing/credits", "/agent/all"}


def test_thirty_runs_of_an_agent_are_shown_and_a_thousand_stay_small(stage: Stage) -> None:
    with create_session() as session:
        rows.add_history(session, "sales", count=1000, agents=34, first_agent_id=500, conn_id="sequentum_default")
    text = stage.as_("viewer").get("/agents").text
    assert len(text.encode()) < 200_000
    assert text.count("<svg") == 34
    assert 990 <= text.count("<rect") <= 1000
    assert "No task of your DAGs" not in text


def test_the_fullest_page_stays_small(stage: Stage) -> None:
    with create_session() as session:
        rows.add_history(session, "sales", count=3600, agents=120, first_agent_id=500, conn_id="sequentum_default")
    text = stage.as_("viewer").get("/agents").text
    assert text.count("<rect") == 30 * AGENTS_ON_A_PAGE
    assert len(text.encode()) < 200_000
    assert "120 agents" in text


def test_no_run_at_all(stage: Stage) -> None:
    assert "No task of your DAGs has run an agent yet" in stage.as_("viewer").get("/agents").text
    assert stage.sandbox.ledger.requests == []


def test_the_session_of_an_agent_builder(stage: Stage) -> None:
    with create_session() as session:
        run = rows.add_task(session, "sales", RUN_ID, "extract", operator="AgentBuilderOperator")
        summary = {
            "session_id": "s-1",
            "status": "ready",
            "agent_id": None,
            "agent_name": None,
            "last_message": HOSTILE,
        }
        rows.add_xcom(session, run, "extract", SESSION_SUMMARY_KEY, summary)
    text = stage.tab("admin").text
    assert "s-1" in text
    assert "data-verb" not in text
    assert text.count("<script") == 1


def test_a_space_shows_each_run_and_stops_all(stage: Stage) -> None:
    agents = [stage.sandbox.add_agent(f"Agent {number}") for number in range(3)]
    summaries = []
    for agent in agents:
        stage.sandbox.plan_runs(agent.id, [RunPlan(outcome="Running")])
    with create_session() as session:
        run = rows.add_task(session, "sales", RUN_ID, "extract", operator="StartSpaceRunsOperator")
        from airflow_provider_sequentum.api import runs
        from airflow_provider_sequentum.hooks.sequentum import SequentumHook

        for agent in agents:
            started = SequentumHook().send(runs.start(agent.id))
            summaries.append({"agent_id": agent.id, "run_id": started.id, "status": "Running"})
        rows.add_xcom(session, run, "extract", "runs", summaries)
        rows.add_rendered_fields(session, run, "extract", sequentum_conn_id="sequentum_default", space_id="3")
    text = stage.tab("user").text
    assert [f'id="run-{summary["run_id"]}"' in text for summary in summaries] == [True] * 3
    assert stage.act("stop", "user").status_code == 200
    stage.until(lambda: json.loads(stage.logs()[-1].extra)["is_over"])
    assert {effect.run_id for effect in stage.sandbox.ledger.stops} == {each["run_id"] for each in summaries}


def test_a_task_with_a_thousand_runs_stays_small(stage: Stage) -> None:
    runs = [{"agent_id": number, "run_id": number, "status": "Success", "records": 40} for number in range(1, 1001)]
    runs[899]["status"] = "Failure"
    with create_session() as session:
        dag_run = rows.add_task(session, "sales", RUN_ID, "extract", operator="StartSpaceRunsOperator")
        rows.add_xcom(session, dag_run, "extract", "runs", runs)
    answer = stage.tab()
    assert len(answer.content) < 200_000
    assert answer.text.index('id="run-900"') < answer.text.index('id="run-1"'), "what failed comes first"
    assert answer.text.count('id="run-') == 5
    assert "runs that are not listed: 695" in answer.text


def test_run_ids_arrive_as_they_are() -> None:
    """Airflow 3.1 puts a run id into the address as it is, later versions encode it."""

    class Request:
        class url:  # noqa: N801
            query = ""

    for query in (f"run_id={RUN_ID}", "run_id=manual__2026-11-27T10%3A00%3A00%2B00%3A00%20by%20hand"):
        Request.url.query = f"{query}&task_id=a.b&map_index={{MAP_INDEX}}"
        assert ui.task_in_query("sales", Request) == tasks.TaskKey("sales", RUN_ID, "a.b", -1)  # type: ignore[arg-type]
    Request.url.query = "run_id=r&task_id=t&map_index=7"
    assert ui.task_in_query("sales", Request).map_index == 7  # type: ignore[arg-type]
