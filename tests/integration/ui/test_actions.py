"""What the buttons do: exactly one effect each, an entry in the audit log, and who it was."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from airflow.api_fastapi.core_api.datamodels.task_instances import ClearTaskInstancesBody
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session

from airflow_provider_sequentum.runs.record import RunConfig, RunRecord
from airflow_provider_sequentum.sandbox import RunPlan
from airflow_provider_sequentum.ui import actions, tasks
from tests.integration.ui.conftest import RUN_ID, store
from tests.support import airflow_rows as rows

try:
    from airflow.models.task_state_store import TaskStateStoreModel
except ImportError:  # before Airflow 3.3
    TaskStateStoreModel = None  # type: ignore[assignment, misc]

if TYPE_CHECKING:
    from tests.integration.ui.conftest import Stage

ENDLESS = RunPlan(outcome="Running")
FAILING = RunPlan(outcome="Failure", duration=0.0)

KEEPS_RECORDS = pytest.mark.skipif(
    find_spec("airflow.models.task_state_store") is None, reason="This Airflow keeps nothing between attempts."
)


def outcome(stage: Stage) -> dict[str, Any]:
    """Wait for the end of the last action, and return what the audit log says of it."""

    def over() -> dict[str, Any] | None:
        facts: dict[str, Any] = json.loads(stage.logs()[-1].extra)
        return facts if facts["is_over"] else None

    found: dict[str, Any] = stage.until(over)
    return found


def saved_record() -> RunRecord:
    with create_session() as session:
        view = tasks.find_task(session, tasks.TaskKey("sales", RUN_ID, "extract"))
    assert view is not None
    assert isinstance(view.record, RunRecord)
    return view.record


def failed_run(stage: Stage) -> int:
    agent = stage.sandbox.add_agent("Prices")
    stage.sandbox.plan_runs(agent.id, [FAILING])
    run = stage.start(agent.id, state="failed")
    stage.sandbox.advance(10)
    stage.until(lambda: "Failure" in stage.tab().text)
    return run.id


def test_a_run_is_stopped_and_it_is_said_by_whom(stage: Stage) -> None:
    agent = stage.sandbox.add_agent("Prices")
    stage.sandbox.plan_runs(agent.id, [ENDLESS])
    run = stage.start(agent.id)
    assert 'data-verb="stop"' in stage.tab("user").text
    answer = stage.act("stop", "user")
    assert (answer.status_code, answer.json()) == (200, {"message": "The run is being stopped."})
    assert outcome(stage) == {
        "runs": [[agent.id, run.id]],
        "outcome": f"Run {run.id} of agent {agent.id}: It has been stopped.",
        "is_over": True,
    }
    [effect] = stage.sandbox.ledger.stops
    assert effect.run_id == run.id
    assert stage.sandbox.ledger.kills == []
    [row] = stage.logs()
    assert (row.event, row.owner, row.dag_id, row.task_id, row.run_id, row.map_index, row.try_number) == (
        ("sequentum_stop", "some_user", "sales", "extract", RUN_ID, -1, 1)
    )
    text = stage.until(lambda: page if "Stopped" in (page := stage.tab("user").text) else "")
    assert "requested by some_user" in text
    assert "It has been stopped." in text
    assert 'data-verb="stop"' not in text


def test_a_kill_ends_a_run_that_ignores_a_stop(stage: Stage) -> None:
    agent = stage.sandbox.add_agent("Prices")
    stage.sandbox.plan_runs(agent.id, [RunPlan(outcome="Running", ignores_stop=True)])
    run = stage.start(agent.id)
    assert stage.act("kill").status_code == 200
    assert outcome(stage)["outcome"] == f"Run {run.id} of agent {agent.id}: It has been stopped."
    [kill] = stage.sandbox.ledger.kills
    assert (kill.run_id, kill.detail) == (run.id, {"forced": True})
    assert stage.logs()[-1].event == "sequentum_kill"


def test_what_is_being_stopped_is_not_stopped_twice(stage: Stage) -> None:
    agent = stage.sandbox.add_agent("Prices")
    stage.sandbox.plan_runs(agent.id, [RunPlan(outcome="Running", stop_seconds=30)])
    stage.start(agent.id)
    assert stage.act("stop").status_code == 200
    again = stage.act("stop", "user")
    assert (again.status_code, again.json()) == (409, {"detail": "some_admin has already requested this."})
    assert "in progress." in stage.tab().text
    outcome(stage)
    assert len(stage.sandbox.ledger.stops) == 1
    assert len(stage.logs()) == 1


def test_several_people_who_press_at_once_stop_it_once(stage: Stage) -> None:
    agent = stage.sandbox.add_agent("Prices")
    stage.sandbox.plan_runs(agent.id, [RunPlan(outcome="Running", stop_seconds=30)])
    stage.start(agent.id)
    stage.as_("user")
    with ThreadPoolExecutor(6) as people:
        codes = sorted(people.map(lambda _: stage.act("stop", "user").status_code, range(6)))
    assert codes == [200, 409, 409, 409, 409, 409]
    outcome(stage)
    assert len(stage.sandbox.ledger.stops) == 1


def test_a_run_that_is_over_is_not_stopped(stage: Stage) -> None:
    failed_run(stage)
    answer = stage.act("stop")
    assert (answer.status_code, answer.json()["detail"]) == (409, "The task has no run that may be running.")
    assert stage.sandbox.ledger.stops == []
    assert stage.logs() == []


def test_the_service_refuses_the_key(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = stage.sandbox.add_agent("Prices")
    stage.sandbox.plan_runs(agent.id, [ENDLESS])
    stage.start(agent.id)
    monkeypatch.setenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT", json.dumps({"conn_type": "sequentum", "password": ""}))
    assert stage.act("stop").status_code == 200
    assert outcome(stage)["outcome"].startswith("Nothing was stopped. ")
    assert stage.sandbox.ledger.stops == []


def test_an_xcom_that_names_another_agent_is_not_acted_on(stage: Stage) -> None:
    """Who may edit the XComs of a DAG may not thereby stop the runs of another one's agent."""
    own, other = stage.sandbox.add_agent("Own"), stage.sandbox.add_agent("Other")
    for agent in (own, other):
        stage.sandbox.plan_runs(agent.id, [ENDLESS])
    run = stage.start(own.id)
    victim = stage.start(other.id, dag_id="secret")
    with create_session() as session:
        row = session.query(XComModel).filter_by(dag_id="sales", key="run").one()
        row.value = json.dumps({"agent_id": other.id, "run_id": victim.id, "status": "Running"})
    assert stage.act("stop", "user").status_code == 200
    outcome(stage)
    assert [effect.run_id for effect in stage.sandbox.ledger.stops] == [run.id], "its own, as its record names it"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"bash_command": "true"}, id="a task of another operator"),
        pytest.param(None, id="its parameters are no longer known"),
        pytest.param({"space_id": "3", "sequentum_conn_id": "own"}, id="a task with another connection"),
    ],
)
@pytest.mark.parametrize("is_xcom", [False, True])
def test_a_forged_record_gives_nobody_a_connection(stage: Stage, fields: dict[str, str] | None, is_xcom: bool) -> None:
    """Who may edit what a task has stored may not thereby use a connection that its DAG does not."""
    agent = stage.sandbox.add_agent("Other")
    stage.sandbox.plan_runs(agent.id, [ENDLESS])
    victim = stage.start(agent.id, dag_id="secret")
    forged = RunRecord(agent_id=agent.id, run_id=victim.id, config=RunConfig(agent_id=agent.id))
    with create_session() as session:
        run = rows.add_task(session, "sales", RUN_ID, "extract", operator="BashOperator")
        if fields is not None:
            rows.add_rendered_fields(session, run, "extract", **fields)
        if is_xcom:
            rows.add_xcom(session, run, "extract", "sequentum_run", forged.to_json())
        else:
            store(session, run, "sequentum_run", forged.to_json(), "extract")
    asked = len(stage.sandbox.ledger.requests)
    assert stage.tab("user").status_code == 200
    assert stage.act("stop", "user").status_code == 409
    assert len(stage.sandbox.ledger.requests) == asked
    assert not stage.sandbox.ledger.stops


