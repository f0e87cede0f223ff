"""The diagrams of the documentation, drawn from the tables and functions that the provider itself asks.

``make docs-diagrams`` writes them to ``docs/images/``; a test compares what is there with what the code says now.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_sequentum.airflow_compat.trigger_life import MIN_TRIGGER_LIFETIME
from airflow_provider_sequentum.api.run_status import status_name
from airflow_provider_sequentum.jobs.port import FAULT_TOLERANCE, NOT_FOUND_TOLERANCE, WAITING_SHARE
from airflow_provider_sequentum.parameters import OnReady
from airflow_provider_sequentum.runs.outcome import EXCEPTION_OF
from airflow_provider_sequentum.runs.phases import PHASES, NextStep, Phase, next_step
from airflow_provider_sequentum.sessions.state import Action, Session, SessionState, next_action
from airflow_provider_sequentum.watching.polls import MIN_INTERVAL
from airflow_provider_sequentum.watching.watcher import CONNECTION_LIFETIME, MAX_AT_ONCE
from docs.drawing import LINE, Box, Canvas

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"

_KINDS = {Phase.ACTIVE: "going", Phase.SUCCEEDED: "good", Phase.RESTARTABLE: "odd", Phase.ARCHIVED: "bad"}
_WORDS = {
    NextStep.START: "starts a new run",
    NextStep.STOP_AND_START: "stops it, starts a new run",
    NextStep.JOIN: "joins it",
    NextStep.RESTART: "restarts it in place",
}
_ACTIONS = {
    Action.WAIT: "look again",
    Action.FOLLOW_UP: "send the next follow-up",
    Action.FINISH: "save the agent",
    Action.LEAVE: "leave it, return",
    Action.CANCEL: "cancel it, skip the task",
    Action.DONE: "return the agent's id",
}
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_LONG_AGO = _NOW - timedelta(days=1)


def statuses_of(phase: Phase) -> list[str]:
    """Return the names of the statuses of a phase."""
    return [status_name(status) for status, its_phase in PHASES.items() if its_phase is phase]


def what_a_waiter_does(phase: Phase) -> str:
    """Return what a run in this phase means to the task that waits for it."""
    if not phase.is_over:
        return "keeps waiting"
    if phase is Phase.SUCCEEDED:
        return "returns the run's id"
    return f"raises {EXCEPTION_OF[phase].__name__}" if phase in EXCEPTION_OF else "is skipped"


def what_a_new_attempt_does(phase: Phase, *, cleared: bool) -> str:
    """Return what a retry, or a cleared task, does with a run in this phase, by the default parameters."""
    if not cleared and (phase is Phase.SKIPPED or issubclass(EXCEPTION_OF.get(phase, Exception), AirflowFailException)):
        return "there is none"
    decision = next_step(
        phase,
        is_same_work=True,
        was_cleared=cleared,
        is_rejected=False,
        is_stopping=False,
        on_clear="rerun",
        retry_mode="restart_or_new",
    )
    return "returns it" if decision is NextStep.JOIN and phase.is_over else _WORDS[decision]


def run_life() -> str:
    """Return the picture of a run's phases: their statuses, what a waiter does, what the next attempt does."""
    canvas = Canvas(1010, 492, "The phases of a run")
    for x, heading in ((20, "the run is active"), (310, "it is over"), (540, "the task"), (765, "its next attempt")):
        canvas.text(x, 28, heading, weight="bold")
    active = canvas.box(20, 44, 235, _going(Phase.ACTIVE), kind="going", title="active")
    canvas.box(20, 312, 235, _going(Phase.UNKNOWN), title="unknown")
    boxes = {}
    for row, phase in enumerate(phase for phase in Phase if phase.is_over):
        top = 44 + 90 * row
        tries = [
            f"retried: {what_a_new_attempt_does(phase, cleared=False)}",
            f"cleared: {what_a_new_attempt_does(phase, cleared=True)}",
        ]
        boxes[phase] = canvas.box(
            310, top, 190, [", ".join(statuses_of(phase))], kind=_KINDS.get(phase, "plain"), title=phase.value
        )
        task = canvas.box(540, top, 185, [what_a_waiter_does(phase), ""])
        canvas.arrow(boxes[phase].right, task.left)
        canvas.arrow(task.right, canvas.box(765, top, 225, tries).left)
        if phase is not Phase.ARCHIVED:
            canvas.arrow(active.right, (282, active.right[1]), (282, boxes[phase].left[1]), boxes[phase].left)
    failure, failed = boxes[Phase.RESTARTABLE], boxes[Phase.ARCHIVED]
    canvas.arrow(failure.bottom, failed.top)
    canvas.text(failed.top[0] + 8, failed.y - 16, "after a while")
    return canvas.svg()


