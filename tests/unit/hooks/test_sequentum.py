from __future__ import annotations

import json
import pickle
from typing import Any, NoReturn

import httpx
import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_sequentum.airflow_compat.connections import aget_connection
from airflow_provider_sequentum.api import ClientSettings, SequentumClient, runs
from airflow_provider_sequentum.exceptions import (
    RunFilesUnavailable,
    SequentumConnectionException,
    SequentumConnectionNotFound,
    SequentumRequestRefused,
    SequentumUnavailable,
)
from airflow_provider_sequentum.get_provider_info import CONNECTION_FIELDS, get_provider_info
from airflow_provider_sequentum.hooks.sequentum import SequentumHook

KEY = "sk-0123456789abcdef"
CALL = runs.status(7, 42)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> SequentumHook:
    links = {
        "run_link_template": "https://ui/{agent_id}/{run_id}",
        "session_link_template": "https://ui/s/{session_id}",
    }
    connection = {"conn_type": "sequentum", "host": "https://sequentum.example", "password": KEY, "extra": links}
    monkeypatch.setenv("AIRFLOW_CONN_MY_CONN", json.dumps(connection))
    return SequentumHook("my_conn")


def answering(hook: SequentumHook, monkeypatch: pytest.MonkeyPatch, *responses: httpx.Response) -> list[httpx.Request]:
    """Let the hook's client meet these answers; returns what it asks."""
    asked: list[httpx.Request] = []
    waiting = list(responses)

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return waiting.pop(0)

    def client(settings: ClientSettings, *, urgent: bool = False) -> SequentumClient:
        transport = httpx.MockTransport(answer)
        return SequentumClient(settings, transport=transport, sleep=lambda seconds: None, urgent=urgent)

    monkeypatch.setattr("airflow_provider_sequentum.api.SequentumClient", client, raising=False)
    return asked


RUN = {"id": 42, "configId": 7, "status": 1}


def test_a_call_is_sent_with_the_key_of_the_connection(hook: SequentumHook, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(hook, monkeypatch, httpx.Response(200, json=RUN))
    assert hook.send(CALL).id == 42
    assert str(asked[0].url) == "https://sequentum.example/api/v1/agent/7/run/42/status"
    assert asked[0].headers["Authorization"] == f"ApiKey {KEY}"


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (httpx.Response(401), SequentumConnectionException),
        (httpx.Response(403), SequentumConnectionException),
        (httpx.Response(404), SequentumRequestRefused),
        (httpx.Response(422, json={"detail": "Insufficient credits."}), SequentumRequestRefused),
        (httpx.Response(200, text="<html>Please sign in</html>"), SequentumUnavailable),
    ],
)
def test_errors_become_what_a_task_fails_with(
    hook: SequentumHook, monkeypatch: pytest.MonkeyPatch, response: httpx.Response, kind: type[Exception]
) -> None:
    answering(hook, monkeypatch, response)
    with pytest.raises(kind, match="'my_conn'") as caught:
        hook.send(CALL)
    assert KEY not in str(caught.value)


AGENTS = httpx.Response(200, json={"agents": [{"id": 7}], "totalRecordCount": 12})


