"""Every endpoint: what it asks for, and that it reads the response the documentation describes."""

from __future__ import annotations

import inspect
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_sequentum.api import agent_builder, agents, analytics, billing, files, runs, schedules, spaces
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import SequentumConfigurationError, UnexpectedResponse
from airflow_provider_sequentum.api.parsing import read_nothing
from airflow_provider_sequentum.api.pipeline import read_response
from airflow_provider_sequentum.api.run_status import RunStatus
from tests.unit.api.samples import AGENT, EVENTS, RUN, SAMPLES, SCHEDULE
from tests.unit.api.support import answer

IDS = [f"{method} {path}" for method, path, _, _ in SAMPLES]
REPEATABLE_POSTS = {"stop", "enable", "disable", "cancel", "3"}


def read(call: Call[Any], value: Any) -> Any:
    return read_response(call, answer(b"" if value is None else json.dumps(value).encode()))


@pytest.mark.parametrize(("method", "path", "call", "value"), SAMPLES, ids=IDS)
def test_every_endpoint_has_its_request_and_reads_its_answer(
    method: str, path: str, call: Call[Any], value: Any
) -> None:
    assert (call.method, call.path) == (method, path)
    assert call.request == f"{method} /api/v1{path}"
    assert (read(call, value) is None) is (call.parse is read_nothing)


@pytest.mark.parametrize("call", [call for _, _, call, _ in SAMPLES], ids=IDS)
def test_only_what_can_do_no_harm_twice_is_safe_to_repeat(call: Call[Any]) -> None:
    last_part = call.path.rpartition("/")[2]

    assert call.safe_to_repeat is (call.method in ("GET", "PUT") or last_part in REPEATABLE_POSTS)


def test_every_endpoint_function_is_in_the_samples() -> None:
    modules = (agent_builder, agents, analytics, billing, files, runs, schedules, spaces)
    functions = [
        function
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    ]

    assert len(functions) == len(SAMPLES)


def test_starting_a_run_sends_what_was_set() -> None:
    call = runs.start(
        "7",
        input_parameters={"url": "https://shop.example"},
        parallelism=4,
        parallel_max_concurrency=2,
        parallel_export="Separated",
        proxy_pool_id=1,
        is_exclusive=True,
        is_wait_on_failure=False,
        log_level="Warning",
        log_mode="TextAndHtml",
    )

    assert call.body == {
        "inputParameters": '{"url": "https://shop.example"}',
        "parallelism": 4,
        "parallelMaxConcurrency": 2,
        "parallelExport": "Separated",
        "proxyPoolId": 1,
        "isExclusive": True,
        "isWaitOnFailure": False,
        "logLevel": "Warning",
        "logMode": "TextAndHtml",
    }
    assert runs.start(7).body == {}


def test_a_run_is_read_whole() -> None:
    run = read(runs.status(7, 42), RUN)

    assert run.status is RunStatus.RUNNING
    assert (run.agent_id, run.data_count, run.export_count, run.run_time_sec) == (7, 1234, 1230, 61)
    assert run.start_time.isoformat() == "2026-09-30T23:59:59.999999+00:00"
    assert run.end_time is None


def test_runs_come_newest_first_whatever_the_server_does() -> None:
    listed = [
        {"id": 1, "created": "2026-11-22T08:00:00Z"},
        {"id": 3, "created": "2026-11-22T09:00:00"},
        {"id": 2, "created": "2026-11-22T09:00:00Z"},
        {"id": 9},
    ]

    assert [run.id for run in read(runs.list_runs(7), listed)] == [3, 2, 1, 9]


@pytest.mark.parametrize(
    ("content", "content_type", "expected"),
    [
        (b'{"Prices": [{"sku": "1"}]}', "application/json", {"Prices": [{"sku": "1"}]}),
        (b'[{"sku": "1"}]', "application/json", [{"sku": "1"}]),
        (b'[{"sku": "1"}]', "text/plain", [{"sku": "1"}]),
        (b"sku\n1\n", "text/csv", "sku\n1\n"),
    ],
)
def test_a_synchronous_run_gives_records_or_text(content: bytes, content_type: str, expected: Any) -> None:
    assert read_response(runs.run_synchronously(7), answer(content, content_type=content_type)) == expected


def test_deleting_names_what_to_remove() -> None:
    assert runs.delete(7, 42, "RemoveAllFiles").query == {"removeMethod": "RemoveAllFiles"}


def test_files_keep_unknown_types() -> None:
    listed = read(files.list_files(7, 42), [{"id": 1, "fileType": 6}, {"id": 2, "fileType": 99}])

    assert [file.file_type for file in listed] == [files.FileType.LOG_TEXT, 99]


def test_agents_are_listed_with_every_filter() -> None:
    call = agents.list_agents(
        name="price",
        status=RunStatus.FAILURE,
        space_id="3",
        config_type=agents.ConfigType.AGENT,
        sort_column="lastActivity",
        descending=True,
        page=2,
        records_per_page=50,
    )

    assert call.query == {
        "pageIndex": 2,
        "recordsPerPage": 50,
        "sortColumn": "lastActivity",
        "sortOrder": 1,
        "name": "price",
        "status": 6,
        "spaceId": 3,
        "configType": 1,
    }
    assert agents.list_agents().query == {}


