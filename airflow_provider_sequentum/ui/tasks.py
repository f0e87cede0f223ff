"""The data about the provider's tasks in Airflow's database: their runs, attempts, connection and record."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from airflow.models.log import Log
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.models.xcom import XComModel
from airflow.utils.state import State
from sqlalchemy import Text, and_, cast, func, select, tuple_

from airflow_provider_sequentum.api.run_status import parse_run_status, status_name
from airflow_provider_sequentum.api.text import safe_json
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.run_records import RECORDS_KEY
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from airflow_provider_sequentum.reporting.links import RUN_SUMMARY_KEY, SESSION_SUMMARY_KEY
from airflow_provider_sequentum.runs.phases import Phase, phase_of_status
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.spaces.attempt import RUNS_KEY
from airflow_provider_sequentum.spaces.record import SpaceRecord
from airflow_provider_sequentum.ui.task_link import OTHERS, OWNERS

try:
    from airflow.models.task_state_store import TaskStateStoreModel
except ImportError:  # before Airflow 3.3
    TaskStateStoreModel = None  # type: ignore[assignment, misc]

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_provider_sequentum.api.runs import Run

MAX_RECENT = 6000
"""Maximum number of summaries of runs to read for the page of all agents: thirty runs of two hundred agents."""

MAX_XCOM_LENGTH = 100_000
"""Maximum characters of an XCom to read. Those of the provider are shorter; others may use the same keys."""
_IS_SHORT = func.length(cast(XComModel.value, Text)) <= MAX_XCOM_LENGTH

MAX_ID_LENGTH = 20

MAX_CHECKS = 100
"""Maximum number of reports of checks to read for one DAG run."""

ACTION_EVENTS = ("sequentum_stop", "sequentum_kill", "sequentum_restart")
"""The events in Airflow's audit log for the actions of the tab."""

_RECORDS: Mapping[str, type[RunRecord | SpaceRecord]] = {
    StartAgentRunOperator.state_key: RunRecord,
    StartSpaceRunsOperator.state_key: SpaceRecord,
}
"""The records that tasks keep, by the key under which they are stored."""
_OWNERS = tuple(operator.__name__ for operator in OWNERS)
_OTHERS = tuple(operator.__name__ for operator in OTHERS)


