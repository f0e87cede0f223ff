"""Descriptions of a session: in progress lines, in the XCom for downstream tasks, and in the error of its task.

Events are not kept: a session can have thousands of them, with screenshots of many megabytes. Only a bounded excerpt is
shown, and only the positions of its events are recorded.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.api.text import one_line
from airflow_provider_sequentum.exceptions import AgentBuilderEnded, AgentBuilderException, AgentBuilderFailed
from airflow_provider_sequentum.runs.describe import LogIntervals, counted, format_seconds
from airflow_provider_sequentum.sessions.state import Action, Session

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.agent_builder import SessionEvent
    from airflow_provider_sequentum.jobs.attempt import TaskFacts
    from airflow_provider_sequentum.sessions.record import SessionConfig

SAMPLE_ROWS = 5
SAMPLE_COLUMNS = 50
MAX_CELL_LENGTH = 200
MAX_LINE_LENGTH = 500
"""Maximum number of bytes of a logged message; a message in an XCom may have four times as many."""

MAX_SUMMARY_SIZE = 40_000
"""Bytes of JSON. With its record and the links, everything that a task pushes stays below 48 kB."""


class Highlights:
    """The excerpt of the events in the summary: the extracted data and the last message, both bounded."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {"columns": None, "rows": None, "total_rows": None}
        """The columns, the first rows and the number of rows."""
        self.last_message: str | None = None
        """The last message or question of the builder."""
        self._data_index: int | None = None
        self._message_index: int | None = None
        self._not_available: set[int] = set()

    def take(self, event: SessionEvent) -> None:
        """Process an event."""
        if event.event_index is None:
            return
        if event.type == "data_extracted":
            columns = _columns(event)
            self.data = {"columns": columns, "rows": _sample(event.rows, columns), "total_rows": _total_rows(event)}
            self._data_index = event.event_index
        elif event.type in ("user_message", "ready_for_interaction") and event.message:
            self.last_message = one_line(event.message, 4 * MAX_LINE_LENGTH)
            self._message_index = event.event_index

    def missing(self, session: Session) -> list[int]:
        """Return the indexes of the events that the summary needs and that this process has not read."""
        wanted = ((session.data_index, self._data_index), (session.message_index, self._message_index))
        return [
            index
            for index, found in wanted
            if index is not None and index != found and index not in self._not_available
        ]

    def give_up(self, index: int) -> None:
        """Note that an event can no longer be read."""
        self._not_available.add(index)


def session_summary(session: Session, highlights: Highlights, now: datetime, **more: Any) -> dict[str, Any]:
    """Return a summary of the session for downstream tasks, as plain JSON values of at most 40 kB.

    :param more: fields that the task adds: ``link``, ``note``.
    """
    until = session.state_since if session.state.is_over and session.state_since is not None else now
    started_at = session.started_at
    summary = {
        "session_id": session.session_id,
        "status": session.state.value,
        "agent_id": session.agent_id,
        "agent_name": session.agent_name,
        "followups_sent": session.sent,
        "elapsed_seconds": round((until - started_at).total_seconds(), 1) if started_at is not None else None,
        "command_count": session.command_count,
        **highlights.data,
        "last_message": highlights.last_message,
        "is_cut": False,
        **more,
    }
    return _bounded(summary)


def _bounded(summary: dict[str, Any]) -> dict[str, Any]:
    """Remove sample rows, then columns, until the summary is small enough, and set ``is_cut``."""
    while len(json.dumps(summary)) > MAX_SUMMARY_SIZE and (sample := summary["rows"] or summary["columns"]):
        name = "rows" if summary["rows"] else "columns"
        summary = {**summary, name: sample[:-1], "is_cut": True}
    return summary


class SessionProgress:
    """Decides when to log that a session without news is still active: at increasing intervals."""

    def __init__(self) -> None:
        self._intervals = LogIntervals()
        self._seen: object = None

    def line(self, session: Session, now: datetime) -> str | None:
        """Return the line to log, or ``None``."""
        seen = (session.state, session.cursor)
        is_news, self._seen = seen != self._seen, seen
        if not self._intervals.is_due(seen, now) or is_news:  # news has just been logged from the events
            return None
        since = session.state_since
        lasted = f" for {format_seconds((now - since).total_seconds())}" if since is not None else ""
        return f"{session.name} is {session.state.value}{lasted}."


