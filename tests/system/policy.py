"""Airflow's local settings in the system tests: what happens to the tasks of an example, which itself stays as it is.

A task dies by SIGKILL, in its first try, at the step that the configuration of its DAG run names. With
``{"dies": {"upload_products": 3}}`` that is before its second request: 1 is before the first one, 2 after it.

With ``{"model": {"calls": [[...], ...], "messages": "a file"}}``, the language model of a task is a function. It calls
these tools, a list of names and arguments for each of its responses, and writes all messages that it gets to the file.
The argument ``"run 0"`` is the id of the run that the first call returned.
"""

from __future__ import annotations

import json
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any


def task_policy(task: Any) -> None:
    """Let every task look what the configuration of its DAG run says; a mapped one has nothing to look with."""
    if not hasattr(task, "_pre_execute_hook"):
        return
    if task._pre_execute_hook is None:
        task._pre_execute_hook = prepare
    task.retry_delay = min(task.retry_delay, timedelta(seconds=1))


def prepare(context: Any) -> None:
    """Change what the task's process has imported, as far as the configuration of the DAG run says."""
    conf = context["dag_run"].conf or {}
    die_at_step(context["ti"], conf.get("dies") or {})
    if "model" in conf:
        answer_by_script(**conf["model"])


def die_at_step(ti: Any, dies: dict[str, int]) -> None:
    """Count the requests of a task that has to die."""
    steps_left = dies.get(ti.task_id)
    if steps_left is None or ti.try_number > 1:
        return
    from airflow_provider_sequentum.api.client import SequentumClient

    exchange = SequentumClient.exchange

    def step() -> None:
        nonlocal steps_left
        steps_left -= 1
        if steps_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(*args: Any, **options: Any) -> Any:
        step()
        reply = exchange(*args, **options)
        step()
        return reply

    SequentumClient.exchange = counted  # type: ignore[method-assign]


def answer_by_script(calls: list[list[tuple[str, dict[str, Any]]]], messages: str) -> None:
    """Replace the language model of ``AgentOperator`` by a function."""
    from airflow.providers.common.ai.hooks.pydantic_ai import PydanticAIHook
    from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse, TextPart, ToolCallPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel

    left = iter(calls)

    def answer(said: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        Path(messages).write_bytes(ModelMessagesTypeAdapter.dump_json(said))
        returned = [part.content for message in said for part in message.parts if part.part_kind == "tool-return"]
        runs = {f"run {number}": json.loads(content)["id"] for number, content in enumerate(returned)}
        return ModelResponse(
            parts=[
                ToolCallPart(tool, {name: runs.get(value, value) for name, value in arguments.items()})
                for tool, arguments in next(left, ())
            ]
            or [TextPart(f"done: {returned[-1] if returned else 'nothing'}")]
        )

    PydanticAIHook.get_conn = lambda hook: FunctionModel(answer)
