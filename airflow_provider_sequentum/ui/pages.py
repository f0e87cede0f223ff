"""Rendering of the pages: the data about a task or the agents is inserted into the templates.

The templates escape all values, because names, messages and records come from the service.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jinja2

from airflow_provider_sequentum.api.files import INTERNAL, RunFile
from airflow_provider_sequentum.runs.describe import format_seconds, format_size
from airflow_provider_sequentum.runs.phases import Phase
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.ui import actions, questions
from airflow_provider_sequentum.ui.tasks import RunFacts, SeenRun, TaskKey, TaskView, recent_runs

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_provider_sequentum.api import Reply
    from airflow_provider_sequentum.api.parsing import Page
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.ui.cache import Known, ServiceCache

AGENTS_ON_A_PAGE = 40
MAX_GOING = 100
MAX_FILES = 200
MAX_RUNS_ASKED = 5
"""Maximum number of runs of one task that the service is asked about. Further ones, as of a space, get one line."""
MAX_RUNS_LISTED = 300

BAR_WIDTH, BAR_GAP, CHART_HEIGHT = 7, 2, 36
BASE = 2 * CHART_HEIGHT + 4
"""The position of the bars for records, below those for durations."""

_SEEN_FOR = 10.0
"""Seconds for which the runs from Airflow's database are cached."""

_TONES = {
    Phase.ACTIVE: "active",
    Phase.SUCCEEDED: "good",
    Phase.RESTARTABLE: "bad",
    Phase.ARCHIVED: "bad",
    Phase.STOPPED: "stopped",
    Phase.SKIPPED: "stopped",
    Phase.UNKNOWN: "unknown",
}


_VERDICT_TONES = {"passed": "good", "accepted": "good", "warned": "stopped", "skipped": "stopped", "failed": "bad"}


@dataclass(frozen=True, slots=True)
class Bar:
    """One run in a chart."""

    x: int
    y: int
    height: int
    tone: str
    title: str
    is_this: bool


@dataclass(frozen=True, slots=True)
class Chart:
    """The last runs of an agent: bars of their durations, and of their records."""

    bars: tuple[Bar, ...]
    records: str
    width: int
    summary: str


@dataclass(frozen=True, slots=True)
class AgentRow:
    """One agent on the page of all agents."""

    agent_id: int
    name: str | None
    last: SeenRun
    chart: Chart
    tasks: int


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection on the page of all agents."""

    conn_id: str
    credits: Known[Any]
    problem: str | None


class _Seen:
    """The recent runs of all DAGs, cached for a few seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: list[SeenRun] = []
        self._read_at = -_SEEN_FOR

    def read(self, session: Session) -> list[SeenRun]:
        with self._lock:
            if time.monotonic() - self._read_at >= _SEEN_FOR:
                self._runs, self._read_at = recent_runs(session), time.monotonic()
            return self._runs


_seen = _Seen()


def recently_seen(session: Session) -> list[SeenRun]:
    """Return the recent runs of all DAGs; the caller removes those that the user has no access to."""
    return _seen.read(session)


def updated(view: TaskView, cached: ServiceCache) -> TaskView:
    """Return the view of a task with the newest figures of its runs that this process knows."""
    if view.conn_id is None:
        return view
    asked = [_newest(view.conn_id, run, cached) for run in view.runs[:MAX_RUNS_ASKED]]
    return replace(view, runs=(*asked, *view.runs[MAX_RUNS_ASKED:]))


def foreign_task_page() -> str:
    """Return the tab of a task that has no runs, session or checks to show, such as those of other providers."""
    return _render("foreign.html", root="../..")


def task_page(view: TaskView, cached: ServiceCache, seen: Sequence[SeenRun], *, may_act: bool) -> str:
    """Return the tab of a task of this provider.

    :param view: the task.
    :param seen: recent runs; a run is compared with those of the same DAG until the service has answered.
    :param may_act: whether the user may edit the DAG.
    """
    own_dag = [each for each in seen if each.key.dag_id == view.key.dag_id]
    shown, others = view.runs[:MAX_RUNS_ASKED], view.runs[MAX_RUNS_ASKED:]
    return _render(
        "task.html",
        root="../..",
        view=view,
        session_link=_web_address((view.session or {}).get("link")),
        runs=[_run_part(view, run, cached, own_dag) for run in shown],
        others=others[:MAX_RUNS_LISTED],
        more_others=len(others[MAX_RUNS_LISTED:]),
        may_act=may_act,
        is_under_way=actions.is_under_way(view),
        can_stop=actions.can_stop(view),
        restart=actions.restart_plan(view),
        checks=[check for check in view.checks if check.run_id not in {run.run_id for run in shown}],
        address=task_address(view.key),
        record=view.record if isinstance(view.record, RunRecord) else None,
    )


