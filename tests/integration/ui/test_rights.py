"""Who may see and do what."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

from airflow_provider_sequentum.ui import app as ui
from tests.integration.ui.conftest import RUN_ID

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails

    from tests.integration.ui.conftest import Stage

VERBS = ("stop", "kill", "restart")


def test_nobody_sees_or_does_anything(stage: Stage) -> None:
    agent = stage.sandbox.add_agent("Prices")
    stage.start(agent.id)
    assert stage.as_(None).get("/agents").status_code == 401
    assert stage.tab(None).status_code == 401
    assert stage.as_(None).get("/dags/sales/preview?run_id=x&task_id=extract").status_code == 401
    assert {stage.act(verb, None).status_code for verb in VERBS} == {401}
    assert len(stage.sandbox.ledger.effects) == 1, "the start"
    assert stage.logs() == []


def test_a_viewer_sees_and_does_nothing(stage: Stage) -> None:
    run = stage.start(stage.sandbox.add_agent("Prices").id)
    shown = stage.tab("viewer")
    assert shown.status_code == 200
    assert f"Run {run.id}" in shown.text
    assert "data-verb" not in shown.text, "no button"
    assert {stage.act(verb, "viewer").status_code for verb in VERBS} == {403}
    assert len(stage.sandbox.ledger.effects) == 1
    assert stage.logs() == []


@pytest.fixture
def roles_for_single_dags(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the FAB auth manager: everyone may only see and edit the DAG ``sales``."""

    def is_authorized_dag(*, details: DagDetails | None = None, **_: Any) -> bool:
        return details is not None and details.id == "sales"

    monkeypatch.setattr(get_auth_manager(), "is_authorized_dag", is_authorized_dag)
    monkeypatch.setattr(get_auth_manager(), "get_authorized_dag_ids", lambda **_: {"sales"})


@pytest.mark.usefixtures("roles_for_single_dags")
def test_another_dag_is_neither_seen_nor_acted_on(stage: Stage) -> None:
    own, other = stage.sandbox.add_agent("Own"), stage.sandbox.add_agent("Other")
    stage.start(own.id)
    hidden = stage.start(other.id, dag_id="secret")
    assert stage.tab("user").status_code == 200
    assert stage.tab("user", dag_id="secret").status_code == 403
    assert {stage.act(verb, "user", dag_id="secret").status_code for verb in VERBS} == {403}
    page = stage.as_("user").get("/agents").text
    assert f'<span class="id">{own.id}</span>' in page
    assert "secret" not in page
    assert f'<span class="id">{other.id}</span>' not in page
    assert f"run {hidden.id}" not in page


@pytest.mark.usefixtures("roles_for_single_dags")
def test_only_the_dag_of_the_path_counts(stage: Stage) -> None:
    stage.start(stage.sandbox.add_agent("Own").id)
    hidden = stage.start(stage.sandbox.add_agent("Other").id, dag_id="secret", task_id="hidden")
    query = f"run_id={quote(RUN_ID, safe='')}&task_id=hidden&map_index=-1"
    user = stage.as_("user")
    # The path names a DAG that may be seen, query and body another one: its task is not found in the first.
    assert f"Run {hidden.id}" not in user.get(f"/dags/sales/task?dag_id=secret&{query}").text
    assert user.get(f"/dags/secret/task?dag_id=sales&{query}").status_code == 403
    answer = stage.act("stop", "user", dag_id="sales", task_id="hidden", **{"dag_id ": "secret"})
    assert answer.status_code == 404
    body = {"dag_id": "secret", "run_id": RUN_ID, "task_id": "hidden", "map_index": -1}
    answer = user.post("/dags/sales/stop?dag_id=secret", json=body, headers={"x-sequentum-ui": "1"})
    assert answer.status_code == 404
    assert stage.sandbox.ledger.stops == []