def _going(phase: Phase) -> list[str]:
    lines = statuses_of(phase) if phase is Phase.ACTIVE else [*statuses_of(phase), "anything new"]
    retried = what_a_new_attempt_does(phase, cleared=False)
    cleared = what_a_new_attempt_does(phase, cleared=True)
    return [*lines, "", f"the task {what_a_waiter_does(phase)}", f"retried: {retried}", f"cleared: {cleared}"]


def describe_action(action: Action) -> str:
    """Return an action of the conversation in words."""
    return _ACTIONS.get(action) or f"fail: {action.value.replace('_', ' ')}"


def _reaction(state: SessionState, *, agent_id: int | None = 7, followups: int = 0, on_ready: str = "finish") -> str:
    session = Session(session_id="s", state=state, agent_id=agent_id, state_since=_LONG_AGO)
    return describe_action(next_action(session, followups, on_ready, _NOW))


def reactions() -> dict[SessionState, list[str]]:
    """Return what the operator does about a session in each state, found out by asking its state machine."""
    ready, done, gone = SessionState.READY, SessionState.COMPLETED, SessionState.GONE
    plain = (SessionState.PROCESSING, SessionState.UNKNOWN, SessionState.ERROR, SessionState.CANCELLED)
    return {
        **{state: [_reaction(state)] for state in plain},
        ready: [
            f"follow-ups left: {_reaction(ready, followups=1)}",
            *(f'on_ready="{choice}": {_reaction(ready, on_ready=choice)}' for choice in get_args(OnReady)),
            f"finish=False: {_reaction(ready, on_ready='leave')}",
        ],
        done: [
            f"with an agent: {_reaction(done)}",
            f"without: {_reaction(done, agent_id=None)}",
            f"follow-ups left: {_reaction(done, followups=1)}",
        ],
        gone: [f"with an agent: {_reaction(gone)}", f"without: {_reaction(gone, agent_id=None)}"],
    }


def builder_session() -> str:
    """Return the picture of an Agent Builder session: its states, and what the operator does about each."""
    canvas = Canvas(1030, 390, "The states of an Agent Builder session")
    lines = reactions()

    def box(state: SessionState, x: float, y: float, width: float, kind: str = "plain") -> Box:
        return canvas.box(x, y, width, lines[state], kind=kind, title=state.value)

    canvas.text(20, 28, "start: a prompt or a URL", weight="bold")
    processing = box(SessionState.PROCESSING, 20, 80, 170, "going")
    ready = box(SessionState.READY, 310, 36, 330, "odd")
    completed = box(SessionState.COMPLETED, 750, 46, 260, "good")
    error = box(SessionState.ERROR, 750, 186, 260, "bad")
    cancelled = box(SessionState.CANCELLED, 750, 250, 260)
    box(SessionState.GONE, 750, 314, 260)
    box(SessionState.UNKNOWN, 20, 314, 170)
    canvas.arrow((60, 34), (60, processing.y))
    canvas.arrow((190, 95), (ready.x, 95), label="it has answered")
    canvas.arrow((ready.x, 118), (190, 118))
    canvas.text(250, 135, "follow-up", anchor="middle")
    canvas.arrow(ready.right, (completed.x, ready.right[1]), label="save")
    for end, y, why in ((error, error.left[1], "the build breaks"), (cancelled, cancelled.left[1], "it is cancelled")):
        canvas.arrow((105, processing.bottom[1]), (105, y), end.left)
        canvas.text(310, y - 6, why)
    canvas.arrow((690, error.left[1]), (690, 120), (completed.x, 120))
    canvas.text(530, 170, "a single-shot service")
    canvas.text(530, 170 + LINE, "completes by itself")
    return canvas.svg()