@dataclass(frozen=True, slots=True)
class TaskKey:
    """The key of a task instance."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    def matches(self, model: Any) -> Any:
        """Return the condition that a row of a model belongs to this task instance."""
        return and_(
            model.dag_id == self.dag_id,
            model.run_id == self.run_id,
            model.task_id == self.task_id,
            model.map_index == self.map_index,
        )


class TaskCost(NamedTuple):
    """The cost of all runs of a task, including all attempts, restarts and clears.

    :param credits: the sum.
    :param runs: the number of runs in the sum.
    :param is_complete: whether the costs of all runs are known.
    """

    credits: float
    runs: int
    is_complete: bool

    @classmethod
    def from_summary(cls, value: object) -> Self | None:
        """Return the cost in the summary of a run; ``None`` if there is none."""
        if not isinstance(value, Mapping) or not isinstance(value.get("runs"), list):
            return None
        credits_ = _float(value.get("credits"))
        return None if credits_ is None else cls(credits_, len(value["runs"]), value.get("is_complete") is True)


@dataclass(frozen=True, slots=True)
class RecordsCheck:
    """The report of a task that checked the records of a run.

    :param task_id: the task.
    :param breaches: one line for each breach, the worst first.
    :param more_breaches: the number of further breaches.
    :param page: the address of the report's own page.
    """

    task_id: str
    map_index: int
    agent_id: int
    run_id: int
    verdict: str
    records: int | None
    breaches: tuple[str, ...]
    more_breaches: int
    quarantined_records: int
    page: str | None

    @classmethod
    def from_summary(cls, task_id: str, map_index: int, summary: object) -> Self | None:
        """Return the report in an XCom; ``None`` if it is not a report."""
        if not isinstance(summary, Mapping):
            return None
        agent_id, run_id = _integer(summary.get("agent_id")), _integer(summary.get("run_id"))
        verdict, lines = _text(summary.get("verdict")), summary.get("breaches")
        if not agent_id or not run_id or verdict is None:
            return None
        return cls(
            task_id=task_id,
            map_index=map_index,
            agent_id=agent_id,
            run_id=run_id,
            verdict=verdict,
            records=_integer(summary.get("records")),
            breaches=tuple(str(line) for line in lines) if isinstance(lines, list) else (),
            more_breaches=_integer(summary.get("more_breaches")) or 0,
            quarantined_records=_integer(summary.get("quarantined_records")) or 0,
            page=_text(summary.get("page")),
        )


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The known facts about a run, and when they were read.

    :param at: when the figures were read from the service, on Airflow's clock.
    :param by_task: whether the task read them, rather than this API server.
    """

    agent_id: int
    run_id: int
    status: str
    phase: Phase
    at: datetime
    by_task: bool
    pages: int | None = None
    records: int | None = None
    exported: int | None = None
    errors: int | None = None
    seconds: float | None = None
    created: datetime | None = None
    message: str | None = None
    cost: float | None = None
    task_cost: TaskCost | None = None
    note: str | None = None
    link: str | None = None
    agent_name: str | None = None

    @classmethod
    def from_run(cls, run: Run, at: datetime, served_at: datetime | None) -> Self:
        """Return the facts about a run that was just read from the service."""
        seconds: float | None = run.run_time_sec
        until = run.end_time or served_at
        if run.started_at is not None and until is not None and (seconds is None or run.end_time is None):
            seconds = max((until - run.started_at).total_seconds(), 0.0)
        return cls(
            agent_id=run.agent_id,
            run_id=run.id,
            status=status_name(run.status),
            phase=phase_of_status(run.status, run.table_type),
            at=at,
            by_task=False,
            pages=run.page_count,
            records=run.data_count,
            exported=run.export_count,
            errors=run.error_count,
            seconds=seconds,
            created=run.created or run.started_at,
            message=run.message,
            agent_name=run.config_name,
        )

    @classmethod
    def from_summary(cls, summary: object, at: datetime) -> Self | None:
        """Return the facts in a summary that a task pushed; ``None`` if it is not that of a run."""
        if not isinstance(summary, Mapping):
            return None
        agent_id, run_id = _integer(summary.get("agent_id")), _integer(summary.get("run_id"))
        if not agent_id or not run_id:
            return None
        status = parse_run_status(summary.get("status"))
        seconds = _float(summary.get("seconds"))
        return cls(
            agent_id=agent_id,
            run_id=run_id,
            status=status_name(status),
            phase=phase_of_status(status),
            at=at,
            by_task=True,
            pages=_integer(summary.get("pages")),
            records=_integer(summary.get("records")),
            exported=_integer(summary.get("exported")),
            errors=_integer(summary.get("errors")),
            seconds=_lasted(summary) if seconds is None else seconds,
            created=_time(summary.get("created")) or _time(summary.get("started")),
            message=_text(summary.get("message")),
            cost=_float(summary.get("cost")),
            task_cost=TaskCost.from_summary(summary.get("task_cost")),
            note=_text(summary.get("note")),
            link=_text(summary.get("link")),
        )

    def with_figures_of(self, newer: RunFacts) -> RunFacts:
        """Return the current figures of the service, with the fields that only the task knows."""
        return replace(newer, cost=self.cost, task_cost=self.task_cost, note=self.note, link=self.link)


@dataclass(frozen=True, slots=True)
class SeenRun:
    """A run, its task instance, and the connection that it used, as far as Airflow still knows it."""

    key: TaskKey
    run: RunFacts
    conn_id: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a task instance."""

    number: int
    state: str | None
    start: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Action:
    """The last action on the tab, from Airflow's audit log."""

    verb: str
    who: str
    at: datetime
    outcome: str
    is_over: bool


