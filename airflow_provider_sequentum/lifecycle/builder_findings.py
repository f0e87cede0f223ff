"""
What an Agent Builder session found and said, as far as people and later tasks want to know: bounded, whatever is sent.

Events are kept out of memory on purpose. A session can have thousands of them, with screenshots of many megabytes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agent_builder import SessionEvent

SAMPLE_ROWS = 5
SAMPLE_COLUMNS = 50
LONGEST_CELL = 200
LONGEST_LINE = 500
"""Characters of a message that are logged; a message handed on by XCom may have four times as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """
    The essence of the events so far.

    :param command_count: commands the agent has.
    :param columns: names of the extracted columns, at most 50.
    :param rows: the first rows that were extracted, at most 5.
    :param total_rows: how many rows the builder found.
    :param last_message: what the builder said or asked last.
    """

    command_count: int = 0
    columns: list[str] | None = None
    rows: list[list[str | int | float | bool | None]] | None = None
    total_rows: int | None = None
    last_message: str | None = None

    def with_event(self, event: SessionEvent) -> Findings:
        """Return the findings with what ``event`` adds."""
        match event.type:
            case "command_added":
                return replace(self, command_count=self.command_count + 1)
            case "completed" if event.command_count is not None:
                return replace(self, command_count=event.command_count)
            case "user_message" | "ready_for_interaction" if event.message:
                return replace(self, last_message=one_line(event.message, 4 * LONGEST_LINE))
            case "data_extracted":
                columns = _columns(event)
                return replace(self, columns=columns, rows=_sample(event.rows, columns), total_rows=_total_rows(event))
        return self


def progress_line(event: SessionEvent) -> tuple[int, str] | None:  # noqa: PLR0911 - one return per type
    """
    Return the log level and the line that tells the person watching about ``event``; ``None`` for what only debugs.

    The texts come from the service and from web pages: they are put on one line and cut.
    """
    match event.type:
        case "plan_generated":
            return logging.INFO, f"Plan: {one_line(_plan_text(event.plan))}"
        case "step_started":
            of = f" of {event.total_steps}" if event.total_steps is not None else ""
            return (
                logging.INFO,
                f"Step {event.step_number or '?'}{of}: {one_line(event.description or event.action_type)}",
            )
        case "step_completed" if event.success is False:
            return logging.WARNING, f"Step {event.step_number or '?'} did not succeed."
        case "navigation_completed":
            return logging.INFO, f"Opened {one_line(event.url)} ({one_line(event.title) or 'no title'})"
        case "data_extracted":
            columns = ", ".join(_columns(event) or []) or "no columns"
            return logging.INFO, f"Found {_total_rows(event)} rows: {one_line(columns)}"
        case "user_message":
            return logging.INFO, f"The builder says: {one_line(event.message)}"
        case "ready_for_interaction":
            return logging.INFO, f"The builder is ready: {one_line(event.message) or 'it says nothing'}"
        case "error" if event.is_recoverable is False:
            return logging.ERROR, f"The builder gave up: {one_line(event.message)}"
        case "error":
            return logging.WARNING, f"The builder met an error and goes on: {one_line(event.message)}"
    return None


def one_line(value: object, limit: int = LONGEST_LINE) -> str:
    """Return a text of the service fit for a log: one line, printable, at most ``limit`` characters."""
    text = "" if value is None else str(value)
    printable = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * limit])
    line = " ".join(printable.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def _plan_text(plan: Any) -> str:
    steps = plan.get("steps", plan) if isinstance(plan, Mapping) else plan
    if isinstance(steps, list):
        return "; ".join(_step_text(step) for step in steps[:SAMPLE_COLUMNS])
    return str(steps)


def _step_text(step: Any) -> str:
    if isinstance(step, Mapping):
        return str(next((step[key] for key in ("description", "title", "name", "text") if key in step), dict(step)))
    return str(step)


def _columns(event: SessionEvent) -> list[str] | None:
    if not isinstance(event.columns, list):
        return None
    return [one_line(_step_text(column), LONGEST_CELL) for column in event.columns[:SAMPLE_COLUMNS]]


def _total_rows(event: SessionEvent) -> int:
    if event.total_rows is not None:
        return event.total_rows
    return len(event.rows) if isinstance(event.rows, list) else 0


def _sample(rows: Any, columns: list[str] | None) -> list[list[str | int | float | bool | None]] | None:
    if not isinstance(rows, list):
        return None
    return [[_cell(cell) for cell in _cells(row, columns)] for row in rows[:SAMPLE_ROWS]]


def _cells(row: Any, columns: list[str] | None) -> list[Any]:
    if isinstance(row, Mapping):
        return [row.get(column) for column in columns] if columns else list(islice(row.values(), SAMPLE_COLUMNS))
    return row[:SAMPLE_COLUMNS] if isinstance(row, list) else [row]


def _cell(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    return one_line(value, LONGEST_CELL)
