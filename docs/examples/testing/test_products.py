"""Tests of the DAG, against the sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest
from products import dag

from airflow_provider_sequentum.sandbox import Agent, RunPlan, Sandbox


@pytest.fixture
def agent(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Agent:
    agent = sandbox.add_agent("Products", records=[{"sku": "A1", "price": 9.5}], duration=1)
    monkeypatch.setenv("AIRFLOW_VAR_PRODUCTS_AGENT", str(agent.id))
    monkeypatch.setenv("AIRFLOW_VAR_LAKE", tmp_path.as_uri())
    return agent


def test_the_products_are_landed(sandbox: Sandbox, agent: Agent, tmp_path: Path) -> None:
    assert dag.test().state == "success"
    assert (tmp_path / "products" / "output.csv").read_text().splitlines() == ["sku,price", "A1,9.5"]


# [START test_failures]
def test_a_failed_run_is_restarted_and_not_started_twice(sandbox: Sandbox, agent: Agent) -> None:
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Failure"), RunPlan(outcome="Success")])
    assert dag.test().state == "success"
    assert len(sandbox.ledger.starts(agent.id)) == 1
    assert len(sandbox.ledger.restarts) == 1


def test_a_lost_answer_is_no_second_run(sandbox: Sandbox, agent: Agent) -> None:
    sandbox.fail_next("POST /agent/{agent_id}/start", fault="reset_after")
    assert dag.test().state == "success"
    assert len(sandbox.ledger.starts(agent.id)) == 1


def test_no_products_fail_the_dag(sandbox: Sandbox, agent: Agent) -> None:
    sandbox.plan_runs(agent.id, [RunPlan(record_count=0)])
    assert dag.test().state == "failed"
