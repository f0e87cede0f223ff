"""The parts of a cluster that can be killed without an Airflow: they come back with what they knew."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.cluster.canary import Search
from tests.cluster.evidence import Database, broker_contents, runs_by_agent, search_everything
from tests.cluster.people import Lifetime
from tests.cluster.plan import FAULTS
from tests.cluster.service import DashboardUser, SandboxService
from tests.cluster.wire import read_requests
from tests.system.harness import DagRun
from tests.system.harness.database import Postgres
from tests.system.harness.redis import Redis

redis = pytest.importorskip("redis", reason="a cluster needs Airflow 3.3")
KEY = "sk-canary-0123456789abcdef"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SandboxService]:
    running = SandboxService(tmp_path / "service", KEY)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    running = Postgres()
    running.start()
    yield running
    running.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    running = Redis(tmp_path)
    yield running.start()
    running.stop()


def start_run(service: SandboxService, agent_id: int) -> int:
    url = f"{service.base_url}/api/v1/agent/{agent_id}/start"
    answer = httpx.post(url, headers={"Authorization": f"ApiKey {KEY}"}, json={}).raise_for_status()
    return int(answer.json()["id"])


def test_what_is_asked_is_recorded_in_front_of_the_service(tmp_path: Path) -> None:
    record = tmp_path / "wire.jsonl"
    service = SandboxService(tmp_path / "service", KEY, record=record)
    service.start()
    try:
        agent_id = service.add_agent("Endless", 5.0, 3, [{"outcome": "Running"}])
        run_id = start_run(service, agent_id)
        for fault in ({"fault": "reset_after"}, {"fault": "status", "status": 503}, {"fault": "status_after"}):
            service.add_fault({"route": "POST /agent/{agent_id}/start", "times": 1, **fault})
            with pytest.raises(httpx.HTTPError):
                start_run(service, agent_id)
        service.kill()
        service.start()
        DashboardUser(service, service.add_key("dashboard user")).act("stop", agent_id, run_id)
    finally:
        service.stop()
    recorded = read_requests(record.read_text().splitlines())
    found = [(entry["by"], entry["status"], entry["lost"], bool(entry["answer"])) for entry in recorded[agent_id]]
    assert found == [
        ("task", 200, False, True),
        ("task", 200, True, True),  # started, and the connection was reset
        ("task", 503, True, False),  # never reached the service
        ("task", 200, True, True),  # started, and another status was sent
        ("person", 200, False, False),
    ]
    assert KEY not in record.read_text()


def test_a_killed_service_comes_back_with_its_runs_and_its_ledger(service: SandboxService) -> None:
    agent_id = service.add_agent("Endless", 5.0, 3, [{"outcome": "Running"}])
    run_id = start_run(service, agent_id)
    address = service.base_url
    service.kill()
    service.start()
    assert service.base_url == address
    [run] = runs_by_agent(service.effects(), service.runs(), service.requests())[agent_id]
    assert (run.run_id, run.ended) == (run_id, None)


def test_somebody_stops_a_run_with_a_key_of_their_own(service: SandboxService) -> None:
    dashboard_user = DashboardUser(service, service.add_key("dashboard user"))
    agent_id = service.add_agent("Endless", 5.0, 3, [{"outcome": "Running"}])
    run_id = start_run(service, agent_id)
    dashboard_user.act("stop", agent_id, run_id)
    assert service.runs(agent_id)[-1].status in ("Stopping", "Stopped")


def test_every_fault_of_a_storm_is_taken(service: SandboxService) -> None:
    for fault in FAULTS.values():
        service.add_fault(fault)
    faults = f"{service.base_url}/sandbox/faults"
    taken = httpx.get(faults, trust_env=False).json()
    assert [(each["route"], each["fault"]) for each in taken] == [
        (each["route"], each["fault"]) for each in FAULTS.values()
    ]
    service.clear_faults()
    assert httpx.get(faults, trust_env=False).json() == []


def test_a_crash_of_the_database_cuts_connections_and_keeps_rows(postgres: Postgres) -> None:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
        postgres.crash()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(postgres.dsn)
    postgres.recover()
    assert Database(postgres.dsn).rows("SELECT id FROM kept") == [{"id": 1}]


def test_who_has_a_task_and_whether_they_still_live_is_read(postgres: Postgres) -> None:
    moment = datetime(2026, 11, 25, tzinfo=UTC)
    with psycopg.connect(postgres.dsn) as connection:
        connection.execute("CREATE TABLE trigger AS SELECT 5 AS id, 9 AS triggerer_id")
        connection.execute(
            "CREATE TABLE task_instance AS SELECT * FROM (VALUES ('d', 'deferred', 't', 77, 5), "
            "('d', 'running', 't', 78, NULL)) AS row (dag_id, run_id, task_id, pid, trigger_id)"
        )
        connection.execute(
            "CREATE TABLE job AS SELECT 9 AS id, 'TriggererJob' AS job_type, %s AS start_date, %s AS latest_heartbeat",
            (moment, moment),
        )
    database = Database(postgres.dsn)
    assert database.holder(DagRun("d", "deferred", ""), "t") == {"pid": 77, "triggerer_id": 9}
    assert database.holder(DagRun("d", "running", ""), "t") == {"pid": 78, "triggerer_id": None}
    assert database.lifetimes() == {9: Lifetime("TriggererJob", moment, moment)}


def test_a_key_is_found_in_a_table_in_a_file_and_in_the_broker(postgres: Postgres, broker: str, tmp_path: Path) -> None:
    with psycopg.connect(postgres.dsn) as connection:
        connection.execute("CREATE TABLE xcom AS SELECT %s::jsonb AS value", (f'{{"header": "ApiKey {KEY}"}}',))
        connection.execute("CREATE TABLE trigger AS SELECT %s::bytea AS kwargs", (KEY.encode(),))
        connection.execute("CREATE TABLE connection AS SELECT %s AS password", (KEY,))
    with redis.Redis.from_url(broker) as client:
        client.lpush("queue", KEY)
        client.hset("unacked", "tag", KEY)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "task.log").write_text(KEY)
    found = search_everything(Search({"key": KEY}), Database(postgres.dsn), [tmp_path / "logs"], broker)
    places = {sighting.place for sighting in found}
    assert places == {
        "file task.log",
        "column trigger.kwargs",
        "column xcom.value",
        "column redis.queue",
        "column redis.unacked",
    }


def test_all_kinds_of_values_in_the_broker_are_read(broker: str) -> None:
    with redis.Redis.from_url(broker) as client:
        client.set("string", "a")
        client.rpush("list", "b", "c")
        client.hset("hash", "field", "d")
        client.sadd("set", "e")
        client.zadd("zset", {"f": 1})
    contents = broker_contents(broker)
    assert set(contents) == {"string", "list", "hash", "set", "zset"}
    assert all(letter in b"".join(contents.values()) for letter in b"abcdef")
