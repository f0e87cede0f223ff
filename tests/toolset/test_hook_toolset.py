"""The hook as the tools of a language model, with common-ai's HookToolset: ``make test-toolset``.

The model is a function, so nothing but the sandbox is asked. What it was told and what it told are its messages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow.providers.common.ai", reason="make test-toolset has it")

from pydantic_ai import capture_run_messages
from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.messages import ModelMessagesTypeAdapter

from airflow_provider_sequentum.exceptions import (
    AgentRunFailure,
    CreditLimitReached,
    RunFilesUnavailable,
    SequentumUnavailable,
)
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.sandbox import RunPlan, Sandbox
from airflow_provider_sequentum.sandbox.agents import Agent
from tests.toolset.scripted import call, documented_toolsets, scripted_agent

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with Sandbox(time_scale=20.0, rate_limit=10_000) as opened:
        monkeypatch.setenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT", opened.connection_uri)
        yield opened


@pytest.fixture
def agent(sandbox: Sandbox) -> Agent:
    return sandbox.add_agent("Prices", records=[{"name": "Tea", "price": 9.5}], duration=2)


def run_ids(returned: list[Any]) -> list[int]:
    return [json.loads(each)["id"] for each in returned]


def check_for_secrets(sandbox: Sandbox, *texts: str) -> None:
    """Neither the key nor what makes a signed address one, nor its host."""
    assert sandbox.ledger.leaks == []
    for text in texts:
        assert sandbox.api_key not in text
        assert "signature" not in text
        assert "/storage/" not in text


def chain(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield f"{error!r} {error}"
        error = error.__cause__ or error.__context__


def test_one_start_for_each_call(sandbox: Sandbox, agent: Agent) -> None:
    """Two calls in one answer and one in the next; then it looks, and waits."""
    scripted = scripted_agent(
        documented_toolsets(agent.id),
        lambda returned: [call("sequentum_start_run", input_parameters={"page": page}) for page in (1, 2)],
        lambda returned: [call("sequentum_start_run", input_parameters='{"page": 3}')],
        lambda returned: [call("sequentum_wait_for_run", run_id=run_id) for run_id in run_ids(returned)],
        lambda returned: [call("sequentum_get_run", run_id=run_ids(returned)[0])],
    )
    result = scripted.run_sync("Find the prices.")
    assert result.output == "done"
    starts = sandbox.ledger.starts(agent.id)
    assert [json.loads(start.input_parameters or "")["page"] for start in starts] == [1, 2, 3]
    messages = json.loads(result.all_messages_json())
    returned = [part["content"] for each in messages for part in each["parts"] if part["part_kind"] == "tool-return"]
    assert run_ids(returned) == [start.run_id for start in (*starts, *starts, starts[0])]
    check_for_secrets(sandbox, result.all_messages_json().decode())


def test_the_model_is_told_of_no_argument_that_is_pinned(sandbox: Sandbox, agent: Agent) -> None:
    seen: list[Any] = []
    scripted_agent(documented_toolsets(agent.id), seen=seen).run_sync("Find the prices.")
    [info] = seen
    shown = {tool.name: set(tool.parameters_json_schema["properties"]) for tool in info.function_tools}
    assert shown == {
        "sequentum_start_run": {"input_parameters"},
        "sequentum_get_run": {"run_id"},
        "sequentum_wait_for_run": {"run_id", "timeout", "poll_interval"},
    }
    assert all(tool.description for tool in info.function_tools)


def test_an_agent_that_the_model_chooses_is_refused(sandbox: Sandbox, agent: Agent) -> None:
    other = sandbox.add_agent("Other", records=[])
    scripted = scripted_agent(
        documented_toolsets(agent.id), *[lambda returned: [call("sequentum_start_run", agent_id=other.id)]] * 5
    )
    with pytest.raises(UnexpectedModelBehavior):
        scripted.run_sync("Find the prices.")
    assert sandbox.ledger.starts(other.id) == sandbox.ledger.starts(agent.id) == []


def test_a_start_whose_answer_is_lost_is_sent_once(sandbox: Sandbox, agent: Agent) -> None:
    sandbox.fail_next("POST /agent/{agent_id}/start", "reset_after")
    scripted = scripted_agent(documented_toolsets(agent.id), lambda returned: [call("sequentum_start_run")])
    with capture_run_messages() as messages, pytest.raises(SequentumUnavailable, match="may have acted") as caught:
        scripted.run_sync("Find the prices.")
    assert len(sandbox.ledger.starts(agent.id)) == 1
    check_for_secrets(sandbox, *chain(caught.value), ModelMessagesTypeAdapter.dump_json(messages).decode())


def test_starts_above_the_limit_are_refused(sandbox: Sandbox, agent: Agent) -> None:
    scripted = scripted_agent(
        documented_toolsets(agent.id, credit_limit=1.5),
        lambda returned: [call("sequentum_start_run")],
        lambda returned: [call("sequentum_wait_for_run", run_id=run_ids(returned)[0], poll_interval=0.05)],
        lambda returned: [call("sequentum_start_run")],
    )
    with pytest.raises(CreditLimitReached, match=r"more than credit_limit=1\.5"):
        scripted.run_sync("Find the prices.")
    assert len(sandbox.ledger.starts(agent.id)) == 1


def test_what_a_hostile_service_says_of_a_run_holds_no_secret(sandbox: Sandbox, agent: Agent) -> None:
    """A service, or a proxy, that repeats the request in its messages."""
    said = f"GET https://files.example/storage/out.csv?signature=0123456789abcdef with {sandbox.api_key}"
    sandbox.plan_runs(agent.id, [RunPlan(outcome="Failure", duration=1, message=f"Not exported: {said}")])
    scripted = scripted_agent(
        documented_toolsets(agent.id),
        lambda returned: [call("sequentum_start_run")],
        lambda returned: [call("sequentum_wait_for_run", run_id=run_ids(returned)[0], poll_interval=0.05)],
    )
    with capture_run_messages() as messages, pytest.raises(AgentRunFailure) as caught:
        scripted.run_sync("Find the prices.")
    for text in (*chain(caught.value), ModelMessagesTypeAdapter.dump_json(messages).decode()):
        assert sandbox.api_key not in text


def test_records_come_by_a_function_and_without_the_address_of_their_file(sandbox: Sandbox, agent: Agent) -> None:
    def cheapest(run_id: int) -> dict[str, Any]:
        """Return the cheapest record."""
        return min(SequentumHook().iter_records(agent.id, run_id), key=lambda record: float(record["price"]))

    def steps() -> tuple[Any, ...]:
        return (
            lambda returned: [call("sequentum_start_run")],
            lambda returned: [call("sequentum_wait_for_run", run_id=run_ids(returned)[0], poll_interval=0.05)],
            lambda returned: [call("cheapest", run_id=run_ids(returned[:1])[0])],
        )

    result = scripted_agent(documented_toolsets(agent.id), *steps(), tools=(cheapest,)).run_sync("Find it.")
    assert '"name":"Tea"' in result.all_messages_json().decode()
    check_for_secrets(sandbox, result.all_messages_json().decode())

    sandbox.fail_next("GET /storage/*", "reset_before", times=50)
    with capture_run_messages() as messages, pytest.raises((RunFilesUnavailable, SequentumUnavailable)) as caught:
        scripted_agent(documented_toolsets(agent.id), *steps(), tools=(cheapest,)).run_sync("Find it.")
    check_for_secrets(sandbox, *chain(caught.value), ModelMessagesTypeAdapter.dump_json(messages).decode())


@pytest.mark.parametrize(("step", "started"), [("before", 0), ("after", 1), ("wait", 1)])
def test_a_kill_leaves_at_most_one_run_for_a_call(sandbox: Sandbox, agent: Agent, step: str, started: int) -> None:
    sandbox.plan_runs(agent.id, [RunPlan(duration=10**6)])
    command = [sys.executable, "-m", "tests.toolset.process", str(agent.id), step]
    with subprocess.Popen(command, cwd=CHECKOUT, env=dict(os.environ), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "stopped\n" in iter(process.stdout.readline, "")
        finally:
            process.kill()
    assert len(sandbox.ledger.starts(agent.id)) == started
    assert len(sandbox.ledger.going) == started, "it has no owner: the how-to guide says so"