def shared_watcher() -> str:
    """Return the picture of how deferred tasks wait: many triggers, one watcher, one budget."""
    faults, not_found = FAULT_TOLERANCE.total_seconds() / 60, NOT_FOUND_TOLERANCE.total_seconds() / 60
    canvas = Canvas(1010, 330, "How deferred tasks wait for their runs")
    canvas.text(20, 28, "in one triggerer, for one connection", weight="bold")
    triggers = [
        canvas.box(20, 50 + 66 * row, 190, ["AgentRunTrigger", run], kind="plain")
        for row, run in enumerate(("agent 7, run 41", "agent 7, run 42", "agent 7, run 43", "agent 9, run 44"))
    ]
    watcher = canvas.box(
        320,
        90,
        270,
        [
            "one client, one request budget",
            f"uses {WAITING_SHARE:.0%} of the key's limit at most",
            f"{MAX_AT_ONCE} requests under way at most",
            f"the same one every {MIN_INTERVAL:g} s at most",
            f"tolerates faults for {faults:g} min, 404 for {not_found:g} min",
            f"reads the connection every {CONNECTION_LIFETIME / 60:g} min",
        ],
        kind="going",
        title="RunWatcher",
    )
    service = canvas.box(
        780, 124, 215, ["GET /agent/7/runs", "GET /agent/9/run/44/status"], kind="good", title="Sequentum Cloud"
    )
    for trigger in triggers:
        canvas.arrow(trigger.right, (265, trigger.right[1]), (265, watcher.left[1]), watcher.left, both=True)
    canvas.arrow(watcher.right, (service.left[0], watcher.right[1]), both=True)
    canvas.text(685, watcher.right[1] - 8, "the poll that is worth most", anchor="middle")
    canvas.text(685, watcher.right[1] + 18, "is sent next", anchor="middle")
    canvas.text(
        320,
        285,
        f"A trigger fires {MIN_TRIGGER_LIFETIME:g} s after its start, at the earliest. The first wait starts the",
    )
    canvas.text(320, 285 + LINE, "watcher, the last one ends it.")
    return canvas.svg()


def layers() -> str:
    """Return the picture of the package's layers, as the lint step's contract has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    contract = next(contract for contract in contracts if contract["type"] == "layers")
    rows = [row.split(" | ") for row in contract["layers"]]
    package = ROOT / contract["containers"][0]
    canvas = Canvas(760, 8 + 50 * len(rows), "The layers of the package; imports point downwards")
    previous: Box | None = None
    for number, names in enumerate(rows):
        width = (540 - 12 * (len(names) - 1)) / len(names)
        boxes = [
            canvas.box(20 + index * (width + 12), 14 + 50 * number, width, [], kind="going", title=title)
            for index, title in enumerate(f"{name}/" if (package / name).is_dir() else f"{name}.py" for name in names)
        ]
        if previous is not None:
            canvas.arrow((290, previous.bottom[1]), (290, boxes[0].top[1]))
        previous = boxes[0]
    canvas.box(600, 14, 140, ["shares nothing", "with the others"], title="sandbox/")
    return canvas.svg()


DIAGRAMS: Mapping[str, Callable[[], str]] = {
    "run-life.svg": run_life,
    "builder-session.svg": builder_session,
    "shared-watcher.svg": shared_watcher,
    "layers.svg": layers,
}
"""Every picture and the function that draws it."""


def main() -> None:
    """Write all pictures."""
    for name, draw in DIAGRAMS.items():
        (IMAGES / name).write_text(draw())


if __name__ == "__main__":
    main()