def test_an_agent_is_read_whole() -> None:
    agent = read(agents.get(7), AGENT)

    assert agent.input_parameters == {"url": "https://shop.example", "depth": None}
    assert (agent.config_type, agent.validation_status) == (agents.ConfigType.AGENT, agents.ValidationStatus.VALID)
    assert (agent.status, agent.space_id, agent.labels[0].name) == (None, None, "daily")


def test_events_are_read_in_order_and_once() -> None:
    shuffled = {"events": [*reversed(EVENTS["events"]), EVENTS["events"][1], "noise"], "lastEventIndex": 3}

    page = read(agent_builder.events("s-1", 0), shuffled)

    assert [event.event_index for event in page.events] == [1, 2, 3]
    assert page.last_event_index == 3
    assert page.events[-1].agent_name == "Prices"


def test_a_screenshot_is_not_part_of_a_repr() -> None:
    assert "QUJD" not in repr(agent_builder.SessionEvent(type="screenshot", image_base64="QUJD" * 100))


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ({"prompt": " Prices of laptops "}, {"mode": "prompt", "prompt": "Prices of laptops"}),
        ({"url": "https://shop.example"}, {"mode": "url", "url": "https://shop.example"}),
        (
            {"prompt": "Prices of laptops", "url": "https://shop.example", "mode": "url", "space_id": "3"},
            {"mode": "url", "prompt": "Prices of laptops", "url": "https://shop.example", "spaceId": 3},
        ),
    ],
)
def test_a_session_is_started_from_a_prompt_or_a_url(arguments: dict[str, Any], body: dict[str, Any]) -> None:
    assert agent_builder.start(**arguments).body == body


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "needs a prompt or a url"),
        ({"url": " "}, "needs a prompt or a url"),
        ({"mode": "url"}, "url mode needs a url"),
        ({"mode": "url", "prompt": "Prices of laptops"}, "url mode needs a url"),
        ({"mode": "url", "prompt": "Prices of laptops", "url": " "}, "url mode needs a url"),
        ({"mode": "prompt", "url": "https://shop.example"}, "prompt mode needs a prompt"),
        ({"prompt": "short"}, "must have 10 to 5000 characters, not 5[.]"),
        ({"prompt": " " * 50}, "must have 10 to 5000 characters, not 0[.]"),
        ({"prompt": "x" * 5001}, "must have 10 to 5000 characters, not 5001[.]"),
    ],
)
def test_a_session_without_a_usable_prompt_or_url_is_not_started(arguments: dict[str, str], complaint: str) -> None:
    with pytest.raises(SequentumConfigurationError, match=complaint):
        agent_builder.start(**arguments)  # type: ignore[arg-type]


def test_a_schedule_is_sent_with_what_was_set() -> None:
    definition = schedules.ScheduleDefinition(
        name="Once",
        schedule_type=schedules.ScheduleType.RUN_ONCE,
        start_time=datetime(2026, 11, 23, 9, 0, tzinfo=UTC),
        run_every_period=schedules.RunEveryPeriod.MINUTES,
        input_parameters={"a": 1},
        is_enabled=False,
    )

    assert json.loads(json.dumps(definition.body())) == {
        "name": "Once",
        "scheduleType": 1,
        "startTime": "2026-11-23T09:00:00Z",
        "runEveryPeriod": 1,
        "inputParameters": '{"a": 1}',
        "isEnabled": False,
    }


def test_a_schedule_is_read() -> None:
    schedule = read(schedules.get(7, 9), SCHEDULE)

    assert schedule.schedule_type is schedules.ScheduleType.RUN_EVERY
    assert schedule.run_every_period is schedules.RunEveryPeriod.MINUTES


def test_dates_and_filters_of_reports() -> None:
    assert analytics.runs_summary(start_date=date(2026, 11, 1), status="Failed", include_details=False).query == {
        "startDate": "2026-11-01",
        "status": "Failed",
        "includeDetails": False,
    }
    assert analytics.records_summary(agent_id="7").query == {"agentId": 7}
    assert schedules.upcoming(end_date="2026-11-30").query == {"endDate": "2026-11-30"}
    assert billing.list_agents(
        "2026-11-01", "2026-11-30", usage_types=["Server Time", "Export GB"], sort_column="cost", descending=False
    ).query == {
        "startDate": "2026-11-01",
        "endDate": "2026-11-30",
        "pageIndex": 1,
        "recordsPerPage": 50,
        "sortColumn": "cost",
        "sortOrder": 0,
        "usageTypes": "Server Time,Export GB",
    }


def test_amounts_are_exact() -> None:
    assert read(billing.spending(), {"totalSpent": 0.1}).total_spent == Decimal("0.1")


@pytest.mark.parametrize("content", [b"", b'"There is no failure"', b"No failures found", b'{"message": "none"}'])
def test_no_latest_failure_is_none_in_whatever_form(content: bytes) -> None:
    assert read_response(analytics.latest_failure(7), answer(content)) is None


def test_run_all_reports_each_agent() -> None:
    result = read(spaces.run_all(3, input_parameters={"a": 1}), next(v for m, p, _, v in SAMPLES if "run-all" in p))

    assert result.space_id == 3
    assert [(one.agent_id, one.success, one.run_id) for one in result.results] == [(7, True, 42), (8, False, None)]


@pytest.mark.parametrize("call", [analytics.latest_failure(7), runs.run_synchronously(7)])
def test_a_page_of_a_gateway_is_neither_no_failure_nor_a_record(call: Call[Any]) -> None:
    with pytest.raises(UnexpectedResponse, match="HTML"):
        read_response(call, answer(b"<html></html>", content_type="text/html"))