@dataclass(frozen=True, slots=True)
class TaskView:
    """The data about a task instance of this provider in Airflow.

    :param runs: the runs; active ones come first, then failed ones.
    :param other_agents: agents of runs that are not shown, because the task's parameters name another agent.
    :param checks: the reports on the task's runs, of this task and of others in the DAG run.
    :param owns_runs: whether the runs are the task's own: it started them and stops them.
    :param conn_id: the connection of the runs; ``None`` if the task's parameters are not known, or name another one.
    :param record: the record that the task keeps for its next attempt, if it can be read.
    :param keeps_records: whether this version of Airflow keeps records across attempts.
    :param max_tries: the maximum number of an attempt.
    """

    key: TaskKey
    state: str | None
    operator: str
    attempts: tuple[Attempt, ...]
    max_tries: int
    conn_id: str | None
    runs: tuple[RunFacts, ...]
    other_agents: tuple[int, ...]
    checks: tuple[RecordsCheck, ...]
    session: Mapping[str, Any] | None
    owns_runs: bool
    record: RunRecord | SpaceRecord | None
    keeps_records: bool
    action: Action | None

    @property
    def is_over(self) -> bool:
        """Whether the task has ended."""
        return self.state in State.finished

    @property
    def going(self) -> list[RunFacts]:
        """The runs that may still be running."""
        return [run for run in self.runs if not run.phase.is_over]


def find_task(session: Session, key: TaskKey) -> TaskView | None:
    """Return the data about a task instance; ``None`` if there is nothing of this provider to show."""
    task = session.scalar(select(TaskInstance).where(key.matches(TaskInstance)))
    if task is None:
        return None
    operator = task.operator or ""
    xcoms = _xcoms_of(session, key)
    rendered = session.scalar(
        select(RenderedTaskInstanceFields.rendered_fields).where(key.matches(RenderedTaskInstanceFields))
    )
    record = _record_of(session, key, xcoms)
    found = list(_runs_of(xcoms, record))
    # Users can edit XComs, but not the parameters, which determine whose files and figures the tasks may read.
    agent_id = _agent_id_in(rendered)
    runs = tuple(sorted((run for run in found if agent_id in (None, run.agent_id)), key=_without_interest))
    summary, _ = xcoms.get(SESSION_SUMMARY_KEY, (None, None))
    summary = safe_json(summary)
    builder_session = summary if isinstance(summary, Mapping) and "session_id" in summary else None
    if operator not in (*_OWNERS, *_OTHERS) and not found and builder_session is None:
        return None
    return TaskView(
        key=key,
        state=task.state,
        operator=operator,
        attempts=_attempts_of(session, key, task),
        max_tries=task.max_tries,
        conn_id=_conn_id_of(record, rendered),
        runs=runs,
        other_agents=tuple({run.agent_id for run in found if run not in runs}),
        checks=tuple(_checks_of(session, key, runs)),
        session=builder_session,
        owns_runs=record is not None or operator in _OWNERS,
        record=record,
        keeps_records=TaskStateStoreModel is not None,
        action=last_action(session, key),
    )


def recent_runs(session: Session) -> list[SeenRun]:
    """Return the runs that the tasks of all DAGs have pushed, newest first."""
    columns = (XComModel.dag_id, XComModel.run_id, XComModel.task_id, XComModel.map_index)
    query = (
        select(*columns, XComModel.value, XComModel.timestamp)
        .where(XComModel.key.in_((RUN_SUMMARY_KEY, RUNS_KEY)), _IS_SHORT)
        .order_by(XComModel.timestamp.desc())
        .limit(MAX_RECENT)
    )
    found = [
        (TaskKey(*row[:4]), run)
        for row in session.execute(query)
        for summary in _summaries_in(decoded(row.value))
        if (run := RunFacts.from_summary(summary, row.timestamp)) is not None
    ]
    newest: dict[tuple[str, str], TaskKey] = {}
    for key, _ in found:
        newest.setdefault((key.dag_id, key.task_id), key)
    conn_ids = _rendered_conn_ids(session, newest.values())
    return [SeenRun(key, run, conn_ids.get((key.dag_id, key.task_id))) for key, run in found]


