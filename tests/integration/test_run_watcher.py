"""The shared watcher against the sandbox over real HTTP."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from airflow_provider_sequentum.exceptions import SequentumConnectionException
from airflow_provider_sequentum.runs.wait import PollOutcome, WaitSpec
from airflow_provider_sequentum.sandbox.runs import RunOptions
from airflow_provider_sequentum.sandbox.server import Sandbox
from airflow_provider_sequentum.triggers.agent_run import AgentRunTrigger
from airflow_provider_sequentum.watching.watcher import wait_for_run

CONN_ID = "sequentum_default"
log = logging.getLogger(__name__)


@pytest.fixture(autouse=True)
def _short_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.airflow_compat.trigger_life.MIN_TRIGGER_LIFETIME", 0.0)
    monkeypatch.setattr("airflow_provider_sequentum.watching.polls.MIN_INTERVAL", 0.2)


def start(sandbox: Sandbox, agent_id: int) -> int:
    return sandbox.engine.start(agent_id, RunOptions()).id


async def fire(**arguments: Any) -> dict[str, Any]:
    trigger = AgentRunTrigger(sequentum_conn_id=CONN_ID, **arguments)
    [event] = [event.payload async for event in trigger.run()]
    return dict(event)


async def test_triggers_of_many_agents_hear_of_each_end_with_few_requests(sandbox: Sandbox) -> None:
    sandbox.settings.space_concurrency = 1000
    agents = [sandbox.add_agent(f"Agent {number}", duration=40.0) for number in range(5)]
    run_ids = {start(sandbox, agent.id): agent.id for agent in agents for _ in range(8)}
    events = await asyncio.gather(*(fire(agent_id=agent, run_id=run) for run, agent in run_ids.items()))
    assert {event["run"]["id"] for event in events} == set(run_ids)
    assert {event["outcome"] for event in events} == {"ended"}
    requests = [entry.path for entry in sandbox.ledger.requests]
    assert all(path.endswith(("/runs", "/agent/all")) for path in requests)
    assert len(requests) < 40 * 3


async def test_every_way_a_run_ends_reaches_its_own_trigger(sandbox: Sandbox) -> None:
    endings = {}
    for outcome in ("Success", "Completed", "Failure", "Failed", "Stopped", "Skipped"):
        agent = sandbox.add_agent(outcome, outcome=outcome, duration=20.0)
        endings[outcome] = fire(agent_id=agent.id, run_id=start(sandbox, agent.id))
    events = dict(zip(endings, await asyncio.gather(*endings.values()), strict=True))
    assert {name: event["run"]["status"] for name, event in events.items()} == {name: name for name in endings}


async def test_the_limit_of_the_key_is_kept(sandbox: Sandbox) -> None:
    sandbox.settings.rate_limit, sandbox.settings.rate_window_seconds = 10, 1.0
    sandbox.settings.space_concurrency = 1000
    agents = [sandbox.add_agent(f"Agent {number}", duration=60.0) for number in range(12)]
    waits = [fire(agent_id=agent.id, run_id=start(sandbox, agent.id)) for agent in agents]
    await asyncio.gather(*waits)
    # The first answer tells the limit; until then the documented one holds.
    assert len(sandbox.ledger.rate_limited) <= 10
    at = [entry.at.timestamp() / 20 for entry in sandbox.ledger.requests if entry.status != 429]
    assert max(sum(begin <= moment < begin + 1.0 for moment in at) for begin in at[len(at) // 2 :]) <= 10


async def test_faults_of_the_service_are_ridden_out(sandbox: Sandbox) -> None:
    agent = sandbox.add_agent("Prices", duration=60.0)
    runs = [start(sandbox, agent.id) for _ in range(3)]
    sandbox.fail_next("GET /agent/{agent_id}/runs", "status", status=503, times=2)
    sandbox.fail_next("GET /agent/{agent_id}/runs", "html")
    sandbox.fail_next("GET /agent/{agent_id}/runs", "reset_before")
    events = await asyncio.gather(*(fire(agent_id=agent.id, run_id=run) for run in runs))
    assert {event["outcome"] for event in events} == {"ended"}


async def test_a_key_changed_in_the_connection_is_picked_up(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = sandbox.add_agent("Prices", duration=300.0)
    run = start(sandbox, agent.id)
    waiting = asyncio.create_task(fire(agent_id=agent.id, run_id=run))
    async with asyncio.timeout(30):
        while not sandbox.ledger.requests:  # noqa: ASYNC110 - the sandbox is another thread
            await asyncio.sleep(0.1)
    keys = sandbox.engine.state.keys
    new = sandbox.add_api_key("new")
    del keys["default"]
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", sandbox.connection_uri)
    assert sandbox.api_key == new
    assert (await waiting)["outcome"] == "ended"
    assert {entry.status for entry in sandbox.ledger.requests} >= {200, 401}


async def test_a_wrong_key_fails_all_with_one_clear_error(sandbox: Sandbox) -> None:
    agent = sandbox.add_agent("Prices", duration=600.0)
    runs = [start(sandbox, agent.id) for _ in range(5)]
    key = sandbox.api_key
    sandbox.engine.state.keys["default"] = "another"
    events = await asyncio.gather(*(fire(agent_id=agent.id, run_id=run) for run in runs))
    assert {event["error"] for event in events} == {SequentumConnectionException.__name__}
    assert all(CONN_ID in event["message"] and key not in event["message"] for event in events)
    assert len(sandbox.ledger.requests) <= 3


async def test_a_trigger_that_moves_continues_with_the_same_deadline(sandbox: Sandbox) -> None:
    agent = sandbox.add_agent("Prices", outcome="Running")
    run = start(sandbox, agent.id)
    deadline = datetime.now(UTC) + timedelta(seconds=2)
    terms = WaitSpec(agent_id=agent.id, run_id=run, deadline=deadline)
    first = asyncio.create_task(wait_for_run(CONN_ID, terms, log))
    await asyncio.sleep(0.5)
    first.cancel()
    await asyncio.wait([first])
    moved = WaitSpec.from_json(terms.to_json())
    outcome, record = await wait_for_run(CONN_ID, moved, log)
    assert outcome is PollOutcome.DEADLINE
    assert record is not None
    assert timedelta(0) <= datetime.now(UTC) - deadline < timedelta(seconds=5)


async def test_ten_thousand_subscriptions_leave_no_task_and_no_connection(sandbox: Sandbox) -> None:
    sandbox.settings.rate_limit = 10_000
    agents = [sandbox.add_agent(f"Agent {number}", outcome="Running").id for number in range(10)]
    terms = [WaitSpec(agent_id=agent, run_id=start(sandbox, agent)) for agent in agents]
    port = urlsplit(sandbox.base_url).port

    def connections() -> int:
        """The client's ends of those that lead to this sandbox; other tests may have left some of their own."""
        found = psutil.Process().net_connections()
        return sum(bool(one.raddr) and one.raddr.port == port and one.status != "TIME_WAIT" for one in found)

    async def come_and_go() -> None:
        asked = len(sandbox.ledger.requests)
        waiting = [asyncio.create_task(wait_for_run(CONN_ID, terms[number % 10], log)) for number in range(1000)]
        while len(sandbox.ledger.requests) < asked + 3:  # noqa: ASYNC110 (another thread writes the ledger)
            await asyncio.sleep(0.01)
        assert connections() > 0
        for wait in waiting:
            wait.cancel()
        await asyncio.wait(waiting)

    async def all_are_closed() -> bool:
        for _ in range(100):
            if connections() == 0:
                return True
            await asyncio.sleep(0.05)
        return False

    assert await all_are_closed()
    tasks = asyncio.all_tasks()
    for _ in range(10):
        await come_and_go()
    assert await all_are_closed()
    assert asyncio.all_tasks() == tasks