@pytest.mark.parametrize("cookie", ["", "nonsense", "a.b.c", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzb21lX2FkbWluIn0."])
def test_a_cookie_that_airflow_did_not_issue_is_no_one_s(stage: Stage, cookie: str) -> None:
    stage.start(stage.sandbox.add_agent("Prices").id)
    stranger = stage.as_(None)
    stranger.cookies.set("_token", cookie)
    for path in (
        "/agents",
        "/dags/sales/task?run_id=x&task_id=extract",
        "/dags/sales/preview?run_id=x&task_id=extract",
    ):
        assert stranger.get(path).status_code in (401, 403)
    assert {stage.act(verb, None).status_code for verb in VERBS} <= {401, 403}
    assert stage.logs() == []


def test_the_token_of_a_session_that_is_over_is_no_one_s(stage: Stage) -> None:
    stage.start(stage.sandbox.add_agent("Prices").id)
    user = SimpleAuthManagerUser(username="some_admin", role="admin")
    late = stage.as_(None)
    late.cookies.set("_token", get_auth_manager().generate_jwt(user, expiration_time_in_seconds=-60))
    assert stage.tab(None).status_code in (401, 403)
    assert {stage.act(verb, None).status_code for verb in VERBS} <= {401, 403}
    assert len(stage.sandbox.ledger.effects) == 1, "the start"


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "names",
    [
        {"run_id": "a\0b"},
        {"task_id": "\ud800"},
        {"run_id": None},
        {"run_id": ["x"]},
        {"task_id": {"$ne": 1}},
        {"run_id": "x" * 100_000},
    ],
)
def test_a_task_whose_name_is_none_is_not_acted_on(stage: Stage, verb: str, names: dict[str, Any]) -> None:
    stage.start(stage.sandbox.add_agent("Prices").id)
    assert stage.act(verb, **names).status_code == 422
    assert stage.logs() == []


@pytest.mark.parametrize("query", ["", "run_id=%00&task_id=t", "run_id=%ff%fe&task_id=t", "run_id=r", "task_id", "&&="])
def test_an_address_that_names_no_task_is_refused(stage: Stage, query: str) -> None:
    viewer = stage.as_("viewer")
    answers = [viewer.get(f"/dags/sales/{page}?{query}").status_code for page in ("task", "preview")]
    assert answers in ([422, 422], [200, 404])
    if "%00" in query or "=t" not in query:
        assert answers == [422, 422]


@pytest.mark.parametrize("given", [None, -1, "-2", "1e3", "٣", True, [0], "{MAP_INDEX}", "9" * 30])
def test_what_is_no_map_index_means_a_task_that_is_not_mapped(given: object) -> None:
    assert ui.key_of("sales", {"run_id": "r", "task_id": "t", "map_index": given}).map_index == -1
    assert ui.key_of("sales", {"run_id": "r", "task_id": "t", "map_index": 7}).map_index == 7


@pytest.mark.parametrize("verb", VERBS)
def test_a_form_of_another_page_does_nothing(stage: Stage, verb: str) -> None:
    """What a page of another origin can send without asking first: a form, a text that looks like JSON."""
    stage.start(stage.sandbox.add_agent("Prices").id)
    admin, path = stage.as_("admin"), f"/dags/sales/{verb}"
    text = json.dumps({"run_id": RUN_ID, "task_id": "extract", "map_index": -1})
    assert admin.post(path, data={"run_id": RUN_ID, "task_id": "extract"}).status_code == 403
    assert admin.post(path, content=text, headers={"content-type": "text/plain"}).status_code == 403
    assert admin.post(path, content=text, headers={"content-type": "application/json"}).status_code == 403
    own_header = {"content-type": "text/plain", "x-sequentum-ui": "1"}
    assert admin.post(path, content=text, headers=own_header).status_code == 403
    assert admin.get(path).status_code == 405, "a GET does not act"
    assert len(stage.sandbox.ledger.effects) == 1, "the start"
    assert stage.logs() == []


def test_the_header_is_not_allowed_to_other_origins(stage: Stage) -> None:
    headers = {
        "origin": "http://localhost:8000",
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-sequentum-ui,content-type",
    }
    answer = stage.as_("admin").options("/dags/sales/stop", headers=headers)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers
