"""The response to a start names another run than the one that was started: none has two owners, and none is without."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.exceptions import (
    AgentRunStartAmbiguous,
    AgentRunTimeout,
    SequentumRequestRefused,
    SpaceRunsEnded,
    SpaceRunsFailed,
)
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from tests.support.airflow import FakeTask, use_fakes
from tests.support.service import START, Clock, FakeService, Plan
from tests.support.tries import fire_space, run_try
from tests.support.worker import Killed, Worker

pytestmark = pytest.mark.usefixtures("fakes_behind_operators")

BOTH = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
NEVER, OLD, OLD_OF_OTHER = 999, 101, 102
ENDLESS = Plan(seconds=None)


@pytest.fixture
def service() -> FakeService:
    return old_runs()


def old_runs() -> FakeService:
    """Return a service with an old run of each agent."""
    service = FakeService(Clock())
    service.start(7, by_stranger=True)
    service.start(8, by_stranger=True)
    service.clock.sleep(600)
    service.settle()
    return service


def misname(service: FakeService, answer: Callable[[Any], Any], verb: str = "start") -> None:
    act = service._act

    def spoiled(name: str, call: Call[Any]) -> Any:
        answered = act(name, call)
        return answer(answered) if name == verb else answered

    service._act = spoiled  # type: ignore[method-assign, assignment]


def run_agent(worker: Worker, task: FakeTask, **arguments: Any) -> Any:
    given = {"task_id": "run_agent", "agent_id": 7, "retries": task.retries, "deferrable": False, **arguments}
    return run_try(worker, task, lambda: StartAgentRunOperator(**given))


def run_space(worker: Worker, task: FakeTask, **arguments: Any) -> Any:
    given = {"task_id": "run_agent", "space_id": 1, "retries": task.retries, "deferrable": False, **arguments}
    return run_try(worker, task, lambda: StartSpaceRunsOperator(**given), fire_space)


def as_running(run_id: object) -> Callable[[Any], Any]:
    return lambda _: {"id": run_id, "configId": 7, "status": int(RunStatus.RUNNING)}


def with_first_id(answered: Any, run_id: int) -> Any:
    answered["results"][0]["runId"] = run_id
    return answered


def interrupt() -> None:
    raise KeyboardInterrupt


ANSWERS = {
    "no run": as_running(NEVER),
    "an old run": as_running(OLD),
    "another agent's run": as_running(OLD_OF_OTHER),
    "no number": as_running(True),
    "no status": lambda _: {"runId": OLD},
    "a list": lambda run: [run],
}


@BOTH
@pytest.mark.parametrize("name", ANSWERS)
def test_the_run_that_was_started_is_the_task_s(
    service: FakeService, worker: Worker, task: FakeTask, name: str, deferrable: bool
) -> None:
    service.plans = [Plan(seconds=300)]
    misname(service, ANSWERS[name])
    assert run_agent(worker, task, deferrable=deferrable) == 103
    assert service.count("start") == 1
    assert task.ti.pushed("run")["run_id"] == 103


@BOTH
@pytest.mark.parametrize("name", ["no run", "an old run"])
def test_the_run_that_was_started_has_the_limits_of_the_task(
    service: FakeService, worker: Worker, task: FakeTask, name: str, deferrable: bool
) -> None:
    for _ in range(3):  # whose duration is the usual one: a minute
        service.plans.append(Plan(seconds=60))
        service.start(by_stranger=True)
        service.clock.sleep(60)
    service.plans = [ENDLESS]
    misname(service, ANSWERS[name])
    with pytest.raises(AgentRunTimeout, match=r"Run 106 .* three times its usual duration passed\. .*stopped"):
        run_agent(worker, task, deferrable=deferrable, stop_overdue=True, timeout=3600)
    assert service.runs[106].status is RunStatus.STOPPED


@BOTH
def test_the_record_of_an_old_run_is_recognized_at_once(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    misname(service, lambda _: service.runs[OLD].as_json(service.clock.now))
    assert run_agent(worker, task, deferrable=deferrable) == 103


@pytest.mark.parametrize("skew", [timedelta(days=-1), timedelta(minutes=-5), timedelta(0), timedelta(hours=9)])
@BOTH
def test_the_right_run_is_taken_for_no_other_whatever_the_clocks_say(
    service: FakeService, worker: Worker, task: FakeTask, skew: timedelta, deferrable: bool
) -> None:
    service.skew = skew
    assert run_agent(worker, task, deferrable=deferrable) == 103
    misname(service, lambda _: service.runs[OLD].as_json(service.clock.now, skew))
    task.clear()
    assert run_agent(worker, task, deferrable=deferrable) == 104


@pytest.mark.parametrize("ahead", [5, 61, 62, 63, 64, 600, 90_000])
@pytest.mark.parametrize("run", [run_agent, run_space])
@BOTH
def test_the_right_run_is_the_task_s_whatever_a_gateway_takes_for_the_time(
    service: FakeService,
    worker: Worker,
    task: FakeTask,
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[..., Any],
    ahead: float,
    deferrable: bool,
) -> None:
    service.plans = [Plan(seconds=300)]
    exchange, skew = service.exchange, timedelta(seconds=ahead)
    monkeypatch.setattr(service, "exchange", lambda call: exchange(call)._replace(served_at=service.clock.now + skew))
    assert run(worker, task, deferrable=deferrable) in (103, [103, 104])


def state_another_time(service: FakeService) -> None:
    """Let the status of a run state a time of another zone than the list does, as one without an offset may be."""

    def another_time(run: Any) -> Any:
        return {**run, "created": (START - timedelta(hours=14)).replace(tzinfo=None).isoformat()}

    misname(service, another_time, "status")


@BOTH
@pytest.mark.parametrize("run", [run_agent, run_space])
def test_the_right_run_is_waited_for_once_whatever_time_its_record_states(
    service: FakeService, worker: Worker, task: FakeTask, run: Callable[..., Any], deferrable: bool
) -> None:
    state_another_time(service)
    worker.steps_left, worker.interrupt = 100, lambda: pytest.fail("it looks for the run for ever")
    assert run(worker, task, deferrable=deferrable) in (103, [103, 104])


@BOTH
@pytest.mark.parametrize("run", [run_agent, run_space])
def test_the_right_run_is_stopped_at_the_deadline_whatever_time_its_record_states(
    service: FakeService, worker: Worker, task: FakeTask, run: Callable[..., Any], deferrable: bool
) -> None:
    service.plans = [ENDLESS]
    state_another_time(service)
    worker.steps_left, worker.interrupt = 200, lambda: pytest.fail("it looks for the run for ever")
    with pytest.raises((AgentRunTimeout, SpaceRunsFailed)):
        run(worker, task, timeout=30, stop_grace=10, deferrable=deferrable)
    assert all(each.is_over for each in service.runs.values())


@BOTH
def test_what_cannot_be_told_apart_is_not_guessed(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    def answer(_: Any) -> Any:
        service.start(7, by_stranger=True)
        return as_running(NEVER)(_)

    misname(service, answer)
    with pytest.raises(AgentRunStartAmbiguous, match=r"103, 104"):
        run_agent(worker, task, deferrable=deferrable)
    assert not any(run.stop_asked_at for run in service.runs.values())


@BOTH
def test_at_the_deadline_the_run_that_was_started_is_stopped_and_no_other(
    service: FakeService, worker: Worker, task: FakeTask, deferrable: bool
) -> None:
    service.plans = [ENDLESS]
    misname(service, as_running(NEVER))
    with pytest.raises(AgentRunTimeout):
        run_agent(worker, task, deferrable=deferrable, timeout=30, stop_grace=10)
    assert service.runs[103].is_over


def test_an_active_run_of_others_that_was_named_is_not_stopped(
    service: FakeService, worker: Worker, task: FakeTask
) -> None:
    service.plans = [ENDLESS]
    others = service.start(7, by_stranger=True)
    service.clock.sleep(600)
    task.ti.start_date = service.clock.now
    misname(service, lambda _: {"runId": others.id})
    with pytest.raises(AgentRunTimeout):
        run_agent(worker, task, timeout=300, stop_grace=10)
    assert (others.stop_asked_at, service.runs[104].is_over) == (None, True)


@pytest.mark.parametrize("run", [run_agent, run_space])
@pytest.mark.parametrize("wrong", [NEVER, OLD])
def test_an_interrupt_at_any_step_leaves_no_run_going(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any], wrong: int
) -> None:
    for step in range(40):
        service = old_runs()
        worker = Worker(service)
        use_fakes(monkeypatch, worker)
        task = FakeTask(service.clock)
        service.plans = [ENDLESS]
        misname(service, lambda _: {"runId": wrong})
        misname(service, lambda answered: with_first_id(answered, wrong), "run-all")
        worker.steps_left, worker.interrupt = step, interrupt
        with pytest.raises((KeyboardInterrupt, AgentRunTimeout, SpaceRunsFailed)):
            run(worker, task, timeout=3000, stop_grace=5)
        service.settle()
        assert all(each.is_over for each in service.runs.values()), step


@pytest.mark.parametrize("policy", ["fail", "adopt", "start"])
def test_the_next_attempt_starts_no_second_run_beside_it(
    service: FakeService, worker: Worker, task: FakeTask, policy: str
) -> None:
    task.retries = task.ti.max_tries = 1
    service.plans = [Plan(seconds=900)]
    misname(service, as_running(NEVER))
    worker.steps_left = 8
    with pytest.raises(Killed):
        run_agent(worker, task, on_ambiguous_start=policy)
    worker.steps_left = None
    task.next_attempt()
    if policy == "fail":
        with pytest.raises(AgentRunStartAmbiguous, match="103"):
            run_agent(worker, task, on_ambiguous_start=policy)
    else:
        assert run_agent(worker, task, on_ambiguous_start=policy) == (103 if policy == "adopt" else 104)
    assert service.count("start") == (2 if policy == "start" else 1)


def test_a_run_that_was_deleted_and_nothing_in_its_place(service: FakeService, worker: Worker, task: FakeTask) -> None:
    misname(service, lambda run: service.runs.pop(run["id"]).as_json(service.clock.now))
    with pytest.raises(SequentumRequestRefused, match="No such thing"):
        run_agent(worker, task)


@BOTH
@pytest.mark.parametrize("wrong", [NEVER, OLD])
def test_the_runs_of_a_space(
    service: FakeService, worker: Worker, task: FakeTask, wrong: int, deferrable: bool
) -> None:
    def answer(answered: Any) -> Any:
        answered["results"][0]["runId"] = wrong
        return answered

    service.plans = [Plan(seconds=300)]
    misname(service, answer, "run-all")
    assert run_space(worker, task, deferrable=deferrable) == [103, 104]
    assert (service.count("run-all"), service.count("start")) == (1, 0)


def test_the_late_runs_of_a_space(service: FakeService, worker: Worker, task: FakeTask) -> None:
    def answer(answered: Any) -> Any:
        answered["results"][0]["runId"] = NEVER
        return answered

    service.plans = [ENDLESS]
    misname(service, answer, "run-all")
    with pytest.raises(SpaceRunsFailed):
        run_space(worker, task, timeout=30, stop_grace=10)
    assert all(run.is_over for run in service.runs.values())


@pytest.mark.parametrize("policy", ["fail", "adopt"])
def test_the_next_attempt_at_a_space_starts_no_second_run_beside_it(
    service: FakeService, worker: Worker, task: FakeTask, policy: str
) -> None:
    def answer(answered: Any) -> Any:
        answered["results"][0]["runId"] = NEVER
        return answered

    task.retries = task.ti.max_tries = 1
    service.plans = [Plan(seconds=900)]
    misname(service, answer, "run-all")
    worker.steps_left = 8
    with pytest.raises(Killed):
        run_space(worker, task, on_ambiguous_start=policy)
    worker.steps_left = None
    task.next_attempt()
    if policy == "fail":
        with pytest.raises(SpaceRunsEnded, match="103"):
            run_space(worker, task, on_ambiguous_start=policy)
    else:
        assert run_space(worker, task, on_ambiguous_start=policy) == [103, 104]
    assert (service.count("run-all"), service.count("start")) == (1, 0)
