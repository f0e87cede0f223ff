"""The questions of the pages to the service. Each is one request, and states how old its answer may be."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_sequentum.api import agents, analytics, billing, files, runs
from airflow_provider_sequentum.records.formats import RecordsUnreadable
from airflow_provider_sequentum.records.reading import read_records
from airflow_provider_sequentum.ui.cache import Question, asking

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Reply, SequentumClient
    from airflow_provider_sequentum.api.agents import Agent
    from airflow_provider_sequentum.api.analytics import RunDiagnostics
    from airflow_provider_sequentum.api.billing import Credits
    from airflow_provider_sequentum.api.files import RunFile
    from airflow_provider_sequentum.api.parsing import Page
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.ui.tasks import RunFacts

BARS = 30
"""Maximum number of runs of an agent in a chart."""

PREVIEW_SIZE = 64 * 1024
"""Bytes of a file to read for its preview."""
PREVIEW_ROWS = 10
PREVIEW_COLUMNS = 12
MAX_CELL_LENGTH = 120
MAX_TEXT_LENGTH = 4000

_OF_A_TAB = 4.0
"""Factor by which questions of a task's tab are more urgent than those of the overview."""
_UNCHANGING = 3600.0


def agent_runs(conn_id: str, agent_id: int, *, is_going: bool, is_detail: bool) -> Question[Reply[Page[Run]]]:
    """Ask for the newest runs of an agent, with one request for all of them that are viewed."""
    return Question(
        conn_id,
        f"runs of agent {agent_id}",
        asking(runs.list_runs(agent_id, max_records=BARS)),
        fresh_for=15.0 if is_going else 300.0,
        weight=_OF_A_TAB if is_detail else 1.0,
    )


def run_status(conn_id: str, agent_id: int, run_id: int, *, is_going: bool) -> Question[Reply[Run]]:
    """Ask for a run that is not among the newest of its agent."""
    name = f"run {run_id} of agent {agent_id}"
    fresh_for = 15.0 if is_going else 300.0
    return Question(conn_id, name, asking(runs.status(agent_id, run_id)), fresh_for=fresh_for, weight=_OF_A_TAB)


def run_files(conn_id: str, run: RunFacts) -> Question[Reply[Page[RunFile]]]:
    """Ask for the files of a run that has ended."""
    call = files.list_files(run.agent_id, run.run_id)
    name = f"files of run {run.run_id} of agent {run.agent_id} ({run.status})"
    return Question(conn_id, name, asking(call), fresh_for=_UNCHANGING, weight=_OF_A_TAB)


def diagnostics(conn_id: str, run: RunFacts) -> Question[Reply[RunDiagnostics]]:
    """Ask why a run failed."""
    call = analytics.run_diagnostics(run.agent_id, run.run_id)
    name = f"diagnostics of run {run.run_id} of agent {run.agent_id} ({run.status})"
    return Question(conn_id, name, asking(call), fresh_for=_UNCHANGING, weight=_OF_A_TAB)


def account_credits(conn_id: str) -> Question[Reply[Credits]]:
    """Ask for the credits that are left."""
    return Question(conn_id, "credits", asking(billing.credits()), fresh_for=300.0)


def all_agents(conn_id: str) -> Question[Reply[Page[Agent]]]:
    """Ask for the agents, for their names."""
    return Question(conn_id, "agents", asking(agents.list_agents()), fresh_for=900.0)


@dataclass(frozen=True, slots=True)
class Preview:
    """The start of a file: rows, or text, or neither."""

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    text: str | None = None


def file_preview(conn_id: str, run: RunFacts, file: RunFile) -> Question[Preview]:
    """Ask for the start of a file."""

    def ask(client: SequentumClient) -> Preview:
        start = _Start()
        with suppress(_EnoughRead):
            client.download(agent_id=run.agent_id, run_id=run.run_id, file=file, destination=start)
        return preview_of(start.getvalue(), file.name or "")

    name = f"file {file.id} of run {run.run_id} of agent {run.agent_id} ({run.status})"
    return Question(conn_id, name, ask, fresh_for=_UNCHANGING, weight=_OF_A_TAB)


def preview_of(start: bytes, name: str) -> Preview:
    """Return the preview of a file from its first bytes."""
    records: list[dict[str, Any]] = []
    # In a truncated file the last record is damaged, and a truncated workbook cannot be read: then show the text.
    with suppress(RecordsUnreadable, ImportError):
        for record in islice(read_records(io.BytesIO(start), name), PREVIEW_ROWS):
            records.append(record)  # noqa: PERF402 - keep the records before an error
    if records:
        columns = list(dict.fromkeys(str(column) for record in records for column in record))[:PREVIEW_COLUMNS]
        rows = [tuple(_cell(record.get(column)) for column in columns) for record in records]
        return Preview(tuple(column[:MAX_CELL_LENGTH] for column in columns), tuple(rows))
    try:
        text = start[: 4 * MAX_TEXT_LENGTH].decode("utf-8", errors="ignore" if len(start) >= PREVIEW_SIZE else "strict")
    except UnicodeDecodeError:
        return Preview()
    return Preview() if "\0" in text else Preview(text=text[:MAX_TEXT_LENGTH])


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= MAX_CELL_LENGTH else f"{text[:MAX_CELL_LENGTH]}…"


class _EnoughRead(Exception):
    """The start of the file has been read."""


class _Start(io.BytesIO):
    """A destination that ends the download after the start of the file."""

    def write(self, data: Any, /) -> int:
        written = super().write(data[: PREVIEW_SIZE - self.tell()])
        if self.tell() >= PREVIEW_SIZE:
            raise _EnoughRead
        return written