@pytest.mark.parametrize(
    ("agents", "account", "words"),
    [
        (
            AGENTS,
            httpx.Response(200, json={"availableCredits": 12.5, "organizationId": 3}),
            "organization 3 with 12.5 credits left; 12 agents visible.",
        ),
        (
            httpx.Response(200, json=[{"id": 7}]),
            httpx.Response(200, json={"availableCredits": 0}),
            "organization of unknown number with 0 credits left; 1 agent visible.",
        ),
        (
            httpx.Response(200, json=[]),
            httpx.Response(403),
            "an organization whose billing this key may not read; 0 agents visible.",
        ),
        (
            AGENTS,
            httpx.Response(200, text="<html>Please sign in</html>"),
            "an organization that could not be looked up (UnexpectedResponse); 12 agents visible.",
        ),
    ],
)
def test_the_test_button_says_as_whom_and_with_how_many_agents(
    hook: SequentumHook,
    monkeypatch: pytest.MonkeyPatch,
    agents: httpx.Response,
    account: httpx.Response,
    words: str,
) -> None:
    asked = answering(hook, monkeypatch, agents, account)
    assert hook.test_connection() == (True, f"Connected to https://sequentum.example as {words}")
    assert [request.url.path for request in asked] == ["/api/v1/agent/all", "/api/v1/billing/credits"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.Response(401), "Check the API key"),
        (httpx.Response(200, text="<html>Please sign in</html>"), "Check the base URL"),
        (httpx.Response(503), "try again later"),
    ],
)
def test_the_test_button_says_at_once_what_is_wrong(
    hook: SequentumHook, monkeypatch: pytest.MonkeyPatch, answer: httpx.Response, words: str
) -> None:
    answering(hook, monkeypatch, answer)
    works, told = hook.test_connection()
    assert not works
    assert words in told
    assert "'my_conn'" in told
    assert KEY not in told


def test_the_connection_is_looked_up_at_the_first_request_only(
    hook: SequentumHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_MY_CONN")
    SequentumHook("my_conn")
    monkeypatch.setattr(SequentumHook, "get_connection", lambda conn_id: pytest.fail("looked up"))
    SequentumHook("my_conn")


def missing(conn_id: str) -> NoReturn:
    raise AirflowNotFoundException(f"The conn_id `{conn_id}` isn't defined")


def test_a_missing_connection_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SequentumHook, "get_connection", staticmethod(missing))
    with pytest.raises(SequentumConnectionNotFound, match=r"'no_such'\. Nothing was sent"):
        SequentumHook("no_such").send(CALL)


async def test_a_missing_connection_is_the_same_error_in_a_trigger(monkeypatch: pytest.MonkeyPatch) -> None:
    async def amissing(conn_id: str) -> object:
        return missing(conn_id)

    monkeypatch.setattr(SequentumHook, "get_connection", staticmethod(missing))
    monkeypatch.setattr(SequentumHook, "aget_connection", staticmethod(amissing), raising=False)
    slept = sleeping_at_once(monkeypatch)
    with pytest.raises(SequentumConnectionNotFound, match="'no_such'"):
        await SequentumHook("no_such").aget_client()
    assert 30 <= sum(slept) <= 90


