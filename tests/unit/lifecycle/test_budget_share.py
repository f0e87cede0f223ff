"""Who polls leaves a part of the key's request budget to who starts and stops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from airflow_provider_sequentum.lifecycle.next_run import look_for_next_run
from airflow_provider_sequentum.lifecycle.procedure import Procedure, Send
from airflow_provider_sequentum.lifecycle.run_request import RunRequest
from airflow_provider_sequentum.lifecycle.run_start import RunPolicy, hold_run
from airflow_provider_sequentum.lifecycle.run_stop import stop_run
from airflow_provider_sequentum.lifecycle.run_wait import RunWaitTerms, wait_for_end
from airflow_provider_sequentum.lifecycle.tolerance import WAITING_SHARE

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.lifecycle.builder_session import BuilderSession
from airflow_provider_sequentum.lifecycle.builder_wait import wait_for_turn
from tests.support.service import START, Clock, FakeService
from tests.support.worker import Worker
from tests.unit.lifecycle import builder_service

# A procedure can be carried out once, so a table of cases holds what begins one.
Begin = Callable[[], Procedure[Any]]


def overheard(procedure: Procedure[Any], sent: list[Send]) -> Procedure[Any]:
    """Carry out ``procedure`` and note what it sends."""
    step = next(procedure)
    while True:
        if isinstance(step, Send):
            sent.append(step)
        try:
            try:
                result = yield step
            except SequentumError as error:
                step = procedure.throw(error)
            else:
                step = procedure.send(result)
        except StopIteration as stop:
            return stop.value


@pytest.fixture
def service() -> FakeService:
    service = FakeService(Clock())
    service.start()
    return service


@pytest.mark.parametrize(
    "begin",
    [
        partial(wait_for_end, RunWaitTerms(agent_id=7, run_id=101, poll_interval=30)),
        partial(look_for_next_run, 7, START),
    ],
)
def test_a_wait_for_a_run_uses_the_share_of_waits(service: FakeService, begin: Begin) -> None:
    sent: list[Send] = []
    Worker(service).perform(overheard(begin(), sent))
    assert {step.budget_share for step in sent} == {WAITING_SHARE}


def test_a_wait_for_a_session_uses_the_share_of_waits() -> None:
    session = builder_service.FakeSession(looks_left=3)
    session.tell("thinking", message="m")
    builder = builder_service.FakeBuilder()
    builder.sessions["s1"] = session
    sent: list[Send] = []
    wait = wait_for_turn(BuilderSession(session_id="s1", since=START), 10.0, None)
    builder_service.Worker(builder).run(overheard(wait, sent))
    assert len({step.call.path for step in sent}) == 2, "it looked at the status and at the events"
    assert {step.budget_share for step in sent} == {WAITING_SHARE}


@pytest.mark.parametrize(
    "begin", [partial(hold_run, RunRequest(agent_id=7), RunPolicy(), 0, None), partial(stop_run, 7, 101, 45)]
)
def test_a_start_and_a_stop_may_use_all_of_it(service: FakeService, begin: Begin) -> None:
    sent: list[Send] = []
    Worker(service).perform(overheard(begin(), sent))
    changes = [step for step in sent if step.call.method != "GET"]
    assert changes
    assert {step.budget_share for step in changes} == {1.0}
