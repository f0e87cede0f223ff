from __future__ import annotations

import json
import logging
import tracemalloc
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.agent_builder import SessionEvent
from airflow_provider_sequentum.sessions.describe import (
    MAX_LINE_LENGTH,
    MAX_SUMMARY_SIZE,
    SAMPLE_COLUMNS,
    SAMPLE_ROWS,
    Highlights,
    progress_line,
    session_summary,
)
from airflow_provider_sequentum.sessions.state import Session
from tests.support.service import START
from tests.unit.sessions.test_state import TAXONOMY, event

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("kind", "payload", "line"),
    [
        ("plan_generated", {"plan": {"steps": ["Open", {"description": "Extract"}]}}, "Plan: Open; Extract"),
        ("plan_generated", {"plan": "one thing"}, "Plan: one thing"),
        ("plan_generated", {"plan": [{"title": "Open"}, {"text": "Extract"}]}, "Plan: Open; Extract"),
        ("plan_generated", {"plan": [{"tool": "click"}]}, "Plan: {'tool': 'click'}"),
        ("plan_generated", {"plan": {"goal": "prices"}}, "Plan: {'goal': 'prices'}"),
        ("step_started", {"stepNumber": 2, "totalSteps": 5, "description": "Click"}, "Step 2 of 5: Click"),
        ("step_started", {"stepNumber": 2, "actionType": "click"}, "Step 2: click"),
        ("step_started", {"description": "Click"}, "Step ?: Click"),
        ("step_completed", {"stepNumber": 2, "success": False}, "Step 2 did not succeed."),
        ("step_completed", {"success": False}, "Step ? did not succeed."),
        ("navigation_completed", {"url": "https://a.example", "title": "A"}, "Opened https://a.example (A)"),
        ("navigation_completed", {"url": "https://a.example"}, "Opened https://a.example (no title)"),
        ("data_extracted", {"columns": ["a", "b"], "rows": [], "totalRows": 9}, "Found 9 rows: a, b"),
        ("data_extracted", {"columns": [{"name": "a"}], "rows": [1, 2]}, "Found 2 rows: a"),
        ("data_extracted", {"columns": ["a"]}, "Found 0 rows: a"),
        ("data_extracted", {"rows": [["1"]]}, "Found 1 row: no columns"),
        ("user_message", {"message": "Hello"}, "The builder says: Hello"),
        ("ready_for_interaction", {"message": "Which table?"}, "The builder is ready: Which table?"),
        ("ready_for_interaction", {"configId": 7}, "The builder is ready: no message"),
        ("error", {"message": "x", "isRecoverable": True}, "The builder had an error and continues: x"),
        ("error", {"message": "x", "isRecoverable": False}, "The builder gave up: x"),
    ],
)
def test_what_the_person_watching_reads(kind: str, payload: dict[str, Any], line: str) -> None:
    told = progress_line(event(kind, 0, **payload))
    assert told is not None
    assert told[1] == line


@pytest.mark.parametrize(
    "kind",
    ["thinking", "extended_thinking", "llm_response", "tool_execution", "screenshot", "todos_updated", "brand_new"],
)
def test_debug_noise_and_images_are_not_told(kind: str) -> None:
    assert progress_line(event(kind, 0)) is None


@pytest.mark.parametrize("success", [True, None])
def test_a_step_that_did_not_fail_is_not_told_twice(success: bool | None) -> None:
    assert progress_line(event("step_completed", 0, stepNumber=1, success=success)) is None


@pytest.mark.parametrize(
    ("kind", "payload", "level"),
    [
        ("error", {"message": "x", "isRecoverable": False}, logging.ERROR),
        ("error", {"message": "x", "isRecoverable": True}, logging.WARNING),
        ("error", {"message": "x"}, logging.WARNING),
        ("step_completed", {"stepNumber": 1, "success": False}, logging.WARNING),
        ("user_message", {"message": "x"}, logging.INFO),
    ],
)
def test_what_goes_wrong_stands_out_in_the_log(kind: str, payload: dict[str, Any], level: int) -> None:
    told = progress_line(event(kind, 0, **payload))
    assert told is not None
    assert told[0] == level


def test_a_text_of_the_service_can_not_forge_a_log_line() -> None:
    told = progress_line(event("user_message", 0, message="hi\n[2026-01-01] ERROR forged\x1b[31m\u2028"))
    assert told is not None
    assert told[1].isprintable()


def taken(*events: SessionEvent) -> Highlights:
    highlights = Highlights()
    for one in events:
        highlights.take(one)
    return highlights


def summary(*events: SessionEvent) -> dict[str, Any]:
    session = Session.started("s1", START)
    for one in events:
        session = session.observe_event(one, START)
    return session_summary(session, taken(*events), START)


def test_what_was_found_stays_when_an_event_has_nothing_to_add() -> None:
    asked = event("ready_for_interaction", 1, message="Which table?")
    shown = summary(asked, event("command_added", 2), event("ready_for_interaction", 3, configId=7))
    assert (shown["command_count"], shown["last_message"]) == (1, "Which table?")


