from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout

from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.exceptions import (
    SequentumSkipped,
    AgentRunStartAmbiguous,
    AgentRunStillRunning,
    CreditsTooLow,
    SequentumRequestRefused,
    SequentumUnavailable,
    SpaceRunsEnded,
    SpaceRunsFailed,
)
from airflow_provider_sequentum.airflow_compat.kill import AirflowTaskTerminated
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from airflow_provider_sequentum.runs.wait import PollOutcome, RunEvent
from airflow_provider_sequentum.spaces.attempt import SpaceAttempt
from tests.support import service as fakes
from tests.support.airflow import FakeTask, deferred_by, use_fakes
from tests.support.service import START, Clock, ErrorOf, FakeService, Plan
from tests.support.tries import fire_space, run_try
from tests.support.worker import Killed, Worker

FAILURE = Plan(RunStatus.FAILURE, seconds=10)
BOTH = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferred"])


@pytest.fixture
def service() -> FakeService:
    return FakeService(Clock(), agents={7: "Prices", 8: "Stock", 9: "Reviews"})


@pytest.fixture
def worker(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> Worker:
    worker = Worker(service)
    use_fakes(monkeypatch, worker)
    return worker


@pytest.fixture
def task(service: FakeService, worker: Worker) -> FakeTask:
    return FakeTask(service.clock, retries=2)


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
def test_a_retry_goes_on_with_each_run(service: FakeService, worker: Worker, task: FakeTask, deferrable: bool) -> None:
    service.plans = [Plan(), FAILURE, Plan(RunStatus.FAILED), Plan()]
    with pytest.raises(SpaceRunsFailed) as caught:
        run_through(worker, task, deferrable=deferrable)
    assert "2 of the 3 agents of space 1 did not end well" in str(caught.value)
    assert "The next attempt restarts it in place" in str(caught.value)
    assert "The next attempt starts a new run" in str(caught.value)
    assert [result["status"] for result in task.ti.pushed("runs")] == ["Success", "Failure", "Failed"]
    service.clock.sleep(60)
    task.next_try()
    assert run_through(worker, task, deferrable=deferrable) == [101, 102, 104]
    assert (service.count("run-all"), service.count("restart"), service.count("start")) == (1, 1, 1)


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
def test_agents_that_were_not_started_are_started_by_the_next_try(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.refuses_to_start = {8: "Insufficient credits."}
    with pytest.raises(SpaceRunsFailed, match=r"Agent 8 was not started: Insufficient credits\."):
        run_through(worker, task, deferrable=deferrable)
    assert [result["run_id"] for result in task.ti.pushed("runs")] == [101, None, 102]
    service.refuses_to_start = {}
    task.next_try()
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
    worker.steps_left = 40
    with pytest.raises(Killed):
        killed.execute(task.context)
    worker.steps_left = None
    before = service.clock.now
    killed.on_kill()
    # Airflow gives a killed task about five seconds: all stops have to be sent before any of them is waited for.
    stops = [run.stop_asked_at for run in service.runs.values()]
    assert [stop - before for stop in stops if stop] == [timedelta(0)] * 3
    assert all(run.is_over for run in service.runs.values())


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


def test_a_worker_that_is_shut_down_leaves_the_runs_to_the_next_try(
    service: FakeService, worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.airflow_compat.kill.state_of", lambda task_instance: "running")
    killed = operator()
    kill_while(service, "status", killed)
    with pytest.raises(SystemExit, match="the next attempt joins them"):
        killed.execute(task.context)
    assert service.count("stop") == 0
    task.next_try()
    assert operator().execute(task.context) == [101, 102, 103]
    assert len(service.runs) == 3


@pytest.mark.parametrize("refused", [{}, {8: "Insufficient credits."}])
def test_a_kill_in_the_middle_of_the_start_sends_the_stops_at_once(
    service: FakeService, worker: Worker, task: FakeTask, refused: dict[int, str]
) -> None:
    # Airflow gives a killed task about five seconds, and an agent that was not started is looked for in vain.
    service.plans, service.refuses_to_start = [Plan(seconds=None)], refused
    killed = operator()
    kill_while(service, "run-all", killed, takes_effect=True)
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert len(service.runs) == 3 - len(refused)
    assert [run.stop_asked_at for run in service.runs.values()] == [START] * len(service.runs)


def test_a_kill_in_the_middle_of_one_agents_start_finds_its_run(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(), Plan(RunStatus.FAILED), Plan(), Plan(seconds=None)]
    with pytest.raises(SpaceRunsFailed):
        run_through(worker, task)
    task.next_try()
    killed = operator()
    kill_while(service, "start", killed, takes_effect=True)
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert service.runs[104].status is RunStatus.STOPPED


def test_a_kill_stops_what_is_known_where_the_rest_cannot_be_told_from_others(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [Plan(), Plan(RunStatus.FAILED), Plan(seconds=None)]
    task.ti.map_index = 0  # among siblings, none that is looked for can be told from theirs
    with pytest.raises(SpaceRunsFailed):
        run_through(worker, task, timeout=100, on_timeout="leave")
    task.next_try()
    killed = operator()
    kill_while(service, "start", killed, takes_effect=True)
    with pytest.raises(AirflowTaskTerminated):
        killed.execute(task.context)
    assert service.runs[103].status is RunStatus.STOPPED
    assert service.runs[104].stop_asked_at is None


def test_a_kill_stops_a_run_that_is_no_longer_waited_for_too(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    # The wait for one run could not go on, so that nobody looks at it any more; it has not ended.
    service.plans = [Plan(seconds=None)]
    killed = operator()
    service.faults["status"] = [None, None, None, (fakes.unauthorized, False)]
    worker.steps_left = 40
    with pytest.raises(Killed):
        killed.execute(task.context)
    worker.steps_left = None
    killed.on_kill()
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
    service.faults["stop"] = [(fakes.server_error, False)] * 6
    service.faults["kill"] = [(fakes.server_error, False)] * 2
    task.clear()
    with pytest.raises(AgentRunStillRunning, match=r"Runs \[101\] of agents \[7\]") as caught:
        run_through(worker, task, deferrable=deferrable)
    assert "The next attempt stops them again" in str(caught.value)
    assert len(service.runs) == 3
    task.next_try()
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
    task.next_try()
    found = run_through(worker, task, deferrable=deferrable, input_parameters={"a": 2})
    assert found == [104, 105, 106]
    assert all(service.runs[number].status is RunStatus.STOPPED for number in (101, 102, 103))


# Lost answers, and death at every step


@BOTH
@pytest.mark.parametrize("error", [fakes.answer_lost, fakes.server_error])
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
    service.faults["run-all"] = [(fakes.answer_lost, True)]
    assert run_through(worker, task, deferrable=deferrable) == [104, 105, 106]


@BOTH
@pytest.mark.parametrize("verb", ["agents", "runs"])
def test_one_failed_look_for_lost_runs_is_not_the_last(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool, verb: str
) -> None:
    service.faults["run-all"] = [(fakes.answer_lost, True)]
    service.faults[verb] = [(fakes.server_error, False)]
    assert run_through(worker, task, deferrable=deferrable) == [101, 102, 103]


@BOTH
def test_the_runs_of_a_mapped_sibling_are_not_adopted(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    task.ti.map_index = 0
    of_sibling = [service.start(agent_id, by_stranger=True).id for agent_id in (7, 8)]
    nothing = {"agent_id": 9, "run_id": None}
    task.ti.xcoms["run_agent", 1, "runs"] = [*({"agent_id": 7, "run_id": run_id} for run_id in of_sibling), nothing]
    service.faults["run-all"] = [(fakes.answer_lost, True)]
    assert run_through(worker, task, deferrable=deferrable) == [103, 104, 105]


@BOTH
def test_a_start_that_left_nothing_is_repeated_by_the_next_try(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.faults["run-all"] = [(fakes.answer_lost, False)]
    with pytest.raises(SequentumUnavailable):
        run_through(worker, task, deferrable=deferrable)
    task.next_try()
    assert run_through(worker, task, deferrable=deferrable) == [101, 102, 103]
    assert len(service.runs) == 3


@BOTH
def test_what_a_lost_start_left_undone_is_done_by_the_next_try(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.refuses_to_start = {8: "?"}
    service.faults["run-all"] = [(fakes.answer_lost, True)]
    with pytest.raises(SpaceRunsFailed, match="Agent 8 was not started, as far as is known"):
        run_through(worker, task, deferrable=deferrable)
    task.next_try()
    assert run_through(worker, task, deferrable=deferrable) == [101, 103, 102]
    assert service.count("run-all") == 1


@BOTH
def test_runs_that_cannot_be_told_from_others_fail_and_a_clear_starts_anew(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.start(8, by_stranger=True)
    service.faults["run-all"] = [(fakes.answer_lost, True)]
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
        task.next_try()
        run_through(worker, task, deferrable=deferrable)
    assert sorted(run.agent_id for run in service.runs.values()) == [7, 8, 9]
    assert all(run.status is RunStatus.SUCCESS for run in service.runs.values())


def test_a_record_that_cannot_be_read_starts_nothing(service: FakeService, worker: Worker, task: FakeTask) -> None:
    task.store.set(StartSpaceRunsOperator.state_key, {"format": 99})
    with pytest.raises(AgentRunStartAmbiguous, match="Nothing was started"):
        run_through(worker, task)
    assert service.requests == []


@BOTH
def test_one_run_that_cannot_be_looked_at_spoils_no_other(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.faults["status"] = [None, None, None, (fakes.unauthorized, False)]
    with pytest.raises(SpaceRunsEnded, match="1 of the 3 agents"):
        run_through(worker, task, deferrable=deferrable)
    assert service.clock.now > START


# Airflow older than 3.3


@BOTH
def test_without_a_state_store_a_retry_joins_what_goes(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [Plan(seconds=500)]
    task.has_state_store = False
    run_through(worker, task, deferrable=deferrable, wait_for_completion=False)
    task.next_try()
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
