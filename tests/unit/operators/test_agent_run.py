from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from airflow_provider_sequentum.airflow_compat import kill
from airflow_provider_sequentum.airflow_compat.deferral import DEFERRAL_FAILED
from airflow_provider_sequentum.airflow_compat.kill import AirflowTaskTerminated
from airflow_provider_sequentum.airflow_compat.task_state import TaskState
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.exceptions import (
    AgentRunFailed,
    AgentRunFailure,
    AgentRunOutcomeRejected,
    AgentRunStartAmbiguous,
    AgentRunStillRunning,
    AgentRunStopped,
    AgentRunTimeout,
    CreditsTooLow,
    SequentumConnectionException,
    SequentumConnectionNotFound,
    SequentumException,
    SequentumRequestRefused,
    SequentumSkipped,
    SequentumUnavailable,
)
from airflow_provider_sequentum.hooks.connection import SequentumConnection
from airflow_provider_sequentum.hooks.port import ClientPort
from airflow_provider_sequentum.jobs.siblings import Claim
from airflow_provider_sequentum.operators import remote_job
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from tests.support import service as fakes
from tests.support.airflow import FakeTask, deferred_by
from tests.support.service import START, Clock, ErrorOf, FakeService, Plan
from tests.support.tries import fire, run_try
from tests.support.worker import Killed, Worker

pytestmark = pytest.mark.usefixtures("fakes_behind_operators")

FAILURE = Plan(RunStatus.FAILURE, seconds=10)


@pytest.fixture
def service() -> FakeService:
    return FakeService(Clock())


def operator(**arguments: Any) -> StartAgentRunOperator:
    arguments = {"task_id": "run_agent", "agent_id": 7, "retries": 2, "deferrable": False, **arguments}
    return StartAgentRunOperator(**arguments)


def run_through(worker: Worker, task: FakeTask, **arguments: Any) -> Any:
    """Run one try of the task to its end, through all its deferrals."""
    return run_try(worker, task, lambda: operator(**arguments))


BOTH = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferred"])


# Every way a run can end, in both modes


ENDINGS: list[tuple[RunStatus, type[Exception] | None, bool]] = [
    (RunStatus.SUCCESS, None, False),
    (RunStatus.COMPLETED, None, False),
    (RunStatus.FAILURE, AgentRunFailure, True),
    (RunStatus.FAILED, AgentRunFailed, True),
    (RunStatus.STOPPED, AgentRunStopped, False),
    (RunStatus.SKIPPED, SequentumSkipped, False),
]


@BOTH
@pytest.mark.parametrize(("outcome", "kind", "retried"), ENDINGS)
def test_how_the_task_ends(
    service: FakeService,
    worker: Worker,
    task: FakeTask,
    deferrable: bool,
    outcome: RunStatus,
    kind: type[Exception] | None,
    retried: bool,
) -> None:
    service.plans = [Plan(outcome)]
    if kind is None:
        assert run_through(worker, task, deferrable=deferrable) == 101
    else:
        with pytest.raises(kind, match="Run 101 of agent 7") as caught:
            run_through(worker, task, deferrable=deferrable)
        if kind is SequentumSkipped:
            assert isinstance(caught.value, AirflowSkipException)
        else:
            assert isinstance(caught.value, AirflowFailException) is not retried
            assert (caught.value.agent_id, caught.value.run_id) == (7, 101)  # type: ignore[attr-defined]
    assert service.count("start") == 1
    assert task.ti.pushed("run")["status"] == outcome.name.title()
    assert task.ti.pushed("agent_run_link") == "https://ui/7/101"


@BOTH
@pytest.mark.parametrize("status", [0, 13, 99, "Paused"])
def test_an_unknown_status_is_waited_out(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, status: int | str
) -> None:
    service.plans = [Plan(seconds=300)]
    original = service.start

    def start(*arguments: Any, **named: Any) -> fakes.FakeRun:
        run = original(*arguments, **named)
        run.status = status
        return run

    service.start = start  # type: ignore[method-assign]
    assert run_through(worker, task, deferrable=deferrable) == 101
    assert any("which this version does not know" in line for line in worker.said)


