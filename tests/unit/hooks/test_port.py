from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from airflow_provider_sequentum.airflow_compat.task_state import TaskState
from airflow_provider_sequentum.api import ClientSettings, SequentumClient, runs
from airflow_provider_sequentum.api.errors import ConnectionNotMade, HttpStatusError
from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.hooks.connection import SequentumConnection
from airflow_provider_sequentum.hooks.port import ANNOUNCEMENT_KEY, CLAIM_KEY, AttemptPort, ClientPort
from airflow_provider_sequentum.jobs.siblings import Claim
from airflow_provider_sequentum.runs.record import RunConfig, RunRecord
from tests.support.airflow import FakeTask
from tests.support.service import Clock

CALL = runs.status(7, 42)
RUN = {"id": 42, "configId": 7, "status": 1}


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> SequentumConnection:
    connection = {"conn_type": "sequentum", "host": "https://sequentum.example", "password": "sk-0123456789abcdef"}
    monkeypatch.setenv("AIRFLOW_CONN_MY_CONN", json.dumps(connection))

    def client(settings: ClientSettings, *, urgent: bool = False) -> SequentumClient:
        date = "Sun, 22 Nov 2026 09:00:00 GMT"
        transport = httpx.MockTransport(lambda request: httpx.Response(200, json=RUN, headers={"Date": date}))
        return SequentumClient(settings, transport=transport, sleep=lambda seconds: None, urgent=urgent)

    monkeypatch.setattr("airflow_provider_sequentum.api.SequentumClient", client, raising=False)
    return SequentumConnection("my_conn")


@pytest.fixture
def task() -> FakeTask:
    return FakeTask(Clock())


def port_of(hook: SequentumConnection, task: FakeTask) -> AttemptPort:
    return AttemptPort(hook, task.context, TaskState(task.context, "record"))


def test_an_answer_comes_with_the_services_time(hook: SequentumConnection) -> None:
    reply = ClientPort(hook).exchange(CALL)
    assert (reply.value.id, reply.served_at) == (42, datetime(2026, 11, 22, 9, tzinfo=UTC))


@pytest.mark.parametrize("within", [None, 5.0])
def test_after_the_deadline_nothing_is_sent(hook: SequentumConnection, within: float | None) -> None:
    port = ClientPort(hook)
    port.deadline = port.now() - timedelta(seconds=1)
    with pytest.raises(ConnectionNotMade):
        port.send(CALL, within=within)
    port.deadline = None
    assert port.send(CALL, within=within).id == 42


