"""A language model that is a script: it calls the tools that it is told to, one after the other."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "use-the-hook.md"

Step = Callable[[list[Any]], list[ToolCallPart]]
"""What the model calls next, by what the tools have returned so far."""


def documented_toolsets(agent_id: int, credit_limit: float = 20) -> list[Any]:
    """Return the toolsets of the how-to guide, as they are written there."""
    [snippet] = [
        text for text in re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL) if "HookToolset" in text
    ]
    source = snippet.replace('"agent_id": 7', f'"agent_id": {agent_id}')
    source = source.replace('"credit_limit": 20', f'"credit_limit": {credit_limit}')
    names: dict[str, Any] = {}
    exec(compile(source, PAGE.name, "exec"), names)
    toolsets: list[Any] = names["toolsets"]
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
