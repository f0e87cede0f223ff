"""Plain web pages, so that a link to an agent, a run or a session leads somewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from airflow_provider_sequentum.sandbox.engine import Engine
from airflow_provider_sequentum.sandbox.routes import TheEngine, TheSessions, TheStorage
from airflow_provider_sequentum.sandbox.run_files import log_lines
from airflow_provider_sequentum.sandbox.runs import Run, observe
from airflow_provider_sequentum.sandbox.sessions import Session

router = APIRouter(include_in_schema=False)

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ddd;padding:.3rem .6rem;"
    "text-align:left;vertical-align:top;overflow-wrap:anywhere}a{color:#0b5cad}pre{white-space:pre-wrap}"
)
# A page shows this many of the newest runs, and of the last events of a session.
_SHOWN = 100


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
        (_link(f"/sessions/{session.id}", session.id), escape(session.prompt or session.url), session.status(now))
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
    return _page(
        agent.name,
        f"<p>Agent {agent.id}. {escape(agent.description)}</p>",
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
        ("Status", escape(seen.status_name)),
        ("Created", f"{run.created:%Y-%m-%d %H:%M:%S} UTC"),
        ("Ended", f"{seen.end_time:%Y-%m-%d %H:%M:%S} UTC" if seen.end_time else ""),
        ("Records extracted", str(seen.data_count)),
        ("Records exported", str(seen.export_count or 0)),
        ("Attempts", str(len(run.attempts))),
        ("Input parameters", escape(run.options.input_parameters or "")),
        ("Message", escape(seen.message or "")),
    ]
    files = [(_link(storage.signed_url(run, file), file.name), str(file.file_type)) for file in storage.files(run)]
    return _page(
        f"Run {run.id}",
        _table(("", ""), facts),
        "<h2>Files</h2>" + _table(("File", "Type"), files),
        "<h2>Log</h2><pre>" + escape("\n".join(log_lines(run, agent, seen))) + "</pre>",
    )


@router.get("/sessions/{session_id}")
async def session_page(session_id: str, engine: TheEngine, sessions: TheSessions) -> HTMLResponse:
    """A session of the agent builder: what was said and what happened."""
    session, now = sessions.session(session_id), engine.settle()
    said = [(f"{moment:%H:%M:%S}", escape(message)) for moment, message in session.messages]
    events = [
        (str(index), f"{event.due:%H:%M:%S}", escape(event.type), escape(str(event.payload)[:500]))
        for index, event in session.emitted(now)[-_SHOWN:]
    ]
    return _page(
        f"Session {session.id}",
        f"<p>{escape(session.prompt or session.url)}</p><p>Status: {session.status(now)}. {_built(session)}</p>",
        "<h2>Follow-ups</h2>" + _table(("Time", "Message"), said),
        "<h2>Events</h2>" + _table(("Index", "Time", "Type", "Payload"), events),
    )


def _built(session: Session) -> str:
    return "Agent: " + _link(f"/agents/{session.draft_id}", session.agent_name) if session.saved else ""


def _runs_table(runs: Iterable[Run], engine: Engine) -> str:
    now = engine.settle()
    rows = []
    for run in runs:
        seen = observe(run, now)
        rows.append(
            (
                _link(f"/agents/{run.agent_id}/runs/{run.id}", str(run.id)),
                escape(engine.state.agents[run.agent_id].name),
                escape(seen.status_name),
                f"{run.created:%Y-%m-%d %H:%M:%S}",
                str(seen.data_count),
            )
        )
    return _table(("Run", "Agent", "Status", "Created", "Records"), rows)


def _link(target: str, text: str) -> str:
    return f'<a href="{escape(target, quote=True)}">{escape(text)}</a>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already: whoever makes a cell escapes it."""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    return f"<table><tr>{heads}</tr>{body}</table>" if body else "<p>None yet.</p>"


def _page(title: str, *parts: str) -> HTMLResponse:
    home = "" if title == "Sequentum sandbox" else f"<p>{_link('/', 'Sequentum sandbox')}</p>"
    return HTMLResponse(
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{home}<h1>{escape(title)}</h1>{''.join(parts)}</body></html>",
        headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
    )
