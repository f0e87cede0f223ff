"""What the agent builder does in one turn: scripts of events and where they leave the session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from airflow_provider_sequentum.sandbox.data_sets import Record

ScriptName = Literal["success", "asks_twice", "recoverable_error", "unrecoverable_error", "cancelled", "slow", "huge"]
SCRIPTS: tuple[ScriptName, ...] = get_args(ScriptName)

# How many events the "huge" script has, and how many bytes each of its screenshots.
HUGE_EVENTS, HUGE_SCREENSHOT_BYTES, HUGE_SCREENSHOTS = 5000, 10 * 1024 * 1024, 3
# How much slower than the others the "slow" script is.
SLOW_FACTOR = 20


@dataclass(frozen=True)
class ScriptEvent:
    """An event of a turn.

    :param type: event type (API page "streaming events").
    :param payload: its fields; the session adds ``timestamp``, ``eventIndex``, and the draft's id and name.
    :param screenshot_bytes: size of a screenshot to be made when the event is read.
    """

    type: str
    payload: dict[str, Any] = field(default_factory=dict)
    screenshot_bytes: int = 0


@dataclass(frozen=True)
class Turn:
    """One turn: events spread evenly over its length, and the status it ends in."""

    events: list[ScriptEvent]
    ends: Literal["ready", "error", "cancelled"]
    length: float = 1.0
    """Length in units of the usual turn."""
    error: str | None = None


@dataclass(frozen=True)
class Scene:
    """What the builder works on."""

    url: str
    title: str
    records: list[Record]
    agent_name: str

    @property
    def columns(self) -> list[str]:
        """Names of the extracted fields."""
        return list(self.records[0]) if self.records else []


def marked_script(text: str) -> ScriptName | None:
    """The script named in a prompt as ``sandbox:asks-twice`` or ``sandbox:asks_twice``."""
    for word in text.lower().replace("-", "_").split():
        name = word.strip(".,;()[]\"'").removeprefix("sandbox:")
        if word.strip("([\"'").startswith("sandbox:"):
            for script in SCRIPTS:
                if name == script:
                    return script
    return None


def first_turn(script: ScriptName, scene: Scene) -> Turn:
    """What happens after the session was started."""
    match script:
        case "unrecoverable_error":
            return Turn(
                [*_opening(scene), ScriptEvent("error", _error("The page could not be loaded.", recoverable=False))],
                ends="error",
                error="The page could not be loaded.",
            )
        case "recoverable_error":
            error = ScriptEvent("error", _error("A selector matched nothing; trying another.", recoverable=True))
            return Turn([*_opening(scene), error, *_work(scene), _ready("The agent is ready.")], ends="ready")
        case "cancelled":
            return Turn(_opening(scene), ends="cancelled")
        case "asks_twice":
            return Turn([*_opening(scene), _ready("Which of the tables do you want?")], ends="ready")
        case "huge":
            return Turn(list(_huge(scene)), ends="ready")
        case _:
            length = SLOW_FACTOR if script == "slow" else 1
            return Turn([*_opening(scene), *_work(scene), _ready("The agent is ready.")], ends="ready", length=length)


def following_turn(script: ScriptName, scene: Scene, followups: int) -> Turn:
    """What happens after the ``followups``-th follow-up message."""
    if script == "asks_twice" and followups == 1:
        question = _ready("Should rows without a value be kept?")
        return Turn([ScriptEvent("thinking", {"message": "Looking at the table again."}), question], ends="ready")
    return Turn([*_work(scene), _ready("The agent is ready.")], ends="ready")


def _opening(scene: Scene) -> list[ScriptEvent]:
    return [
        ScriptEvent("browser_session_ready", {"url": "wss://127.0.0.1/browser"}),
        ScriptEvent("thinking", {"message": f"Opening {scene.url}."}),
        ScriptEvent("extended_thinking", {"iteration": 1, "thinkingContent": "What is asked for?", "isComplete": True}),
        ScriptEvent("tool_execution", _tool("open_page", "start", args={"url": scene.url})),
        ScriptEvent("navigation_completed", {"url": scene.url, "title": scene.title, "snapshot": scene.title}),
        ScriptEvent("tool_execution", _tool("open_page", "end", result="ok", success=True, durationMs=180)),
        ScriptEvent("screenshot", screenshot_bytes=68),
        ScriptEvent("llm_response", _response(1, "The page has a table.")),
        ScriptEvent("plan_generated", {"plan": {"steps": ["Open the page", "Extract the table"]}}),
        ScriptEvent("todos_updated", {"todos": [{"text": "Extract the table", "done": False}]}),
    ]


def _work(scene: Scene) -> list[ScriptEvent]:
    rows = [[record.get(column) for column in scene.columns] for record in scene.records[:5]]
    return [
        ScriptEvent(
            "step_started",
            {"stepNumber": 1, "totalSteps": 1, "description": "Extract the table", "actionType": "extract"},
        ),
        ScriptEvent("command_added", {"command": {"type": "DataList", "name": "Rows", "columns": scene.columns}}),
        ScriptEvent(
            "step_completed",
            {"stepNumber": 1, "success": True, "snapshot": scene.title, "commandAdded": "Rows"},
        ),
        ScriptEvent("data_extracted", {"columns": scene.columns, "rows": rows, "totalRows": len(scene.records)}),
        ScriptEvent("user_message", {"message": f"I found {len(scene.records)} records."}),
        ScriptEvent("todos_updated", {"todos": [{"text": "Extract the table", "done": True}]}),
    ]


def _huge(scene: Scene) -> Iterator[ScriptEvent]:
    # session_started and user_prompt are added by the session itself
    body = [*_opening(scene), *_work(scene), _ready("The agent is ready.")]
    yield from body[:-1]
    for _ in range(HUGE_SCREENSHOTS):
        yield ScriptEvent("screenshot", screenshot_bytes=HUGE_SCREENSHOT_BYTES)
    for number in range(HUGE_EVENTS - len(body) - HUGE_SCREENSHOTS - 2):
        yield ScriptEvent("thinking", {"message": f"Looking at row {number + 1}."})
    yield body[-1]


def _ready(message: str) -> ScriptEvent:
    return ScriptEvent("ready_for_interaction", {"snapshot": "", "message": message, "hasBrowserUrl": True})


def _error(message: str, *, recoverable: bool) -> dict[str, Any]:
    return {"message": message, "stepNumber": 1, "isRecoverable": recoverable}


def _response(iteration: int, content: str) -> dict[str, Any]:
    return {"iteration": iteration, "content": content, "hasToolCalls": True, "toolCount": 1, "isComplete": True}


def _tool(name: str, phase: str, **fields: Any) -> dict[str, Any]:
    empty = {"args": None, "result": None, "success": None, "durationMs": None}
    return {"toolName": name, "phase": phase} | empty | fields