def replace_record(session: Session, key: TaskKey, old: RunRecord, new: RunRecord) -> bool:
    """Replace the record of a task, unless the task has changed it; return whether it was replaced.

    :param old: the record as it was read.
    """
    query = _stored_rows(key).where(TaskStateStoreModel.key == StartAgentRunOperator.state_key)
    row = session.scalar(query.with_for_update().execution_options(populate_existing=True))
    is_unchanged = row is not None and _read(RunRecord, decoded(row.value)) == old
    if is_unchanged:
        row.value = json.dumps(new.to_json())
    session.commit()
    return is_unchanged


def lock_task(session: Session, key: TaskKey) -> None:
    """Make requests of other API servers for the same task wait until the session is committed or closed."""
    session.execute(select(TaskInstance.task_id).where(key.matches(TaskInstance)).with_for_update())


def last_action(session: Session, key: TaskKey) -> Action | None:
    """Return the last action on the tab of a task."""
    query = select(Log).where(key.matches(Log), Log.event.in_(ACTION_EVENTS)).order_by(Log.id.desc()).limit(1)
    row = session.scalar(query)
    if row is None or row.dttm is None:
        return None
    extra = decoded(row.extra or "")
    facts = extra if isinstance(extra, dict) else {}
    return Action(
        verb=row.event.removeprefix("sequentum_"),
        who=row.owner_display_name or row.owner or "unknown",
        at=row.dttm,
        outcome=str(facts.get("outcome") or ""),
        is_over=bool(facts.get("is_over")),
    )


def decoded(value: object) -> object:
    """Return the value of an XCom. Airflow stores it as JSON, or as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _xcoms_of(session: Session, key: TaskKey) -> dict[str, tuple[object, datetime]]:
    wanted = (RUN_SUMMARY_KEY, RUNS_KEY, SESSION_SUMMARY_KEY, *_RECORDS)
    query = select(XComModel.key, XComModel.value, XComModel.timestamp)
    rows = session.execute(query.where(key.matches(XComModel), XComModel.key.in_(wanted), _IS_SHORT))
    return {row.key: (decoded(row.value), row.timestamp) for row in rows}


def _checks_of(session: Session, key: TaskKey, runs: Collection[RunFacts]) -> Iterable[RecordsCheck]:
    """Yield the reports in the DAG run that are this task's own, or about one of its runs."""
    in_dag_run = (XComModel.dag_id == key.dag_id, XComModel.run_id == key.run_id, XComModel.key == RECORDS_KEY)
    query = select(XComModel.task_id, XComModel.map_index, XComModel.value).where(*in_dag_run, _IS_SHORT)
    own = {(run.agent_id, run.run_id) for run in runs}
    for row in session.execute(query.order_by(XComModel.timestamp.desc()).limit(MAX_CHECKS)):
        check = RecordsCheck.from_summary(row.task_id, row.map_index, safe_json(decoded(row.value)))
        is_own = (row.task_id, row.map_index) == (key.task_id, key.map_index)
        if check is not None and (is_own or (check.agent_id, check.run_id) in own):
            yield check


def _stored_rows(key: TaskKey) -> Any:
    return select(TaskStateStoreModel).where(key.matches(TaskStateStoreModel))


def _record_of(
    session: Session, key: TaskKey, xcoms: Mapping[str, tuple[object, datetime]]
) -> RunRecord | SpaceRecord | None:
    values = {name: xcoms[name][0] for name in _RECORDS if name in xcoms}
    if TaskStateStoreModel is not None:
        rows = session.scalars(_stored_rows(key).where(TaskStateStoreModel.key.in_(_RECORDS)))
        values |= {row.key: decoded(row.value) for row in rows}
    found = (_read(_RECORDS[name], value) for name, value in values.items())
    return next((record for record in found if record is not None), None)


def _read(kind: type[RunRecord | SpaceRecord], value: object) -> RunRecord | SpaceRecord | None:
    try:
        return kind.from_json(value)
    except ValueError:  # of another version, or a reference of a state store's own backend
        return None