def preview(view: TaskView, cached: ServiceCache, run_id: str, file_id: str) -> str | None:
    """Return the start of a file of one of the task's runs; ``None`` if there is no such file."""
    if view.conn_id is None:
        return None
    for run in view.runs:
        listed = cached.look(questions.run_files(view.conn_id, run)).value if run.phase.is_over else None
        for file in listed.value if listed is not None else ():
            if (str(run.run_id), str(file.id)) == (run_id, file_id):
                known = cached.look(questions.file_preview(view.conn_id, run, file))
                return _render("preview.html", file=file, known=known)
    return None


def agents_page(seen: Sequence[SeenRun], cached: ServiceCache, page: int) -> str:
    """Return the page of all agents.

    :param seen: the recent runs that the user may see, newest first.
    :param page: its number, from 1.
    """
    conn_ids = sorted({each.conn_id for each in seen if each.conn_id is not None})
    names: dict[tuple[str | None, int], str | None] = {}
    connections = []
    for conn_id in conn_ids:
        known = cached.look(questions.all_agents(conn_id))
        names |= {(conn_id, agent.id): agent.name for agent in (known.value.value if known.value else ())}
        credits_left = cached.look(questions.account_credits(conn_id))
        connections.append(Connection(conn_id, credits_left, credits_left.problem or known.problem))
    by_agent: dict[tuple[str | None, int], list[SeenRun]] = {}
    for each in seen:
        by_agent.setdefault((each.conn_id, each.run.agent_id), []).append(each)
    shown = list(by_agent.items())[(page - 1) * AGENTS_ON_A_PAGE : page * AGENTS_ON_A_PAGE]
    rows = [_agent_row(agent, runs, names.get(agent), cached) for agent, runs in shown]
    going = [each for runs in by_agent.values() for each in _with_news(runs, cached) if not each.run.phase.is_over]
    return _render(
        "agents.html",
        root=".",
        connections=connections,
        rows=rows,
        going=going[:MAX_GOING],
        names=names,
        count=len(by_agent),
        page=page,
        has_more=page * AGENTS_ON_A_PAGE < len(by_agent),
    )


def chart_of(runs: Sequence[RunFacts], this: int | None = None) -> Chart:
    """Return the chart of an agent's runs.

    :param runs: newest first; the first thirty are shown, the oldest on the left.
    :param this: the run that is viewed.
    """
    shown = list(reversed(runs[: questions.BARS]))
    longest = max((run.seconds or 0.0 for run in shown), default=0.0) or 1.0
    most = max((run.records or 0 for run in shown), default=0) or 1
    bars, records = [], []
    for number, run in enumerate(shown):
        x = number * (BAR_WIDTH + BAR_GAP)
        height = max(round((run.seconds or 0.0) / longest * CHART_HEIGHT), 2)
        title = f"Run {run.run_id}: {run.status}, {_duration(run.seconds)}, {_number(run.records)} records"
        bars.append(Bar(x, CHART_HEIGHT - height, height, _TONES[run.phase], title, run.run_id == this))
        rise = max(round((run.records or 0) / most * CHART_HEIGHT), 1)
        records.append(f"M{x} {BASE}v-{rise}h{BAR_WIDTH}V{BASE}z")
    width = max(len(shown) * (BAR_WIDTH + BAR_GAP) - BAR_GAP, 1)
    return Chart(tuple(bars), "".join(records), width, _summary_of(shown))


def task_address(key: TaskKey) -> str:
    """Return the address of a task instance's page in Airflow, below its root."""
    parts = [quote(part, safe="") for part in (key.dag_id, key.run_id, key.task_id)]
    mapped = f"/mapped/{key.map_index}" if key.map_index >= 0 else ""
    return f"dags/{parts[0]}/runs/{parts[1]}/tasks/{parts[2]}{mapped}"


def _newest(conn_id: str, run: RunFacts, cached: ServiceCache) -> RunFacts:
    """Return the newest known figures of a run, and have newer ones requested."""
    is_going = not run.phase.is_over
    listed = cached.look(questions.agent_runs(conn_id, run.agent_id, is_going=is_going, is_detail=True))
    if listed.value is None:
        return run
    if (found := _facts_in(listed).get(run.run_id)) is not None:
        return _newer(run, found)
    single = cached.look(questions.run_status(conn_id, run.agent_id, run.run_id, is_going=is_going))
    if single.value is None or single.at is None:
        return run
    return _newer(run, RunFacts.from_run(single.value.value, single.at, single.value.served_at))


def _facts_in(listed: Known[Reply[Page[Run]]]) -> dict[int, RunFacts]:
    """Return what the service has listed about runs, by run id."""
    if listed.value is None or listed.at is None:
        return {}
    return {run.id: RunFacts.from_run(run, listed.at, listed.value.served_at) for run in listed.value.value}


def _newer(run: RunFacts, other: RunFacts) -> RunFacts:
    return run.with_figures_of(other) if other.at > run.at else run


