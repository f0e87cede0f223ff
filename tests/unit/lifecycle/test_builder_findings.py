from __future__ import annotations

import json
import logging
import tracemalloc
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.agent_builder import SessionEvent
from airflow_provider_sequentum.lifecycle.builder_findings import (
    LONGEST_LINE,
    SAMPLE_COLUMNS,
    SAMPLE_ROWS,
    Findings,
    one_line,
    progress_line,
)
from airflow_provider_sequentum.lifecycle.builder_session import BuilderSession
from tests.unit.lifecycle.builder_service import START
from tests.unit.lifecycle.test_builder_session import TAXONOMY, event

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
        ("data_extracted", {"rows": [["1"]]}, "Found 1 rows: no columns"),
        ("user_message", {"message": "Hello"}, "The builder says: Hello"),
        ("ready_for_interaction", {"message": "Which table?"}, "The builder is ready: Which table?"),
        ("ready_for_interaction", {"configId": 7}, "The builder is ready: it says nothing"),
        ("error", {"message": "x", "isRecoverable": True}, "The builder met an error and goes on: x"),
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


@given(st.text())
def test_one_line_is_printable_and_short(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= LONGEST_LINE


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (None, ""),
        (7, "7"),
        ("  a\n\tb\x1bc ", "a b c"),
        ("x" * LONGEST_LINE, "x" * LONGEST_LINE),
        ("x" * (LONGEST_LINE + 1), "x" * (LONGEST_LINE - 3) + "..."),
    ],
)
def test_one_line_keeps_what_fits(value: object, line: str) -> None:
    assert one_line(value) == line


def test_what_was_found_stays_when_an_event_has_nothing_to_add() -> None:
    found = Findings(command_count=3, last_message="Which table?")
    assert found.with_event(event("completed", 0, configId=7)) == found
    assert found.with_event(event("ready_for_interaction", 0, configId=7)) == found
    assert found.with_event(event("command_added", 0)) == Findings(command_count=4, last_message="Which table?")


def test_a_message_handed_on_is_longer_than_one_in_the_log_and_bounded_too() -> None:
    findings = Findings().with_event(event("user_message", 0, message="m" * 10_000))
    assert findings.last_message is not None
    assert len(findings.last_message) == 4 * LONGEST_LINE


@given(st.sampled_from([*TAXONOMY]), JSON, JSON, JSON)
def test_hostile_payloads_are_told_and_summed_up_in_bounded_json(kind: str, columns: Any, rows: Any, plan: Any) -> None:
    hostile = SessionEvent(type=kind, event_index=0, columns=columns, rows=rows, plan=plan, message="m" * 10_000)
    told = progress_line(hostile)
    assert told is None or (told[1].isprintable() and len(told[1]) <= 3 * LONGEST_LINE)
    text = json.dumps(asdict(Findings().with_event(hostile)), allow_nan=False)
    assert len(text) < 64_000


def test_the_sample_is_small_and_follows_the_columns() -> None:
    rows = [{"b": number, "a": "x" * 1000} for number in range(100)]
    findings = Findings().with_event(event("data_extracted", 0, columns=["a", "b"], rows=rows, totalRows=100))
    assert findings.rows is not None
    assert len(findings.rows) == SAMPLE_ROWS
    assert findings.rows[0][1] == 0
    assert len(str(findings.rows[0][0])) <= 200
    assert findings.total_rows == 100


@pytest.mark.parametrize(
    ("columns", "row", "cells"),
    [
        (["a", "b"], {"b": 2, "a": 1}, [1, 2]),
        (["a", "b"], {"a": 1}, [1, None]),
        (None, {"b": 2, "a": 1}, [2, 1]),
        (None, {str(number): number for number in range(SAMPLE_COLUMNS + 1)}, [*range(SAMPLE_COLUMNS)]),
        (["a"], "text", ["text"]),
        (["a"], [None, True, 1.5, 2**63 - 1], [None, True, 1.5, 2**63 - 1]),
        (["a"], [2**63], [str(2**63)]),  # longer than what databases and other languages take for a number
    ],
)
def test_rows_of_any_shape_become_cells(columns: list[str] | None, row: object, cells: list[object]) -> None:
    findings = Findings().with_event(event("data_extracted", 0, columns=columns, rows=[row], totalRows=1))
    assert findings.rows == [cells]


def test_a_number_that_json_does_not_know_becomes_text() -> None:
    # 1e999 is valid JSON and is read as infinity, which no XCom could be written with.
    findings = Findings().with_event(event("data_extracted", 0, columns=["a"], rows=[[float("inf")]], totalRows=1))
    assert findings.rows == [["inf"]]


def test_the_widest_table_still_fits_the_record_of_the_next_try() -> None:
    columns = [f"{'c' * 500}{number}" for number in range(10_000)]
    wide = event("data_extracted", 0, columns=columns, rows=[["v" * 5000] * 10_000] * 50, totalRows=50)
    findings = Findings().with_event(wide)
    assert findings.columns is not None
    assert len(findings.columns) == SAMPLE_COLUMNS
    # Airflow warns about values above 64 KB in its task state store.
    assert len(json.dumps(asdict(findings))) < 64_000


def test_5000_events_and_10_megabyte_screenshots_leave_next_to_nothing_in_memory() -> None:
    session = BuilderSession.started("s1", START)
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
