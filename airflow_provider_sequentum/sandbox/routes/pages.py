"""Plain web pages, so that a link to an agent, a run or a session leads somewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from airflow_provider_sequentum.sandbox.agents import FileType
from airflow_provider_sequentum.sandbox.engine import Engine
from airflow_provider_sequentum.sandbox.ledger import Ledger
from airflow_provider_sequentum.sandbox.routes import TheEngine, TheSessions, TheStorage
from airflow_provider_sequentum.sandbox.run_files import log_lines
from airflow_provider_sequentum.sandbox.run_plan import SUCCEEDED, RunStatus
from airflow_provider_sequentum.sandbox.runs import Observation, Run, observe
from airflow_provider_sequentum.sandbox.sessions import Session

router = APIRouter(include_in_schema=False)

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ddd;padding:.3rem .6rem;"
    "text-align:left;vertical-align:top;overflow-wrap:anywhere}a{color:#0b5cad}pre{white-space:pre-wrap}"
    ".status{border-radius:.6rem;color:#fff;padding:.1rem .6rem;white-space:nowrap}.good{background:#1a7f37}"
    ".bad{background:#b42318}.active{background:#0b5cad}.waiting{background:#8a5a00}.ended{background:#57606a}"
)
# A page shows this many of the newest runs, and of the last events of a session.
_SHOWN = 100

_WAITING = frozenset({RunStatus.Queuing, RunStatus.Waiting, RunStatus.Starting})
_FAILED = frozenset({RunStatus.Failure, RunStatus.Failed})
_SESSION_COLOURS = {
    "processing": "active",
    "ready": "waiting",
    "completed": "good",
    "error": "bad",
    "cancelled": "ended",
}
_FILE_TYPES: dict[int, str] = {
    FileType.DeliveredFile: "Data",
    FileType.ExtractedFiles: "Extracted files",
    FileType.InternalExportFiles: "Internal: export",
    FileType.InternalRuntimeFiles: "Internal: runtime",
    FileType.InternalTrackingDb: "Internal: tracking database",
    FileType.LogText: "Log (text)",
    FileType.LogHtml: "Log (HTML)",
    FileType.InternalContentCache: "Internal: content cache",
}


@router.get("/")
async def index(engine: TheEngine) -> HTMLResponse:
    """Agents, runs and sessions."""
    now = engine.settle()
    agents = [
        (_link(f"/agents/{agent.id}", agent.name), str(agent.id), str(len(agent.records)), str(agent.runs_started))
        for agent in tuple(engine.state.agents.values())
    ]
    runs = sorted(engine.state.runs.copy().values(), key=lambda run: run.id, reverse=True)
    sessions = [
        (_link(f"/sessions/{session.id}", session.id), escape(session.prompt or session.url), _state(session, now))
        for session in tuple(engine.state.sessions.values())[::-1]
    ]
    return _page(
        "Sequentum sandbox",
        f"<p>A local stand-in for Sequentum Cloud. {_link('/docs', 'API documentation')}</p>",
        "<h2>Agents</h2>" + _table(("Agent", "Id", "Records", "Runs"), agents),
        "<h2>Runs</h2>" + _runs_table(runs[:_SHOWN], engine),
        "<h2>Agent builder sessions</h2>" + _table(("Session", "Prompt", "Status"), sessions),
    )


@router.get("/agents/{agent_id}")
async def agent_page(agent_id: int, engine: TheEngine) -> HTMLResponse:
    """An agent and its runs."""
    agent = engine.agent(agent_id)
    columns = list(agent.records[0]) if agent.records else []
    sample = [[escape(str(record.get(column, ""))) for column in columns] for record in agent.records[:10]]
    session = next((s for s in tuple(engine.state.sessions.values()) if s.saved and s.draft_id == agent_id), None)
    built = f" Built in session {_link(f'/sessions/{session.id}', session.id)}." if session else ""
    return _page(
        agent.name,
        f"<p>Agent {agent.id}. {escape(agent.description)}{built}</p>",
        "<h2>Runs</h2>" + _runs_table(engine.runs_of(agent_id)[:_SHOWN], engine),
        f"<h2>First of {len(agent.records)} records</h2>" + _table([escape(column) for column in columns], sample),
    )


@router.get("/agents/{agent_id}/runs/{run_id}")
async def run_page(agent_id: int, run_id: int, engine: TheEngine, storage: TheStorage) -> HTMLResponse:
    """A run: status, counts, files, log."""
    run, now = engine.run(agent_id, run_id), engine.settle()
    agent, seen = engine.agent(agent_id), observe(run, now)
    facts = [
        ("Agent", _link(f"/agents/{agent.id}", agent.name)),
        ("Status", _status(seen)),
        ("Started by", escape(_origin(run, engine.ledger))),
        ("Created", _time(run.created)),
        ("Ended", _time(seen.end_time)),
        ("Records extracted", str(seen.data_count)),
        ("Records exported", str(seen.export_count or 0)),
        ("Attempts", str(len(run.attempts))),
        ("Input parameters", escape(run.options.input_parameters or "")),
        ("Message", escape(seen.message or "")),
    ]
    files = [
        (
            _link(storage.signed_url(run, file), file.name),
            _file_type(file.file_type),
            str(storage.listed_size(run, file)),
        )
        for file in storage.files(run)
    ]
    return _page(
        f"Run {run.id}",
        _table(("", ""), facts),
        "<h2>Files</h2>" + _table(("File", "Type", "Bytes"), files),
        "<h2>Log</h2><pre>" + escape("\n".join(log_lines(run, agent, seen))) + "</pre>",
        above=[_link(f"/agents/{agent.id}", agent.name)],
    )


@router.get("/sessions/{session_id}")
async def session_page(session_id: str, engine: TheEngine, sessions: TheSessions) -> HTMLResponse:
    """A session of the agent builder: its messages and events."""
    session, now = sessions.session(session_id), engine.settle()
    messages = [(f"{moment:%H:%M:%S}", escape(message)) for moment, message in session.messages]
    events = [
        (str(index), f"{event.due:%H:%M:%S}", escape(event.type), escape(str(event.payload)[:500]))
        for index, event in session.emitted(now)[-_SHOWN:]
    ]
    built = " Agent: " + _link(f"/agents/{session.draft_id}", session.agent_name) if session.saved else ""
    return _page(
        f"Session {session.id}",
        f"<p>{escape(session.prompt or session.url)}</p><p>{_state(session, now)}{built}</p>",
        "<h2>Follow-ups</h2>" + _table(("Time", "Message"), messages),
        "<h2>Events</h2>" + _table(("Index", "Time", "Type", "Payload"), events),
    )


def _origin(run: Run, ledger: Ledger) -> str:
    """What started a run."""
    for effect in reversed(ledger.effects):
        if effect.run_id == run.id and effect.kind == "schedule_fired":
            return f"schedule {(effect.detail or {}).get('schedule_id')}"
        if effect.run_id == run.id and effect.kind == "start":
            return f"request {effect.request} with the API key {effect.key_name!r}" if effect.request else "the sandbox"
    return ""


def _runs_table(runs: Iterable[Run], engine: Engine) -> str:
    now = engine.settle()
    rows = []
    for run in runs:
        seen = observe(run, now)
        rows.append(
            (
                _link(f"/agents/{run.agent_id}/runs/{run.id}", str(run.id)),
                _link(f"/agents/{run.agent_id}", engine.state.agents[run.agent_id].name),
                _status(seen),
                _time(run.created),
                str(seen.data_count),
            )
        )
    return _table(("Run", "Agent", "Status", "Created", "Records"), rows)


def _status(seen: Observation) -> str:
    if seen.status in SUCCEEDED:
        colour = "good"
    elif seen.status in _FAILED:
        colour = "bad"
    elif seen.terminal:
        colour = "ended"
    else:
        colour = "waiting" if seen.status in _WAITING else "active"
    return _badge(seen.status_name, colour)


def _state(session: Session, now: datetime) -> str:
    state = session.status(now)
    return _badge(state, _SESSION_COLOURS[state])


def _badge(text: str, colour: str) -> str:
    return f'<span class="status {colour}">{escape(text)}</span>'


def _file_type(code: int | None) -> str:
    if code is None:
        return "not given"
    return _FILE_TYPES.get(code, str(code))


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else ""


def _link(target: str, text: str) -> str:
    return f'<a href="{escape(target, quote=True)}">{escape(text)}</a>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already: the caller has escaped them."""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    return f"<table><tr>{heads}</tr>{body}</table>" if body else "<p>None yet.</p>"


def _page(title: str, *parts: str, above: Sequence[str] = ()) -> HTMLResponse:
    """A page with links to the pages above it."""
    home = [] if title == "Sequentum sandbox" else [_link("/", "Sequentum sandbox")]
    path = " / ".join([*home, *above])
    return HTMLResponse(
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><p>{path}</p><h1>{escape(title)}</h1>{''.join(parts)}</body></html>",
        headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
    )
