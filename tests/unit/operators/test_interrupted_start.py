"""A task that is killed, or whose time is up, while a start is on its way: the job is known by its response alone."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_sequentum.airflow_compat import kill
from airflow_provider_sequentum.airflow_compat.kill import AirflowTaskTerminated
from airflow_provider_sequentum.api import ClientSettings, SequentumClient
from airflow_provider_sequentum.hooks.port import CLAIM_KEY
from airflow_provider_sequentum.jobs.siblings import Claim
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from tests.support.airflow import FakeTask
from tests.support.service import Clock, FakeService

RUN = {"id": 42, "configId": 7, "status": 1}
ANSWERS: dict[str, Any] = {
    "start": {**RUN, "sessionId": "s1"},
    "run-all": {"totalAgents": 1, "agentsStarted": 1, "results": [{"agentId": 7, "runId": 42, "success": True}]},
    "runs": [RUN],
    "credits": {"availableCredits": 100},
}
KINDS: dict[Any, tuple[dict[str, Any], str]] = {
    StartAgentRunOperator: ({"agent_id": 7}, "agent/7/run/42/stop"),
    StartSpaceRunsOperator: ({"space_id": 1}, "agent/7/run/42/stop"),
    AgentBuilderOperator: ({"prompt": "Get the prices."}, "agent-builder/s1/cancel"),
}
ENDS = pytest.mark.parametrize("end", [AirflowTaskTerminated, AirflowTaskTimeout, KeyboardInterrupt])
KINDS_OF_JOBS = pytest.mark.parametrize("kind", KINDS)
pytestmark = pytest.mark.usefixtures("connection")


class Cloud:
    """A service that takes its time for a start."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.started = threading.Event()
        self.seconds = 0.2
        self.refusals = 0
        self.is_stopped = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/v1/")
        self.requests.append(path)
        last = path.rsplit("/", 1)[-1]
        if last == "credits" and not self.refusals:
            self.started.set()
        if last in ("start", "run-all"):
            self.started.set()
            if self.refusals:
                self.refusals -= 1
                return httpx.Response(429, headers={"Retry-After": "100"})
            time.sleep(self.seconds)
        if last in ("stop", "cancel"):
            self.is_stopped = True
            return httpx.Response(200)
        if last == "status":
            state = {**RUN, "status": 8 if self.is_stopped else 1}
            return httpx.Response(200, json={"status": "cancelled"} if "agent-builder" in path else state)
        return httpx.Response(200, json=ANSWERS[last])


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    served = Cloud()

    def client(settings: ClientSettings, *, urgent: bool = False) -> SequentumClient:
        return SequentumClient(settings, transport=httpx.MockTransport(served), urgent=urgent)

    monkeypatch.setattr("airflow_provider_sequentum.api.SequentumClient", client, raising=False)
    return served


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The connection, whose key has a budget of its own."""
    fields = {"conn_type": "sequentum", "host": "https://sequentum.example", "password": f"sk-{time.monotonic_ns()}"}
    monkeypatch.setenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT", json.dumps(fields))
    monkeypatch.setattr(kill, "state_of", lambda ti: "failed")
    return fields


@pytest.fixture
def service() -> FakeService:
    return FakeService(Clock())


@pytest.fixture
def when_started(cloud: Cloud) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Call something in a signal handler, as Airflow does, as soon as the start is on its way, or waits to be sent."""
    before = signal.getsignal(signal.SIGUSR1)

    def arm(interrupt: Callable[[], None]) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: interrupt())

        def send() -> None:
            cloud.started.wait(10)
            time.sleep(0.05)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        threading.Thread(target=send).start()

    yield arm
    signal.signal(signal.SIGUSR1, before)


def interruption(operator: Any, end: type[BaseException]) -> Callable[[], None]:
    def interrupt() -> None:
        if end is AirflowTaskTerminated:
            operator.on_kill()
        raise end("the time is up")

    return interrupt


@KINDS_OF_JOBS
@ENDS
def test_the_job_of_a_late_response_is_stopped(
    cloud: Cloud, task: FakeTask, when_started: Callable[..., None], kind: Any, end: type[BaseException]
) -> None:
    # A mapped sibling starts the same agent at the same time, so that a search would find nothing certain.
    task.ti.map_index = 0
    task.ti.another_pushes("run_agent", 1, CLAIM_KEY, Claim(agent_id=7, is_answered=False, map_index=1).to_json())
    arguments, stop = KINDS[kind]
    ended = kind(task_id="run_agent", deferrable=False, **arguments)
    when_started(interruption(ended, end))
    with pytest.raises(end):
        ended.execute(task.context)
    assert stop in cloud.requests
    assert "agent/7/runs" not in cloud.requests


@pytest.mark.parametrize("kind", [StartAgentRunOperator, StartSpaceRunsOperator])
def test_also_if_the_task_does_not_wait_for_it(
    cloud: Cloud, task: FakeTask, when_started: Callable[..., None], kind: Any
) -> None:
    arguments, stop = KINDS[kind]
    ended = kind(task_id="run_agent", wait_for_completion=False, **arguments)
    when_started(interruption(ended, AirflowTaskTerminated))
    with pytest.raises(AirflowTaskTerminated):
        ended.execute(task.context)
    assert stop in cloud.requests


def test_a_worker_that_is_shut_down_then_leaves_the_run_to_the_next_attempt(
    cloud: Cloud, task: FakeTask, when_started: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kill, "state_of", lambda ti: "running")
    ended = StartAgentRunOperator(task_id="run_agent", agent_id=7)
    when_started(interruption(ended, AirflowTaskTerminated))
    with pytest.raises(SystemExit, match="Run 42 of agent 7 keeps running: the next attempt joins it"):
        ended.execute(task.context)
    assert not cloud.is_stopped
    assert task.store.get("sequentum_run")["run_id"] == 42


def test_without_a_response_in_time_the_run_is_searched_for(
    cloud: Cloud, task: FakeTask, when_started: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.hooks.port.LAST_WAIT", 0.1)
    cloud.seconds = 2
    ended = StartAgentRunOperator(task_id="run_agent", agent_id=7)
    when_started(interruption(ended, AirflowTaskTerminated))
    with pytest.raises(AirflowTaskTerminated):
        ended.execute(task.context)
    assert cloud.requests[:3] == ["agent/7/start", "agent/7/runs", "agent/7/run/42/stop"]


@ENDS
@pytest.mark.parametrize("is_refused", [True, False])
def test_a_start_that_was_not_sent_or_was_refused_leaves_nothing_to_search_for(
    cloud: Cloud,
    task: FakeTask,
    connection: dict[str, Any],
    when_started: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    end: type[BaseException],
    is_refused: bool,
) -> None:
    """It waits for the request budget, or for the end of the pause that the service asks for after a 429."""
    cloud.refusals = int(is_refused)
    if not is_refused:
        extra = {"requests_per_minute": 1}
        monkeypatch.setenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT", json.dumps({**connection, "extra": extra}))
    ended = StartAgentRunOperator(task_id="run_agent", agent_id=7, min_credits=1)
    when_started(interruption(ended, end))
    with pytest.raises(end):
        ended.execute(task.context)
    assert cloud.requests == ["billing/credits", *["agent/7/start"] * is_refused]
    assert task.store.values == {}
