"""Mapped tasks on a real Airflow keep a credit limit together, although some of their processes are killed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from airflow_provider_sequentum.api import ClientSettings, SequentumClient, runs
from airflow_provider_sequentum.jobs.siblings import Announcement
from tests.system.dags.credit_limit import KILLED_AFTER
from tests.system.remote_jobs import until

if TYPE_CHECKING:
    from tests.system.stage import Stage

pytestmark = pytest.mark.slow

LIMIT, PRICE = 10, 1.0


@pytest.mark.parametrize("count", [24, 200])
def test_one_to_ten_starts_under_a_limit_for_ten(stage: Stage, count: int) -> None:
    """24 take half a minute, 200 some minutes. With SYSTEM_TEST_DISTRIBUTED=1 they share two Celery workers. The ledger
    of the sandbox judges.
    """
    if stage.airflow.api.major < 3:
        pytest.skip("Airflow 2.11 on SQLite runs one task at a time")
    sandbox = stage.sandbox
    assert sandbox is not None
    sandbox.settings.rate_limit = 10_000
    agent_id = sandbox.add_agent("limited", duration=1.0).id
    with SequentumClient(ClientSettings(api_key=sandbox.api_key, base_url=sandbox.base_url)) as client:
        client.send(runs.start(agent_id))  # its bill is what the forecasts rest on
    assert until(lambda: not sandbox.ledger.going)
    before = len(sandbox.ledger.starts(agent_id))

    began = time.monotonic()
    run = stage.airflow.trigger("credit_limit", {"id": agent_id, "limit": LIMIT, "tasks": count})
    stage.airflow.wait(run, timeout=60 + 6 * count)
    took = time.monotonic() - began

    tasks = {task.map_index: task for task in stage.airflow.task_instances(run) if task.task_id == "start"}
    assert len(tasks) == count
    started = len(sandbox.ledger.starts(agent_id)) - before
    states = {index: task.state for index, task in tasks.items()}
    assert 1 <= started <= LIMIT, (states, took)
    assert list(states.values()).count("success") == started, states
    assert all(tasks[index].try_number == 2 for index in KILLED_AFTER if index in tasks and started == LIMIT), tasks
    for index, state in states.items():
        said = Announcement.from_json(stage.airflow.xcom(run, "start", "sequentum_credits", index))
        assert said.pending == (), index
        assert [start.credits for start in said.starts] == ([PRICE] if state == "success" else []), index
