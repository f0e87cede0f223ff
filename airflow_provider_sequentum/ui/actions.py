"""The actions of the tab: stop, kill and restart. They use the code of the operators, and are audited."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.models.log import Log

from airflow_provider_sequentum.exceptions import SequentumException, client_errors_as_exceptions
from airflow_provider_sequentum.hooks.connection import SequentumConnection
from airflow_provider_sequentum.hooks.port import ClientPort
from airflow_provider_sequentum.runs.phases import Phase
from airflow_provider_sequentum.runs.record import RunPolicies, RunRecord
from airflow_provider_sequentum.runs.stop import stop_runs
from airflow_provider_sequentum.ui.tasks import TaskKey, TaskView, last_action, lock_task, records_in, replace_record

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
    from sqlalchemy.orm import Session


Verb = Literal["stop", "kill"]

MAX_STOP_DURATION = timedelta(minutes=3)
"""If there is no result this long after the task's ``stop_grace``, the API server that stopped the run has died."""

AT_REST = frozenset({"success", "failed", "skipped", "up_for_retry"})
"""States of a task instance that no worker or triggerer works on."""

DEFAULT_GRACE: float = RunPolicies.model_fields["stop_grace"].default

_one_at_a_time = threading.Lock()
"""Serializes the requests of this process, because SQLite does not lock rows."""

log = logging.getLogger(__name__)


class Impossible(Exception):
    """The action is not possible; the message states why."""


@dataclass(frozen=True, slots=True)
class RestartPlan:
    """The effect of clearing the task.

    :param is_in_place: whether the next attempt restarts the run in place, rather than starting a new one.
    """

    is_in_place: bool


def can_stop(view: TaskView) -> bool:
    """Return whether the task has runs of its own that may be running."""
    return view.owns_runs and view.conn_id is not None and bool(view.going)


def restart_plan(view: TaskView) -> RestartPlan | None:
    """Return what a restart of the task does to its run; ``None`` if there is nothing to restart."""
    if not view.owns_runs or not view.runs or view.going or view.state not in AT_REST:
        return None
    record, run = view.record, view.runs[-1]
    is_in_place = (
        view.keeps_records
        and isinstance(record, RunRecord)
        and record.run_id == run.run_id
        and run.phase is Phase.RESTARTABLE
        and not record.is_rejected
        and record.config.retry_mode != "new"
    )
    return RestartPlan(is_in_place)


def is_under_way(view: TaskView) -> bool:
    """Return whether the last action may still be in progress."""
    last = view.action
    longest = timedelta(seconds=grace_of(view)) + MAX_STOP_DURATION
    return last is not None and not last.is_over and datetime.now(UTC) - last.at < longest


class Audit:
    """The row of Airflow's audit log about one action: written before it, and updated with the result.

    :param event: one of :data:`~.tasks.ACTION_EVENTS`.
    :param user: the user who requested it.
    """

    def __init__(self, session: Session, event: str, user: BaseUser, view: TaskView) -> None:
        name = user.get_name()
        key = view.key
        number = view.attempts[-1].number if view.attempts else None
        self._row = Log(
            event,
            owner=name,
            owner_display_name=name,
            dag_id=key.dag_id,
            task_id=key.task_id,
            run_id=key.run_id,
            map_index=key.map_index,
            try_number=number,
        )
        self._facts: dict[str, Any] = {"runs": [[run.agent_id, run.run_id] for run in view.runs]}
        self._row.extra = self._extra("It was requested.", is_over=False)
        session.add(self._row)
        session.commit()
        self.id: int = self._row.id

    def finish(self, session: Session, outcome: str) -> None:
        """Save the result."""
        row = session.get(Log, self.id)
        if row is not None:
            row.extra = self._extra(outcome, is_over=True)
            session.commit()

    def _extra(self, outcome: str, *, is_over: bool) -> str:
        return json.dumps({**self._facts, "outcome": outcome, "is_over": is_over})


