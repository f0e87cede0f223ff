"""Polling leaves a part of the key's request budget to starts and stops."""

from __future__ import annotations

import pytest

from airflow_provider_sequentum.jobs.port import WAITING_SHARE
from airflow_provider_sequentum.runs.record import RunConfig, RunRecord
from airflow_provider_sequentum.runs.start import acquire_run
from airflow_provider_sequentum.runs.stop import stop_run
from airflow_provider_sequentum.runs.wait import WaitSpec, wait_for_runs
from tests.support.service import START, Clock, FakeService
from tests.support.worker import Worker


@pytest.fixture
def worker() -> Worker:
    service = FakeService(Clock())
    service.start()
    return Worker(service)


@pytest.mark.parametrize("spec", [WaitSpec(agent_id=7, run_id=101), WaitSpec(agent_id=7, since=START)])
def test_a_wait_uses_the_share_of_waits(worker: Worker, spec: WaitSpec) -> None:
    wait_for_runs(worker, [spec])
    assert {share for _, _, share in worker.sent} == {WAITING_SHARE}


def test_a_start_and_a_stop_may_use_all_of_it(worker: Worker) -> None:
    config = RunConfig(agent_id=7)
    acquire_run(worker, config, 0, None, RunRecord(agent_id=7, config=config))
    stop_run(worker, RunRecord(agent_id=7, run_id=101, config=config), 45.0)
    changes = [share for _, call, share in worker.sent if call.changes_something]
    assert len(changes) >= 2
    assert set(changes) == {1.0}
