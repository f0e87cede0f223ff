"""Plain web pages, so that a link to an agent, a run or a session leads somewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from airflow_provider_sequentum.sandbox.agents import Agent, FileType
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
    "svg{display:block;height:auto;max-width:40rem;width:100%}svg text{fill:#57606a;font-size:12px}"
    "svg line{stroke:#ddd}svg path{fill:none;stroke-width:2}"
    ".extracted{stroke:#0b5cad}.exported{stroke:#1a7f37}"
    "svg .extracted-name{fill:#0b5cad}svg .exported-name{fill:#1a7f37}"
    "td:first-child{min-width:7rem}"
    # A list keeps its words whole and scrolls; what there is of text goes on in the next line.
    ".list{overflow-x:auto}.list td,.list th{overflow-wrap:break-word;min-width:auto}"
    ".list .text{overflow-wrap:anywhere}"
    "@media(max-width:40rem){body{margin:1rem auto}td,th{padding:.3rem}svg text{font-size:18px}}"
)
# A page shows this many of the newest runs, and of the last events of a session.
_SHOWN = 100
# A page of something that goes on is loaded again after this many seconds.
_RELOAD = 2
_CHART_POINTS = 100

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
    schedules = [
        (f'<span id="schedule-{schedule.id}">{schedule.id}</span>', escape(schedule.name), _time(schedule.next_run))
        for schedule in tuple(engine.state.schedules.values())
        if schedule.agent_id == agent_id
    ]
    return _page(
        agent.name,
        f"<p>Agent {agent.id}. {escape(agent.description)}{_built(agent, engine)}</p>",
        "<h2>Runs</h2>" + _runs_table(engine.runs_of(agent_id)[:_SHOWN], engine),
        "<h2>Schedules</h2>" + _table(("Schedule", "Name", "Next run"), schedules),
        f"<h2>First of {len(agent.records)} records</h2>" + _table([escape(column) for column in columns], sample),
    )


@router.get("/agents/{agent_id}/runs/{run_id}")
async def run_page(agent_id: int, run_id: int, engine: TheEngine, storage: TheStorage) -> HTMLResponse:
    """A run: status, counts, files, log."""
    run, now = engine.run(agent_id, run_id), engine.settle()
    agent, seen = engine.agent(agent_id), observe(run, now)
    facts = [
        ("Agent", _link(f"/agents/{agent.id}", agent.name) + _built(agent, engine)),
        ("Status", _status(seen)),
        ("Started by", _origin(run, engine.ledger)),
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
        _table(("", ""), facts, css="text"),
        "<h2>Records over time</h2>" + _chart(run, now),
        "<h2>Files</h2>" + _table(("File", "Type", "Bytes"), files),
        "<h2>Log</h2><pre>" + escape("\n".join(log_lines(run, agent, seen))) + "</pre>",
        above=[_link(f"/agents/{agent.id}", agent.name)],
        reload=not seen.terminal,
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
        "<h2>Follow-ups</h2>" + _table(("Time", "Message"), messages, css="text"),
        "<h2>Events</h2>" + _table(("Index", "Time", "Type", "Payload"), events, css="text"),
        reload=session.status(now) == "processing",
    )


def _built(agent: Agent, engine: Engine) -> str:
    """Where an agent comes from, if the Agent Builder made it."""
    sessions = tuple(engine.state.sessions.values())
    session = next((session for session in sessions if session.saved and session.draft_id == agent.id), None)
    return f" Built in session {_link(f'/sessions/{session.id}', session.id)}." if session else ""


def _origin(run: Run, ledger: Ledger) -> str:
    """What started a run: a schedule, or a request and the program that sent it."""
    for effect in reversed(ledger.effects):
        if effect.run_id == run.id and effect.kind == "schedule_fired":
            schedule_id = (effect.detail or {}).get("schedule_id")
            return _link(f"/agents/{run.agent_id}#schedule-{schedule_id}", f"schedule {schedule_id}")
        if effect.run_id == run.id and effect.kind == "start":
            if effect.request is None:
                return "the sandbox"
            sent = next((entry for entry in reversed(ledger.requests) if entry.number == effect.request), None)
            program = f", sent by {sent.user_agent}" if sent and sent.user_agent else ""
            return escape(f"request {effect.request} with the API key {effect.key_name!r}{program}")
    return ""


def _chart(run: Run, now: datetime) -> str:
    """The records of a run over time, extracted and exported, from its creation to its end or to now."""
    end = run.attempt.end()
    until = now if end is None else min(end, now)
    length = (until - run.created) / _CHART_POINTS
    moments = [run.created + length * number for number in range(_CHART_POINTS)] + [until]
    counts = [_counts(run, moment) for moment in moments]
    most = max(extracted for extracted, _ in counts)
    if not most:
        return "<p>No records yet.</p>"

    def line(name: str, values: Sequence[int]) -> str:
        points = (f"{40 + 5.9 * at:.1f},{150 - 130 * value / most:.1f}" for at, value in enumerate(values))
        return f'<path class="{name}" d="M{" L".join(points)}"/>'

    extracted, exported = zip(*counts, strict=True)
    return (
        '<svg viewBox="0 0 640 180" role="img">'
        f"<title>{extracted[-1]} records extracted, {exported[-1]} exported</title>"
        '<line x1="40" y1="150" x2="630" y2="150"/><line x1="40" y1="20" x2="630" y2="20"/>'
        f'<text x="34" y="154" text-anchor="end">0</text><text x="34" y="24" text-anchor="end">{most}</text>'
        f'<text x="40" y="170">{run.created:%H:%M:%S}</text>'
        f'<text x="630" y="170" text-anchor="end">{until:%H:%M:%S}</text>'
        '<text x="40" y="12" class="extracted-name">extracted</text>'
        '<text x="150" y="12" class="exported-name">exported</text>'
        f"{line('extracted', extracted)}{line('exported', exported)}</svg>"
    )


def _counts(run: Run, moment: datetime) -> tuple[int, int]:
    """How many records the attempt of that moment had extracted and exported."""
    attempt = next(
        attempt for attempt in reversed(run.attempts) if attempt.requested <= moment or attempt is run.attempts[0]
    )
    extracted = int(run.planned_records(attempt) * attempt.extracted_share(moment))
    return extracted, int(extracted * attempt.exported_share(moment))


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


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], css: str = "") -> str:
    """A table of cells that are HTML already: the caller has escaped them.

    :param css: the class of the last cell of each row.
    """
    last = f'<td class="{css}">' if css else "<td>"
    body = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in row[:-1]) + f"{last}{row[-1]}</td></tr>" for row in rows
    )
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    return f'<div class="list"><table><tr>{heads}</tr>{body}</table></div>' if body else "<p>None yet.</p>"


def _page(title: str, *parts: str, above: Sequence[str] = (), reload: bool = False) -> HTMLResponse:
    """A page with links to the pages above it; one that still changes is loaded again by the browser."""
    home = [] if title == "Sequentum sandbox" else [_link("/", "Sequentum sandbox")]
    path = " / ".join([*home, *above])
    again = f'<meta http-equiv="refresh" content="{_RELOAD}">' if reload else ""
    return HTMLResponse(
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">{again}<title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><p>{path}</p><h1>{escape(title)}</h1>{''.join(parts)}</body></html>",
        headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
    )
