from __future__ import annotations

import json
import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from airflow_provider_sequentum.api import agent_builder, analytics, errors, runs, spaces
from airflow_provider_sequentum.api.call import Call, Response
from airflow_provider_sequentum.api.pipeline import (
    USER_AGENT,
    Pipeline,
    error_of_status,
    parse_retry_after,
    read_response,
)
from airflow_provider_sequentum.api.settings import ClientSettings
from tests.unit.api.support import answer

KEY = 'sk-pipe"line+key'
SETTINGS = ClientSettings(api_key=KEY, base_url="https://host.example/root", read_timeout=20, connect_timeout=5)
NOW = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
GET, POST = runs.status(7, 42), runs.start(7)


def test_a_request_has_url_key_and_time_outs() -> None:
    request = Pipeline(SETTINGS).build(runs.list_runs(7, max_records=5))

    assert str(request.url) == "https://host.example/root/api/v1/agent/7/runs?maxRecords=5"
    assert request.headers["authorization"] == f"ApiKey {KEY}"
    assert request.headers["user-agent"] == USER_AGENT
    assert request.extensions["timeout"] == {"connect": 5, "read": 20, "write": 20, "pool": None}


def test_a_call_can_ask_for_more_patience() -> None:
    def read_timeout(call: Call[Any], setting: float) -> float:
        settings = ClientSettings(api_key=KEY, read_timeout=setting)
        seconds: float = Pipeline(settings).build(call).extensions["timeout"]["read"]
        return seconds

    assert read_timeout(runs.run_synchronously(7, timeout=300), 30) == 390
    # The service may hold a start in its queue for a whole window.
    assert read_timeout(runs.start(7), 30) == 90
    assert read_timeout(runs.start(7), 120) == 120


def test_the_user_agent_can_be_preceded() -> None:
    settings = ClientSettings(api_key=KEY, user_agent="airflow/3.3")

    assert Pipeline(settings).build(GET).headers["user-agent"] == f"airflow/3.3 {USER_AGENT}"


def test_json_bodies_and_uploads() -> None:
    build = Pipeline(SETTINGS).build

    started = build(runs.start(7, input_parameters={"a": 1}, is_exclusive=False))
    assert json.loads(started.content) == {"inputParameters": '{"a": 1}', "isExclusive": False}
    assert json.loads(build(runs.start(7)).content) == {}
    assert build(runs.stop(7, 42)).content == b""

    upload = build(spaces.upload_input_file(3, "in.csv", b"a,b"))
    assert upload.headers["content-type"].startswith("multipart/form-data")
    assert b'name="files"; filename="in.csv"' in upload.read()


def test_truth_values_of_a_query_are_in_lower_case() -> None:
    request = Pipeline(SETTINGS).build(analytics.runs_summary(include_details=False))

    assert request.url.query == b"includeDetails=false"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 418, 422, 429, 500, 504, 599])
def test_the_error_of_a_status_names_the_request(status: int) -> None:
    error = error_of_status(GET, answer(b"", status))

    assert isinstance(error, errors.HttpStatusError)
    assert error.transient is (status in (429, 500, 504, 599))
    assert error.status_code == status
    assert error.purpose == "read the status of run 42 of agent 7"
    assert error.request == "GET /api/v1/agent/7/run/42/status"
    assert error.request in str(error)


@pytest.mark.parametrize(
    ("call", "status", "may_have_acted"),
    [
        (GET, 500, False),
        (POST, 500, True),
        (POST, 502, True),
        (POST, 429, False),
        (POST, 409, False),
        (POST, 400, False),
    ],
)
def test_only_a_server_error_leaves_open_whether_the_server_acted(
    call: Call[Any], status: int, may_have_acted: bool
) -> None:
    error = error_of_status(call, answer(b"", status))

    assert error.may_have_acted is may_have_acted
    assert ("may have acted" in str(error)) is may_have_acted


