from __future__ import annotations

import contextlib
import itertools
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout, TaskDeferred

from airflow_provider_sequentum.airflow_compat.kill import AirflowTaskTerminated
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.exceptions import (
    AgentRunStartAmbiguous,
    AgentRunStillRunning,
    CreditsTooLow,
    SequentumException,
    SequentumRequestRefused,
    SequentumSkipped,
    SequentumUnavailable,
    SpaceRunsEnded,
    SpaceRunsFailed,
)
from airflow_provider_sequentum.hooks.port import CLAIM_KEY, AttemptPort
from airflow_provider_sequentum.jobs.siblings import Claim
from airflow_provider_sequentum.operators import remote_job
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from airflow_provider_sequentum.runs.wait import PollOutcome, RunEvent
from airflow_provider_sequentum.spaces.attempt import SpaceAttempt
from tests.support import service as fakes
from tests.support.airflow import FakeTask, deferred_by
from tests.support.service import START, Clock, ErrorOf, FakeRun, FakeService, Plan
from tests.support.tries import fire_space, run_try
from tests.support.worker import Killed, Worker

pytestmark = pytest.mark.usefixtures("fakes_behind_operators")

FAILURE = Plan(RunStatus.FAILURE, seconds=10)
BOTH = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferred"])


@pytest.fixture
def service() -> FakeService:
    return FakeService(Clock(), agents={7: "Prices", 8: "Stock", 9: "Reviews"})


def operator(**arguments: Any) -> StartSpaceRunsOperator:
    arguments = {"task_id": "run_agent", "space_id": 1, "retries": 2, "deferrable": False, **arguments}
    return StartSpaceRunsOperator(**arguments)


def run_through(worker: Worker, task: FakeTask, **arguments: Any) -> Any:
    """Run one try of the task to its end, through all its deferrals."""
    return run_try(worker, task, lambda: operator(**arguments), fire_space)


@BOTH
def test_all_agents_run_and_are_waited_for(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(seconds=100), Plan(seconds=10), Plan(seconds=300)]
    assert run_through(worker, task, deferrable=deferrable, input_parameters={"a": 1}) == [101, 102, 103]
    assert (service.count("run-all"), service.count("start")) == (1, 0)
    assert {run.inputs for run in service.runs.values()} == {'{"a": 1}'}
    results = task.ti.pushed("runs")
    assert [(result["agent_id"], result["run_id"], result["status"]) for result in results] == [
        (7, 101, "Success"),
        (8, 102, "Success"),
        (9, 103, "Success"),
    ]
    assert results[0]["link"] == "https://ui/7/101"


@BOTH
def test_without_waiting_the_runs_go_on(service: FakeService, worker: Worker, task: FakeTask, deferrable: bool) -> None:
    assert run_through(worker, task, deferrable=deferrable, wait_for_completion=False) == [101, 102, 103]
    assert not any(run.is_over for run in service.runs.values())


def test_a_task_that_defers_polls_nothing_before(service: FakeService, worker: Worker, task: FakeTask) -> None:
    deferral = deferred_by(lambda: operator(deferrable=True).execute(task.context))
    assert service.requests == ["run-all"]
    assert [wait["run_id"] for wait in deferral.trigger.serialize()[1]["waits"]] == [101, 102, 103]
    assert [summary["run_id"] for summary in task.ti.pushed("runs")] == [101, 102, 103]


# Some end badly


@BOTH
def test_a_retry_continues_with_each_run(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(), FAILURE, Plan(RunStatus.FAILED), Plan()]
    with pytest.raises(SpaceRunsFailed) as caught:
        run_through(worker, task, deferrable=deferrable)
    assert "2 of the 3 agents of space 1 did not succeed" in str(caught.value)
    assert "The next attempt restarts it in place" in str(caught.value)
    assert "The next attempt starts a new run" in str(caught.value)
    assert [result["status"] for result in task.ti.pushed("runs")] == ["Success", "Failure", "Failed"]
    service.clock.sleep(60)
    task.next_attempt()
    assert run_through(worker, task, deferrable=deferrable) == [101, 102, 104]
    assert (service.count("run-all"), service.count("restart"), service.count("start")) == (1, 1, 1)


@pytest.mark.parametrize(
    ("outcome", "run_id", "restarts"),
    [(RunStatus.RUNNING, 104, 0), (RunStatus.FAILURE, 104, 1), (RunStatus.FAILED, 105, 0)],
)
def test_a_run_that_is_taken_in_place_of_an_unknown_one_is_the_tasks_from_then_on(
    service: FakeService, worker: Worker, task: FakeTask, outcome: RunStatus, run_id: int, restarts: int
) -> None:
    """It is recorded, waited for, and restarted or replaced like any other run of an earlier attempt."""
    service.plans = [Plan(seconds=None), Plan(outcome, seconds=10), Plan(seconds=None)]
    deferred_by(lambda: operator(deferrable=True).execute(task.context))
    real = service.runs.pop(102)  # the response to the start has named a run that never existed
    real.id = service.next_id
    service.runs[real.id] = real
    service.next_id += 1
    task.next_attempt()
    deferral = deferred_by(lambda: operator(deferrable=True, on_ambiguous_start="adopt").execute(task.context))
    waits = {wait["agent_id"]: wait["run_id"] for wait in deferral.trigger.serialize()[1]["waits"]}
    assert waits == {7: 101, 8: run_id, 9: 103}
    assert [summary["run_id"] for summary in task.ti.pushed("runs")] == [101, run_id, 103]
    assert real.restarts == restarts


@BOTH
@pytest.mark.parametrize("on_partial", ["fail", "warn"])
def test_what_a_partial_success_means(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, on_partial: str
) -> None:
    service.plans = [Plan(), Plan(RunStatus.STOPPED), Plan(RunStatus.SKIPPED)]
    if on_partial == "warn":
        assert run_through(worker, task, deferrable=deferrable, on_partial=on_partial) == [101]
        return
    with pytest.raises(SpaceRunsEnded) as caught:
        run_through(worker, task, deferrable=deferrable)
    assert isinstance(caught.value, AirflowFailException)
    assert "1 of the 3 agents" in str(caught.value)