def progress_line(event: SessionEvent) -> tuple[int, str] | None:  # noqa: PLR0911 - one return per type
    """Return the log level and the line for ``event``; ``None`` for events that are only useful for debugging."""
    match event.type:
        case "plan_generated":
            return logging.INFO, f"Plan: {_line(_plan_text(event.plan))}"
        case "step_started":
            of = f" of {event.total_steps}" if event.total_steps is not None else ""
            return logging.INFO, f"Step {event.step_number or '?'}{of}: {_line(event.description or event.action_type)}"
        case "step_completed" if event.success is False:
            return logging.WARNING, f"Step {event.step_number or '?'} did not succeed."
        case "navigation_completed":
            return logging.INFO, f"Opened {_line(event.url)} ({_line(event.title) or 'no title'})"
        case "data_extracted":
            columns = ", ".join(_columns(event) or []) or "no columns"
            return logging.INFO, f"Found {counted(_total_rows(event), 'row')}: {_line(columns)}"
        case "user_message":
            return logging.INFO, f"The builder says: {_line(event.message)}"
        case "ready_for_interaction":
            return logging.INFO, f"The builder is ready: {_line(event.message) or 'no message'}"
        case "error" if event.is_recoverable is False:
            return logging.ERROR, f"The builder gave up: {_line(event.message)}"
        case "error":
            return logging.WARNING, f"The builder had an error and continues: {_line(event.message)}"
    return None


def _line(value: object, limit: int = MAX_LINE_LENGTH) -> str:
    return one_line("" if value is None else str(value), limit)


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
    return [_line(_step_text(column), MAX_CELL_LENGTH) for column in event.columns[:SAMPLE_COLUMNS]]


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
    return value if value is None or isinstance(value, bool | int | float) else _line(value, MAX_CELL_LENGTH)


def failure_for(
    action: Action, session: Session, config: SessionConfig, task: TaskFacts, last_message: str | None
) -> AgentBuilderException:
    """Return the exception for a session without an agent. It is retried if a retry can help.

    :param last_message: the last message of the builder.
    """
    start_over = f"Clear {task_to_clear(config)} to start over."
    finds_it_again = task.keeps_records or config.is_given
    match action:
        case Action.BUILD_FAILED:
            cause = (session.error or "the service states no reason").rstrip(".")
            said = f" The builder said last: {last_message!r}." if last_message else ""
            message = f"{session.name} ended in an error: {cause}.{said} {_saved_agent(session)}"
            if config.is_given:
                return ended(session, f"{message} {start_over}", reason="refused")
            follows = what_starts_over(config, task)
        case Action.NO_AGENT:
            message = f"{session.name} is {session.state.value}, but the service names no agent."
            follows = "The next attempt checks again." if finds_it_again else "The next attempt starts a new session."
        case Action.LOST if config.is_given or config.on_lost_session == "fail":
            return session_lost(config, session.session_id)
        case Action.LOST:
            message = f"The service no longer knows {session.name}."
            follows = "The next attempt starts a new one."
        case Action.FOLLOWUPS_LEFT:
            left = f"{len(config.followups) - session.sent} of {len(config.followups)}"
            why = ": this server accepts none, so put everything into the prompt" if session.completes_by_itself else ""
            message = f"{session.name} has ended with agent {session.agent_id}; {left} follow-ups could not be sent"
            return ended(session, f"{message}{why}.", reason="refused")
        case Action.UNANSWERED:
            message = f"{session.name} is ready and nothing is left to send (on_ready='fail'). It said: "
            return ended(session, f"{message}{last_message or 'nothing'}", reason="unanswered")
        case _:
            message = f"{session.name} was cancelled by a person or another program. {_saved_agent(session)}"
            return ended(session, f"{message} {start_over}", reason="cancelled")
    return AgentBuilderFailed(
        f"{message} {follows if task.has_next_attempt else start_over}",
        session_id=session.session_id,
        agent_id=session.agent_id,
    )


def what_starts_over(config: SessionConfig, task: TaskFacts) -> str:
    """Return what starts another session in place of one that has ended without an agent, as a sentence."""
    if task.has_next_attempt and not config.is_given:
        return "The next attempt starts a new session."
    return f"Clear {task_to_clear(config)} to start over."


def _saved_agent(session: Session) -> str:
    # A single-shot server saves the agent as soon as there is one.
    return "No agent was saved." if session.agent_id is None else f"Agent {session.agent_id} exists."


def ended(session: Session, message: str, *, reason: str) -> AgentBuilderEnded:
    """Return the exception for a session that its task can no longer use."""
    return AgentBuilderEnded(message, reason=reason, session_id=session.session_id, agent_id=session.agent_id)


def session_lost(config: SessionConfig, session_id: str) -> AgentBuilderEnded:
    """Return the exception for a session that the service does not know."""
    alternative = "" if config.is_given else ", or set on_lost_session='start'"
    return AgentBuilderEnded(
        f"The service does not know Agent Builder session {session_id}: it was torn down, never existed, or belongs to "
        f"another key. No other session was started. Clear {task_to_clear(config)} to start over{alternative}.",
        reason="lost",
        session_id=session_id,
    )


def task_to_clear(config: SessionConfig) -> str:
    """Return which task has to be cleared for another session. Clearing a task does not change its ``session_id``."""
    return "the task that session_id comes from" if config.is_given else "the task"