@pytest.mark.parametrize("status", [301, 302, 304])
def test_a_redirect_of_an_ordinary_call_is_not_followed(status: int) -> None:
    with pytest.raises(errors.UnexpectedResponse, match="base URL") as error:
        read_response(GET, answer(b"", status, location="https://elsewhere.example/?sig=secret"))

    assert "example" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("30", 30.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("Sun, 22 Nov 2026 08:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 07:00:00 GMT", 0.0),
        ("inf", None),
        ("nan", None),
        ("1e999", None),
        ("soon", None),
        ("", None),
        ("Sun, 99 Nov 2026 08:00:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, expected: float | None) -> None:
    assert parse_retry_after(value, NOW) == expected


def test_retry_after_is_carried_by_the_error() -> None:
    later = format_datetime(NOW + timedelta(seconds=7))
    error = error_of_status(GET, answer(b"", 429, retry_after=later, date=format_datetime(NOW)))

    assert isinstance(error, errors.HttpStatusError)
    assert error.retry_after == 7.0


@pytest.mark.parametrize(
    "echo",
    [KEY, json.dumps(KEY), json.dumps({"detail": f"bad key {KEY}"}), r'"sk-pipe\u0022line\u002Bkey"'],
)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_key_echoed_by_the_server_gets_into_no_error(echo: str, status: int) -> None:
    echoing = Pipeline(SETTINGS).response_of(httpx.Response(status), echo.encode())

    with pytest.raises(errors.SequentumError) as error:
        read_response(GET, echoing)

    assert KEY not in f"{error.value} {vars(error.value)}"
    assert error.value.__context__ is None


def test_what_finds_the_key_is_only_made_for_an_answer_that_may_hold_it() -> None:
    pipeline = Pipeline(SETTINGS)

    pipeline.response_of(httpx.Response(200), b'{"id": 42, "status": "Running"}')
    assert "_secret_in_json" not in vars(pipeline)

    pipeline.response_of(httpx.Response(200), json.dumps({"echo": KEY}).encode())
    assert "_secret_in_json" in vars(pipeline)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("before", ["", "odd "], ids=["whole", "after bytes of another encoding"])
@pytest.mark.parametrize("echo", [f"bad key {KEY}", json.dumps({"detail": KEY}), r'"sk-pipe\u0022line\u002Bkey"'])
def test_a_key_echoed_in_any_encoding_gets_into_no_error(echo: str, before: str, encoding: str) -> None:
    echoing = Pipeline(SETTINGS).response_of(httpx.Response(400), before.encode() + echo.encode(encoding))

    with pytest.raises(errors.SequentumError) as error:
        read_response(GET, echoing)

    readable = str(error.value).replace("\ufffd", "")  # what stands for a character that no terminal takes
    assert KEY not in readable


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_an_answer_in_another_encoding_is_read_all_the_same(encoding: str) -> None:
    page = Pipeline(SETTINGS).response_of(httpx.Response(200), "<html>login</html>".encode(encoding))
    refusal = Pipeline(SETTINGS).response_of(httpx.Response(409), '{"detail": "Tée is gone"}'.encode(encoding))

    assert page.is_html
    with pytest.raises(errors.HttpStatusError, match="Tée is gone"):
        read_response(GET, refusal)


def test_a_server_without_tls_is_taken_for_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            with server.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(65536)

        answering = threading.Thread(target=refuse)
        answering.start()
        with pytest.raises(httpx.ConnectError) as caught:
            httpx.get(f"https://127.0.0.1:{server.getsockname()[1]}")
        answering.join()
    assert "begin the base URL with http://" in str(Pipeline(SETTINGS).transport_error(GET, caught.value))


@pytest.mark.parametrize(
    ("cause", "kind", "may_have_acted"),
    [
        (httpx.ConnectError("refused"), errors.ConnectionNotMade, False),
        (httpx.ConnectTimeout(""), errors.ConnectionNotMade, False),
        (httpx.PoolTimeout(""), errors.ConnectionNotMade, False),
        (httpx.ProxyError("403"), errors.ConnectionNotMade, False),
        (httpx.ReadTimeout(""), errors.ResponseLost, True),
        (httpx.WriteTimeout(""), errors.ResponseLost, True),
        (httpx.ReadError("reset"), errors.ResponseLost, True),
        (httpx.RemoteProtocolError(f"illegal header {KEY}"), errors.ResponseLost, True),
        (httpx.DecodingError("gzip"), errors.ResponseLost, True),
    ],
)
def test_transport_errors_say_whether_the_server_may_have_acted(
    cause: httpx.HTTPError, kind: type[errors.SequentumError], may_have_acted: bool
) -> None:
    error = Pipeline(SETTINGS).transport_error(POST, cause)

    assert type(error) is kind
    assert error.may_have_acted is may_have_acted
    assert KEY not in str(error)
    assert Pipeline(SETTINGS).transport_error(GET, cause).may_have_acted is False


def test_an_unreadable_start_says_that_the_run_may_exist() -> None:
    with pytest.raises(errors.UnexpectedResponse, match="id: Field required") as error:
        read_response(POST, answer(b'{"status": 3}', 202))

    assert error.value.may_have_acted


@pytest.mark.parametrize("value", ["1e9", "9" * 26, "Fri, 27 Nov 2099 22:00:00 GMT", "Tue, 31 Dec 2999 23:59:59 GMT"])
def test_no_more_than_a_day_is_believed_of_what_the_service_asks_to_wait(value: str) -> None:
    assert parse_retry_after(value, NOW) == 86_400.0


@pytest.mark.parametrize("session_id", [".", "..", " ", "a\0b"])
def test_a_session_id_that_cannot_be_asked_for_is_none(session_id: str) -> None:
    call = agent_builder.start(prompt="x" * 20)
    with pytest.raises(errors.UnexpectedResponse) as caught:
        read_response(call, Response(200, {}, json.dumps({"sessionId": session_id}).encode()))
    assert caught.value.may_have_acted


@pytest.mark.parametrize("success", [False, "false", "False "])
def test_a_refusal_may_be_said_in_text(success: object) -> None:
    call = agent_builder.followup("s1", "more")
    with pytest.raises(errors.RefusedByServer):
        read_response(call, Response(200, {}, json.dumps({"success": success, "error": "not now"}).encode()))