def test_a_message_handed_on_is_longer_than_one_in_the_log_and_bounded_too() -> None:
    highlights = taken(event("user_message", 0, message="m" * 10_000))
    assert highlights.last_message is not None
    assert MAX_LINE_LENGTH < len(highlights.last_message.encode()) <= 4 * MAX_LINE_LENGTH


@given(st.sampled_from([*TAXONOMY]), JSON, JSON, JSON)
def test_hostile_payloads_are_told_and_summed_up_in_bounded_json(kind: str, columns: Any, rows: Any, plan: Any) -> None:
    hostile = SessionEvent(type=kind, event_index=0, columns=columns, rows=rows, plan=plan, message="m" * 10_000)
    told = progress_line(hostile)
    assert told is None or (len(told[1].splitlines()) == 1 and len(told[1]) <= 3 * MAX_LINE_LENGTH)
    assert len(json.dumps(summary(hostile), allow_nan=False)) <= MAX_SUMMARY_SIZE


def test_what_the_summary_shows_is_read_again_only_where_it_was_not_read() -> None:
    data, said = event("data_extracted", 4, columns=["a"]), event("user_message", 5, message="m")
    session = Session(session_id="s1").observe_event(data, START).observe_event(said, START)
    assert taken(data, said).missing(session) == []
    assert taken(data).missing(session) == [5]
    highlights = Highlights()
    assert highlights.missing(session) == [4, 5]
    highlights.give_up(4)
    assert highlights.missing(session) == [5]
    assert Highlights().missing(Session(session_id="s1")) == []


@pytest.mark.parametrize("letter", ["v", "\u00e9", "\U0001f600"])
def test_a_summary_that_is_too_long_is_cut_and_says_so(letter: str) -> None:
    columns = [letter * 500 + str(number) for number in range(60)]
    wide = summary(event("data_extracted", 0, columns=columns, rows=[[letter * 500] * 60] * 5, totalRows=5))
    assert len(json.dumps(wide)) <= MAX_SUMMARY_SIZE
    assert wide["is_cut"]
    assert wide["total_rows"] == 5
    assert not summary(event("data_extracted", 0, columns=["a"], rows=[[1]]))["is_cut"]


def test_the_sample_is_small_and_follows_the_columns() -> None:
    rows = [{"b": number, "a": "x" * 1000} for number in range(100)]
    data = taken(event("data_extracted", 0, columns=["a", "b"], rows=rows, totalRows=100)).data
    assert data["rows"] is not None
    assert len(data["rows"]) == SAMPLE_ROWS
    assert data["rows"][0][1] == 0
    assert len(str(data["rows"][0][0])) <= 200
    assert data["total_rows"] == 100


@pytest.mark.parametrize(
    ("columns", "row", "cells"),
    [
        (["a", "b"], {"b": 2, "a": 1}, [1, 2]),
        (["a", "b"], {"a": 1}, [1, None]),
        (None, {"b": 2, "a": 1}, [2, 1]),
        (None, {str(number): number for number in range(SAMPLE_COLUMNS + 1)}, [*range(SAMPLE_COLUMNS)]),
        (["a"], "text", ["text"]),
        (["a"], [None, True, 1.5, 2**63 - 1], [None, True, 1.5, 2**63 - 1]),
        (["a"], [{"b": 1}], ["{'b': 1}"]),
        (["a"], [2**63, float("inf")], [str(2**63), None]),  # what no database holds is changed where it is read
    ],
)
def test_rows_of_any_shape_become_cells(columns: list[str] | None, row: object, cells: list[object]) -> None:
    data = taken(event("data_extracted", 0, columns=columns, rows=[row], totalRows=1)).data
    assert data["rows"] == [cells]


def test_the_elapsed_time_ends_with_the_session() -> None:
    started = Session.started("s1", START)
    ended = started.finished(7, None, START + timedelta(seconds=90))
    later = START + timedelta(hours=1)
    assert session_summary(ended, Highlights(), later)["elapsed_seconds"] == 90.0
    assert session_summary(started, Highlights(), later)["elapsed_seconds"] == 3600.0
    assert session_summary(Session(session_id="s1"), Highlights(), later)["elapsed_seconds"] is None


def test_5000_events_and_10_megabyte_screenshots_leave_next_to_nothing_in_memory() -> None:
    session = Session.started("s1", START)
    session = session.observe_event(event("thinking", 0), START)
    tracemalloc.start()
    for index in range(1, 5001):
        kind = "screenshot" if index % 500 == 1 else "step_started"
        size = 10 * 1024 * 1024 if kind == "screenshot" else 100
        payload = {"imageBase64": "A" * size} if kind == "screenshot" else {"stepNumber": index, "description": "d"}
        session = session.observe_event(event(kind, index, **payload), START)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert session.cursor == 5000
    assert kept < 200_000