def _runs_of(
    xcoms: Mapping[str, tuple[object, datetime]], record: RunRecord | SpaceRecord | None
) -> Iterable[RunFacts]:
    """Yield the task's runs: those it has pushed, and those in its record that it has not pushed yet."""
    found: dict[tuple[int, int], RunFacts] = {}
    for key in (RUN_SUMMARY_KEY, RUNS_KEY):
        value, at = xcoms.get(key, (None, datetime.now(UTC)))
        for summary in _summaries_in(value):
            if (run := RunFacts.from_summary(summary, at)) is not None:
                found[run.agent_id, run.run_id] = run
    for own in records_in(record):
        unread = RunFacts(own.agent_id, own.run_id or 0, "Unknown", Phase.UNKNOWN, own.requested_at, by_task=True)
        found.setdefault((own.agent_id, own.run_id or 0), unread)
    return found.values()


def _without_interest(run: RunFacts) -> int:
    """Return how little there is to do about a run."""
    if not run.phase.is_over:
        return 0
    return 2 if run.phase is Phase.SUCCEEDED else 1


def records_in(record: RunRecord | SpaceRecord | None) -> list[RunRecord]:
    """Return the records of the runs in the record of a task."""
    if isinstance(record, SpaceRecord):
        return list(record.known_runs.values())
    return [record] if record is not None and record.run_id is not None else []


def _summaries_in(value: object) -> Sequence[object]:
    # Users can edit XComs, and other tasks can use the same keys: one of them must not break the page of all agents.
    safe = safe_json(value)
    return safe if isinstance(safe, list) else [safe]


def _conn_id_of(record: RunRecord | SpaceRecord | None, rendered: Mapping[str, Any] | None) -> str | None:
    """Return the connection that the task's parameters name; ``None`` if its run was started with another one.

    Users can edit records, but not the parameters, which determine whose runs they may see and stop.
    """
    conn_id = _text((rendered or {}).get("sequentum_conn_id"))
    is_other = record is not None and record.config.sequentum_conn_id != conn_id
    return None if is_other else conn_id


def _agent_id_in(rendered: Mapping[str, Any] | None) -> int | None:
    """Return the agent that the task's parameters name; ``None`` where they name none, or by its name."""
    text = str((rendered or {}).get("agent_id") or "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < MAX_ID_LENGTH else None


def _rendered_conn_ids(session: Session, keys: Collection[TaskKey]) -> dict[tuple[str, str], str]:
    fields = RenderedTaskInstanceFields
    ids = [(key.dag_id, key.run_id, key.task_id, key.map_index) for key in keys]
    found = {}
    for start in range(0, len(ids), 200):
        query = select(fields.dag_id, fields.task_id, fields.rendered_fields).where(
            tuple_(fields.dag_id, fields.run_id, fields.task_id, fields.map_index).in_(ids[start : start + 200])
        )
        for row in session.execute(query):
            if conn_id := _text((row.rendered_fields or {}).get("sequentum_conn_id")):
                found[row.dag_id, row.task_id] = conn_id
    return found


def _attempts_of(session: Session, key: TaskKey, task: TaskInstance) -> tuple[Attempt, ...]:
    history = TaskInstanceHistory
    columns = (history.try_number, history.state, history.start_date, history.end_date)
    rows = session.execute(select(*columns).where(key.matches(history)).order_by(history.try_number))
    attempts = {row.try_number: Attempt(*row) for row in rows}
    if task.start_date is not None:
        attempts[task.try_number] = Attempt(task.try_number, task.state, task.start_date, task.end_date)
    return tuple(attempts[number] for number in sorted(attempts))


def _lasted(summary: Mapping[Any, Any]) -> float | None:
    started, ended = _time(summary.get("started")), _time(summary.get("ended"))
    return (ended - started).total_seconds() if started is not None and ended is not None else None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _float(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _time(value: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time if time is None or time.tzinfo else time.replace(tzinfo=UTC)
