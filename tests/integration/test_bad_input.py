"""Whatever is wrong with a connection: each building block says so in one clear error, and the key is never in it.

What is wrong with the arguments of one operator is tested with that operator.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_sequentum.exceptions import (
    SequentumConnectionException,
    SequentumConnectionNotFound,
    SequentumUnavailable,
)
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from airflow_provider_sequentum.sandbox import Sandbox
from airflow_provider_sequentum.sensors.agent_run import AgentRunSensor
from airflow_provider_sequentum.transfers.run_files import RunFilesToObjectStorageOperator
from tests.support.airflow import FakeTask
from tests.support.service import Clock

WRONG_KEY = "sk-secret-0123456789"
COMMON: dict[str, Any] = {"task_id": "task", "sequentum_conn_id": "my_conn"}

BLOCKS: dict[str, Callable[[Path], Any]] = {
    "run": lambda _: StartAgentRunOperator(agent_id=1001, **COMMON),
    "run_by_name": lambda _: StartAgentRunOperator(agent_name="Prices", **COMMON),
    "space": lambda _: StartSpaceRunsOperator(space_id=1, **COMMON),
    "builder": lambda _: AgentBuilderOperator(prompt="Pull the prices of all laptops", **COMMON),
    "files": lambda folder: RunFilesToObjectStorageOperator(
        agent_id=1001, run_id=42, destination=folder.as_uri(), **COMMON
    ),
    "sensor": lambda _: AgentRunSensor(agent_id=1001, run_id=42, **COMMON),
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for delays in ("LOOKUP_DELAYS", "LOOKUP_DELAYS_IF_KILLED"):
        monkeypatch.setattr(f"airflow_provider_sequentum.runs.lost_start.{delays}", (0.05, 0.1))


MISSING, NO_KEY, WRONG, UNREACHABLE = "missing", {"password": None}, {"password": WRONG_KEY}, {"host": "127.0.0.1:9"}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    ("fault", "kind", "advice"),
    [
        (MISSING, SequentumConnectionNotFound, "create it with type 'sequentum' and the API key as its password"),
        (NO_KEY, SequentumConnectionException, "Create one in the Control Center"),
        (WRONG, SequentumConnectionException, "Check the API key"),
        (UNREACHABLE, SequentumUnavailable, "Check the base URL, the network and the certificates"),
    ],
    ids=["missing", "no_key", "wrong_key", "unreachable"],
)
def test_a_connection_that_cannot_work(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path,
    block: str, fault: Any, kind: type[AirflowException], advice: str,
) -> None:  # fmt: skip
    if block == "sensor" and fault is UNREACHABLE:
        pytest.skip("a sensor goes on looking until its own timeout")
    if fault is not MISSING:
        connection = {"conn_type": "sequentum", "host": sandbox.base_url, "password": sandbox.api_key, **fault}
        monkeypatch.setenv("AIRFLOW_CONN_MY_CONN", json.dumps(connection))

    task = FakeTask(Clock(datetime.now(UTC)))
    told = failure_of(BLOCKS[block](tmp_path), task, kind, monkeypatch, caplog)

    assert advice in told
    assert WRONG_KEY not in told
    assert sandbox.api_key not in told
    assert "running" not in told
    assert task.store.values == {}, "a retry takes an intent for a start without a response"
    assert sandbox.ledger.effects == []


@pytest.mark.parametrize("status", [200, 404])
# A sensor looks on until its own timeout.
@pytest.mark.parametrize("block", [block for block in BLOCKS if block != "sensor"])
def test_a_host_that_answers_html(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path,
    block: str, status: int,
) -> None:  # fmt: skip
    page = f"<html><body>Your key is {sandbox.api_key}.</body></html>"
    sandbox.fail_next("*", "status", times=None, status=status, body=page, headers={"Content-Type": "text/html"})
    monkeypatch.setenv("AIRFLOW_CONN_MY_CONN", sandbox.connection_uri)

    task = FakeTask(Clock(datetime.now(UTC)))
    told = failure_of(BLOCKS[block](tmp_path), task, AirflowException, monkeypatch, caplog)

    assert "HTML page" in told or (block, status) == ("files", 404)  # which means to a transfer that the run is gone
    assert "the base URL" in told
    assert sandbox.api_key not in told


def failure_of(
    operator: Any,
    task: FakeTask,
    kind: type[AirflowException],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> str:
    """Run the operator, which has to fail, and return everything that is told about it, in its error and in the log."""
    monkeypatch.setattr("airflow_provider_sequentum.api.retry.FIRST_WAIT", 0.01)
    with pytest.raises(kind) as caught:
        operator.execute(task.context)
    assert "'my_conn'" in str(caught.value)
    return "".join(traceback.format_exception(caught.value)) + caplog.text
