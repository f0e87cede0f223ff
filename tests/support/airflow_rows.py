"""Rows of Airflow's own database (3.1 and later), as the scheduler and the workers would have written them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.models import DagModel, DagRun, TaskInstance
from airflow.models.dagbundle import DagBundleModel
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.xcom import XComModel
from airflow.utils.state import DagRunState
from sqlalchemy import insert, select

from airflow_provider_sequentum.spaces.describe import bounded_summaries

TASK = {
    "map_index": -1,
    "operator": "StartAgentRunOperator",
    "state": "running",
    "try_number": 1,
    "max_tries": 0,
    "pool": "default_pool",
    "pool_slots": 1,
    "queue": "default",
    "start_date": datetime.now(UTC) - timedelta(minutes=1),
}


def add_task(session: Any, dag_id: str, run_id: str, task_id: str, **columns: Any) -> Any:
    """Add a task instance and what it needs; return its DAG run."""
    if session.get(DagModel, dag_id) is None:
        if session.get(DagBundleModel, "dags") is None:
            session.add(DagBundleModel(name="dags"))
            session.flush()
        session.add(DagModel(dag_id=dag_id, bundle_name="dags", fileloc="/dags/x.py"))  # type: ignore[no-untyped-call]
        session.flush()
    run = session.query(DagRun).filter_by(dag_id=dag_id, run_id=run_id).one_or_none()
    if run is None:
        now = datetime.now(UTC)
        run = DagRun(
            dag_id=dag_id, run_id=run_id, run_type="manual", run_after=now, start_date=now, state=DagRunState.SUCCESS
        )
        session.add(run)
        session.flush()
    task = _unfilled(TaskInstance)
    values = {**TASK, "dag_id": dag_id, "run_id": run_id, "task_id": task_id, **columns}
    for name, value in values.items():
        setattr(task, name, value)
    session.add(task)
    session.flush()
    return run


def add_xcom(session: Any, run: Any, task_id: str, key: str, value: Any, age: timedelta = timedelta(0)) -> None:
    """Push an XCom in the form in which Airflow keeps it."""
    names = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": task_id, "map_index": -1}
    at = datetime.now(UTC) - age
    session.add(XComModel(dag_run_id=run.id, key=key, value=json.dumps(value), timestamp=at, **names))


def add_rendered_fields(session: Any, run: Any, task_id: str, **fields: Any) -> None:
    """Store the rendered template fields of a task."""
    row = _unfilled(RenderedTaskInstanceFields)
    row.dag_id, row.run_id, row.task_id, row.map_index, row.rendered_fields = (
        run.dag_id, run.run_id, task_id, -1, fields,
    )  # fmt: skip
    session.add(row)


def add_history(session: Any, dag_id: str, *, count: int, agents: int, first_agent_id: int, conn_id: str) -> None:
    """Add runs of agents that ended long ago, without the detours of the models: there may be thousands."""
    add_task(session, dag_id, "first_of_all", "other", operator="EmptyOperator", state="success")
    session.flush()
    now = datetime.now(UTC)
    names = [{"dag_id": dag_id, "run_id": f"past_{number}"} for number in range(count)]
    common = {"run_type": "manual", "run_after": now, "start_date": now, "end_date": now, "state": "success"}
    session.execute(insert(DagRun.__table__), [{**name, **common, "logical_date": None} for name in names])
    ids = dict(session.execute(select(DagRun.run_id, DagRun.id).where(DagRun.dag_id == dag_id)).all())
    task = {**TASK, "task_id": "extract", "state": "success", "end_date": now}
    session.execute(insert(TaskInstance.__table__), [{**task, **name} for name in names])
    place = {"task_id": "extract", "map_index": -1}
    xcoms = [
        {
            **place,
            **name,
            "dag_run_id": ids[name["run_id"]],
            "key": "run",
            "value": json.dumps(_past_summary(number, first_agent_id + number % agents)),
            "timestamp": now - timedelta(minutes=count - number),
        }
        for number, name in enumerate(names)
    ]
    session.execute(insert(XComModel.__table__), xcoms)
    fields = {"rendered_fields": {"sequentum_conn_id": conn_id}}
    session.execute(insert(RenderedTaskInstanceFields.__table__), [{**place, **name, **fields} for name in names])


def add_space(session: Any, dag_id: str, run_id: str, *, count: int) -> None:
    """Add a task that ran all agents of a space a day ago, in the place of a task of the DAG."""
    run = add_task(session, dag_id, run_id, "extract", operator="StartSpaceRunsOperator", state="success")
    summaries = bounded_summaries([_past_summary(number, 5000 + number) for number in range(count)])
    add_xcom(session, run, "extract", "runs", summaries, timedelta(days=1))
    add_rendered_fields(session, run, "extract", sequentum_conn_id="sequentum_default")


def _past_summary(number: int, agent_id: int) -> dict[str, Any]:
    status = ("Failure", "Stopped")[number % 2] if number % 11 == 0 else "Success"
    return {
        "agent_id": agent_id,
        "run_id": 100_000 + number,
        "status": status,
        "records": 400 + (number * 37) % 250,
        "errors": 0,
        "pages": 20,
        "seconds": 60 + (number * 13) % 45,
    }


def _unfilled(model: Any) -> Any:
    """Return a row whose constructor, which wants an operator, was not called."""
    row = model.__new__(model)
    model.__mapper__.class_manager.setup_instance(row)
    return row
