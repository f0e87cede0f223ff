"""An attempt that ends before its start was sent, or after the service refused it: nothing that runs is its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_sequentum.airflow_compat.kill import AirflowTaskTerminated
from airflow_provider_sequentum.hooks.port import CLAIM_KEY
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from tests.support.airflow import FakeTask
from tests.support.service import Clock, FakeService, Plan, conflict
from tests.support.worker import Killed, Worker

pytestmark = pytest.mark.usefixtures("fakes_behind_operators")

KINDS = pytest.mark.parametrize("kind", [StartAgentRunOperator, StartSpaceRunsOperator])
ENDS = pytest.mark.parametrize("end", [AirflowTaskTerminated, AirflowTaskTimeout])


@pytest.fixture
def service() -> FakeService:
    return FakeService(Clock(), plans=[Plan(seconds=None), Plan()], agents={7: "Prices"})


def operator(kind: Any) -> Any:
    what = {"agent_id": 7} if kind is StartAgentRunOperator else {"space_id": 1}
    return kind(task_id="run_agent", deferrable=False, **what)


def interruption(ended: Any, end: type[BaseException]) -> Callable[[], None]:
    """Return what Airflow's signal handler does: it calls ``on_kill``, or raises what ends the work."""

    def interrupt() -> None:
        if end is AirflowTaskTerminated:
            ended.on_kill()
        raise end("the time is up")

    return interrupt


def refuse_beside_another_run(service: FakeService, then: Callable[[], None] = lambda: None) -> None:
    """Let the service refuse the first start, because somebody else has just started a run of the agent."""

    def refuse(call: Any) -> Any:
        service.start(by_stranger=True)
        then()
        return conflict(call)

    service.faults["start"] = service.faults["run-all"] = [(refuse, False)]


@ENDS
@KINDS
def test_an_attempt_that_waits_to_repeat_a_refused_start_owns_no_run(
    service: FakeService, worker: Worker, task: FakeTask, kind: Any, end: type[BaseException]
) -> None:
    ended = operator(kind)

    def interrupt_the_pause() -> None:
        worker.steps_left, worker.interrupt = 1, interruption(ended, end)

    refuse_beside_another_run(service, interrupt_the_pause)
    with pytest.raises(end):
        ended.execute(task.context)
    assert (service.runs[101].stop_asked_at, task.store.values) == (None, {})
    task.next_attempt()
    assert operator(kind).execute(task.context) in (102, [102])
    assert service.runs[101].stop_asked_at is None


@KINDS
def test_nor_does_the_attempt_after_one_whose_worker_dies_then(
    service: FakeService, worker: Worker, task: FakeTask, kind: Any
) -> None:
    def die() -> None:
        worker.steps_left = 1

    refuse_beside_another_run(service, die)
    with pytest.raises(Killed):
        operator(kind).execute(task.context)
    worker.steps_left = None
    task.next_attempt()
    assert operator(kind).execute(task.context) in (102, [102])


@KINDS
def test_meanwhile_its_mapped_siblings_know_that_nothing_was_started(
    service: FakeService, worker: Worker, task: FakeTask, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task.ti.map_index = 0
    service.plans = [Plan()]
    heard: list[Any] = []
    really_sleep = Worker.sleep

    def sleep(port: Worker, seconds: float) -> None:
        heard.append(task.ti.pushed(CLAIM_KEY)["is_answered"])
        really_sleep(port, seconds)

    monkeypatch.setattr(Worker, "sleep", sleep)
    refuse_beside_another_run(service)
    operator(kind).execute(task.context)
    assert heard[0] is True


@KINDS
def test_an_attempt_whose_intent_cannot_be_saved_owns_no_run(
    service: FakeService, worker: Worker, task: FakeTask, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        service.start(by_stranger=True)
        raise RuntimeError("the store is down")

    monkeypatch.setattr(task.store, "set", refuse)
    with pytest.raises(RuntimeError, match="the store is down"):
        operator(kind).execute(task.context)
    assert service.requests == []


def test_nor_does_it_say_that_there_may_be_a_session(
    worker: Worker, task: FakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("the store is down")

    monkeypatch.setattr(task.store, "set", refuse)
    with pytest.raises(RuntimeError, match="the store is down") as caught:
        AgentBuilderOperator(task_id="build", prompt="Get the prices.", deferrable=False).execute(task.context)
    assert worker.warned == []
    assert getattr(caught.value, "__notes__", []) == []
