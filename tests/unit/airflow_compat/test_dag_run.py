from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_sequentum.airflow_compat.dag_run import states_in_dag_run, tasks_that_set
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator


def mapped(operator_class: Any, partial: dict[str, Any], expanded: Any) -> Any:
    return SimpleNamespace(
        task_id="mapped",
        operator_class=operator_class,
        partial_kwargs=partial,
        expand_input=SimpleNamespace(value=expanded),
    )


@pytest.mark.parametrize(
    ("task", "sets"),
    [
        (SimpleNamespace(task_id="mapped"), False),
        (SimpleNamespace(task_id="mapped", credit_limit=10), True),
        (SimpleNamespace(task_id="mapped", credit_limit=" "), False),
        (mapped(StartAgentRunOperator, {"credit_limit": 10}, {"agent_id": [7]}), True),
        (mapped(StartAgentRunOperator, {}, {"credit_limit": [1, 2]}), True),
        (mapped(StartAgentRunOperator, {}, {"agent_id": [7]}), False),
        (mapped(StartAgentRunOperator, {}, [{"agent_id": 7}]), True),  # expand_kwargs
        (mapped(StartSpaceRunsOperator, {}, [{"space_id": 7}]), True),
        (mapped(AgentBuilderOperator, {}, [{"prompt": "Pull prices"}]), False),
    ],
)
def test_the_tasks_that_set_a_parameter(task: Any, sets: bool) -> None:
    assert tasks_that_set(SimpleNamespace(tasks=[task]), "credit_limit") == (["mapped"] if sets else [])


def test_the_states_of_a_dag_run_on_airflow_3(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = pytest.importorskip("airflow.sdk.execution_time.task_runner")
    states = {"a": "running", "b_0": "failed", "b_11": "success", "c_1": None}
    monkeypatch.setattr(runner.RuntimeTaskInstance, "get_task_states", lambda **which: {"manual": states})
    ti = SimpleNamespace(dag_id="dag", run_id="manual", _ti_context_from_server=None)
    assert states_in_dag_run({"ti": ti}, ["a", "b", "c_1"]) == {
        ("a", -1): "running",
        ("b", 0): "failed",
        ("b", 11): "success",
        ("c_1", -1): None,
    }