@BOTH
def test_if_nothing_ended_well_it_is_no_partial_success(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [FAILURE]
    with pytest.raises(SpaceRunsFailed):
        run_through(worker, task, deferrable=deferrable, on_partial="warn")


@BOTH
def test_when_all_are_skipped_the_task_is(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(RunStatus.SKIPPED)]
    with pytest.raises(SequentumSkipped):
        run_through(worker, task, deferrable=deferrable)


@BOTH
def test_agents_that_were_not_started_are_started_by_the_next_attempt(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.refuses_to_start = {8: "Insufficient credits."}
    with pytest.raises(SpaceRunsFailed, match=r"Agent 8 was not started: Insufficient credits\."):
        run_through(worker, task, deferrable=deferrable)
    assert [result["run_id"] for result in task.ti.pushed("runs")] == [101, None, 102]
    service.refuses_to_start = {}
    task.next_attempt()
    assert run_through(worker, task, deferrable=deferrable) == [101, 103, 102]
    assert (service.count("run-all"), service.count("start")) == (1, 1)


@BOTH
def test_each_run_is_restarted_within_the_try(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [FAILURE, Plan(), FAILURE, FAILURE, Plan()]
    assert run_through(worker, task, deferrable=deferrable, restarts=2, restart_delay=5) == [101, 102, 103]
    assert service.count("restart") == 3


@BOTH
def test_the_outcome_policy_holds_for_each_run(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(), Plan(records=1), Plan()]
    with pytest.raises(SpaceRunsFailed, match="fewer than min_records=5"):
        run_through(worker, task, deferrable=deferrable, min_records=5)


@BOTH
def test_no_try_starts_runs_that_cannot_be_paid(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    run_through(worker, task, deferrable=deferrable, min_credits=50)
    service.credits = 49
    task.clear()
    with pytest.raises(CreditsTooLow, match="Space 1 was not started"):
        run_through(worker, task, deferrable=deferrable, min_credits=50)
    assert len(service.runs) == 3


def test_an_empty_space(service: FakeService, worker: Worker, task: FakeTask) -> None:
    service.agents = {}
    with pytest.raises(SequentumRequestRefused, match="has no agent to run"):
        run_through(worker, task)


# Limits, kills, clears


@BOTH
@pytest.mark.parametrize("on_timeout", ["stop", "leave"])
def test_its_timeout(service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, on_timeout: str) -> None:
    service.plans = [Plan(), Plan(seconds=None)]
    with pytest.raises(SpaceRunsFailed, match="when the task's timeout passed"):
        run_through(worker, task, deferrable=deferrable, timeout=100, on_timeout=on_timeout)
    statuses = [run.status for run in service.runs.values()]
    going = RunStatus.STOPPED if on_timeout == "stop" else RunStatus.RUNNING
    assert statuses == [RunStatus.SUCCESS, going, going]


@BOTH
@pytest.mark.parametrize(("map_index", "is_retried"), [(-1, True), (0, False)])
@pytest.mark.parametrize("ends_by", ["outage", "timeout"])
def test_without_a_state_store_no_retry_starts_runs_beside_those_that_could_not_be_stopped(
    service: FakeService,
    worker: Worker,
    task: FakeTask,
    deferrable: bool,
    map_index: int,
    is_retried: bool,
    ends_by: str,
) -> None:
    """The retry of a mapped task finds no runs, and that of another task joins those that go."""
    service.plans = [Plan(seconds=None)]
    task.has_state_store, task.ti.map_index, task.ti.max_tries = False, map_index, 1
    faults: list[tuple[ErrorOf, bool] | None] = [(fakes.server_error, False)] * 2000
    service.faults.update(stop=faults[:], kill=faults[:])
    if ends_by == "outage":
        service.faults["status"] = faults[:]
    with pytest.raises((SpaceRunsFailed, SequentumUnavailable)) as caught:
        run_through(worker, task, deferrable=deferrable, retries=1, timeout=3000)
    assert "may be running and costing credits" in str(caught.value)
    assert isinstance(caught.value, AirflowFailException) != is_retried


@pytest.mark.parametrize(("map_index", "is_retried"), [(-1, True), (0, False)])
@pytest.mark.parametrize("doubt", ["unlisted", "ambiguous"])
def test_without_a_state_store_no_retry_starts_runs_beside_those_that_could_not_be_found(
    service: FakeService, worker: Worker, task: FakeTask, map_index: int, is_retried: bool, doubt: str
) -> None:
    """What cannot be found cannot be stopped either: the retry of a mapped task would start all agents again."""
    task.has_state_store, task.ti.map_index, task.ti.max_tries = False, map_index, 1
    lose_the_start(service, doubt)
    with pytest.raises(SequentumException, match="may be running and costing credits") as caught:
        run_through(worker, task, retries=1)
    is_final = isinstance(caught.value, AirflowFailException)
    assert is_final != is_retried or isinstance(caught.value, AgentRunStartAmbiguous)


@pytest.mark.parametrize("doubt", ["unlisted", "ambiguous"])
def test_another_connection_hides_no_runs_that_could_not_be_found(
    service: FakeService, worker: Worker, task: FakeTask, doubt: str
) -> None:
    lose_the_start(service, doubt)
    with pytest.raises(SequentumException):
        run_through(worker, task)
    task.next_attempt()
    with pytest.raises(SequentumUnavailable, match="was started with the connection 'sequentum_default'"):
        run_through(worker, task, sequentum_conn_id="another")
    assert service.count("run-all") == 1


def lose_the_start(service: FakeService, doubt: str) -> None:
    """Lose the response to the start of the space, and let nothing show which runs it has started."""
    service.plans = [Plan(seconds=None)]
    service.faults["run-all"] = [(fakes.response_lost, True)]
    if doubt == "unlisted":
        service.faults["runs"] = [(fakes.server_error, False)] * 2000
        return

    def start_another(run: FakeRun) -> None:
        service.start(run.agent_id, by_stranger=True)

    service.on_start = start_another


def test_runs_from_before_a_clear_that_ended_well_are_no_success_when_the_time_is_up(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    deferred_by(lambda: operator(deferrable=True).execute(task.context))
    task.clear()
    service.clock.sleep(150)
    with pytest.raises(SpaceRunsFailed):
        operator(timeout=100, on_clear="join").execute(task.context)
    assert list(service.runs) == [101, 102, 103]


def test_execution_timeout_while_deferred(service: FakeService, worker: Worker, task: FakeTask) -> None:
    service.plans = [Plan(seconds=None)]
    with pytest.raises(AirflowTaskTimeout):
        run_through(
            worker, task, deferrable=True, execution_timeout=timedelta(seconds=90), timeout=500, on_timeout="leave"
        )
    assert all(run.status is RunStatus.STOPPED for run in service.runs.values())


@pytest.mark.parametrize("map_index", [-1, 3])
def test_airflows_own_deferral_timeout_stops_the_runs(
    service: FakeService, worker: Worker, task: FakeTask, map_index: int
) -> None:
    service.plans = [Plan(seconds=None)]
    task.ti.map_index = map_index
    deferral = deferred_by(lambda: operator(deferrable=True, timeout=100).execute(task.context))
    assert deferral.timeout == timedelta(seconds=220)
    service.clock.sleep(220)
    with pytest.raises(SpaceRunsFailed):
        operator(deferrable=True, timeout=100).resume_execution("__fail__", {"error": "Trigger timeout"}, task.context)
    assert all(run.status is RunStatus.STOPPED for run in service.runs.values())


def test_after_a_broken_trigger_the_wait_goes_on_on_the_worker(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    deferred_by(lambda: operator(deferrable=True).execute(task.context))
    resumed = operator(deferrable=True)
    assert resumed.resume_execution("__fail__", {"error": "broken"}, task.context) == [101, 102, 103]


def test_a_kill_stops_all_runs_at_once(service: FakeService, worker: Worker, task: FakeTask) -> None:
    service.plans, service.ignores_stop = [Plan(seconds=None)], True
    killed = operator()
    worker.steps_left, worker.interrupt = 40, killed.on_kill
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    # Airflow gives a killed task about five seconds: all stops have to be sent before any of them is waited for.
    assert len({run.stop_asked_at for run in service.runs.values()}) == 1
    assert (service.count("stop"), all(run.is_over for run in service.runs.values())) == (3, True)


def test_a_kill_leaves_runs_alone_that_have_ended(service: FakeService, worker: Worker, task: FakeTask) -> None:
    service.plans = [Plan(seconds=10), Plan(seconds=10), Plan(seconds=None)]
    killed = operator()
    worker.steps_left, worker.interrupt = 60, killed.on_kill
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert (service.count("stop"), service.runs[103].status) == (1, RunStatus.STOPPED)
    assert not any("rejected" in line for line in worker.warned)


@pytest.mark.parametrize("cause", ["broken", "event"])
def test_a_kill_after_a_deferral_stops_the_runs_where_nothing_outlives_a_try(
    service: FakeService, worker: Worker, task: FakeTask, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task.has_state_store = False
    service.plans = [Plan(seconds=None)]
    deferral = deferred_by(lambda: operator(deferrable=True).execute(task.context))
    killed = operator(deferrable=True)
    monkeypatch.setattr(SpaceAttempt, "conclude", lambda *_: killed.on_kill())
    monkeypatch.setattr(SpaceAttempt, "wait", lambda *_: None)
    waits = deferral.trigger.serialize()[1]["waits"]
    late = [RunEvent(agent_id=wait["agent_id"], run_id=wait["run_id"], outcome=PollOutcome.DEADLINE) for wait in waits]
    event = {"events": [single.to_json() for single in late]}
    method, arguments = (
        ("__fail__", {"error": "broken"}) if cause == "broken" else ("execute_complete", {"event": event})
    )
    with pytest.raises(AirflowTaskTerminated):
        killed.resume_execution(method, arguments, task.context)
    assert [run.status for run in service.runs.values()] == [RunStatus.STOPPED] * 3


def test_a_kill_of_a_deferred_task_that_is_not_resumed_stops_the_runs(
    service: FakeService, worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Airflow 2.11 does when execution_timeout has passed while the task was deferred.
    task.has_state_store = False
    service.plans = [Plan(seconds=None)]
    deferred_by(lambda: operator(deferrable=True).execute(task.context))
    monkeypatch.setattr("airflow_provider_sequentum.operators.remote_job.current_context", lambda: task.context)
    operator(deferrable=True).on_kill()
    assert [run.status for run in service.runs.values()] == [RunStatus.STOPPED] * 3


def kill_while(service: FakeService, verb: str, killed: StartSpaceRunsOperator, *, takes_effect: bool = False) -> None:
    """Let the kill arrive in the middle of a call that then goes on: Airflow 3 goes on where the signal arrived."""

    def error(call: Any) -> Any:
        killed.on_kill()
        return fakes.server_error(call)

    service.faults[verb] = [None] * 3 + [(error, takes_effect)] if verb == "status" else [(error, takes_effect)]


@pytest.mark.parametrize("verb", ["run-all", "status"])
def test_a_kill_ends_the_try_and_leaves_no_run(service: FakeService, worker: Worker, task: FakeTask, verb: str) -> None:
    service.plans = [Plan(seconds=None)]
    killed = operator()
    kill_while(service, verb, killed, takes_effect=True)
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert [run.status for run in service.runs.values()] == [RunStatus.STOPPED] * 3


def test_a_kill_before_the_start_was_sent_ends_the_try(
    service: FakeService, worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = operator()
    monkeypatch.setattr(SpaceAttempt, "start_or_join", lambda *_: killed.on_kill())
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert service.requests == []


def test_a_worker_that_is_shut_down_leaves_the_runs_to_the_next_attempt(
    service: FakeService, worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.airflow_compat.kill.state_of", lambda task_instance: "running")
    killed = operator()
    kill_while(service, "status", killed)
    with pytest.raises(SystemExit, match="the next attempt joins it"):
        killed.execute(task.context)
    assert service.count("stop") == 0
    task.next_attempt()
    assert operator().execute(task.context) == [101, 102, 103]
    assert len(service.runs) == 3


def test_a_task_that_is_ended_while_it_is_being_deferred_stops_all_its_runs(
    service: FakeService, worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = pytest.importorskip("airflow.sdk.listener")
    state = "running"
    monkeypatch.setattr("airflow_provider_sequentum.airflow_compat.kill.state_of", lambda task_instance: state)
    monkeypatch.setattr(remote_job, "has_supervisor", lambda ti: True)
    service.plans = [Plan(seconds=None)]
    deferred_by(lambda: operator(deferrable=True).execute(task.context))
    state = "success"
    listener.get_listener_manager().hook.before_stopping(component=None)
    assert {run.status for run in service.runs.values()} == {RunStatus.STOPPED}


def test_a_kill_in_the_middle_of_the_start_sends_the_stops_at_once(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(seconds=None)]
    killed = operator()
    kill_while(service, "run-all", killed, takes_effect=True)
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert [run.stop_asked_at for run in service.runs.values()] == [START] * 3


def test_a_kill_in_the_middle_of_the_start_stops_nothing_that_may_be_of_others(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(seconds=None)]
    killed = operator()

    def error(call: Any) -> Any:
        service.start(8, by_stranger=True)
        killed.on_kill()
        return fakes.server_error(call)

    service.faults["run-all"] = [(error, False)]
    with pytest.raises(AirflowTaskTerminated) as caught:
        killed.execute(task.context)
    assert service.runs[101].stop_asked_at is None
    said = " ".join(caught.value.__notes__)
    assert "Runs [101] of agents [8] may belong to it, or not" in said
    assert "Agents [7, 9] have no such run" in said


def test_a_kill_in_the_middle_of_one_agents_start_finds_its_run(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(), Plan(RunStatus.FAILED), Plan(), Plan(seconds=None)]
    with pytest.raises(SpaceRunsFailed):
        run_through(worker, task)
    task.next_attempt()
    killed = operator()
    kill_while(service, "start", killed, takes_effect=True)
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert service.runs[104].status is RunStatus.STOPPED


def test_a_kill_stops_what_is_known_where_the_rest_cannot_be_told_from_others(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(), Plan(RunStatus.FAILED), Plan(seconds=None)]
    task.ti.map_index = 0
    task.ti.another_pushes("run_agent", 1, CLAIM_KEY, Claim(is_answered=False, map_index=1).to_json())
    with pytest.raises(SpaceRunsFailed):
        run_through(worker, task, timeout=100, on_timeout="leave")
    task.next_attempt()
    killed = operator()
    kill_while(service, "start", killed, takes_effect=True)
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert service.runs[103].status is RunStatus.STOPPED
    assert service.runs[104].stop_asked_at is None


def test_a_kill_stops_a_run_that_is_no_longer_waited_for_too(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    # The wait for one run could not go on, so that no one looks at it any more; it has not ended.
    service.plans = [Plan(seconds=None)]
    killed = operator()
    service.faults["status"] = [None, None, None, (fakes.unauthorized, False)]
    worker.steps_left, worker.interrupt = 40, killed.on_kill
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert all(run.is_over for run in service.runs.values())


@BOTH
@pytest.mark.parametrize("on_clear", ["rerun", "join"])
@pytest.mark.parametrize("going", [True, False])
def test_clearing(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, on_clear: str, going: bool
) -> None:
    run_through(worker, task, deferrable=deferrable, wait_for_completion=False)
    service.clock.sleep(0 if going else 600)
    task.clear()
    joined = going and on_clear == "join"
    found = run_through(worker, task, deferrable=deferrable, on_clear=on_clear)
    assert found == ([101, 102, 103] if joined else [104, 105, 106])
    assert sum(run.status is RunStatus.STOPPED for run in service.runs.values()) == (3 if going and not joined else 0)


@BOTH
def test_no_runs_are_started_beside_one_that_could_not_be_stopped(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(seconds=None)] * 3 + [Plan()]
    run_through(worker, task, deferrable=deferrable, wait_for_completion=False)
    service.faults["stop"] = service.faults["kill"] = [(fakes.server_error, False)] * 400
    task.clear()
    with pytest.raises(AgentRunStillRunning, match=r"Runs \[101, 102, 103\] of agents \[7, 8, 9\]") as caught:
        run_through(worker, task, deferrable=deferrable)
    assert "A retry stops them again" in str(caught.value)
    assert str(caught.value).endswith("The next attempt takes it over.")
    assert len(service.runs) == 3
    service.faults.clear()
    task.next_attempt()
    assert run_through(worker, task, deferrable=deferrable) == [104, 105, 106]
    assert not any(service.runs[number].status is RunStatus.RUNNING for number in (101, 102, 103))


@BOTH
def test_cleared_runs_get_the_grace_of_the_author(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans, service.stop_seconds = [Plan(seconds=None)] * 3 + [Plan()], 200
    run_through(worker, task, deferrable=deferrable, wait_for_completion=False)
    task.clear()
    assert run_through(worker, task, deferrable=deferrable, stop_grace=300) == [104, 105, 106]
    assert service.count("kill") == 0


@BOTH
def test_changed_inputs_are_new_work(service: FakeService, worker: Worker, task: FakeTask, deferrable: bool) -> None:
    run_through(worker, task, deferrable=deferrable, wait_for_completion=False)
    task.next_attempt()
    found = run_through(worker, task, deferrable=deferrable, input_parameters={"a": 2})
    assert found == [104, 105, 106]
    assert all(service.runs[number].status is RunStatus.STOPPED for number in (101, 102, 103))


# Lost answers, and death at every step


@BOTH
@pytest.mark.parametrize("error", [fakes.response_lost, fakes.server_error])
def test_a_lost_answer_costs_no_second_run(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, error: ErrorOf
) -> None:
    service.faults["run-all"] = [(error, True)]
    assert run_through(worker, task, deferrable=deferrable) == [101, 102, 103]
    assert len(service.runs) == 3


@BOTH
def test_runs_that_are_not_known_yet_are_waited_for(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.faults["status"] = [(fakes.not_found, False)] * 3 + [(fakes.server_error, False)]
    assert run_through(worker, task, deferrable=deferrable) == [101, 102, 103]


@BOTH
def test_runs_that_were_replaced_are_not_taken_for_the_lost_ones(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    run_through(worker, task, deferrable=deferrable, wait_for_completion=False)
    task.clear()
    service.faults["run-all"] = [(fakes.response_lost, True)]
    assert run_through(worker, task, deferrable=deferrable) == [104, 105, 106]


@BOTH
@pytest.mark.parametrize("verb", ["agents", "runs"])
def test_one_failed_look_for_lost_runs_is_not_the_last(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, verb: str
) -> None:
    service.faults["run-all"] = [(fakes.response_lost, True)]
    service.faults[verb] = [(fakes.server_error, False)]
    assert run_through(worker, task, deferrable=deferrable) == [101, 102, 103]


@BOTH
def test_the_runs_of_a_mapped_sibling_are_not_adopted(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    task.ti.map_index = 0
    of_sibling = [service.start(agent_id, by_stranger=True).id for agent_id in (7, 8)]
    task.ti.another_pushes("run_agent", 1, CLAIM_KEY, Claim(run_ids=tuple(of_sibling), map_index=1).to_json())
    service.faults["run-all"] = [(fakes.response_lost, True)]
    assert run_through(worker, task, deferrable=deferrable) == [103, 104, 105]


@BOTH
def test_a_run_of_before_in_the_answer_to_the_start_is_not_taken_for_the_new_one(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    assert run_through(worker, task, deferrable=deferrable) == [101, 102, 103]
    task.clear()
    start = service.start

    def other(agent_id: int, *inputs: Any) -> fakes.FakeRun:
        run = start(agent_id, *inputs)
        return service.runs[101] if agent_id == 7 else run

    service.start = other  # type: ignore[assignment,method-assign]
    assert run_through(worker, task, deferrable=deferrable) == [104, 105, 106]


@pytest.mark.parametrize("has_lost_run", [True, False])
def test_runs_that_a_mapped_sibling_has_lost_are_not_adopted(
    service: FakeService, worker: Worker, task: FakeTask, has_lost_run: bool
) -> None:
    task.ti.map_index = 0
    for agent_id in service.agents:
        service.start(agent_id, by_stranger=True)
    claim = Claim(run_ids=(990,), has_lost_run=has_lost_run, map_index=1)
    task.ti.another_pushes("run_agent", 1, CLAIM_KEY, claim.to_json())
    service.faults["run-all"] = [(fakes.response_lost, False)]
    with pytest.raises(AgentRunStartAmbiguous, match="has lost a run") if has_lost_run else contextlib.nullcontext():
        run_through(worker, task)
    assert service.count("run-all") == 1


def test_what_a_cleared_task_may_have_lost_is_said_to_its_siblings(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    task.ti.map_index = 0
    service.start(7, by_stranger=True)
    service.faults["run-all"] = [(fakes.response_lost, True)]
    with pytest.raises(AgentRunStartAmbiguous):
        run_through(worker, task)
    task.clear()
    run_through(worker, task)
    assert task.ti.pushed(CLAIM_KEY)["has_lost_run"] is True


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_refused_start_does_not_settle_what_the_task_has_lost(
    service: FakeService, worker: Worker, task: FakeTask, is_lost: bool
) -> None:
    task.ti.map_index = 0
    if is_lost:
        service.start(7, by_stranger=True)
        service.faults["run-all"] = [(fakes.response_lost, True)]
        with pytest.raises(AgentRunStartAmbiguous):
            run_through(worker, task)
        task.clear()
    service.faults["run-all"] = [(fakes.rate_limited, False)]
    with pytest.raises(SequentumUnavailable):
        run_through(worker, task)
    assert task.ti.pushed(CLAIM_KEY)["is_answered"] is not is_lost


@BOTH
def test_a_start_that_left_nothing_is_repeated_by_the_next_attempt(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.faults["run-all"] = [(fakes.response_lost, False)]
    with pytest.raises(SequentumUnavailable):
        run_through(worker, task, deferrable=deferrable)
    task.next_attempt()
    assert run_through(worker, task, deferrable=deferrable) == [101, 102, 103]
    assert len(service.runs) == 3


@BOTH
def test_what_a_lost_start_left_undone_is_done_by_the_next_attempt(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.refuses_to_start = {8: "?"}
    service.faults["run-all"] = [(fakes.response_lost, True)]
    with pytest.raises(SpaceRunsFailed, match="Agent 8 was not started, as far as is known"):
        run_through(worker, task, deferrable=deferrable, on_ambiguous_start="adopt")
    task.next_attempt()
    assert run_through(worker, task, deferrable=deferrable, on_ambiguous_start="adopt") == [101, 103, 102]
    assert service.count("run-all") == 1


@BOTH
def test_runs_that_cannot_be_told_from_others_fail_and_a_clear_starts_again(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.start(8, by_stranger=True)
    service.faults["run-all"] = [(fakes.response_lost, True)]
    with pytest.raises(AgentRunStartAmbiguous):
        run_through(worker, task, deferrable=deferrable)
    task.clear()
    assert run_through(worker, task, deferrable=deferrable) == [105, 106, 107]


@pytest.mark.parametrize("steps", [*range(12), 20, 30])
@BOTH
def test_a_worker_that_dies_anywhere_leaves_one_run_of_each(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, steps: int
) -> None:
    worker.steps_left = steps
    try:
        run_through(worker, task, deferrable=deferrable)
    except Killed:
        worker.steps_left = None
        service.clock.sleep(40)
        task.next_attempt()
        run_through(worker, task, deferrable=deferrable)
    assert sorted(run.agent_id for run in service.runs.values()) == [7, 8, 9]
    assert all(run.status is RunStatus.SUCCESS for run in service.runs.values())


@pytest.mark.parametrize("is_deferred", [False, True])
def test_a_record_of_an_earlier_format_is_refused_after_its_runs_were_stopped(
    service: FakeService, worker: Worker, task: FakeTask, is_deferred: bool
) -> None:
    service.plans = [Plan(seconds=None)]
    runs = {str(agent): {"format": 1, "agent_id": agent, "run_id": service.start(agent).id} for agent in (7, 8, 9)}
    task.store.set(StartSpaceRunsOperator.state_key, {"format": 1, "space_id": 1, "runs": runs})
    if is_deferred:
        task.store.delete(StartSpaceRunsOperator.state_key)
    event = {"events": [{"trigger": run} for run in runs.values()], "carried": {}}
    resumed = partial(operator().resume_execution, "execute_complete", {"event": event}, task.context)
    with pytest.raises(SequentumException, match=r"cannot be read.*3 runs have ended"):
        resumed() if is_deferred else run_through(worker, task)
    assert {run.status for run in service.runs.values()} == {RunStatus.STOPPED}
    assert service.count("run-all") == 0
    task.next_attempt()
    service.plans = [Plan()]
    assert run_through(worker, task) == [104, 105, 106]


@BOTH
def test_one_run_that_cannot_be_looked_at_spoils_no_other(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.faults["status"] = [None, None, None, (fakes.unauthorized, False)]
    with pytest.raises(SpaceRunsEnded, match="1 of the 3 agents"):
        run_through(worker, task, deferrable=deferrable)
    assert service.clock.now > START


# Many runs: each thing once


def down(service: FakeService, worker: Worker, *, seconds: float = 90, from_call: int = 0) -> None:
    """Let the service not answer: each request but those with a time of their own takes the client ``seconds``."""

    exchange = worker.exchange
    calls = itertools.count()

    def slow(call: Any, *, budget_share: float = 1.0, within: float | None = None) -> Any:
        if next(calls) < from_call:
            return exchange(call, budget_share=budget_share, within=within)
        service.clock.sleep(seconds if within is None else min(seconds, within))
        raise fakes.not_reached(call)

    worker.exchange = slow  # type: ignore[method-assign]


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "lost"])
@pytest.mark.parametrize("is_last", [False, True])
def test_a_task_that_only_starts_leaves_nothing_going_when_it_fails(
    service: FakeService, worker: Worker, task: FakeTask, is_last: bool, lost: bool
) -> None:
    """Nothing downstream waits for runs whose task has failed."""
    service.plans = [Plan(seconds=None)]
    if lost:
        service.keeps_run_id, service.list_lag = {8}, 20.0
    else:
        service.refuses_to_start = {8: "It is archived."}
    task.ti.max_tries = 0 if is_last else 2
    with pytest.raises(SpaceRunsFailed, match="1 of the 3 agents") as caught:
        run_through(worker, task, wait_for_completion=False)
    service.settle()
    going = [run.agent_id for run in service.runs.values() if not run.is_over]
    if is_last:
        assert going == []
        assert f"{3 if lost else 2} runs have ended" in str(caught.value)
        return
    assert going == ([7, 8, 9] if lost else [7, 9])
    assert f"The next attempt {'searches for' if lost else 'joins'} it" in str(caught.value)
    service.refuses_to_start = {}
    task.next_attempt()
    assert len(run_through(worker, task, wait_for_completion=False)) == 3
    assert service.count("stop") == 0


@pytest.mark.parametrize("is_last", [False, True])
def test_a_retry_while_the_service_is_down_does_not_wait_for_each_run_in_turn(
    service: FakeService, worker: Worker, task: FakeTask, is_last: bool
) -> None:
    service.agents = {number: str(number) for number in range(1, 21)}
    service.plans = [Plan(seconds=None)]
    run_through(worker, task, wait_for_completion=False)
    task.next_attempt()
    task.ti.try_number += 1 if is_last else 0
    before = service.clock.now
    down(service, worker)
    with pytest.raises(SpaceRunsFailed, match="20 of the 20 agents") as caught:
        run_through(worker, task)
    # Two looks tell that the service is down. Then each run is asked to stop, if this is the last attempt.
    assert (service.clock.now - before).total_seconds() <= 2 * 90 + (20 * 15 if is_last else 0)
    assert len(str(caught.value)) <= 4_000
    assert ("may be running and costing credits" in str(caught.value)) is is_last


def test_a_conclusion_while_the_service_is_down_asks_for_no_more_diagnoses_than_it_has_to(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.agents = {number: str(number) for number in range(1, 21)}
    service.plans = [Plan(RunStatus.FAILURE, seconds=0)]
    down(service, worker, from_call=21)  # run-all and the looks
    before = service.clock.now
    with pytest.raises(SpaceRunsFailed, match="20 of the 20 agents"):
        run_through(worker, task)
    assert (service.clock.now - before).total_seconds() <= 2 * 30


def test_runs_that_the_service_no_longer_knows_are_found_out_together(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.agents = {number: str(number) for number in range(1, 11)}
    run_through(worker, task, wait_for_completion=False)
    service.runs.clear()
    task.next_attempt()
    before = service.clock.now
    run_through(worker, task, wait_for_completion=False)
    assert (service.clock.now - before).total_seconds() < 70


def test_runs_that_are_stopping_are_seen_to_their_end_together(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans, service.stop_seconds = [Plan(seconds=None)] * 3 + [Plan()], 30
    run_through(worker, task, wait_for_completion=False)
    for run in service.runs.values():
        run.stop_asked_at = service.clock.now
    task.next_attempt()
    before = service.clock.now
    assert run_through(worker, task, wait_for_completion=False) == [104, 105, 106]
    assert (service.clock.now - before).total_seconds() < 40


@BOTH
def test_each_late_run_is_stopped_once_and_without_a_warning(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(seconds=10), Plan(seconds=None)]
    with pytest.raises(SpaceRunsFailed, match="when the task's timeout passed"):
        run_through(worker, task, deferrable=deferrable, timeout=100)
    stops = sorted(call.path for _, call, _ in worker.sent if call.path.endswith(("/stop", "/kill")))
    assert stops == ["/agent/8/run/102/stop", "/agent/9/run/103/stop"]
    assert not any("rejected" in line or "could not be confirmed" in line for line in worker.warned)


@BOTH
def test_late_runs_that_ignore_the_stop_are_killed_together(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans, service.ignores_stop = [Plan(seconds=None)], True
    with pytest.raises(SpaceRunsFailed):
        run_through(worker, task, deferrable=deferrable, timeout=100, stop_grace=30)
    assert (service.clock.now - START).total_seconds() < 100 + 30 + 20


@BOTH
def test_a_run_that_ends_before_it_can_be_stopped_did_end_well(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(seconds=10), Plan(seconds=101), Plan(seconds=None)]
    service.stop_seconds = 60
    service.faults["stop"] = [(fakes.response_lost, False), (fakes.response_lost, False)]
    with pytest.raises(SpaceRunsFailed, match="1 of the 3 agents"):
        run_through(worker, task, deferrable=deferrable, timeout=100)
    assert [summary["succeeded"] for summary in task.ti.pushed("runs")] == [True, True, False]


@BOTH
def test_what_is_concluded_is_not_concluded_by_a_later_deferral(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(seconds=0), FAILURE, Plan(RunStatus.FAILED, seconds=0), FAILURE, Plan()]
    with pytest.raises(SpaceRunsFailed, match="1 of the 3 agents") as caught:
        run_through(worker, task, deferrable=deferrable, restarts=3, restart_delay=1, report_cost=True)
    assert service.count("restart") == 2
    assert (service.count("billing"), service.count("diagnostics")) == (2, 1)
    polled = [call.path for _, call, _ in worker.sent if call.path == "/agent/7/run/101/status"]
    assert len(polled) == 1
    assert "Run 103 of agent 9 ended: Failed" in str(caught.value)
    assert [(one["run_id"], one["status"], one["succeeded"]) for one in task.ti.pushed("runs")] == [
        (101, "Success", True),
        (102, "Success", True),
        (103, "Failed", False),
    ]


@BOTH
def test_ids_and_summaries_line_up(service: FakeService, worker: Worker, task: FakeTask, deferrable: bool) -> None:
    service.agents = {number: str(number) for number in range(1, 31)}
    service.plans = [Plan(records=1 if number in (4, 17) else 10) for number in range(1, 32)]
    task.ti.map_index = 2
    ids = run_through(worker, task, deferrable=deferrable, on_partial="warn", min_records=5)
    summaries = task.ti.pushed("runs")
    assert ids == [one["run_id"] for one in summaries if one["succeeded"]]
    assert [one["agent_id"] for one in summaries] == list(range(1, 31))
    bad = [one for one in summaries if not one["succeeded"]]
    assert [(one["agent_id"], one["status"], one["map_index"]) for one in bad] == [
        (4, "Success", 2),
        (17, "Success", 2),
    ]
    assert "fewer than min_records=5" in bad[0]["note"]


@BOTH
def test_a_tolerated_run_that_is_lost_from_sight_is_stopped(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    # The task succeeds, so no attempt will take the run over.
    service.plans = [Plan(seconds=None), Plan(), Plan()]
    service.faults["status"] = [(fakes.unauthorized, False)]
    assert run_through(worker, task, deferrable=deferrable, on_partial="warn") == [102, 103]
    assert service.runs[101].status is RunStatus.STOPPED


# Whatever ends an attempt


STEPS = [*range(16), 25, 40]


def fire_undisturbed(worker: Worker, deferral: TaskDeferred) -> dict[str, Any]:
    """Wait as the trigger does; nothing happens to the worker in the meantime."""
    steps_left, worker.steps_left = worker.steps_left, None
    try:
        return fire_space(worker, deferral)
    finally:
        worker.steps_left = steps_left


@BOTH
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("steps", STEPS)
def test_whatever_ends_the_last_attempt_leaves_no_run(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, error: type[BaseException], steps: int
) -> None:
    task.retries = task.ti.max_tries = 0
    service.plans = [Plan(seconds=200)]

    def interrupt() -> None:
        raise error

    worker.steps_left, worker.interrupt = steps, interrupt
    with contextlib.suppress(error):
        run_try(worker, task, lambda: operator(deferrable=deferrable, retries=0), fire_undisturbed)
    assert all(run.is_over for run in service.runs.values())


@BOTH
@pytest.mark.parametrize("steps", STEPS)
def test_a_kill_at_any_step_leaves_no_run(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, steps: int
) -> None:
    service.plans = [Plan(seconds=200)]
    made: list[StartSpaceRunsOperator] = []

    def make() -> StartSpaceRunsOperator:
        made.append(operator(deferrable=deferrable))
        return made[-1]

    def kill() -> None:
        made[-1].on_kill()

    worker.steps_left, worker.interrupt = steps, kill
    with contextlib.suppress(AirflowTaskTerminated):
        run_try(worker, task, make, fire_undisturbed)
    assert all(run.is_over for run in service.runs.values())


@BOTH
@pytest.mark.parametrize("steps", STEPS)
def test_an_error_at_any_step_leaves_the_runs_to_the_next_attempt_if_one_comes(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, steps: int
) -> None:
    service.plans = [Plan(seconds=200)]

    def interrupt() -> None:
        raise RuntimeError

    worker.steps_left, worker.interrupt = steps, interrupt
    try:
        run_try(worker, task, lambda: operator(deferrable=deferrable), fire_undisturbed)
    except RuntimeError:
        task.next_attempt()
        run_through(worker, task, deferrable=deferrable)
    well = [run.agent_id for run in service.runs.values() if run.status is RunStatus.SUCCESS]
    assert sorted(well) == [7, 8, 9]
    assert all(run.is_over for run in service.runs.values())


@pytest.mark.parametrize("broken", ["save", "push"])
@pytest.mark.parametrize("has_store", [True, False])
def test_what_airflow_cannot_keep_leaves_no_run(
    service: FakeService, worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch, broken: str, has_store: bool
) -> None:
    service.plans, task.has_state_store = [Plan(seconds=None)], has_store
    work = getattr(AttemptPort, broken)

    def fails(port: AttemptPort, *arguments: Any) -> None:
        if service.runs:
            raise OSError("Airflow's database is away")
        work(port, *arguments)

    task.ti.max_tries = 0
    monkeypatch.setattr(AttemptPort, broken, fails)
    with pytest.raises(OSError, match="is away"):
        operator(retries=0).execute(task.context)
    assert all(run.is_over for run in service.runs.values())


def test_execution_timeout_on_the_worker_stops_all_runs(service: FakeService, worker: Worker, task: FakeTask) -> None:
    service.plans = [Plan(seconds=None)]

    def interrupt() -> None:
        raise AirflowTaskTimeout

    worker.steps_left, worker.interrupt = 20, interrupt
    with pytest.raises(AirflowTaskTimeout):
        run_through(worker, task, on_timeout="leave")
    assert all(run.is_over for run in service.runs.values())


@BOTH
@pytest.mark.parametrize("answer", [fakes.unauthorized, fakes.bad_request])
def test_a_status_that_is_refused_for_good_leaves_no_run(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, answer: ErrorOf
) -> None:
    service.plans = [Plan(seconds=None)]
    service.faults["status"] = [(answer, False)] * 3
    with pytest.raises(SpaceRunsEnded, match="3 runs have ended"):
        run_through(worker, task, deferrable=deferrable)
    assert all(run.is_over for run in service.runs.values())


@BOTH
@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_only_runs_that_were_seen_to_end_are_counted(
    service: FakeService,
    worker: Worker,
    task: FakeTask,
    monkeypatch: pytest.MonkeyPatch,
    deferrable: bool,
    hidden: int,
) -> None:
    answer = service.answer

    def hiding(call: Call[Any]) -> Any:
        if call.path in {f"/agent/{agent}/run/{agent + 94}/status" for agent in (7, 8, 9)[:hidden]}:
            raise fakes.unauthorized(call)
        return answer(call)

    monkeypatch.setattr(service, "answer", hiding)
    service.plans, task.ti.max_tries = [Plan(seconds=None)], 0
    with pytest.raises((SpaceRunsFailed, SpaceRunsEnded)) as caught:
        run_through(worker, task, deferrable=deferrable, timeout=60)
    service.settle()
    assert all(run.is_over for run in service.runs.values())
    assert "It could not be confirmed" in str(caught.value)
    assert "0 runs" not in str(caught.value)


@pytest.mark.parametrize("on_clear", ["rerun", "join"])
def test_a_store_that_a_clear_wipes_costs_no_more_than_the_old_runs(
    service: FakeService, worker: Worker, task: FakeTask, on_clear: str
) -> None:
    # The trigger of the cleared attempt finds out that its runs were not taken over, and stops them.
    service.plans = [Plan(seconds=None)] * 3 + [Plan()]
    deferral = deferred_by(lambda: operator(deferrable=True, on_clear=on_clear).execute(task.context))
    task.clear(wipes_store=True)
    deferred_by(lambda: operator(deferrable=True, on_clear=on_clear).execute(task.context))
    assert not deferral.trigger.is_own(task.ti.pushed("runs"))


def test_a_clear_that_joins_names_the_runs_that_it_joined(service: FakeService, worker: Worker, task: FakeTask) -> None:
    deferral = deferred_by(lambda: operator(deferrable=True, on_clear="join").execute(task.context))
    task.clear()
    deferred_by(lambda: operator(deferrable=True, on_clear="join").execute(task.context))
    assert deferral.trigger.is_own(task.ti.pushed("runs"))


@pytest.mark.parametrize("seconds", [-86_400, -45, 45, 86_400])
def test_lost_runs_are_found_whatever_the_clocks_say(
    service: FakeService, worker: Worker, task: FakeTask, seconds: float
) -> None:
    service.skew = timedelta(seconds=seconds)
    service.faults["run-all"] = [(fakes.response_lost, True)]
    assert run_through(worker, task) == [101, 102, 103]
    assert service.count("run-all") == 1


def test_a_resumed_task_reads_no_argument_again(service: FakeService, worker: Worker, task: FakeTask) -> None:
    deferral = deferred_by(lambda: operator(deferrable=True, min_records=5).execute(task.context))
    changed = operator(deferrable=True, space_id="gone", min_records="many", timeout="soon", input_parameters="[")
    event = fire_space(worker, deferral)
    assert changed.resume_execution("execute_complete", {**(deferral.kwargs or {}), "event": event}, task.context) == [
        101,
        102,
        103,
    ]


def test_arguments_that_became_invalid_before_a_retry_lose_no_run(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(seconds=None)]
    run_through(worker, task, wait_for_completion=False)
    task.next_attempt()
    with pytest.raises(SequentumRequestRefused, match=r"timeout must be.*3 runs have ended"):
        run_through(worker, task, timeout="soon")
    assert all(run.is_over for run in service.runs.values())


@BOTH
def test_a_deadline_that_passes_during_the_start_stops_the_runs(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(seconds=None)]
    service.faults["run-all"] = [(fakes.response_lost, True)]
    service.faults["agents"] = [(fakes.server_error, False)]
    with pytest.raises(SpaceRunsFailed, match=r"timeout passed\. 3 runs have ended"):
        run_through(worker, task, deferrable=deferrable, timeout=8)
    assert all(run.is_over for run in service.runs.values())


@pytest.mark.parametrize("event", [{}, {"events": None}, {"events": [{}]}, {"events": [{"agent_id": 7}]}, None])
def test_an_event_that_cannot_be_understood_is_never_success(
    service: FakeService, worker: Worker, task: FakeTask, event: Any
) -> None:
    deferral = deferred_by(lambda: operator(deferrable=True).execute(task.context))
    with pytest.raises((SpaceRunsFailed, SequentumUnavailable), match="cannot be read"):
        operator().resume_execution("execute_complete", {**(deferral.kwargs or {}), "event": event}, task.context)


# Airflow older than 3.3


@BOTH
def test_without_a_state_store_a_retry_joins_what_goes(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(seconds=500)]
    task.has_state_store = False
    run_through(worker, task, deferrable=deferrable, wait_for_completion=False)
    task.next_attempt()
    assert run_through(worker, task, deferrable=deferrable) == [101, 102, 103]
    assert service.count("run-all") == 1


@BOTH
def test_without_a_state_store_no_restart_is_promised(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [FAILURE]
    task.has_state_store = False
    with pytest.raises(SpaceRunsFailed) as caught:
        run_through(worker, task, deferrable=deferrable)
    assert str(caught.value).count("The next attempt starts a new run.") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space_id": "x"}, "space_id must be a positive whole number"),
        ({"input_parameters": "[1]"}, "input_parameters must be a JSON object"),
        ({"timeout": "soon"}, "timeout must be"),
        ({"min_records": "x"}, "min_records must be"),
        ({"on_partial": "x"}, "on_partial must be one of"),
        ({"poll_interval": True}, "poll_interval must be"),
    ],
)
def test_bad_input_starts_nothing(
    service: FakeService, worker: Worker, task: FakeTask, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises((SequentumRequestRefused, ValueError), match=message):
        operator(**arguments).execute(task.context)
    assert service.requests == []
