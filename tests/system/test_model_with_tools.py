"""A language model that starts runs, in ``AgentOperator`` on a real Airflow: ``make test-toolset``.

The model is a function, see :mod:`tests.system.policy`. The ledger of the sandbox judges.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_sequentum.sandbox.run_plan import RunPlan

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_sequentum.sandbox import Sandbox
    from tests.system.harness import DagRun
    from tests.system.stage import Stage

HAS_COMMON_AI = not subprocess.run(
    [os.environ.get("SYSTEM_TEST_PYTHON", sys.executable), "-c", "import airflow.providers.common.ai"],
    capture_output=True,
    check=False,
).returncode
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_COMMON_AI, reason="this Airflow has no common-ai provider; make test-toolset has one"),
]

START = ["sequentum_start_run", {}]
LOOK = [["sequentum_wait_for_run", {"run_id": "run 0", "poll_interval": 0.1}]]


@pytest.fixture(scope="module", autouse=True)
def model(stage: Stage) -> None:
    """The connection that the example names; the function that stands in for the model needs no key."""
    stage.airflow.add_connection("pydanticai_default", {"conn_type": "pydanticai"})


@pytest.fixture
def sandbox(stage: Stage) -> Sandbox:
    assert stage.sandbox is not None
    stage.sandbox.settings.rate_limit = 10_000
    return stage.sandbox


def ask(
    stage: Stage, messages: Path, *calls: list[list[Any]], state: str = "success", step: int | None = None
) -> tuple[DagRun, str]:
    """Run the example with a model that makes these calls; return the DAG run and all that the model was sent."""
    dies = {} if step is None else {"dies": {"ask_model": step}}
    run = stage.airflow.trigger("model_with_tools", {"model": {"calls": calls, "messages": str(messages)}, **dies})
    run = stage.airflow.wait(run, timeout=120)
    log = stage.airflow.log(run, "ask_model")
    assert run.state == state, log
    assert stage.airflow.task_instance(run, "ask_model").try_number == 1, "a task that starts runs is not retried"
    return run, (messages.read_text() if messages.exists() else "") + log


def starts(stage: Stage, sandbox: Sandbox) -> list[Any]:
    return sandbox.ledger.starts(int(stage.example_agent_id))


def check_for_secrets(sandbox: Sandbox, text: str) -> None:
    assert sandbox.ledger.leaks == []
    assert sandbox.api_key not in text
    assert "signature" not in text
    assert "/storage/" not in text


def test_one_start_for_each_call(stage: Stage, sandbox: Sandbox, tmp_path: Path) -> None:
    before = len(starts(stage, sandbox))
    run, sent = ask(stage, tmp_path / "messages", [START, START], LOOK)
    new = starts(stage, sandbox)[before:]
    assert len(new) == 2
    answer = stage.airflow.xcom(run, "ask_model")
    found = json.loads(answer.removeprefix("done: "))
    assert (found["id"], found["status"]) == (new[0].run_id, "Success")
    assert f"{new[1].run_id}" in sent
    check_for_secrets(sandbox, sent + answer)


def test_a_run_that_fails_fails_the_task_and_gives_nothing_away(stage: Stage, sandbox: Sandbox, tmp_path: Path) -> None:
    """A service, or a proxy, that repeats the request in its messages."""
    agent_id = int(stage.example_agent_id)
    before = len(starts(stage, sandbox))
    sandbox.plan_runs(agent_id, [RunPlan(outcome="Failure", duration=1, message=f"Refused: {sandbox.api_key}")])
    _, sent = ask(stage, tmp_path / "messages", [START], LOOK, state="failed")
    [start] = starts(stage, sandbox)[before:]
    assert f"Run {start.run_id} of agent {agent_id}" in sent
    assert "Failure" in sent
    check_for_secrets(sandbox, sent)


def test_a_kill_at_any_step_leaves_at_most_one_run(stage: Stage, sandbox: Sandbox, tmp_path: Path) -> None:
    """Killed before and after each request; nothing starts a second run, and nothing stops the first one."""
    left = []
    for step in itertools.count(1):
        agent_id = int(stage.example_agent_id)
        sandbox.plan_runs(agent_id, [RunPlan(duration=0.5)])
        before = len(starts(stage, sandbox))
        _, sent = ask(stage, tmp_path / f"messages {step}", [START], state="failed", step=step)
        check_for_secrets(sandbox, sent)
        left.append(len(starts(stage, sandbox)) - before)
        if left[-1]:
            break
    assert left == [*[0] * (step - 1), 1]
    assert step > 1


def test_the_limit_on_calls_ends_a_model_that_goes_on_starting(stage: Stage, sandbox: Sandbox, tmp_path: Path) -> None:
    before = len(starts(stage, sandbox))
    _, sent = ask(stage, tmp_path / "messages", *[[START, START]] * 3, state="failed")
    assert "tool_calls_limit" in sent
    assert len(starts(stage, sandbox)) - before == 4
