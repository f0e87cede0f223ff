from __future__ import annotations

import json
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pendulum
import pytest

from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.runs.describe import (
    LogIntervals,
    OutageProgress,
    comma_list,
    counted,
    describe_run,
    format_credits,
    format_seconds,
    format_size,
    format_time,
    id_list,
    run_summary,
)
from airflow_provider_sequentum.runs.wait import RunPoller, WaitSpec
from tests.support.service import START


def run(**fields: Any) -> Run:
    return Run.model_validate({"id": 42, "configId": 7, "status": 1, **fields})


def test_a_changed_status_is_logged_at_once_and_the_rest_ever_more_rarely() -> None:
    intervals = LogIntervals()
    logged = [
        second
        for second in range(0, 3600, 5)
        if intervals.is_due(4 if second < 60 else 1, START + timedelta(seconds=second))
    ]
    assert logged == [0, 30, 60, 90, 150, 270, 570, 1170, 1770, 2370, 2970, 3570]


def test_an_outage_is_logged_when_it_begins_ever_more_rarely_while_it_lasts_and_when_it_is_over() -> None:
    outage = OutageProgress()
    assert outage.answered("run 42", START) is None
    lines = [outage.failed("run 42", "no route", START + timedelta(seconds=second)) for second in range(0, 600, 10)]
    assert [line for line in lines if line is not None] == [
        "Could not check run 42; trying again. (no route)",
        *(
            f"Could not check run 42 for {lasted}; trying again. (no route)"
            for lasted in ("30 s", "1 min 30 s", "3 min 30 s")
        ),
        "Could not check run 42 for 8 min 30 s; trying again. (no route)",
    ]
    assert (
        outage.answered("run 42", START + timedelta(minutes=10))
        == "The checks of run 42 succeed again, after 10 min 0 s."
    )
    assert outage.answered("run 42", START + timedelta(minutes=11)) is None
    assert outage.failed("run 42", "no route", START + timedelta(minutes=12)) == lines[0]


def test_a_line_says_status_pages_records_errors_and_time() -> None:
    running = run(
        pageCount=3, dataCount=120, exportCount=100, errorCount=2, startTime=(START - timedelta(seconds=95)).isoformat()
    )
    line = RunPoller(WaitSpec(agent_id=7, run_id=42)).observe(running, START + timedelta(days=1), START).message
    assert line == "Run 42 of agent 7: Running, 3 pages, 120 records (100 exported), 2 errors, 1 min 35 s."


def test_exported_records_are_named_if_others_were_extracted() -> None:
    assert (
        describe_run(run(status="Exporting", dataCount=5, exportCount=3))
        == "Exporting, 0 pages, 5 records (3 exported)"
    )
    assert describe_run(run(status="Success", dataCount=5, exportCount=5)) == "Success, 0 pages, 5 records"


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (counted(1, "page"), "1 page"),
        (counted(0, "page"), "0 pages"),
        (counted(2, "breach", "breaches"), "2 breaches"),
        (format_credits(Decimal("1.00")), "1 credit"),
        (format_credits(0.5), "0.5 credits"),
        (format_credits(Decimal("1234567.25")), "1234567.25 credits"),
        (format_time(START.replace(microsecond=123456)), "2026-11-22 09:00:00+00:00"),
        (format_time(pendulum.instance(START.replace(microsecond=123456))), "2026-11-22 09:00:00+00:00"),
        (format_time(None), "an unknown time"),
    ],
)
def test_numbers_and_times_for_people(shown: str, words: str) -> None:
    assert shown == words


def test_a_run_without_times_or_counts_is_described_all_the_same() -> None:
    assert describe_run(run(status="Paused")) == "Paused, 0 pages, 0 records"


@pytest.mark.parametrize("served_at", [None, START])
def test_no_duration_is_given_that_is_not_known_by_the_services_own_clock(served_at: datetime | None) -> None:
    running = run(startTime=(START + timedelta(hours=1)).isoformat())
    assert describe_run(running, served_at).endswith("0 records")


def test_the_duration_of_a_run_that_is_over_is_that_of_the_run() -> None:
    times = {"startTime": START.isoformat(), "endTime": (START + timedelta(seconds=5)).isoformat()}
    assert describe_run(run(**times), START + timedelta(days=1)).endswith("0 records, 5 s")


@pytest.mark.parametrize(("number", "text"), [(0, "0 pages"), (1, "1 page"), (2, "2 pages")])
def test_counts_are_in_english(number: int, text: str) -> None:
    assert counted(number, "page") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (130, "2 min 10 s"), (3599.9, "1 h 0 min"), (11100, "3 h 5 min")],
)
def test_durations_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_a_summary_is_plain_json() -> None:
    summary = run_summary(run(status=10, dataCount=5, endTime=START.isoformat(), message="done"))
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["run_id"], summary["agent_id"], summary["status"], summary["records"]) == (42, 7, "Success", 5)
    assert summary["ended"].startswith("2026-11-22T09:00:00")
    assert summary["started"] is None


def test_the_names_in_the_summary_are_a_promise_to_downstream_tasks() -> None:
    counts = {"dataCount": 5, "exportCount": 4, "errorCount": 3, "pageCount": 2, "runTimeSec": 1}
    assert run_summary(run(status=10, message="done", **counts)) == {
        "agent_id": 7,
        "run_id": 42,
        "status": "Success",
        "records": 5,
        "exported": 4,
        "errors": 3,
        "pages": 2,
        "seconds": 1,
        "message": "done",
        "created": None,
        "started": None,
        "ended": None,
    }


def test_a_list_names_the_first_things_and_counts_the_others() -> None:
    assert comma_list([]) == ""
    assert comma_list("ab") == "a, b"
    assert comma_list(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert comma_list(range(13)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 3 more"
    assert id_list([1, 2]) == "[1, 2]"
    assert id_list(range(25)).endswith("18, 19 and 5 more]")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023.4, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2**21, "2.0 MiB"),
        (2**30, "1.0 GiB"),
        (2**40, "1024.0 GiB"),
    ],
)
def test_sizes_are_for_people(size: float, text: str) -> None:
    assert format_size(size) == text