def stop(
    session: Session,
    view: TaskView,
    verb: Verb,
    user: BaseUser,
    new_session: Callable[[], AbstractContextManager[Session]],
    when_done: Callable[[], None],
) -> None:
    """Stop or kill the task's runs in a thread, as the operators do, and write to the audit log.

    :param new_session: opens a session for the thread.
    :param when_done: called at the end.
    :raises Impossible: there is nothing to stop, or it is already being stopped.
    """
    if not can_stop(view) or view.conn_id is None:
        raise Impossible("The task has no run that may be running.")
    conn_id = view.conn_id
    with _one_at_a_time:
        lock_task(session, view.key)
        view = replace(view, action=last_action(session, view.key))
        last = view.action
        if last is not None and is_under_way(view) and last.verb in (verb, "kill"):
            raise Impossible(f"{last.who} has already requested this.")
        audit = Audit(session, f"sequentum_{verb}", user, view)
    records, grace = records_of(view), 0.0 if verb == "kill" else grace_of(view)

    def work() -> None:
        try:
            outcome = _stop_all(conn_id, records, grace)
        except SequentumException as error:
            outcome = f"Nothing was stopped. {error}"
        except Exception:
            log.exception("Stopping %s failed.", records)
            outcome = "Stopping failed; see the API server's log."
        with new_session() as own:
            audit.finish(own, outcome)
        when_done()

    threading.Thread(target=work, name=f"sequentum-ui-{verb}", daemon=True).start()


def records_of(view: TaskView) -> list[RunRecord]:
    """Return the records of the runs to stop; that of the task states whether a run was just restarted."""
    own = {(record.agent_id, record.run_id): record for record in records_in(view.record)}
    return [
        own.get((run.agent_id, run.run_id)) or RunRecord(agent_id=run.agent_id, run_id=run.run_id) for run in view.going
    ]


def grace_of(view: TaskView) -> float:
    """Return the seconds that the task gives its runs to wind down."""
    return view.record.config.stop_grace if view.record is not None else DEFAULT_GRACE


def restart(session: Session, view: TaskView, user: BaseUser, clear: Callable[[dict[str, Any]], None]) -> str:
    """Clear the task, so that its next attempt restarts the run in place, or starts a new one.

    :param clear: sends a body to Airflow's own endpoint, with the permissions of the user; raises :class:`Impossible`.
    :return: what happens next.
    :raises Impossible: it cannot be restarted.
    """
    plan = restart_plan(view)
    if plan is None:
        raise Impossible("The task or one of its runs is still active, or it has no run of its own.")
    record = view.record if plan.is_in_place and isinstance(view.record, RunRecord) else None
    audit = Audit(session, "sequentum_restart", user, view)
    try:
        # Without max_tries, the next attempt does not start over because of the clear.
        if record is not None and not replace_record(session, view.key, record, record.updated(max_tries=None)):
            raise Impossible("The task has just been started again.")
        clear(clear_body(view.key))
    except Exception as error:
        if record is not None:
            replace_record(session, view.key, record.updated(max_tries=None), record)
        audit.finish(session, f"Airflow did not clear the task: {error}")
        raise
    outcome = "The task was cleared; its next attempt " + (
        "restarts the run in place." if plan.is_in_place else "starts a new run."
    )
    audit.finish(session, outcome)
    return outcome


def clear_body(key: TaskKey) -> dict[str, Any]:
    """Return the body for Airflow's clear endpoint: the task and its downstream tasks, keeping the run's record."""
    from airflow.api_fastapi.core_api.datamodels.task_instances import ClearTaskInstancesBody

    body: dict[str, Any] = {
        "dry_run": False,
        "dag_run_id": key.run_id,
        "task_ids": [key.task_id] if key.map_index < 0 else [[key.task_id, key.map_index]],
        "only_failed": False,
        "include_downstream": True,
        "reset_dag_runs": True,
    }
    # Keep what the task stored for its next attempt, and refuse to clear a task that another user has just cleared and
    # that is running again. Versions of Airflow that lack one of these fields refuse it.
    wanted = {"keep_task_state": True, "prevent_running_task": True}
    return body | {name: value for name, value in wanted.items() if name in ClearTaskInstancesBody.model_fields}


def _stop_all(conn_id: str, records: Sequence[RunRecord], grace: float) -> str:
    hook = SequentumConnection(conn_id)
    try:
        with client_errors_as_exceptions(conn_id):
            stoppers = stop_runs(ClientPort(hook), records, grace)
    finally:
        hook.close()
    return " ".join(f"{stopper.name}: {stopper.sentence}" for stopper in stoppers)