async def test_a_connection_that_is_found_a_moment_later_ends_nothing(
    hook: SequentumHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow does not tell a connection that it could not look up from one that does not exist."""
    lookups: list[str] = []

    async def found_at_third(hook: SequentumHook, conn_id: str) -> tuple[Any, Any]:
        lookups.append(conn_id)
        return missing(conn_id) if len(lookups) < 3 else await aget_connection(hook, conn_id)

    monkeypatch.setattr("airflow_provider_sequentum.hooks.connection.aget_connection", found_at_third)
    slept = sleeping_at_once(monkeypatch)
    assert await hook.aget_settings() == hook.settings
    assert len(lookups) == 3
    assert sum(slept) <= 10


def sleeping_at_once(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("airflow_provider_sequentum.hooks.connection.asyncio.sleep", sleep)
    return slept


def test_an_unusable_field_names_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_MY_CONN", json.dumps({"conn_type": "sequentum", "host": "ftp://x", "password": KEY})
    )
    with pytest.raises(
        SequentumConnectionException, match=r"Nothing was sent\. Edit the connection 'my_conn'"
    ) as caught:
        SequentumHook("my_conn").send(CALL)
    assert KEY not in str(caught.value)


def test_certificates_that_cannot_be_read_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"ca_bundle": "/no/such/ca.pem"}
    connection = {"conn_type": "sequentum", "password": KEY, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_MY_CONN", json.dumps(connection))
    with pytest.raises(SequentumConnectionException, match=r"/no/such/ca\.pem .*'my_conn'"):
        SequentumHook("my_conn").send(CALL)


async def test_the_settings_are_the_same_for_a_trigger(hook: SequentumHook) -> None:
    assert await hook.aget_settings() == hook.settings


def test_links(hook: SequentumHook) -> None:
    assert hook.run_link(7, 42) == "https://ui/7/42"
    assert hook.session_link("a/b") == "https://ui/s/a%2Fb"


@pytest.mark.parametrize(
    ("template", "held"),
    [
        (f"https://ui/{KEY}/{{run_id}}", "an API key"),
        (f"https://ui/?key={KEY}", "an API key"),
        (f"https://ui/{KEY.upper()}", "an API key"),
        ("https://jane:s3cret@ui/{run_id}", "a user name or a password"),
        (" HTTPS://s3cret@ui/{run_id}", "a user name or a password"),
        ("https:///jane:s3cret@ui", "a user name or a password"),
        ("http://:s3cret@ui", "a user name or a password"),
        ("https:\\/jane:s3cret@ui", "a user name or a password"),
        ("https://jane:s3\ncret@ui", "a user name or a password"),
        ("https://jane:s3cret@ui?to={run_id}", "a user name or a password"),
    ],
)
def test_a_template_with_credentials_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, template: str, held: str
) -> None:
    """A link is shown to all who see the task."""
    links = {"run_link_template": template, "session_link_template": template}
    connection = {"conn_type": "sequentum", "host": "https://sequentum.example", "password": KEY, "extra": links}
    monkeypatch.setenv("AIRFLOW_CONN_MY_CONN", json.dumps(connection))
    hook = SequentumHook("my_conn")
    assert hook.run_link(7, 42) == hook.session_link("s") == "https://sequentum.example"
    for name in links:
        assert f"{name!r} of the connection 'my_conn' contains {held}" in caplog.text
    assert KEY not in caplog.text
    assert "cret" not in caplog.text


@pytest.mark.parametrize("template", ["https://ui/@team/{run_id}", "https://ui?mail=a@b.example", "https://ui/#a@b"])
def test_an_at_sign_that_stands_behind_the_host_is_a_part_of_the_page(
    monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    connection = {"conn_type": "sequentum", "password": KEY, "extra": {"run_link_template": template}}
    monkeypatch.setenv("AIRFLOW_CONN_MY_CONN", json.dumps(connection))
    assert SequentumHook("my_conn").run_link(7, 42) == template.replace("{run_id}", "42")


def test_the_key_is_in_no_repr(hook: SequentumHook) -> None:
    assert KEY not in f"{hook!r} {hook.settings!r} {hook.client!r}"


def test_a_closed_hook_opens_a_new_client(hook: SequentumHook) -> None:
    first = hook.get_conn()
    hook.close()
    hook.close()
    assert hook.get_conn() is not first
    hook.close()


def test_exceptions_can_be_pickled_between_processes(hook: SequentumHook) -> None:
    error = SequentumUnavailable("No one answers.")
    assert str(pickle.loads(pickle.dumps(error))) == "No one answers."


def test_the_form_says_the_same_to_every_airflow() -> None:
    metadata = get_provider_info()["connection-types"][0]["ui-field-behaviour"]
    behaviour = SequentumHook.get_ui_field_behaviour()
    assert behaviour == {
        "hidden_fields": metadata["hidden-fields"],
        "relabeling": metadata["relabeling"],
        "placeholders": metadata["placeholders"],
    }


def test_the_form_of_older_airflow_has_the_same_fields() -> None:
    pytest.importorskip("flask_appbuilder", reason="Airflow 3 reads the metadata instead")
    pytest.importorskip("wtforms")
    assert set(SequentumHook.get_connection_form_widgets()) == set(CONNECTION_FIELDS)


def test_records_of_a_file_that_cannot_be_read_in_the_list_are_not_left_out_in_silence(
    hook: SequentumHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [{"id": 1, "name": "a.csv", "fileType": 2, "fileSize": 4}, {"id": None, "name": "b.csv"}]
    run = {**RUN, "status": 10, "dataCount": 2}
    answering(hook, monkeypatch, httpx.Response(200, json=run), httpx.Response(200, json=files))
    with pytest.raises(RunFilesUnavailable, match="1 file in the service's list cannot be read"):
        next(hook.iter_records(7, 42))