def test_a_pause_ends_at_the_deadline(hook: SequentumConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    port = ClientPort(hook)
    port.sleep(30)
    port.deadline = port.now() + timedelta(seconds=10)
    port.sleep(30)
    assert slept[0] == 30
    assert 9 < slept[1] <= 10


def test_a_port_in_a_hurry_has_a_client_of_its_own(hook: SequentumConnection) -> None:
    # The hook's client may be in the middle of a request that the kill interrupted.
    port = ClientPort(hook)
    port.deadline = port.now() - timedelta(seconds=1)
    port.hurry()
    assert port.send(CALL).id == 42
    assert "client" not in vars(hook)
    port.close()


@pytest.mark.parametrize("has_store", [True, False])
def test_a_record_is_kept_where_a_resumed_task_finds_it(
    hook: SequentumConnection, task: FakeTask, has_store: bool
) -> None:
    task.has_state_store = has_store
    port, record = port_of(hook, task), RunRecord(agent_id=7, config=RunConfig(agent_id=7), run_id=42)
    port.save(record)
    assert (port.record, port.is_recorded) == (record, has_store)
    found = TaskState(task.context, "record").read_after_deferral()
    assert RunRecord.from_json(found) == record
    assert TaskState(task.context, "record").read() == (found if has_store else None)
    port.save(None)
    assert TaskState(task.context, "record").read_after_deferral() is None


def test_a_record_that_could_not_be_written_is_not_recorded(
    hook: SequentumConnection, task: FakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(key: str, value: Any, **_: Any) -> None:
        raise OSError("the store is down")

    port, record = port_of(hook, task), RunRecord(agent_id=7)
    port.save(record)
    monkeypatch.setattr(task.store, "set", refuse)
    with pytest.raises(OSError, match="the store is down"):
        port.save(record.started(42))
    assert (port.record, port.is_recorded, port.is_asking_airflow) == (record.started(42), False, False)


def test_mapped_siblings_see_each_others_claims(hook: SequentumConnection, task: FakeTask) -> None:
    task.ti.map_index = 0
    port_of(hook, task).claim(Claim(agent_id=7, run_ids=(1,)))
    task.ti.map_index = 1
    second = port_of(hook, task)
    second.claim(Claim(agent_id=7, is_answered=False))
    assert second.claims() == [Claim(agent_id=7, run_ids=(1,), map_index=0)]
    second.is_asking_airflow = True
    assert not second.claims()[0].is_answered, "siblings that cannot be asked might be waiting for a response"


UNREADABLE = ["text", {"format": 99}, {"run_ids": "x", "starts": [{"agent_id": "x"}]}]


@pytest.mark.parametrize("pushed", UNREADABLE)
def test_a_claim_that_cannot_be_read_counts_as_an_unanswered_start(
    hook: SequentumConnection, task: FakeTask, pushed: object
) -> None:
    task.ti.map_index = 0
    task.ti.another_pushes("run_agent", 1, CLAIM_KEY, pushed)
    assert port_of(hook, task).claims() == [Claim(is_answered=False)]


@pytest.mark.parametrize("pushed", UNREADABLE)
def test_an_announcement_that_cannot_be_read_starts_nothing(
    hook: SequentumConnection, task: FakeTask, pushed: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.hooks.port.tasks_that_set", lambda *_: ["another"])
    task.ti.another_pushes("another", -1, ANNOUNCEMENT_KEY, pushed)
    with pytest.raises(SequentumRequestRefused, match=r"announced in the XCom 'sequentum_.* Nothing was started\. Cle"):
        port_of(hook, task).announcements()


def test_a_task_without_siblings_claims_nothing(hook: SequentumConnection, task: FakeTask) -> None:
    port = port_of(hook, task)
    port.claim(Claim(agent_id=7))
    assert (port.claims(), task.ti.xcoms) == ([], {})


@pytest.mark.parametrize(
    ("state", "seems_unanswered"),
    [
        ("running", True),
        ("restarting", True),
        ("up_for_retry", True),
        ("failed", True),
        ("queued", False),
        ("success", False),
    ],
)
def test_a_sibling_that_may_not_have_claimed_its_run_again_seems_unanswered(
    hook: SequentumConnection, task: FakeTask, state: str, seems_unanswered: bool
) -> None:
    # Airflow removes what an attempt had claimed when the next one starts: it may have a run all the same.
    task.ti.map_index = 0
    task.instances = [
        SimpleNamespace(task_id=task_id, map_index=index, state=state)
        for task_id, index in (("run_agent", 0), ("run_agent", 1), ("another", 0), ("another", -1))
    ]
    port = port_of(hook, task)
    assert port.claims() == ([Claim(is_answered=False, map_index=1)] if seems_unanswered else [])
    task.ti.map_index = 1
    port_of(hook, task).claim(Claim(agent_id=7, run_ids=(1,)))
    assert port.claims() == [Claim(agent_id=7, run_ids=(1,), map_index=1)]


def test_what_a_retry_says_again_before_it_succeeds_is_heard(
    hook: SequentumConnection, task: FakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its XComs were removed when it started, and it has succeeded by the time its state is read."""
    task.ti.map_index = 1
    port_of(hook, task).claim(Claim(agent_id=7, run_ids=(1,)))
    task.ti.map_index = 0
    task.instances = [
        SimpleNamespace(task_id="run_agent", map_index=index, state=state)
        for index, state in enumerate(("running", "success"))
    ]
    pull, removed = task.ti.xcom_pull, iter([True])
    monkeypatch.setattr(task.ti, "xcom_pull", lambda **asked: [] if next(removed, False) else pull(**asked))
    assert port_of(hook, task).claims() == [Claim(agent_id=7, run_ids=(1,), map_index=1)]


# A key that is replaced while a task is waiting on a worker

OLD_KEY, NEW_KEY = "sk-0123456789abcdef", "sk-fedcba9876543210"


@pytest.fixture
def sent(hook: SequentumConnection, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the requests, to a service that accepts only the new one."""
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Authorization"].removeprefix("ApiKey "))
        return httpx.Response(200, json=RUN) if keys[-1] == NEW_KEY else httpx.Response(401)

    def client(settings: ClientSettings, *, urgent: bool = False) -> SequentumClient:
        transport = httpx.MockTransport(answer)
        return SequentumClient(settings, transport=transport, sleep=lambda seconds: None, urgent=urgent)

    monkeypatch.setattr("airflow_provider_sequentum.api.SequentumClient", client, raising=False)
    return keys


def change_connection(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    connection = {"conn_type": "sequentum", "host": "https://sequentum.example", "password": OLD_KEY, **fields}
    monkeypatch.setenv("AIRFLOW_CONN_MY_CONN", json.dumps(connection))


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("call", [CALL, runs.stop(7, 42), runs.start(7)], ids=["status", "stop", "start"])
def test_a_refused_key_is_replaced_by_the_connections_new_one(
    hook: SequentumConnection,
    task: FakeTask,
    sent: list[str],
    monkeypatch: pytest.MonkeyPatch,
    is_killed: bool,
    call: Any,
) -> None:
    port = port_of(hook, task)
    port.connect()
    if is_killed:
        port.hurry()
    change_connection(monkeypatch, password=NEW_KEY)
    port.send(call)
    port.send(call)
    assert sent == [OLD_KEY, NEW_KEY, NEW_KEY]


@pytest.mark.parametrize("change", ["none", "gone", "invalid", "another service", "supervisor is busy"])
def test_a_key_that_stays_refused_is_an_error_and_the_next_request_is_sent_with_it(
    hook: SequentumConnection, task: FakeTask, sent: list[str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    port = port_of(hook, task)
    port.connect()
    if change == "gone":
        monkeypatch.delenv("AIRFLOW_CONN_MY_CONN")
    elif change != "none":
        host = "https://other.example" if change == "another service" else "https://sequentum.example"
        change_connection(monkeypatch, host=host, password="" if change == "invalid" else NEW_KEY)
    port.is_asking_airflow = change == "supervisor is busy"
    for _ in range(2):
        with pytest.raises(HttpStatusError) as caught:
            port.send(CALL)
        assert caught.value.status_code == 401
    assert sent == [OLD_KEY, OLD_KEY]
    assert hook.run_link(7, 42) == "https://sequentum.example"