@KEEPS_RECORDS
def test_a_failure_is_restarted_in_place_by_the_next_attempt(stage: Stage) -> None:
    run_id = failed_run(stage)
    assert "Restart in place" in stage.tab("user").text
    answer = stage.act("restart", "user")
    said = "The task was cleared; its next attempt restarts the run in place."
    assert (answer.status_code, answer.json()) == (200, {"message": said})
    [body] = stage.cleared
    ClearTaskInstancesBody.model_validate(body)  # it refuses what it does not know
    assert body.pop("prevent_running_task", True)
    assert body.pop("keep_task_state", True)
    assert body == {
        "dry_run": False,
        "dag_run_id": RUN_ID,
        "task_ids": ["extract"],
        "only_failed": False,
        "include_downstream": True,
        "reset_dag_runs": True,
    }
    record = saved_record()
    assert record.run_id == run_id
    assert not record.was_cleared(max_tries=5), "the next attempt takes it for a retry"
    assert [(row.event, row.owner, json.loads(row.extra)["outcome"]) for row in stage.logs()] == [
        ("sequentum_restart", "some_user", said)
    ]
    assert len(stage.sandbox.ledger.effects) == 1, "the restart is the next attempt's"


@KEEPS_RECORDS
def test_what_airflow_refuses_to_clear_stays_as_it_was(stage: Stage) -> None:
    failed_run(stage)
    before, stage.airflow_refuses = saved_record(), 403
    answer = stage.act("restart")
    assert answer.status_code == 409
    assert saved_record() == before
    assert "Airflow responded with 403" in json.loads(stage.logs()[-1].extra)["outcome"]


