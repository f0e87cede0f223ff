"""Operators, sensor and triggers against a server that answers anything.

Whatever it answers, the task comes to an end in one of the ways Airflow knows, nothing it leaves behind holds the key,
and once the server is sane again a next attempt understands what is there. The default run is quick; ``make fuzz``
tries many more answers.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.pipeline import Pipeline, read_response
from airflow_provider_sequentum.api.settings import ClientSettings
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.sensors.agent_run import AgentRunSensor
from tests.support.airflow import FakeTask, use_fakes
from tests.support.builder import FakeBuilder, use_builder
from tests.support.hostile import KEY, responses
from tests.support.service import Clock, FakeService
from tests.support.tries import run_try
from tests.support.worker import Worker

PIPELINE = Pipeline(ClientSettings(api_key=KEY))
MAX_HOSTILE, MAX_REQUESTS = 12, 500
ENDS = (AirflowException, AirflowSkipException, AirflowFailException, AirflowTaskTimeout)
FUZZ = settings(
    phases=[Phase.reuse, Phase.generate],  # making a conversation shorter takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


class Hostile:
    """
    A server in front of an honest one. It lets most requests through, but now and then answers itself, whether the
    honest one acted or not.

    :param honest: the honest server's ``answer``.
    :param data: what decides.
    """

    def __init__(self, honest: Callable[[Call[Any]], Any], data: st.DataObject) -> None:
        self._honest = honest
        self._data = data
        self._mood = st.sampled_from(["honest", "honest", "hostile", "hostile before"])
        self.is_sane = False
        self.requests = 0

    def answer(self, call: Call[Any]) -> Any:
        self.requests += 1
        assert self.requests < MAX_REQUESTS, "it asks for ever"
        mood = "honest" if self.is_sane or self.requests > MAX_HOSTILE else self._data.draw(self._mood)
        if mood == "hostile before":
            sample: Any = {"id": 101, "configId": 7, "status": 10}
        else:
            raw = self._honest(replace(call, parse=lambda answer: answer))
            if mood == "honest":
                return call.parse(raw)
            sample = json.loads(raw.content or b"null")
        response = self._data.draw(responses(sample))
        return read_response(call, PIPELINE.response_of(response, response.content))


def end_of(task: Callable[[], Any]) -> str:
    """Carry out a try and return what it tells: its result, or the whole of its error."""
    try:
        return repr(task())
    except ENDS as error:
        return "".join(traceback.format_exception(error)) + repr(vars(error))


@contextmanager
def run_world(data: st.DataObject) -> Iterator[tuple[Hostile, Worker, FakeTask]]:
    """A task that works with runs, and the server it talks to."""
    service = FakeService(Clock())
    hostile, worker = Hostile(service.answer, data), Worker(service)
    service.answer = hostile.answer  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_fakes(monkeypatch, worker)
        yield hostile, worker, FakeTask(service.clock, retries=2)


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
@FUZZ
@given(data=st.data())
def test_running_an_agent(deferrable: bool, data: st.DataObject) -> None:
    def operator() -> StartAgentRunOperator:
        fields: dict[str, Any] = {"deferrable": deferrable, "retries": 2, "poll_interval": 60, "timeout": 900}
        return StartAgentRunOperator(task_id="run_agent", agent_id=7, restarts=1, **fields)

    with run_world(data) as (hostile, worker, task):
        told = end_of(lambda: run_try(worker, task, operator))
        left = json.dumps(task.store.values) + repr(task.ti.xcoms) + repr(worker.said)
        assert KEY not in told + left
        hostile.is_sane = True
        task.next_attempt()
        assert KEY not in end_of(lambda: run_try(worker, task, operator))


@FUZZ
@given(data=st.data())
def test_waiting_for_a_run(data: st.DataObject) -> None:
    def sensor() -> AgentRunSensor:
        return AgentRunSensor(task_id="wait", agent_id=7, run_id=101, deferrable=True, timeout=900, poke_interval=60)

    with run_world(data) as (_, worker, task):
        FakeService.start(worker.service)
        told = end_of(lambda: run_try(worker, task, sensor))
        assert KEY not in told + repr(task.ti.xcoms) + repr(worker.said)


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
@pytest.mark.parametrize("single_shot", [False, True], ids=["conversation", "single shot"])
@FUZZ
@given(data=st.data())
def test_building_an_agent(deferrable: bool, single_shot: bool, data: st.DataObject) -> None:
    def operator() -> AgentBuilderOperator:
        return AgentBuilderOperator(
            task_id="build", prompt="Pull the prices.", followups=["All of them"], deferrable=deferrable, retries=2
        )

    service = FakeBuilder(looks=1, single_shot=single_shot)
    hostile = Hostile(service.answer, data)
    service.answer = hostile.answer  # type: ignore[method-assign]
    world = service.task(retries=2)
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_builder(monkeypatch, Worker(service))
        told = end_of(lambda: world.run(operator()))
        assert KEY not in told + repr(world.xcoms) + repr(world.store.values)
        hostile.is_sane = True
        world.next_attempt()
        assert KEY not in end_of(lambda: world.run(operator()))