def _run_part(view: TaskView, run: RunFacts, cached: ServiceCache, seen: Sequence[SeenRun]) -> dict[str, Any]:
    """Return the values that the tab shows for one run."""
    conn_id = view.conn_id
    history = _history(conn_id, run.agent_id, seen, cached)
    part: dict[str, Any] = {
        "run": run,
        "tone": _TONES[run.phase],
        "chart": chart_of(history, run.run_id) if len(history) > 1 else None,
        "comparison": _comparison(run, history),
        "link": _web_address(run.link),
        "checks": [check for check in view.checks if check.run_id == run.run_id],
        "known": None,
        "files": None,
        "diagnostics": None,
    }
    if conn_id is None:
        return part
    is_going = not run.phase.is_over
    part["known"] = cached.look(questions.agent_runs(conn_id, run.agent_id, is_going=is_going, is_detail=True))
    if run.phase.is_over:
        part["files"] = cached.look(questions.run_files(conn_id, run))
    if run.phase in (Phase.RESTARTABLE, Phase.ARCHIVED):
        part["diagnostics"] = cached.look(questions.diagnostics(conn_id, run))
    return part


def _web_address(link: object) -> str | None:
    """Return a link that a task stored if it leads to a web page: users can edit XComs."""
    return link if isinstance(link, str) and link.startswith(("https://", "http://")) else None


def _history(conn_id: str | None, agent_id: int, seen: Iterable[SeenRun], cached: ServiceCache) -> list[RunFacts]:
    """Return the newest runs of an agent, newest first: those of tasks, and those that the service listed."""
    runs = {each.run.run_id: each.run for each in seen if each.run.agent_id == agent_id and each.conn_id == conn_id}
    if conn_id is not None:
        listed = cached.peek(questions.agent_runs(conn_id, agent_id, is_going=False, is_detail=False))
        for run_id, facts in _facts_in(listed).items():
            runs[run_id] = _newer(runs[run_id], facts) if run_id in runs else facts
    return sorted(runs.values(), key=lambda run: run.run_id, reverse=True)


def _with_news(runs: Sequence[SeenRun], cached: ServiceCache) -> list[SeenRun]:
    """Return runs of one agent with the newest figures; seemingly active ones are polled."""
    if all(each.run.phase.is_over or each.conn_id is None for each in runs):
        return list(runs)
    conn_id, agent_id = runs[0].conn_id or "", runs[0].run.agent_id
    facts = _facts_in(cached.look(questions.agent_runs(conn_id, agent_id, is_going=True, is_detail=False)))
    return [
        replace(each, run=_newer(each.run, facts[each.run.run_id])) if each.run.run_id in facts else each
        for each in runs
    ]


def _agent_row(
    agent: tuple[str | None, int], runs: Sequence[SeenRun], name: str | None, cached: ServiceCache
) -> AgentRow:
    conn_id, agent_id = agent
    history = _history(conn_id, agent_id, runs, cached)
    tasks = {(each.key.dag_id, each.key.task_id) for each in runs}
    name = name or next((run.agent_name for run in history if run.agent_name), None)
    return AgentRow(agent_id, name, _with_news(runs[:1], cached)[0], chart_of(history), len(tasks))


def _comparison(run: RunFacts, history: Sequence[RunFacts]) -> str | None:
    """Return how long runs of the agent usually take and how many records they extract."""
    good = [each for each in history if each.phase is Phase.SUCCEEDED and each.run_id != run.run_id]
    if not good:
        return None
    count = "The other successful run" if len(good) == 1 else f"The median of {len(good)} successful runs"
    seconds = [each.seconds for each in good if each.seconds is not None]
    records = [each.records for each in good if each.records is not None]
    facts = [_duration(statistics.median(seconds))] if seconds else []
    facts += [f"{_number(round(statistics.median(records)))} records"] if records else []
    return f"{count}: {', '.join(facts)}." if facts else None


def _summary_of(shown: Sequence[RunFacts]) -> str:
    good = sum(run.phase is Phase.SUCCEEDED for run in shown)
    return f"The last {len(shown)} runs, oldest first; {good} succeeded. Above: duration. Below: records."


def _duration(seconds: float | None) -> str:
    return "duration unknown" if seconds is None else format_seconds(seconds)


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _age(at: datetime | None) -> str:
    if at is None:
        return "never"
    return f"{format_seconds(max((datetime.now(UTC) - at).total_seconds(), 0.0))} ago"


def _shown_files(listed: Iterable[RunFile]) -> list[RunFile]:
    return [file for file in sorted(listed, key=lambda file: file.id) if file.kind != INTERNAL][:MAX_FILES]


@cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("airflow_provider_sequentum.ui"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "age": _age,
        "duration": _duration,
        "number": _number,
        "credits": lambda amount: f"{amount:,.10g} credit{'' if amount == 1 else 's'}",
        "size": lambda size: "?" if size is None else format_size(size),
        "shown_files": _shown_files,
        "tone": _TONES.__getitem__,
        "verdict_tone": lambda verdict: _VERDICT_TONES.get(verdict, "unknown"),
        "address": task_address,
        "escaped_id": lambda text: quote(text, safe=""),
    }
    return templates


def _render(name: str, **values: Any) -> str:
    return _templates().get_template(name).render(values)