@KEEPS_RECORDS
def test_a_clear_that_breaks_leaves_the_record_as_it_was_and_is_in_the_audit_log(stage: Stage) -> None:
    failed_run(stage)
    before, stage.airflow_breaks = saved_record(), OSError("the database is away")
    with pytest.raises(OSError, match="the database is away"):
        stage.act("restart")
    assert saved_record() == before
    assert "the database is away" in json.loads(stage.logs()[-1].extra)["outcome"]


def start_of_the_next_attempt(record: RunRecord) -> RunRecord:
    """Let the scheduler start the task's retry, which saves the run that it has started instead."""
    started = record.updated(replaced=record.all_runs, run_id=None).started((record.run_id or 0) + 1)
    with create_session() as session:
        row = session.query(TaskStateStoreModel).filter_by(key="sequentum_run").one()
        row.value = json.dumps(started.to_json())
    return started


@KEEPS_RECORDS
@pytest.mark.parametrize("refusal", [409, OSError("the database is away"), None], ids=["running", "broken", "accepted"])
def test_a_retry_that_starts_while_the_button_is_pressed_keeps_its_record(
    stage: Stage, refusal: int | OSError | None
) -> None:
    """Without it, a later attempt would not know of the run, and start another one beside it."""
    failed_run(stage)
    before = saved_record()
    if isinstance(refusal, OSError):
        stage.airflow_breaks = refusal
    else:
        stage.airflow_refuses = refusal
    stage.meanwhile = lambda: start_of_the_next_attempt(before)
    with suppress(OSError):
        assert stage.act("restart").status_code == (409 if refusal else 200)
    assert saved_record() == start_of_the_next_attempt(before)


@KEEPS_RECORDS
def test_a_record_that_has_changed_since_it_was_looked_at_is_not_replaced(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed_run(stage)
    before = saved_record()
    audit = actions.Audit

    def slow(*what: Any) -> Any:
        start_of_the_next_attempt(before)
        return audit(*what)

    monkeypatch.setattr(actions, "Audit", slow)
    answer = stage.act("restart")
    assert (answer.status_code, stage.cleared) == (409, [])
    assert "has just been started again" in answer.json()["detail"]
    assert saved_record() == start_of_the_next_attempt(before)
    assert json.loads(stage.logs()[-1].extra)["is_over"]


def test_any_other_end_means_a_new_run_and_the_button_says_so(stage: Stage) -> None:
    agent = stage.sandbox.add_agent("Prices")
    stage.sandbox.plan_runs(agent.id, [RunPlan(duration=0.0)])
    stage.start(agent.id, state="success")
    stage.sandbox.advance(10)
    stage.until(lambda: "Success" in stage.tab().text)
    assert "Start a new run" in stage.tab("user").text
    assert stage.act("restart").json() == {"message": "The task was cleared; its next attempt starts a new run."}


def test_a_task_that_works_is_not_cleared(stage: Stage) -> None:
    stage.start(stage.sandbox.add_agent("Prices").id, state="deferred")
    assert stage.act("restart").status_code == 409
    assert stage.cleared == []


def test_a_sensor_only_watches(stage: Stage) -> None:
    agent = stage.sandbox.add_agent("Prices")
    run = stage.start(agent.id, operator="AgentRunSensor", record=False)
    shown = stage.tab("admin").text
    assert f"Run {run.id}" in shown
    assert "only watches the run" in shown
    assert "data-verb" not in shown
    assert {stage.act(verb).status_code for verb in ("stop", "kill", "restart")} == {409}
    assert len(stage.sandbox.ledger.effects) == 1
