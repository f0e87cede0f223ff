"""A system clock that is set while a task waits for its run or stops it changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_sequentum.api import Call, Reply
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.hooks.port import ClientPort
from airflow_provider_sequentum.jobs import port as jobs_port
from airflow_provider_sequentum.jobs.stop import astop_jobs, stop_jobs
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.runs.stop import RunStopper
from airflow_provider_sequentum.runs.wait import PollOutcome, WaitSpec, wait_for_runs
from tests.support.service import START, Clock, FakeService, Plan

STEPS = [timedelta(hours=-1), timedelta(hours=1), timedelta(0)]


class Machine:
    """A machine whose clock is set by ``step`` after its second request."""

    def __init__(self, service: FakeService, step: timedelta) -> None:
        self.service = service
        self._step = step
        self._requests = 0

    def calendar(self, _zone: object = None) -> datetime:
        return self.service.clock.now + (self._step if self._requests >= 2 else timedelta(0))

    def sleep(self, seconds: float) -> None:
        self.service.clock.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)

    def exchange(self, call: Call[Any], **_: Any) -> Reply[Any]:
        self._requests += 1
        return self.service.exchange(call)

    async def send(self, call: Call[Any], **_: Any) -> Any:
        return self.exchange(call).value


@pytest.fixture(params=STEPS, ids=str)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    service = FakeService(Clock(), plans=[Plan(seconds=None)], ignores_stop=True)
    service.start()
    made = Machine(service, request.param)
    monkeypatch.setattr(jobs_port, "datetime", SimpleNamespace(now=made.calendar))
    monkeypatch.setattr(time, "clock_gettime", lambda _clock: (service.clock.now - START).total_seconds())
    monkeypatch.setattr(time, "sleep", made.sleep)
    monkeypatch.setattr(asyncio, "sleep", made.asleep)
    return made


def port_of(machine: Machine) -> ClientPort:
    hook: Any = SimpleNamespace(client=SimpleNamespace(exchange=machine.exchange))
    return ClientPort(hook)


def stop_on_worker(machine: Machine, stopper: RunStopper) -> None:
    stop_jobs(port_of(machine), [stopper])


def stop_in_triggerer(machine: Machine, stopper: RunStopper) -> None:
    client: Any = machine
    asyncio.run(astop_jobs(client, [stopper]))


@pytest.mark.parametrize("stop", [stop_on_worker, stop_in_triggerer])
def test_a_run_that_ignores_the_stop_is_killed_after_its_grace(
    machine: Machine, stop: Callable[[Machine, RunStopper], None]
) -> None:
    stopper = RunStopper(RunRecord(agent_id=7, run_id=101), 20.0)
    stop(machine, stopper)
    assert stopper.confirmed
    assert machine.service.clock.now - START < timedelta(seconds=60)


def test_a_wait_looks_as_often_and_ends_at_its_deadline(machine: Machine) -> None:
    deadline = START + timedelta(minutes=10)
    spec = WaitSpec(agent_id=7, run_id=101, poll_interval=30, deadline=deadline)
    [(outcome, _)] = wait_for_runs(port_of(machine), [spec])
    assert outcome is PollOutcome.DEADLINE
    assert timedelta(0) <= machine.service.clock.now - deadline <= timedelta(seconds=30)
    assert machine.service.count("status") >= 10


def test_a_wait_hears_of_the_end(machine: Machine) -> None:
    machine.service.plans = [Plan(RunStatus.SUCCESS, seconds=100)]
    run_id = machine.service.start().id
    spec = WaitSpec(agent_id=7, run_id=run_id, poll_interval=30)
    [(outcome, _)] = wait_for_runs(port_of(machine), [spec])
    assert outcome is PollOutcome.ENDED
    assert machine.service.clock.now - START < timedelta(minutes=3)
