"""Where the public material contradicts itself or is silent, what the client does instead of guessing.

The numbers are those of the list "Where the documentation leaves room" in ``docs/python-client.md``. Points that are
decided above the client, such as how long to poll, are tested where they are decided, under names with these numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_sequentum.api import agent_builder, agents, billing, files, runs, schedules
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import (
    HttpStatusError,
    RefusedByServer,
    ResponseLost,
    SequentumError,
    UnexpectedResponse,
)
from airflow_provider_sequentum.api.pipeline import error_of_status, read_response
from airflow_provider_sequentum.api.run_status import RunStatus
from tests.support.errors import raises
from tests.unit.api.support import Driver, answer

MakeDriver = Callable[..., Driver]
PROJECT = Path(__file__).parents[3]
POINTS = set(range(1, 27))


def read(call: Call[Any], value: Any, status_code: int = 200) -> Any:
    return read_response(call, answer(value if isinstance(value, bytes) else json.dumps(value), status_code))


@pytest.mark.parametrize(
    ("content", "run_id"),
    [(b"", None), (b"OK", None), (b"{}", None), (b'{"id": 42, "status": 3}', 42), (b'{"runId": 43}', 43)],
)
def test_6_1_restart_takes_the_run_from_the_answer_if_there_is_one(content: bytes, run_id: int | None) -> None:
    call = runs.restart(7, 42)

    assert (call.path, call.body, call.safe_to_repeat) == ("/agent/7/run/42/restart", None, False)
    run = read(call, content, 202)
    assert (run.id if run else None) == run_id


@pytest.mark.parametrize("status", [404, 405])
def test_6_1_a_server_without_restart_is_a_clear_error(status: int) -> None:
    with raises(status, match="restart run 42 of agent 7"):
        read(runs.restart(7, 42), b"", status)


@pytest.mark.parametrize("answered", [{"success": True, "sessionId": "s", "error": None}, {"sessionId": "s"}])
def test_6_2_a_session_starts_on_servers_of_both_eras(answered: dict[str, Any]) -> None:
    call = agent_builder.start(prompt="Prices of all laptops", space_id=3)

    assert call.body == {"mode": "prompt", "prompt": "Prices of all laptops", "spaceId": 3}
    assert read(call, answered).session_id == "s"


def test_6_2_success_false_is_an_error_even_on_200() -> None:
    with pytest.raises(RefusedByServer, match="no credits left") as error:
        read(agent_builder.start(prompt="Prices of all laptops"), {"success": False, "error": "no credits left"})

    assert not error.value.may_have_acted


@pytest.mark.parametrize("answered", [{"agentId": 7}, {"configId": 7}, {"agentId": None, "configId": 7}])
def test_6_2_the_agent_id_of_a_session_has_two_names(answered: dict[str, Any]) -> None:
    assert read(agent_builder.status("s"), {"status": "completed", **answered}).agent_id == 7
    assert read(agent_builder.conversation("s"), answered).agent_id == 7


@pytest.mark.parametrize(("status", "kind"), [(404, 404), (405, 405), (409, 409)])
def test_6_3_finish_tells_a_newer_server_and_a_cancelled_session_apart(
    status: int, kind: type[SequentumError] | int
) -> None:
    with raises(kind):
        read(agent_builder.finish("s", "Prices"), b"", status)


@pytest.mark.parametrize(
    ("content", "agent_id"),
    [
        (b'{"agentId": 7}', 7),
        (b'{"configId": 7}', 7),
        (b'{"id": 7}', 7),
        (b'{"agentId": null, "id": 7}', 7),
        (b'{"success": true}', None),
        (b"", None),
    ],
)
def test_6_4_finish_takes_the_agent_id_from_whatever_holds_it(content: bytes, agent_id: int | None) -> None:
    call = agent_builder.finish("s", "Prices")

    assert call.body == {"agentName": "Prices"}
    assert read(call, content).agent_id == agent_id


def test_6_5_a_phase_of_a_session_is_kept() -> None:
    status = read(agent_builder.status("s"), {"status": "Ready", "phase": "ready_to_finish"})

    assert (status.status, status.phase) == ("ready", "ready_to_finish")


@pytest.mark.parametrize("answered", [{"events": []}, {"lastEventIndex": 2}, {"events": None, "lastEventIndex": -1}])
def test_6_7_the_cursor_of_events_never_goes_back(answered: dict[str, Any]) -> None:
    page = read(agent_builder.events("s", 5), answered)

    assert (page.events, page.last_event_index) == ([], 5)


def test_6_7_events_come_once_and_unknown_types_are_kept_for_ignoring() -> None:
    events = [{"type": "brand_new", "eventIndex": index, "unheardOf": 1} for index in (4, 6, 6, 5, 7)]

    page = read(agent_builder.events("s", 5), {"events": events})

    assert [event.event_index for event in page.events] == [6, 7]
    assert page.last_event_index == 7


def test_6_7_a_long_poll_waits_longer_and_silence_is_no_news(driver: MakeDriver) -> None:
    client = driver(httpx.ReadTimeout(""))
    call = agent_builder.events("s", 5)

    assert call.read_timeout is not None
    assert call.read_timeout > client.settings.read_timeout
    assert client.send(call).last_event_index == 5


def test_6_8_a_session_that_is_gone_is_not_found() -> None:
    with raises(404, match="session s-1"):
        read(agent_builder.status("s-1"), b"", 404)


@pytest.mark.parametrize("status_code", [200, 201, 202])
@pytest.mark.parametrize("answered", [{"id": 42, "configId": 7, "status": 3}, {"runId": 42, "status": "Starting"}])
def test_6_10_a_started_run_is_id_or_run_id_with_any_2xx(status_code: int, answered: dict[str, Any]) -> None:
    run = read(runs.start(7), answered, status_code)

    assert (run.id, run.agent_id, run.status) == (42, 7, RunStatus.STARTING)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"status": 3}', b"Accepted"])
def test_6_10_a_start_without_an_id_says_that_the_run_may_exist(content: bytes) -> None:
    with pytest.raises(UnexpectedResponse, match="may have acted") as error:
        read(runs.start(7), content, 202)

    assert error.value.may_have_acted


@pytest.mark.parametrize(
    ("failure", "kind"),
    [(httpx.ReadTimeout(""), ResponseLost), (httpx.ReadError(""), ResponseLost), (httpx.Response(503), 503)],
)
def test_6_11_a_start_whose_answer_was_lost_is_not_sent_again(
    driver: MakeDriver, failure: httpx.Response | Exception, kind: type[SequentumError] | int
) -> None:
    client = driver(failure)

    with raises(kind) as error:
        client.send(runs.start(7))

    assert error.value.may_have_acted
    assert len(client.server.requests) == 1


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (6, RunStatus.FAILURE),
        ("6", RunStatus.FAILURE),
        ("Failure", RunStatus.FAILURE),
        ("failure", RunStatus.FAILURE),
        (13, RunStatus.UPDATING_DATA_SET),
        (77, 77),
        ("CompletedWithErrors", "CompletedWithErrors"),
        (None, RunStatus.INVALID),
    ],
)
def test_6_12_status_as_int_numeric_string_or_name(wire: object, status: object) -> None:
    assert read(runs.status(7, 42), {"id": 42, "configId": 7, "status": wire}).status == status


def test_6_13_failed_can_come_from_the_status_of_an_archived_run() -> None:
    run = read(runs.status(7, 42), {"id": 42, "configId": 7, "status": 7, "tableType": "history"})

    assert (run.status, run.table_type) == (RunStatus.FAILED, "history")


@pytest.mark.parametrize(
    "answered",
    [
        [{"id": 1}],
        {"items": [{"id": 1}], "totalRecordCount": 1},
        {"agents": [{"id": 1}], "totalRecordCount": 1},
        {"runs": [{"id": 1}], "totalRecordCount": 1},
    ],
)
def test_6_14_a_list_is_an_array_or_items_or_agents_or_runs(answered: Any) -> None:
    assert [agent.id for agent in read(agents.list_agents(), answered)] == [1]
    assert [agent.id for agent in read(agents.search("a"), answered)] == [1]
    assert [run.id for run in read(runs.list_runs(7), answered)] == [1]
    assert [file.id for file in read(files.list_files(7, 42), answered)] == [1]


def test_6_14_credit_history_is_a_fourth_shape() -> None:
    page = read(billing.history(), {"transactions": [{"id": 1}], "totalCount": 9, "pageIndex": 1, "recordsPerPage": 1})

    assert ([transaction.id for transaction in page], page.total_record_count) == ([1], 9)


@pytest.mark.parametrize(
    ("content", "title", "detail"),
    [
        (
            {"type": "x", "title": "Conflict", "status": 409, "detail": "It is going", "instance": "/x"},
            "Conflict",
            "It is going",
        ),
        (
            {"statusCode": 409, "statusDescription": "Busy", "message": "It is going", "severity": 2},
            "Busy",
            "It is going",
        ),
        (
            {"statusCode": 409, "statusDescription": None, "message": "It is going", "errorCode": "running"},
            "Conflict",
            "It is going",
        ),
        ({"errorCode": "insufficient_scope"}, "Conflict", "insufficient_scope"),
        ({"success": False, "error": "It is going"}, "Conflict", "It is going"),
        (b"", "Conflict", None),
        (b"   ", "Conflict", None),
        (b"It is\r\ngoing", "Conflict", "It is going"),
        (b'"It is going"', "Conflict", "It is going"),
        (b"[1, 2]", "Conflict", "[1, 2]"),
        (b'{"title": "cut', "Conflict", '{"title": "cut'),
        (b"\xff\xfe", "Conflict", "\ufffd\ufffd"),
        (
            b"<html><h1>Bad gateway</h1></html>",
            "Conflict",
            "the response is an HTML page, perhaps that of a gateway. Check the base URL",
        ),
        ({"title": {"not": "text"}, "detail": 7}, "Conflict", None),
    ],
)
def test_6_15_every_form_of_error_body_is_understood(content: Any, title: str, detail: str | None) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content)
    error = error_of_status(runs.status(7, 42), answer(body, 409))

    assert isinstance(error, HttpStatusError)
    assert (error.title, error.detail) == (title, detail)
    assert str(error).startswith(f"Could not read the status of run 42 of agent 7 ({error.request}): 409 {title}")


def test_6_15_a_long_error_body_is_cut() -> None:
    error = error_of_status(runs.status(7, 42), answer("x" * 100_000, 500))

    assert isinstance(error, HttpStatusError)
    assert error.detail is not None
    assert error.detail.startswith("x" * 490)
    assert len(error.detail.encode()) <= 500


def test_6_16_a_401_is_not_repeated_and_names_both_meanings(driver: MakeDriver) -> None:
    client = driver(httpx.Response(401, json={"message": "No run access"}))

    with raises(401, match=r"No run access.*expired or revoked, or have no access"):
        client.send(runs.status(7, 42))

    assert len(client.server.requests) == 1


@pytest.mark.parametrize("status", [400, 402, 403, 409, 422])
def test_6_17_a_refused_start_shows_the_server_s_words_and_is_not_repeated(driver: MakeDriver, status: int) -> None:
    client = driver(httpx.Response(status, json={"detail": "Insufficient credits"}))

    with pytest.raises(HttpStatusError, match="Insufficient credits") as error:
        client.send(runs.start(7))

    assert not error.value.may_have_acted
    assert len(client.server.requests) == 1


def test_6_18_exclusive_is_sent_only_when_set() -> None:
    assert runs.start(7).body == {}
    assert runs.start(7, is_exclusive=False).body == {"isExclusive": False}


@pytest.mark.parametrize(
    "answered",
    [
        {"dataCount": 3, "exportCount": 2, "message": "odd"},
        {"recordsExtracted": 3, "recordsExported": 2, "errorMessage": "odd"},
        {"dataCount": None, "recordsExtracted": 3, "exportCount": None, "recordsExported": 2, "message": "odd"},
        {"dataCount": 3, "recordsExtracted": 9, "exportCount": 2, "message": "odd", "errorMessage": "other"},
    ],
)
def test_6_19_record_counts_and_message_under_both_spellings(answered: dict[str, Any]) -> None:
    run = read(runs.status(7, 42), {"id": 42, "configId": 7, "status": 6, **answered})

    assert (run.data_count, run.export_count, run.message) == (3, 2, "odd")


def test_6_20_a_synchronous_run_has_no_id_and_is_a_call_of_its_own() -> None:
    assert read(runs.run_synchronously(7), {"Prices": [{"a": 1}]}) == {"Prices": [{"a": 1}]}
    assert runs.run_synchronously(7).body == {"isRunSynchronously": True, "timeout": 60}


@pytest.mark.parametrize("redirect", [200, 301, 302, 303, 307, 308])
def test_6_21_a_download_is_a_redirect_of_any_code_or_the_file(driver: MakeDriver, redirect: int) -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        if request.url.host == "storage.example":
            return httpx.Response(401 if "authorization" in request.headers else 200, content=b"file")
        return httpx.Response(redirect, headers={"Location": "https://storage.example/3"}, content=b"file")

    assert driver(serve).download() == b"file"


def test_6_22_periods_of_a_schedule_count_from_one() -> None:
    assert [period.value for period in schedules.RunEveryPeriod] == [1, 2, 3, 4, 5]
    assert schedules.RunEveryPeriod(1) is schedules.RunEveryPeriod.MINUTES


def test_6_25_bodies_are_camel_case() -> None:
    body = runs.start(7, parallel_max_concurrency=2, is_wait_on_failure=True).body

    assert body == {"parallelMaxConcurrency": 2, "isWaitOnFailure": True}


def test_6_26_being_rate_limited_is_a_delay(driver: MakeDriver) -> None:
    client = driver(*[httpx.Response(429, headers={"Retry-After": "3"})] * 6, httpx.Response(200, json={"id": 42}))

    assert client.send(runs.status(7, 42)).id == 42
    assert sum(client.slept) >= 18


@pytest.mark.parametrize("retry_after", ["1e9", "86400", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_6_26_being_rate_limited_delays_no_stop(driver: MakeDriver, retry_after: str) -> None:
    client = driver(httpx.Response(429, headers={"Retry-After": retry_after}), httpx.Response(204))

    with pytest.raises(HttpStatusError):
        client.send(runs.status(7, 42))
    client.send(runs.stop(7, 42), within=10)
    assert client.slept == []


@pytest.mark.parametrize("skew", [timedelta(days=-1), timedelta(0), timedelta(days=1)])
def test_6_26_a_date_is_measured_from_the_service_s_own_time(driver: MakeDriver, skew: timedelta) -> None:
    now = datetime.now(UTC) + skew
    headers = {"Date": format_datetime(now), "Retry-After": format_datetime(now + timedelta(seconds=30))}
    client = driver(httpx.Response(429, headers=headers), httpx.Response(200, json={"id": 42}))

    assert client.send(runs.status(7, 42)).id == 42
    assert sum(client.slept) == pytest.approx(31, abs=2)


def test_6_26_retry_after_may_be_a_date() -> None:
    times = {"date": "Sun, 22 Nov 2026 08:00:00 GMT", "retry_after": "Sun, 22 Nov 2026 08:01:00 GMT"}
    error = error_of_status(runs.status(7, 42), answer(b"", 429, **times))

    assert isinstance(error, HttpStatusError)
    assert error.retry_after == 60.0


@pytest.mark.parametrize("time", ["2026-09-30T23:59:59.9999999", "2026-09-30T23:59:59.999999Z"])
def test_times_without_an_offset_and_with_seven_digits_are_utc(time: str) -> None:
    run = read(runs.status(7, 42), {"id": 42, "endTime": time})

    assert run.end_time.isoformat() == "2026-09-30T23:59:59.999999+00:00"


def test_unknown_fields_and_codes_do_no_harm() -> None:
    agent = read(agents.get(7), {"id": 7, "configType": 99, "validationStatus": "odd", "unheardOf": [{}]})

    assert (agent.config_type, agent.validation_status) == (99, None)


def test_every_point_is_documented_and_has_a_test() -> None:
    documented = re.findall(r"^\| 6\.(\d+) \|", (PROJECT / "docs/python-client.md").read_text(), re.MULTILINE)
    tests = "\n".join(file.read_text() for file in (PROJECT / "tests").rglob("test_*.py"))
    assert sorted(map(int, documented)) == sorted(POINTS)
    assert {int(number) for number in re.findall(r"def test_6_(\d+)_", tests)} == POINTS
