"""A language model that is a script: it calls the tools that it is told to, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

EXAMPLE = Path(__file__).parents[2] / "dags_examples" / "model_with_tools.py"

Step = Callable[[list[Any]], list[ToolCallPart]]
"""What the model calls next, by what the tools have returned so far."""


def documented_toolsets(agent_id: int, credit_limit: float = 20) -> list[Any]:
    """Return the toolsets of the example, which the how-to guide shows."""
    source = EXAMPLE.read_text().replace('"credit_limit": 20', f'"credit_limit": {credit_limit}')
    names: dict[str, Any] = {"__name__": EXAMPLE.stem, "__doc__": None}
    with mock.patch.dict("os.environ", EXAMPLE_AGENT_ID=str(agent_id)):
        exec(compile(source, EXAMPLE, "exec"), names)
    toolsets: list[Any] = names["ask_model"].toolsets
    return toolsets


def scripted_agent(
    toolsets: list[Any], *steps: Step, tools: tuple[Any, ...] = (), seen: list[AgentInfo] | None = None
) -> Agent[None, str]:
    """Return an agent that makes these calls and then says that it is done.

    :param tools: further tools, which are functions.
    :param seen: takes what the model is told with each request.
    """
    left = iter(steps)

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if seen is not None:
            seen.append(info)
        returned = [part.content for message in messages for part in message.parts if part.part_kind == "tool-return"]
        step = next(left, None)
        return ModelResponse(parts=[TextPart("done")] if step is None else step(returned))

    return Agent(FunctionModel(answer), toolsets=toolsets, tools=tools)


def call(tool: str, **arguments: Any) -> ToolCallPart:
    """Return a call of a tool."""
    return ToolCallPart(tool, arguments)