@BOTH
def test_the_result_is_the_same_after_a_retry(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    first = run_through(worker, task, deferrable=deferrable)
    task.next_attempt()
    assert run_through(worker, task, deferrable=deferrable) == first == 101
    assert task.ti.pushed("run")["status"] == "Success"


def test_without_waiting_the_run_goes_on(service: FakeService, worker: Worker, task: FakeTask) -> None:
    for deferrable in (False, True):
        assert run_through(worker, task, deferrable=deferrable, wait_for_completion=False) == 101
    assert service.runs[101].status is RunStatus.RUNNING
    assert task.ti.pushed("run")["status"] == "Running"


def test_the_summary_of_a_mapped_task_has_its_inputs_and_its_index(worker: Worker, task: FakeTask) -> None:
    task.ti.map_index = 3
    StartAgentRunOperator(task_id="run_agent", agent_id=7, input_parameters={"page": 4, "password": "hunter2"}).execute(
        task.context
    )
    summary = task.ti.pushed("run")
    assert (summary["map_index"], summary["input_parameters"]) == (3, {"page": 4, "password": "***"})


def test_every_attempt_logs_the_name_of_the_agent_and_where_its_run_is(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    deferred_by(lambda: operator(deferrable=True).execute(task.context))
    service.runs[101].agent_name = "Prices"
    task.next_attempt()
    deferred_by(lambda: operator(deferrable=True).execute(task.context))
    assert [line for line in worker.said if line.startswith("See")] == [
        "See run 101 in Sequentum Cloud: https://ui/7/101",
        "See run 101 of agent 'Prices' in Sequentum Cloud: https://ui/7/101",
    ]


def test_the_link_and_the_summary_are_there_while_the_task_is_deferred(worker: Worker, task: FakeTask) -> None:
    deferred_by(lambda: operator(deferrable=True).execute(task.context))
    assert task.ti.pushed("agent_run_link") == "https://ui/7/101"
    assert task.ti.pushed("run")["run_id"] == 101


@BOTH
def test_progress_is_told_in_both_modes(service: FakeService, worker: Worker, task: FakeTask, deferrable: bool) -> None:
    service.plans = [Plan(seconds=400)]
    run_through(worker, task, deferrable=deferrable)
    assert sum("Run 101 of agent 7: Running" in line for line in worker.said) >= 3


def test_a_run_that_is_over_at_once_is_not_waited_for_in_the_triggerer(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(seconds=0)]
    assert operator(deferrable=True).execute(task.context) == 101


# What the next attempt does


@BOTH
def test_failure_is_restarted_by_the_next_attempt(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [FAILURE, Plan()]
    with pytest.raises(AgentRunFailure, match="The next attempt restarts it in place"):
        run_through(worker, task, deferrable=deferrable)
    service.clock.sleep(300)
    task.next_attempt()
    assert run_through(worker, task, deferrable=deferrable) == 101
    assert (service.count("start"), service.count("restart")) == (1, 1)


@BOTH
def test_failed_is_replaced_by_the_next_attempt(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(RunStatus.FAILED), Plan()]
    with pytest.raises(AgentRunFailed, match="The next attempt starts a new run"):
        run_through(worker, task, deferrable=deferrable)
    task.next_attempt()
    assert run_through(worker, task, deferrable=deferrable) == 102


NEXT_STEPS = [
    (RunStatus.FAILURE, "restart_or_new", True, True, "The next attempt restarts it in place."),
    (RunStatus.FAILURE, "restart", True, True, "The next attempt restarts it in place."),
    (RunStatus.FAILURE, "new", True, True, "The next attempt starts a new run."),
    (RunStatus.FAILURE, "restart_or_new", False, True, "The next attempt starts a new run."),
    (RunStatus.FAILURE, "restart_or_new", True, False, "No attempts are left. Clear the task to start a new run."),
    (RunStatus.FAILED, "restart_or_new", True, True, "The next attempt starts a new run."),
    (RunStatus.FAILED, "restart_or_new", True, False, "No attempts are left. Clear the task to start a new run."),
    (RunStatus.STOPPED, "restart_or_new", True, True, "It is not retried. Clear the task to start a new run."),
    (RunStatus.SKIPPED, "restart_or_new", True, True, "The task is skipped."),
]


@BOTH
@pytest.mark.parametrize(("outcome", "retry_mode", "store", "tries_left", "step"), NEXT_STEPS)
def test_the_message_says_what_comes_next(
    worker: Worker,
    task: FakeTask,
    deferrable: bool,
    outcome: RunStatus,
    retry_mode: str,
    store: bool,
    tries_left: bool,
    step: str,
) -> None:
    worker.service.plans = [Plan(outcome)]
    task.has_state_store = store
    task.ti.try_number = 1 if tries_left else 3
    with pytest.raises(AirflowException) as caught:
        run_through(worker, task, deferrable=deferrable, retry_mode=retry_mode)
    assert step in str(caught.value)


@BOTH
def test_what_a_retry_that_may_only_restart_does_with_failed(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(RunStatus.FAILED), Plan()]
    with pytest.raises(AgentRunFailed) as caught:
        run_through(worker, task, deferrable=deferrable, retry_mode="restart")
    assert "The next attempt fails too" in str(caught.value)
    task.next_attempt()
    with pytest.raises(SequentumRequestRefused, match="No new run was started"):
        run_through(worker, task, deferrable=deferrable, retry_mode="restart")
    assert service.count("start") == 1


# Restarts within one try


@BOTH
def test_restarts_within_a_try_wait_ever_longer(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [FAILURE, FAILURE, FAILURE, Plan()]
    begun: list[float] = []
    original = service.restart

    def restart(run_id: int, lag: float = 0.0) -> fakes.FakeRun:
        begun.append((service.clock.now - (service.runs[run_id].end_time or START)).total_seconds())
        return original(run_id)

    service.restart = restart  # type: ignore[method-assign]
    assert run_through(worker, task, deferrable=deferrable, restarts=3, restart_delay=20, poll_interval=5) == 101
    assert (service.count("start"), service.count("restart")) == (1, 3)
    assert all(20 * 2**n <= pause <= 20 * 2**n + 10 for n, pause in enumerate(begun))


@BOTH
def test_when_the_restarts_are_used_up_the_task_fails(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [FAILURE]
    with pytest.raises(AgentRunFailure):
        run_through(worker, task, deferrable=deferrable, restarts=2)
    assert service.count("restart") == 2


@BOTH
def test_a_stale_failure_after_a_restart_is_not_taken_for_a_new_one(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans, service.restart_lag = [FAILURE, Plan()], 40
    assert run_through(worker, task, deferrable=deferrable, restarts=1, restart_delay=1, poll_interval=5) == 101
    assert service.count("restart") == 1


@BOTH
@pytest.mark.parametrize(("retry_mode", "kind"), [("restart_or_new", None), ("restart", SequentumRequestRefused)])
def test_where_there_is_no_restart(
    service: FakeService,
    worker: Worker,
    task: FakeTask,
    deferrable: bool,
    retry_mode: str,
    kind: type[Exception] | None,
) -> None:
    service.plans, service.offers_restart = [FAILURE, Plan()], False
    arguments: dict[str, Any] = {"deferrable": deferrable, "restarts": 1, "retry_mode": retry_mode}
    if kind is None:
        assert run_through(worker, task, **arguments) == 102
        assert any("so a new run is started" in line for line in worker.said)
    else:
        with pytest.raises(kind):
            run_through(worker, task, **arguments)
        assert service.count("start") == 1


# Time limits


@BOTH
@pytest.mark.parametrize("on_timeout", ["stop", "leave"])
def test_its_own_timeout(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, on_timeout: str
) -> None:
    service.plans = [Plan(seconds=None)]
    with pytest.raises(AgentRunTimeout, match="when the task's timeout passed") as caught:
        run_through(worker, task, deferrable=deferrable, timeout=100, on_timeout=on_timeout)
    assert not isinstance(caught.value, AirflowFailException)
    stopped = on_timeout == "stop"
    assert service.runs[101].is_over is stopped
    left = "It is left running (on_timeout='leave'). The next attempt joins it."
    assert ("It has been stopped. The next attempt starts a new run." if stopped else left) in str(caught.value)
    # The next attempt starts again, or joins the run that was left.
    task.next_attempt()
    service.plans = [Plan()]
    service.runs[101].plan = Plan(seconds=500)
    assert run_through(worker, task, deferrable=deferrable, timeout=1000) == (102 if stopped else 101)


@BOTH
def test_a_stop_that_is_not_confirmed_is_said(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(seconds=None)]
    for verb in ("stop", "kill"):
        service.faults[verb] = [(fakes.server_error, False)] * 10
    with pytest.raises(AgentRunTimeout, match="could not confirm that it ended"):
        run_through(worker, task, deferrable=deferrable, timeout=100)


def test_a_run_that_ends_well_while_it_is_being_stopped_is_a_success(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(seconds=101)]
    service.stop_seconds = 1000
    service.faults["stop"] = [(fakes.server_error, False)]
    assert run_through(worker, task, timeout=100) == 101
    assert task.ti.pushed("run")["status"] == "Success"
    assert any("Run 101 ended as Success before it could be stopped" in line for line in worker.said)


@pytest.mark.parametrize("change", ["clear", "inputs"])
def test_a_run_of_other_work_that_ended_well_is_no_success_when_the_time_is_up(
    service: FakeService, worker: Worker, task: FakeTask, change: str
) -> None:
    deferred_by(lambda: operator(deferrable=True, input_parameters={"n": 0}).execute(task.context))
    task.clear() if change == "clear" else task.next_attempt()
    service.clock.sleep(150)  # the worker could not be reached for as long as the attempt may last
    with pytest.raises(
        AgentRunTimeout, match=r"when the task's timeout passed\. It had already ended with status Success"
    ):
        operator(timeout=100, input_parameters={"n": int(change == "inputs")}).execute(task.context)
    assert list(service.runs) == [101]
    # The same attempt of the same work takes the run, as late as it is.
    if change == "inputs":
        assert operator(timeout=100, input_parameters={"n": 0}).execute(task.context) == 101


@pytest.mark.parametrize("on_timeout", ["stop", "leave"])
def test_execution_timeout_stops_a_run_that_is_waited_for_in_the_triggerer(
    service: FakeService, worker: Worker, task: FakeTask, on_timeout: str
) -> None:
    service.plans = [Plan(seconds=None)]
    with pytest.raises(AirflowTaskTimeout, match=r"execution_timeout passed\. It has been stopped"):
        run_through(
            worker, task, deferrable=True, execution_timeout=timedelta(seconds=90), timeout=500, on_timeout=on_timeout
        )
    assert service.runs[101].status is RunStatus.STOPPED


def test_of_two_limits_the_earlier_one_counts(service: FakeService, worker: Worker, task: FakeTask) -> None:
    service.plans = [Plan(seconds=None)]
    with pytest.raises(AgentRunTimeout):
        run_through(worker, task, deferrable=True, execution_timeout=timedelta(seconds=500), timeout=90)


@pytest.mark.parametrize("map_index", [-1, 3])
@pytest.mark.parametrize("words", ["Trigger timeout", "Trigger/execution timeout"])
def test_airflows_own_deferral_timeout_stops_the_run(
    service: FakeService, worker: Worker, task: FakeTask, map_index: int, words: str
) -> None:
    # No triggerer was there to notice the deadline; Airflow drops everything but this.
    service.plans = [Plan(seconds=None)]
    task.ti.map_index = map_index
    task.ti.another_pushes("run_agent", 4, "run", {"agent_id": 7, "run_id": 999})
    deferral = deferred_by(lambda: operator(deferrable=True, timeout=100).execute(task.context))
    assert deferral.timeout is not None
    assert deferral.timeout > timedelta(seconds=100)
    service.clock.sleep(deferral.timeout.total_seconds())
    with pytest.raises(AgentRunTimeout, match=r"Run 101 .* It has been stopped"):
        operator(deferrable=True, timeout=100).resume_execution("__fail__", {"error": words}, task.context)
    assert service.runs[101].status is RunStatus.STOPPED


@BOTH
@pytest.mark.parametrize("limit", [timedelta(days=3_000_000), timedelta.max])
def test_an_execution_timeout_beyond_the_calendar_is_none(
    worker: Worker, task: FakeTask, deferrable: bool, limit: timedelta
) -> None:
    assert run_through(worker, task, deferrable=deferrable, execution_timeout=limit) == 101


def test_airflows_own_deferral_timeout_stops_the_run_for_execution_timeout_too(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(seconds=None)]
    limit = timedelta(seconds=100)
    deferral = deferred_by(lambda: operator(deferrable=True, execution_timeout=limit).execute(task.context))
    service.clock.sleep((deferral.timeout or limit).total_seconds())
    resumed = operator(deferrable=True, execution_timeout=limit)
    with pytest.raises(AirflowTaskTimeout):
        resumed.resume_execution("__fail__", {"error": "Trigger timeout"}, task.context)
    assert service.runs[101].status is RunStatus.STOPPED


def test_a_passing_fault_is_no_reason_to_leave_a_late_run_going(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(seconds=None)]
    deferred_by(lambda: operator(deferrable=True, timeout=300).execute(task.context))
    service.clock.sleep(420)
    service.faults["status"] = [(fakes.server_error, False)] * 3
    with pytest.raises(AgentRunTimeout):
        operator(deferrable=True, timeout=300).resume_execution("__fail__", {"error": "Trigger timeout"}, task.context)
    assert service.runs[101].status is RunStatus.STOPPED


def test_after_a_broken_trigger_the_wait_goes_on_on_the_worker(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(seconds=200)]
    deferred_by(lambda: operator(deferrable=True).execute(task.context))
    resumed = operator(deferrable=True)
    assert resumed.resume_execution("__fail__", {"error": "Trigger failure", "traceback": ["x"]}, task.context) == 101
    assert service.count("start") == 1


def test_after_a_broken_trigger_the_limits_still_hold(service: FakeService, worker: Worker, task: FakeTask) -> None:
    service.plans = [Plan(seconds=None)]
    deferred_by(lambda: operator(deferrable=True, timeout=300).execute(task.context))
    service.clock.sleep(100)
    with pytest.raises(AgentRunTimeout):
        operator(deferrable=True, timeout=300).resume_execution("__fail__", {"error": "broken"}, task.context)
    assert timedelta(seconds=300) <= service.clock.now - START <= timedelta(seconds=330)


def test_a_failed_deferral_without_a_run_is_raised_as_it_is(worker: Worker, task: FakeTask) -> None:
    with pytest.raises(AirflowException, match="broken"):
        operator(deferrable=True).resume_execution("__fail__", {"error": "broken"}, task.context)


# Killed on the worker


def test_a_kill_uses_the_grace_of_the_author(service: FakeService, worker: Worker, task: FakeTask) -> None:
    service.plans, service.ignores_stop = [Plan(seconds=None)], True
    killed = operator(stop_grace=3)
    kill_while(service, "status", killed)
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert service.runs[101].is_over
    assert service.clock.now - START <= timedelta(seconds=10)


def test_a_kill_does_not_wait_for_the_budget(
    service: FakeService, worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried: list[ClientPort] = []
    monkeypatch.setattr(ClientPort, "hurry", lambda port: hurried.append(port))  # noqa: PLW0108 - it takes the port
    service.plans = [Plan(seconds=None)]
    killed = operator()
    kill_while(service, "status", killed)
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert len(hurried) == 1


def test_a_kill_after_the_run_was_left_running_does_nothing(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    left = operator(wait_for_completion=False)
    left.execute(task.context)
    left.on_kill()
    assert service.count("stop") == 0


def kill_while(service: FakeService, verb: str, killed: StartAgentRunOperator, *, takes_effect: bool = False) -> None:
    """Let the kill arrive in the middle of a call that then goes on: Airflow 3 goes on where the signal arrived."""

    def error(call: Any) -> Any:
        killed.on_kill()
        return fakes.server_error(call)

    service.faults[verb] = [(error, takes_effect)]


def test_a_kill_in_the_middle_of_the_start_finds_the_run_and_stops_it(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(seconds=None)]
    killed = operator()
    kill_while(service, "start", killed, takes_effect=True)
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert service.runs[101].status is RunStatus.STOPPED
    # Airflow gives a killed task about five seconds: the stop has to be sent at once.
    stop_asked_at = service.runs[101].stop_asked_at
    assert stop_asked_at is not None
    assert stop_asked_at - START < timedelta(seconds=2)


@pytest.mark.parametrize("on_ambiguous_start", ["fail", "adopt", "start"])
def test_a_kill_never_stops_what_may_be_somebody_elses_run(
    service: FakeService, worker: Worker, task: FakeTask, on_ambiguous_start: str
) -> None:
    service.plans = [Plan(seconds=None)]
    service.start(by_stranger=True)
    killed = operator(on_ambiguous_start=on_ambiguous_start)
    kill_while(service, "start", killed, takes_effect=True)
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert [run.stop_asked_at for run in service.runs.values()] == [None, None]


def test_a_kill_while_the_service_is_out_of_reach_ends_the_try_all_the_same(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    killed = operator()
    kill_while(service, "start", killed, takes_effect=True)
    service.faults["runs"] = [(fakes.server_error, False)] * 9
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)


def test_a_kill_before_the_start_was_sent_ends_the_try(service: FakeService, worker: Worker, task: FakeTask) -> None:
    killed = operator(min_credits=1)
    kill_while(service, "billing", killed)
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert service.count("start") == 0


@BOTH
def test_a_kill_while_airflow_prepares_the_task_keeps_it_from_working(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    # Templates are rendered and callbacks called when Airflow listens to the signal already.
    killed = operator(deferrable=deferrable)
    killed.on_kill()
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert service.requests == []


@BOTH
def test_a_kill_while_airflow_prepares_the_next_attempt_stops_the_run_of_the_one_before(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(seconds=None)]
    worker.steps_left = 8  # the worker dies while it waits
    with pytest.raises(Killed):
        operator(poll_interval=1).execute(task.context)
    worker.steps_left = None
    assert not service.runs[101].is_over
    task.next_attempt()
    killed = operator(deferrable=deferrable)
    killed.on_kill()
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert service.runs[101].status is RunStatus.STOPPED


def test_a_kill_while_airflow_prepares_a_resumed_task_stops_its_run(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(seconds=None)]
    deferral = deferred_by(lambda: operator(deferrable=True).execute(task.context))
    killed = operator(deferrable=True)
    killed.on_kill()
    with pytest.raises(AirflowTaskTerminated):
        killed.resume_execution("execute_complete", {**(deferral.kwargs or {}), "event": {}}, task.context)
    assert service.runs[101].status is RunStatus.STOPPED


def test_a_kill_after_a_deferral_ends_the_try(
    service: FakeService, worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.plans = [FAILURE, Plan(seconds=None)]
    event = fire(worker, deferred_by(lambda: operator(deferrable=True, restarts=1).execute(task.context)))
    killed = operator(deferrable=True, restarts=1)
    monkeypatch.setattr(killed, "_wait_until_concluded", lambda *arguments, **named: killed.on_kill())
    with pytest.raises(AirflowTaskTerminated):
        killed.resume_execution("execute_complete", {"event": event}, task.context)
    assert service.count("restart") == 0


@pytest.mark.parametrize("verb", ["start", "status"])
def test_a_kill_while_the_run_is_started_or_waited_for_stops_it_and_ends_the_try(
    service: FakeService, worker: Worker, task: FakeTask, verb: str
) -> None:
    service.plans = [Plan(seconds=None)]
    killed = operator()
    kill_while(service, verb, killed, takes_effect=True)
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert (len(service.runs), service.runs[101].status) == (1, RunStatus.STOPPED)


# The worker is shut down: Airflow still wants the task


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Airflow has on record for the task when a signal arrives."""
    on_record: dict[str, Any] = {"state": "running"}

    def state_of(task_instance: Any) -> str | None:
        if isinstance(on_record["state"], Exception):
            raise on_record["state"]
        state: str | None = on_record["state"]
        return state

    monkeypatch.setattr(kill, "state_of", state_of)
    return on_record


def test_a_worker_that_is_shut_down_leaves_its_run_to_the_next_attempt(
    service: FakeService, worker: Worker, task: FakeTask, states: dict[str, Any]
) -> None:
    killed = operator()
    kill_while(service, "status", killed)
    with pytest.raises(SystemExit, match="Run 101 of agent 7 keeps running: the next attempt joins it"):
        killed.execute(task.context)
    assert service.count("stop") == 0
    task.next_attempt()
    assert operator().execute(task.context) == 101
    assert service.count("start") == 1


@pytest.mark.parametrize("retries_left", [True, False])
@pytest.mark.parametrize("state", [None, "up_for_retry", "scheduled", "queued", "deferred", "running"])
def test_a_try_that_was_taken_for_dead_leaves_the_run_to_the_one_after_it(
    service: FakeService,
    worker: Worker,
    task: FakeTask,
    states: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    state: str | None,
    retries_left: bool,
) -> None:
    """Its heartbeats, or those of the scheduler that started it, did not come through: Airflow begins another attempt,
    whether retries are left or not, and ends this process at its next heartbeat.
    """
    states["state"] = state
    task.ti.max_tries = 2 if retries_left else 0
    killed = operator()

    def taken_for_dead(call: Any) -> Any:
        monkeypatch.setattr(task.store, "get", lambda key: None)  # what Airflow says to an attempt it no longer knows
        killed.on_kill()
        return fakes.server_error(call)

    service.faults["status"] = [(taken_for_dead, False)]
    with pytest.raises(SystemExit):
        killed.execute(task.context)
    assert service.count("stop") == 0


@pytest.mark.parametrize(
    ("state", "tries_left", "store"),
    [
        ("failed", True, True),
        ("success", True, True),
        ("restarting", True, True),
        ("removed", True, True),
        (RuntimeError("no one answers"), True, True),
        ("running", False, True),
        ("running", True, False),
    ],
)
def test_it_stops_the_run_where_no_next_attempt_joins_it(
    service: FakeService,
    worker: Worker,
    task: FakeTask,
    states: dict[str, Any],
    state: Any,
    tries_left: bool,
    store: bool,
) -> None:
    service.plans = [Plan(seconds=None)]
    states["state"] = state
    task.has_state_store = store
    task.ti.try_number = 1 if tries_left else 3
    killed = operator()
    kill_while(service, "status", killed)
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert service.runs[101].status is RunStatus.STOPPED


@pytest.mark.parametrize("state", ["running", "up_for_retry"])
@pytest.mark.parametrize("action", ["fail", "retry", "default"])
def test_a_worker_that_is_shut_down_leaves_its_run_to_no_attempt_that_the_retry_policy_rules_out(
    service: FakeService, worker: Worker, task: FakeTask, states: dict[str, Any], action: str, state: str
) -> None:
    """Airflow asks the policy about the exit of the process, too, unless it has already begun another attempt."""

    class Policy:
        def evaluate(self, *, exception: BaseException, **_: Any) -> Any:
            assert type(exception) is SystemExit
            return SimpleNamespace(action=SimpleNamespace(value=action))

    service.plans, states["state"] = [Plan(seconds=None)], state
    killed = operator()
    killed.retry_policy = Policy()  # type: ignore[assignment]
    kill_while(service, "status", killed)
    stops = action == "fail" and state == "running"
    with pytest.raises(AirflowTaskTerminated if stops else SystemExit):
        killed.execute(task.context)
    assert service.runs[101].is_over is stops


# A person ends the task, and its process has not heard of it yet


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What Airflow 3.3 does in a task's process when it has answered its deferral, whatever the response."""
    listener = pytest.importorskip("airflow.sdk.listener")
    monkeypatch.setattr(remote_job, "has_supervisor", lambda ti: True)
    return partial(listener.get_listener_manager().hook.before_stopping, component=None)


MARKED = pytest.mark.parametrize("state", ["success", "failed", "skipped", "restarting", "removed"])


@MARKED
def test_a_task_that_was_ended_while_it_started_its_run_stops_it_and_is_not_deferred(
    service: FakeService, worker: Worker, task: FakeTask, states: dict[str, Any], state: str
) -> None:
    service.plans = [Plan(seconds=None)]
    states["state"] = state
    with pytest.raises(AirflowTaskTerminated, match="marked or cleared"):
        operator(deferrable=True).execute(task.context)
    assert service.runs[101].status is RunStatus.STOPPED


@MARKED
def test_a_task_that_was_ended_while_it_was_resumed_stops_its_run_and_is_not_deferred_again(
    service: FakeService, worker: Worker, task: FakeTask, states: dict[str, Any], state: str
) -> None:
    service.plans = [FAILURE, Plan(seconds=None)]
    deferral = deferred_by(lambda: operator(deferrable=True, restarts=1).execute(task.context))
    states["state"] = state
    handed_on = {**(deferral.kwargs or {}), "event": fire(worker, deferral)}
    with pytest.raises(AirflowTaskTerminated, match="marked or cleared"):
        operator(deferrable=True, restarts=1).resume_execution("execute_complete", handed_on, task.context)
    assert service.runs[101].is_over


@MARKED
def test_a_task_that_was_ended_leaves_its_run_to_no_next_attempt(
    service: FakeService, worker: Worker, task: FakeTask, states: dict[str, Any], state: str
) -> None:
    service.plans = [Plan(seconds=None)]
    states["state"] = state
    service.faults["status"] = [(lambda call: RuntimeError("unforeseen"), False)]  # type: ignore[list-item,return-value]
    with pytest.raises(RuntimeError, match="unforeseen"):
        operator().execute(task.context)
    assert service.runs[101].status is RunStatus.STOPPED


@pytest.mark.parametrize(
    "state", ["running", "up_for_retry", "scheduled", "queued", "deferred", RuntimeError("no one answers")]
)
@BOTH
def test_a_task_that_goes_on_or_may_go_on_hands_its_run_on(
    service: FakeService, worker: Worker, task: FakeTask, states: dict[str, Any], state: Any, deferrable: bool
) -> None:
    service.plans = [Plan(seconds=None)]
    states["state"] = state
    if deferrable:
        deferred_by(lambda: operator(deferrable=True).execute(task.context))
    else:
        service.faults["status"] = [(lambda call: RuntimeError("unforeseen"), False)]  # type: ignore[list-item,return-value]
        with pytest.raises(RuntimeError, match="unforeseen"):
            operator().execute(task.context)
    assert service.count("stop") == 0


def test_where_the_task_cannot_be_asked_for_it_is_deferred(
    service: FakeService, worker: Worker, task: FakeTask, states: dict[str, Any]
) -> None:
    states["state"], task.has_state_store = "removed", False
    deferred_by(lambda: operator(deferrable=True).execute(task.context))


def test_a_kill_that_interrupts_a_question_to_airflow_asks_nothing_more(
    service: FakeService, worker: Worker, task: FakeTask, states: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its supervisor is in the middle of a response to the very thread that the signal interrupted. Asked, it would say
    # that the next attempt is sure.
    service.plans = [Plan(seconds=None)]
    killed = operator()
    monkeypatch.setattr(task.ti, "xcom_push", lambda key, value: killed.on_kill())
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert service.runs[101].status is RunStatus.STOPPED


def test_a_kill_while_the_connection_is_looked_up_stops_the_run_of_the_attempt_before_and_asks_nothing_more(
    service: FakeService, worker: Worker, task: FakeTask, states: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    service.plans = [Plan(seconds=None)]
    operator(wait_for_completion=False).execute(task.context)
    task.next_attempt()
    killed = operator()
    monkeypatch.setattr(ClientPort, "connect", lambda port: killed.on_kill())
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert service.runs[101].status is RunStatus.STOPPED


def test_a_kill_without_a_connection_to_stop_the_run_with_says_that_it_may_be_running(
    service: FakeService, worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_connection(port: ClientPort) -> None:
        raise SequentumConnectionNotFound("Airflow cannot find the connection.")

    monkeypatch.setattr(ClientPort, "hurry", no_connection)
    service.plans = [Plan(seconds=None)]
    killed = operator()
    kill_while(service, "status", killed)
    with pytest.raises(AirflowTaskTerminated) as caught:
        killed.execute(task.context)
    assert "Run 101 of agent 7 may be running" in caught.value.__notes__[0]


def late_lookup(_hook: SequentumConnection) -> Any:
    raise AirflowTaskTimeout("late")


def test_execution_timeout_while_a_resumed_task_looks_up_its_connection_stops_the_run(
    service: FakeService, worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.plans = [Plan(seconds=None)]
    deferral = deferred_by(lambda: operator(deferrable=True).execute(task.context))
    monkeypatch.setattr(SequentumConnection, "settings", property(late_lookup))
    with pytest.raises(AirflowTaskTimeout):
        operator().resume_execution("execute_complete", {**(deferral.kwargs or {}), "event": {}}, task.context)
    assert service.runs[101].status is RunStatus.STOPPED


def test_execution_timeout_while_the_next_attempt_looks_up_its_connection_stops_the_run_of_the_one_before(
    service: FakeService, worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.plans = [Plan(seconds=None)]
    operator(wait_for_completion=False).execute(task.context)
    task.next_attempt()
    monkeypatch.setattr(SequentumConnection, "settings", property(late_lookup))
    with pytest.raises(AirflowTaskTimeout):
        operator().execute(task.context)
    assert service.runs[101].status is RunStatus.STOPPED


def test_execution_timeout_on_the_worker_stops_the_run_and_raises_nothing_of_its_own(
    service: FakeService, worker: Worker, task: FakeTask, states: dict[str, Any]
) -> None:
    # Airflow raises out of execute, then calls on_kill.
    service.plans = [Plan(seconds=None)]
    service.faults["status"] = [(lambda call: AirflowTaskTimeout("late"), False)]  # type: ignore[list-item,return-value]
    killed = operator()
    with pytest.raises(AirflowTaskTimeout):
        killed.execute(task.context)
    killed.on_kill()
    assert service.runs[101].status is RunStatus.STOPPED


@pytest.mark.parametrize("verb", ["stop", "status", "kill"])
def test_execution_timeout_in_the_middle_of_a_stop_does_not_end_the_stop(
    service: FakeService, worker: Worker, task: FakeTask, states: dict[str, Any], verb: str
) -> None:
    def late(_call: Any) -> Any:
        return AirflowTaskTimeout("late")

    task.ti.try_number = 3
    service.plans, service.ignores_stop = [Plan(seconds=None)], True
    service.faults["status"] = [(lambda call: RuntimeError("unforeseen"), False)]  # type: ignore[list-item,return-value]
    service.faults[verb] = [*service.faults.get(verb, []), (late, False)]
    with pytest.raises(AirflowTaskTimeout) as caught:
        operator(stop_grace=10).execute(task.context)
    assert service.runs[101].is_over
    assert "Run 101 of agent 7 was asked to stop" in caught.value.__notes__[0]


def test_a_kill_before_anything_was_started_does_nothing(service: FakeService, worker: Worker) -> None:
    operator().on_kill()
    assert service.requests == []


def test_a_kill_after_the_end_does_nothing(service: FakeService, worker: Worker, task: FakeTask) -> None:
    done = operator()
    done.execute(task.context)
    done.on_kill()
    assert service.count("stop") == 0


def test_a_kill_of_a_deferred_task_that_is_not_resumed_stops_the_run(
    service: FakeService, worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Airflow 2.11 does when execution_timeout has passed while the task was deferred.
    service.plans = [Plan(seconds=None)]
    task.has_state_store = False
    deferred_by(lambda: operator(deferrable=True).execute(task.context))
    monkeypatch.setattr(remote_job, "current_context", lambda: task.context)
    operator(deferrable=True).on_kill()
    assert service.runs[101].status is RunStatus.STOPPED


@pytest.mark.parametrize("store", [True, False], ids=["Airflow 3.3", "Airflow 3.0 to 3.2"])
def test_a_kill_while_a_resumed_task_reads_its_record_asks_nothing_more_and_stops_the_run(
    service: FakeService, worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch, store: bool
) -> None:
    def read_and_be_killed(state: TaskState) -> object:
        monkeypatch.setattr(TaskState, "read_after_deferral", not_while_it_answers)
        killed.on_kill()
        return read(state)

    def not_while_it_answers(state: TaskState) -> object:
        raise AssertionError("Airflow's supervisor is in the middle of a response.")

    service.plans, task.has_state_store = [Plan(seconds=None)], store
    deferred_by(lambda: operator(deferrable=True).execute(task.context))
    task.ti._ti_context_from_server = SimpleNamespace(next_method=DEFERRAL_FAILED)  # type: ignore[attr-defined]
    monkeypatch.setattr(remote_job, "current_context", lambda: task.context)
    read, killed = TaskState.read_after_deferral, operator(deferrable=True)
    monkeypatch.setattr(TaskState, "read_after_deferral", read_and_be_killed)
    with pytest.raises(AirflowTaskTerminated):
        killed.resume_execution(DEFERRAL_FAILED, {"error": "Trigger timeout"}, task.context)
    assert service.runs[101].status is RunStatus.STOPPED


@pytest.mark.parametrize("attempt", ["first", "next", "resumed"])
def test_a_record_that_airflow_does_not_give_is_no_reason_to_be_silent_about_the_run(
    service: FakeService, worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch, attempt: str
) -> None:
    def unavailable(key: str) -> Any:
        raise RuntimeError("Airflow's API server does not answer.")

    def go() -> Any:
        if attempt == "resumed":
            return operator().resume_execution(DEFERRAL_FAILED, {"error": "Trigger timeout"}, task.context)
        return operator().execute(task.context)

    if attempt != "first":
        deferred_by(lambda: operator(deferrable=True).execute(task.context))
    if attempt == "next":
        task.next_attempt()
    monkeypatch.setattr(task.store, "get", unavailable)
    with pytest.raises(RuntimeError) as caught:
        go()
    told = " ".join(getattr(caught.value, "__notes__", []))
    assert ("A job that it started may be running" in told) is (attempt != "first")


# Lost answers and faults


@BOTH
def test_an_ambiguous_start_fails_without_a_retry_and_says_what_to_do(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.start(by_stranger=True)
    service.faults["start"] = [(fakes.response_lost, True)]
    with pytest.raises(AgentRunStartAmbiguous, match=r"\[101, 102\]") as caught:
        run_through(worker, task, deferrable=deferrable)
    assert isinstance(caught.value, AirflowFailException)
    assert "clear the task" in str(caught.value)


# Mapped siblings run the same agent at the same time


@pytest.fixture
def sibling(service: FakeService, task: FakeTask) -> int:
    """The run that the mapped sibling beside the task has started and pushed."""
    task.ti.map_index = 0
    run = service.start(by_stranger=True)
    task.ti.another_pushes(
        "run_agent", 1, "sequentum_claim", Claim(agent_id=7, run_ids=(run.id,), map_index=1).to_json()
    )
    return run.id


@BOTH
def test_the_run_of_a_sibling_is_not_adopted(
    service: FakeService, worker: Worker, task: FakeTask, sibling: int, deferrable: bool
) -> None:
    service.faults["start"] = [(fakes.server_error, False)]
    with pytest.raises(SequentumUnavailable):
        run_through(worker, task, deferrable=deferrable)
    task.next_attempt()
    assert run_through(worker, task, deferrable=deferrable) == 102


@BOTH
def test_the_run_of_a_sibling_does_not_make_a_lost_start_ambiguous(
    service: FakeService, worker: Worker, task: FakeTask, sibling: int, deferrable: bool
) -> None:
    service.faults["start"] = [(fakes.response_lost, True)]
    assert run_through(worker, task, deferrable=deferrable) == 102


@BOTH
def test_a_siblings_run_whose_answer_is_late_is_not_adopted(
    service: FakeService, worker: Worker, task: FakeTask, sibling: int, deferrable: bool
) -> None:
    task.ti.another_pushes(
        "run_agent", 1, "sequentum_claim", Claim(agent_id=7, is_answered=False, map_index=1).to_json()
    )
    service.faults["start"] = [(fakes.server_error, False)]
    with pytest.raises(AgentRunStartAmbiguous, match="1 mapped sibling may have started it"):
        run_through(worker, task, deferrable=deferrable)
    assert service.count("start") == 1


def test_a_kill_never_stops_a_siblings_run(service: FakeService, worker: Worker, task: FakeTask, sibling: int) -> None:
    killed = operator()
    kill_while(service, "start", killed)
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert service.runs[sibling].stop_asked_at is None


def test_a_mapped_task_that_is_killed_while_its_start_is_unanswered_stops_its_run(
    service: FakeService, worker: Worker, task: FakeTask, sibling: int
) -> None:
    service.plans = [Plan(seconds=None)]
    killed = operator()
    kill_while(service, "start", killed, takes_effect=True)
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert service.runs[102].status is RunStatus.STOPPED
    assert service.runs[sibling].stop_asked_at is None


def test_a_record_that_cannot_be_read_starts_nothing(service: FakeService, worker: Worker, task: FakeTask) -> None:
    task.store.set("sequentum_run", {"format": 99})
    with pytest.raises(SequentumException, match="cannot be read"):
        run_through(worker, task)
    assert service.requests == []


def test_a_record_of_an_earlier_version_is_refused_and_its_run_stopped(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(seconds=None)]
    run = service.start()
    task.store.set("sequentum_run", {"format": 1, "agent_id": 7, "run_id": run.id, "fingerprint": "f", "max_tries": 2})
    with pytest.raises(SequentumException, match=r"Run 101 of agent 7 was asked to stop\. It has been stopped"):
        run_through(worker, task)
    assert run.status is RunStatus.STOPPED
    service.plans = [Plan()]
    task.next_attempt()
    assert run_through(worker, task) == 102


@pytest.mark.parametrize("verb", ["stop", "status"])
def test_execution_timeout_while_the_run_of_an_unreadable_record_is_stopped_does_not_end_that(
    service: FakeService, worker: Worker, task: FakeTask, verb: str
) -> None:
    service.plans = [Plan(seconds=None)]
    run = service.start()
    task.ti.max_tries = 0
    task.store.set("sequentum_run", {"format": 1, "agent_id": 7, "run_id": run.id})
    service.faults[verb] = [(late_answer, False)]
    with pytest.raises(AirflowTaskTimeout) as caught:
        operator(retries=0).execute(task.context)
    assert run.status is RunStatus.STOPPED
    assert "Run 101 of agent 7 was asked to stop. It has been stopped." in caught.value.__notes__[0]


def late_answer(_call: Any) -> Any:
    raise AirflowTaskTimeout("late")


@pytest.mark.parametrize("problem", [SequentumConnectionNotFound("No connection."), RuntimeError("Airflow is down")])
def test_what_keeps_the_run_of_an_unreadable_record_from_being_stopped_does_not_hide_it(
    service: FakeService, worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise problem

    record = {"format": 1, "agent_id": 7, "run_id": service.start().id}
    task.store.set("sequentum_run", record)
    monkeypatch.setattr(ClientPort, "exchange", fail)
    with pytest.raises(SequentumRequestRefused, match=r"Run 101 of agent 7 may be running") as caught:
        operator().execute(task.context)
    assert "a new job" not in str(caught.value)
    assert task.store.get("sequentum_run") == record


def test_a_record_that_cannot_be_read_is_kept_while_its_run_may_be_running(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(seconds=None)]
    run = service.start()
    record = {"format": 1, "agent_id": 7, "run_id": run.id}
    task.store.set("sequentum_run", record)
    for name in ("stop", "kill", "status"):
        service.faults[name] = [(fakes.server_error, False)] * 500
    with pytest.raises(SequentumRequestRefused, match=r"could not confirm that it ended.* delete the key"):
        run_through(worker, task)
    assert task.store.get("sequentum_run") == record
    assert len(service.runs) == 1


FAULTS = [
    (fakes.unauthorized, SequentumConnectionException),
    (fakes.server_error, SequentumUnavailable),
    (fakes.not_found, SequentumRequestRefused),
]


@BOTH
@pytest.mark.parametrize(("error", "kind"), FAULTS)
@pytest.mark.parametrize("tries_left", [True, False])
def test_a_wait_that_cannot_go_on_leaves_no_run_without_an_owner(
    service: FakeService,
    worker: Worker,
    task: FakeTask,
    deferrable: bool,
    error: ErrorOf,
    kind: type[SequentumException],
    tries_left: bool,
) -> None:
    """The status is refused for good, although starting and stopping are allowed."""
    service.plans = [Plan(seconds=None)]
    task.ti.try_number = 1 if tries_left else 3
    service.faults["status"] = [(error, False)] * 500
    with pytest.raises(kind, match="'sequentum_default'") as caught:
        run_through(worker, task, deferrable=deferrable)
    is_retried = tries_left and not isinstance(caught.value, AirflowFailException)
    assert (
        "Run 101 of agent 7 is probably still running. The next attempt joins it." in str(caught.value)
    ) is is_retried
    assert ("Run 101 of agent 7 was asked to stop." in str(caught.value)) is not is_retried
    service.settle()
    assert service.runs[101].is_over is not is_retried


@BOTH
@pytest.mark.parametrize("lasting", [True, False])
def test_when_no_attempt_is_left_a_run_that_cannot_be_looked_at_is_told_to_stop(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, lasting: bool
) -> None:
    service.plans = [Plan(seconds=None)]
    task.ti.try_number = 3
    service.faults["status"] = [(fakes.server_error, False)] * (500 if lasting else 21)  # eleven minutes
    with pytest.raises(SequentumUnavailable) as caught:
        run_through(worker, task, deferrable=deferrable, poll_interval=30)
    assert ("It has been stopped" in str(caught.value)) is not lasting
    assert ("may be running and costing credits" in str(caught.value)) is lasting
    service.settle()
    assert service.runs[101].status is RunStatus.STOPPED


@pytest.mark.parametrize("event", [None, {}, {"status": "success"}, "success", {"outcome": "ended", "run": None}])
def test_an_event_that_cannot_be_read_is_never_success(
    service: FakeService, worker: Worker, task: FakeTask, event: Any
) -> None:
    service.plans = [Plan(seconds=None)]
    deferral = deferred_by(lambda: operator(deferrable=True).execute(task.context))
    resumed = operator(deferrable=True)
    with pytest.raises(SequentumUnavailable, match="event cannot be read"):
        resumed.execute_complete(task.context, event, **(deferral.kwargs or {}))


# What the run has to have delivered


@BOTH
@pytest.mark.parametrize(
    ("plan", "arguments", "kind"),
    [
        (Plan(records=4), {"min_records": "5"}, AgentRunOutcomeRejected),
        (Plan(errors=3), {"max_errors": 2}, AgentRunOutcomeRejected),
        (Plan(records=0), {"on_empty": "fail"}, AgentRunOutcomeRejected),
        (Plan(records=0), {"on_empty": "skip"}, AirflowSkipException),
        (Plan(records=0), {"on_empty": "warn"}, None),
        (Plan(records=0), {}, None),
        (Plan(records=5), {"min_records": 5, "max_errors": 0, "on_empty": "fail"}, None),
    ],
)
def test_the_outcome_policy(
    service: FakeService,
    worker: Worker,
    task: FakeTask,
    deferrable: bool,
    plan: Plan,
    arguments: dict[str, Any],
    kind: type[Exception] | None,
) -> None:
    service.plans = [plan, Plan()]
    if kind is None:
        assert run_through(worker, task, deferrable=deferrable, **arguments) == 101
        return
    with pytest.raises(kind, match="succeeded, but"):
        run_through(worker, task, deferrable=deferrable, **arguments)
    task.next_attempt()
    assert run_through(worker, task, deferrable=deferrable, **arguments) == 102


# Whether it can be paid


@BOTH
@pytest.mark.parametrize("by", ["next_attempt", "clear"])
def test_no_try_starts_a_run_that_cannot_be_paid(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, by: str
) -> None:
    service.plans = [Plan(RunStatus.FAILED), Plan()]
    with pytest.raises(AgentRunFailed):
        run_through(worker, task, deferrable=deferrable, min_credits=50)
    service.credits = 49
    getattr(task, by)()
    with pytest.raises(CreditsTooLow, match=r"Agent 7 was not started: the account has 49 credits left"):
        run_through(worker, task, deferrable=deferrable, min_credits=50)
    assert service.count("start") == 1
    service.credits = 50
    task.next_attempt()
    assert run_through(worker, task, deferrable=deferrable, min_credits=50) == 102


def test_a_run_that_is_joined_needs_no_credits(service: FakeService, worker: Worker, task: FakeTask) -> None:
    run_through(worker, task, min_credits=50, wait_for_completion=False)
    service.credits = 0
    task.next_attempt()
    assert run_through(worker, task, min_credits=50) == 101


# Clearing


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
    assert run_through(worker, task, deferrable=deferrable, on_clear=on_clear) == (101 if joined else 102)
    assert service.count("stop") == (going and not joined)


@BOTH
@pytest.mark.parametrize("tries_left", [True, False])
def test_a_run_that_cannot_be_stopped_is_not_replaced(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, tries_left: bool
) -> None:
    service.plans = [Plan(seconds=None)]
    run_through(worker, task, deferrable=deferrable, wait_for_completion=False)
    service.faults["stop"] = [(fakes.server_error, False)] * 200
    service.faults["kill"] = [(fakes.server_error, False)] * 200
    task.clear()
    task.ti.try_number = 2 if tries_left else 9
    with pytest.raises(AgentRunStillRunning, match="Run 101 of agent 7 should be replaced") as caught:
        run_through(worker, task, deferrable=deferrable)
    assert (caught.value.agent_id, caught.value.run_id, service.count("start")) == (7, 101, 1)


@pytest.mark.parametrize("asks_for", ["a clear", "other inputs", "the same"])
@pytest.mark.parametrize("verb", ["status", "stop"])
def test_what_the_next_attempt_does_with_a_run_that_was_left_to_it_is_true(
    service: FakeService, worker: Worker, task: FakeTask, asks_for: str, verb: str
) -> None:
    """Until the run of an earlier attempt is joined, the next attempt may have to replace it as well."""
    service.plans = [Plan(seconds=None)]
    operator(wait_for_completion=False).execute(task.context)
    task.clear() if asks_for == "a clear" else task.next_attempt()
    inputs = {"input_parameters": {"a": 2}} if asks_for == "other inputs" else {}
    faults: list[tuple[ErrorOf, bool] | None] = [(fakes.server_error, False)] * 400
    service.faults.update(
        {"status": faults} if verb == "status" or asks_for == "the same" else {"stop": faults, "kill": faults}
    )
    with pytest.raises((SequentumUnavailable, AgentRunStillRunning)) as caught:
        operator(**inputs).execute(task.context)
    follows = "joins it" if asks_for == "the same" else "takes it over"
    assert str(caught.value).endswith(f"Run 101 of agent 7 is probably still running. The next attempt {follows}.")


@BOTH
@pytest.mark.parametrize(("stop_grace", "kills"), [(10, 1), (300, 0)])
def test_a_cleared_task_gives_its_old_run_the_grace_of_the_author(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, stop_grace: float, kills: int
) -> None:
    service.plans, service.stop_seconds = [Plan(seconds=None), Plan()], 200
    run_through(worker, task, deferrable=deferrable, wait_for_completion=False)
    task.clear()
    assert run_through(worker, task, deferrable=deferrable, stop_grace=stop_grace) == 102
    assert service.count("kill") == kills


@pytest.mark.parametrize("on_clear", ["rerun", "join"])
def test_the_trigger_knows_what_a_clear_means(worker: Worker, task: FakeTask, on_clear: str) -> None:
    deferral = deferred_by(lambda: operator(deferrable=True, on_clear=on_clear).execute(task.context))
    assert deferral.trigger.serialize()[1]["successor_may_join"] is (on_clear == "join")


# Airflow older than 3.3


@BOTH
def test_without_a_state_store_the_first_try_looks_for_nothing(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.start(by_stranger=True)
    task.has_state_store = False
    assert run_through(worker, task, deferrable=deferrable) == 102
    assert service.count("runs") == 0


@BOTH
@pytest.mark.parametrize(("map_index", "joins"), [(-1, True), (0, False)])
def test_without_a_state_store_a_retry_joins_the_only_run_that_goes(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, map_index: int, joins: bool
) -> None:
    service.plans = [Plan(seconds=500)]
    task.has_state_store = False
    task.ti.map_index = map_index
    run_through(worker, task, deferrable=deferrable, wait_for_completion=False)
    task.next_attempt()
    assert run_through(worker, task, deferrable=deferrable) == (101 if joins else 102)


@BOTH
@pytest.mark.parametrize("ends_by", ["outage", "timeout"])
@pytest.mark.parametrize("map_index", [-1, 0])
def test_without_a_state_store_no_retry_starts_a_run_beside_one_that_could_not_be_stopped(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, ends_by: str, map_index: int
) -> None:
    """The retry of a mapped task finds no run, and that of another task joins the one that goes."""
    service.plans = [Plan(seconds=None)]
    task.has_state_store, task.ti.map_index, task.ti.max_tries = False, map_index, 1
    faults: list[tuple[ErrorOf, bool] | None] = [(fakes.server_error, False)] * 400
    service.faults.update(stop=faults, kill=faults)
    if ends_by == "outage":
        service.faults["status"] = [None, *faults]
    passing = SequentumUnavailable if ends_by == "outage" else AgentRunTimeout
    kind = AgentRunStartAmbiguous if map_index >= 0 else passing
    with pytest.raises(kind, match="may be running and costing credits") as caught:
        run_through(worker, task, deferrable=deferrable, retries=1, timeout=3000)
    assert caught.value.run_id == 101
    assert isinstance(caught.value, AirflowFailException) == (map_index >= 0)


def test_without_a_state_store_a_cleared_task_starts_again(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    task.has_state_store = False
    run_through(worker, task, wait_for_completion=False)
    task.clear()
    assert run_through(worker, task) == 102


# Input


BAD_INPUT: list[tuple[dict[str, Any], str]] = [
    ({"agent_id": "x"}, "agent_id must be a positive whole number, not 'x'"),
    ({"agent_id": "None"}, "not 'None', the text of a template whose value is None"),
    (
        {"agent_id": None},
        r"Give either agent_id or agent_name: neither has a value \(the task or template",
    ),
    ({"agent_name": "Prices"}, "Give either agent_id or agent_name: both have a value"),
    ({"agent_id": None, "agent_name": "no such"}, "There is no agent with the name 'no such'"),
    ({"input_parameters": "[1]"}, "input_parameters must be a JSON object"),
    ({"input_parameters": "None"}, "input_parameters must be a JSON object, not 'None', the text of a template"),
    ({"input_parameters": " {'a': 1}"}, r"input_parameters must be a JSON object: .*rendered without '\| tojson'"),
    ({"timeout": "soon"}, "timeout must be a number of seconds"),
    ({"min_records": "many"}, "min_records must be a whole number"),
    ({"max_errors": -1}, "max_errors must be a whole number"),
    ({"parallelism": "x"}, "parallelism must be a whole number"),
    ({"poll_interval": "x"}, "poll_interval must be"),
    ({"restart_delay": -1}, "restart_delay must be"),
    ({"restarts": -1}, "restarts must be"),
    ({"stop_grace": "x"}, "stop_grace must be"),
    ({"parallelism": True}, "parallelism must be"),
    ({"parallel_export": "Separate"}, "parallel_export must be one of"),
    ({"log_level": "Debug"}, "log_level must be one of"),
    ({"log_mode": "Json"}, "log_mode must be one of"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT)
def test_bad_input_starts_nothing(
    service: FakeService, worker: Worker, task: FakeTask, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises((SequentumRequestRefused, ValueError), match=message):
        operator(**arguments).execute(task.context)
    assert service.count("start") == 0


CHOICES = ["on_timeout", "retry_mode", "on_clear", "on_ambiguous_start", "on_empty"]


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_that_is_none_starts_nothing(service: FakeService, worker: Worker, task: FakeTask, name: str) -> None:
    # It is no error of the DAG file: a DAG that is edited while a task is deferred must not lose its run.
    with pytest.raises(SequentumRequestRefused, match=f"{name} must be one of"):
        operator(**{name: "nonsense"}).execute(task.context)
    assert service.requests == []


@pytest.mark.parametrize(("name", "value"), list(product(CHOICES, ["", None])))
def test_a_choice_that_is_unset_has_its_default(worker: Worker, task: FakeTask, name: str, value: Any) -> None:
    assert operator(**{name: value}).execute(task.context) == 101


def test_an_agent_can_be_named(service: FakeService, worker: Worker, task: FakeTask) -> None:
    assert operator(agent_id=None, agent_name="Stock").execute(task.context) == 101
    assert service.runs[101].agent_id == 8


def test_a_named_agent_is_looked_up_once_and_not_after_a_deferral(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    run_through(worker, task, agent_id=None, agent_name="Stock", deferrable=True)
    assert service.count("all") == 1


@pytest.mark.parametrize("agent_id", [7, "7", " 7 "])
def test_ids_may_be_rendered_templates(worker: Worker, task: FakeTask, agent_id: int | str) -> None:
    assert operator(agent_id=agent_id).execute(task.context) == 101


def test_every_template_field_is_an_attribute() -> None:
    assert all(hasattr(operator(), name) for name in StartAgentRunOperator.template_fields)
    assert "sequentum_conn_id" in StartAgentRunOperator.template_fields


# Nothing that ends is ever resumed


@pytest.mark.parametrize("seconds", [0, 30, 60, 1000])
def test_the_deferral_has_a_backstop_behind_the_triggers_deadline(
    worker: Worker, task: FakeTask, seconds: float, service: FakeService
) -> None:
    service.plans = [Plan(seconds=None)]
    deferral = deferred_by(lambda: operator(deferrable=True, timeout=600 + seconds).execute(task.context))
    deadline = deferral.trigger.serialize()[1]["deadline"]
    assert datetime.fromisoformat(deadline) == START + timedelta(seconds=600 + seconds)
    assert deferral.timeout == timedelta(seconds=600 + seconds) + timedelta(minutes=2)


@pytest.mark.parametrize("has_store", [True, False])
def test_what_a_deferral_hands_on_is_kept_as_well(worker: Worker, task: FakeTask, has_store: bool) -> None:
    # Airflow drops the arguments of a deferral that times out, and so does dag.test().
    task.has_state_store = has_store
    deferral = deferred_by(lambda: operator(deferrable=True).execute(task.context))
    kept = task.store.get("sequentum_run") if has_store else task.ti.pushed("sequentum_run")
    assert deferral.kwargs == {"record": kept}
    assert operator(deferrable=True).execute_complete(task.context, fire(worker, deferral)) == 101


def test_without_limits_nothing_times_out(worker: Worker, task: FakeTask) -> None:
    deferral = deferred_by(lambda: operator(deferrable=True).execute(task.context))
    assert deferral.timeout is None
    assert deferral.trigger.serialize()[1]["deadline"] is None


# A record outlives a long wait


@BOTH
def test_a_record_is_kept_for_as_long_as_a_run_may_take(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    age = timedelta(days=100)
    service.plans = [Plan(seconds=(age + timedelta(days=1)).total_seconds()), Plan()]
    worker.steps_left = 12
    with suppress(Killed):
        run_through(worker, task, deferrable=deferrable)
    worker.steps_left = None
    service.clock.sleep(age.total_seconds())
    task.store.clean_up(age)
    task.next_attempt()
    assert run_through(worker, task, deferrable=deferrable) == 101


# An attempt that ends before it has read its parameters


@pytest.mark.parametrize("ending", [KeyboardInterrupt, AirflowTaskTimeout, SystemExit])
def test_an_interrupt_before_the_parameters_are_read_does_not_leave_the_run_of_the_attempt_before(
    service: FakeService, worker: Worker, task: FakeTask, ending: type[BaseException]
) -> None:
    service.plans = [Plan(seconds=None)]
    deferred_by(lambda: operator(deferrable=True).execute(task.context))
    task.next_attempt()

    def interrupt() -> None:
        raise ending("interrupted")

    worker.steps_left, worker.interrupt = 0, interrupt  # in the middle of looking for the agent by its name
    with pytest.raises(ending) as caught:
        operator(agent_id=None, agent_name="Prices").execute(task.context)
    assert service.runs[101].status is RunStatus.STOPPED
    assert "Run 101 of agent 7 was asked to stop" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("retries_left", [True, False])
def test_a_retry_policy_that_fails_decides_nothing(
    service: FakeService, worker: Worker, task: FakeTask, retries_left: bool
) -> None:
    class Policy:
        def evaluate(self, **_: Any) -> Any:
            raise RuntimeError("a mistake of the DAG author")

    service.plans = [Plan(seconds=None)]
    asked = operator()
    asked.retry_policy = Policy()  # type: ignore[assignment]
    task.ti.max_tries = 2 if retries_left else 0
    worker.steps_left, worker.interrupt = 8, lambda: (_ for _ in ()).throw(RuntimeError("no one foresaw this"))
    with pytest.raises(RuntimeError) as caught:
        asked.execute(task.context)
    fate = "".join(caught.value.__notes__)
    # Airflow, too, goes on as if the task had no such policy.
    assert ("The next attempt joins it" in fate) is retries_left
    assert service.runs[101].is_over is not retries_left


def test_a_task_whose_deferral_airflow_refuses_stops_its_run(
    service: FakeService,
    worker: Worker,
    task: FakeTask,
    states: dict[str, Any],
    answered: Callable[[], None],
) -> None:
    service.plans = [Plan(seconds=None), Plan(seconds=None)]
    deferred_by(lambda: operator(deferrable=True).execute(task.context))
    states["state"] = "deferred"
    answered()
    assert service.count("stop") == 0
    task.clear(wipes_store=True)
    states["state"] = "running"
    deferred_by(lambda: operator(deferrable=True).execute(task.context))
    states["state"] = "restarting"
    answered()
    assert [run.status for run in service.runs.values()] == [RunStatus.RUNNING, RunStatus.STOPPED]
    answered()
    assert service.count("stop") == 1


def test_what_a_resumed_task_imports_is_without_what_comes_before_a_start_and_what_few_ask_for() -> None:
    code = (
        "import sys, airflow_provider_sequentum.runs.attempt;"
        "needless = {f'airflow_provider_sequentum.runs.{name}'"
        " for name in ('before_start', 'cost', 'duration', 'spend', 'versions')};"
        "print(sorted(needless & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
