"""The simulation of ``make simulate``: some histories with every run of the tests, and whether its checker can fail."""

from __future__ import annotations

import ast
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.simulation import promises, sensors, sessions, siblings
from tests.simulation.__main__ import be_quiet, shrunk
from tests.simulation.all_worlds import WORLDS, broken_promises, world_of
from tests.simulation.faults import FAULTS, PACKAGE, Fault
from tests.simulation.history import Entry, read, written
from tests.simulation.sensor_world import SensorWorld
from tests.simulation.sibling_world import DyingSiblingsWorld, SiblingsWorld
from tests.simulation.worlds import (
    GivenSessionWorld,
    RestlessRunWorld,
    RestlessSpaceWorld,
    RunWorld,
    Script,
    StartedSessionWorld,
    World,
)

RUN = {"retry_mode": "restart_or_new", "on_clear": "rerun", "has_state_store": True, "began": 1795338000.0}
SESSION = {"session_id": None, "followups": ["a", "b"], "single_shot": False, "has_state_store": True}


@pytest.fixture(autouse=True, scope="module")
def log_lines_reach_the_history() -> Iterator[None]:
    """What operators log is a part of a history, as it is where ``make simulate`` plays it."""
    handlers = logging.getLogger().handlers[:]
    before = sys.modules["structlog"].get_config() if "structlog" in sys.modules else None
    be_quiet()
    yield
    logging.getLogger().handlers[:] = handlers
    if before is not None:
        sys.modules["structlog"].configure(**before)


ONCE_BROKEN = [
    (RunWorld, 1000005),
    (GivenSessionWorld, 70175),
    (SensorWorld, 129),
    (SiblingsWorld, 126),
    (SiblingsWorld, 319),
    (SiblingsWorld, 1016014),
    (SiblingsWorld, 1050598),
    (SiblingsWorld, 3110286),
    (GivenSessionWorld, 3143669),
    (GivenSessionWorld, 2006373),
    (StartedSessionWorld, 1016186),
    (StartedSessionWorld, 3205674),
    (SensorWorld, 1001631),
    (RunWorld, 1004632),
    (RestlessSpaceWorld, 1032956),
    (StartedSessionWorld, 10023834),
    (RestlessRunWorld, 10529579),
    (DyingSiblingsWorld, 80209026),
]
"""Worlds and seeds whose history once broke a promise."""


@pytest.mark.parametrize("phrase", [promises.MAY_BE_RUNNING, sessions.ID_IS_LOST])
def test_what_the_checker_reads_in_messages_is_what_the_package_says(phrase: str) -> None:
    docstrings, strings = set(), set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                docstrings.add(node.value)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.add(node)
    assert any(phrase in str(string.value) for string in strings - docstrings)


@pytest.mark.parametrize(("world", "seed"), ONCE_BROKEN)
def test_a_promise_that_was_broken_is_kept(world: Callable[[int], Script], seed: int) -> None:
    assert broken_promises(world(seed).play()) == []


@pytest.mark.parametrize("first", range(0, 10_000, 100))
def test_every_promise_is_kept(first: int) -> None:
    for seed in range(first, first + 100):
        assert broken_promises(world_of(seed).play()) == [], f'make simulate SIM="--histories 1 --seed {seed}"'


@pytest.mark.parametrize("seed", range(len(WORLDS)))
def test_a_seed_is_a_history(seed: int) -> None:
    first = world_of(seed)
    history = first.play()  # one world at a time: each puts its fakes in place, and takes them away at its end
    assert list(written(history)) == list(written(world_of(seed).play()))
    assert list(written(history)) == list(written(world_of(seed).replay(first.script)))
    assert broken_promises(read(written(history))) == []


def test_a_seed_is_the_same_history_in_another_process() -> None:
    """The order of a set differs from process to process."""
    command = [sys.executable, "-m", "tests.simulation", "--histories", "105", "--seed", "7", "--show"]
    shown = []
    for hash_seed in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, env=environment, cwd=PACKAGE.parent, check=True, capture_output=True, text=True)
        shown.append([line for line in done.stdout.splitlines() if line.startswith("    {")])
    assert len(shown[0]) > 105
    assert shown[0] == shown[1]


@pytest.mark.parametrize("seed", range(2 * len(WORLDS)))
def test_an_operator_that_is_copied_is_like_one_that_is_built(seed: int) -> None:
    world_of(seed + 2 * len(WORLDS)).play()  # with an operator of other parameters
    world: Any = world_of(seed)
    try:
        task = getattr(world, "siblings", [world])[0]
        task.inputs = 1
        copied, built = task.operator(), super(World, task).operator()
        for name in {*built.template_fields, *task.arguments, "retries", "task_id"}:
            assert getattr(copied, name) == getattr(built, name), name
    finally:
        world.monkeypatch.undo()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.commit}: {fault.what}")
def test_a_fault_can_be_put_back(fault: Fault) -> None:
    assert (PACKAGE / fault.path).read_text().count(fault.right) == 1


def test_the_rules_of_airflow_name_tests_that_exist() -> None:
    root = PACKAGE.parent
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)` \|", (root / "docs/proof.md").read_text())
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}(" in (root / "tests/system" / file).read_text(), test


def test_a_script_is_cut_to_what_breaks_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(history: list[Entry]) -> list[promises.Broken]:
        does = [entry["does"] for entry in history if entry["what"] == "person"]
        return [promises.Broken(0, "no marks", "one")] if "mark" in does else []

    monkeypatch.setattr("tests.simulation.__main__.broken_promises", broken)
    seed = next(seed for seed in range(0, 1000, len(WORLDS)) if broken((world := world_of(seed)).play()))
    short = shrunk(seed, world.script, "no marks")
    assert short[-1][0] == "a_person_marks_the_deferred_task"
    assert len(short) <= 2


# Whether the checker can fail


def run(number: int, status: int, at: float, ended_at: float | None = None) -> dict[str, Any]:
    end = None if ended_at is None else f"2026-11-22T09:{int(ended_at) // 60:02d}:{int(ended_at) % 60:02d}+00:00"
    return {"id": number, "configId": 7, "status": status, "endTime": end}


def asked(at: float, path: str, answer: Any, *, by: str = "task", lost: bool = False) -> Entry:
    fields = {"body": None, "by": by, "status": 200, "clock": 0.0, "lost": lost, "ignored": False}
    return {"at": at, "what": "request", "path": path, "answer": answer, **fields}


def started(at: float, number: int, **how: Any) -> Entry:
    return asked(at, "/agent/7/start", run(number, 1, at), **how)


def looked(at: float, number: int, status: int, ended_at: float | None = None) -> Entry:
    return asked(at, f"/agent/7/run/{number}/status", run(number, status, at, ended_at), by="census")


def attempt(at: float, number: int = 1, inputs: str = "0") -> Entry:
    return {"at": at, "what": "attempt", "number": number, "resumed": False, "inputs": inputs}


def ended(at: float, how: str, result: Any = None, said: str = "") -> Entry:
    return {"at": at, "what": "ended", "how": how, "result": result, "said": said}


def state(at: float, name: str) -> Entry:
    return {"at": at, "what": "state", "state": name}


def person(at: float, does: str, **fields: Any) -> Entry:
    return {"at": at, "what": "person", "does": does, **fields}


SUCCESS = [ended(100, "returned", 102), state(100, "success")]
"""The end of a task with run 102."""

RUN_HISTORIES: dict[str, tuple[list[Entry], list[str]]] = {
    "a run that ends well": (
        [started(1, 102), *SUCCESS, looked(300, 102, 10, 60)],
        [],
    ),
    "a second run beside the first": (
        [started(1, 101), started(30, 102), *SUCCESS, looked(300, 101, 10, 60), looked(300, 102, 10, 90)],
        ["one run at a time"],
    ),
    "a second run beside one of which a person knows": (
        [
            started(1, 101),
            ended(20, "raised", said="Run 101 may be running and costing credits"),
            started(30, 102),
            *SUCCESS,
            looked(300, 101, 10, 60),
            looked(300, 102, 10, 90),
        ],
        [],
    ),
    "a second run after a good one": (
        [started(1, 101), looked(20, 101, 10, 10), started(30, 102), *SUCCESS, looked(300, 102, 10, 60)],
        ["what went well is not done again"],
    ),
    "a second run after a good one, because the task was cleared": (
        [started(1, 101), looked(20, 101, 10, 10), person(25, "clear"), started(30, 102), *SUCCESS,
         looked(300, 102, 10, 60)],
        [],
    ),
    "a second run beside one that is being stopped because its record was discarded": (
        [started(1, 101), person(20, "clear", wipes=True), started(30, 102), *SUCCESS, looked(300, 101, 8, 60),
         looked(300, 102, 10, 90)],
        [],
    ),
    "a run that goes on although its record was discarded": (
        [started(1, 101), person(20, "clear", wipes=True), started(30, 102), *SUCCESS, looked(300, 101, 8, 95),
         looked(300, 102, 10, 90)],
        ["a run whose record is discarded is stopped"],
    ),
    "a run whose discarded record no process could hear of, and that is found again": (
        [started(1, 101), person(20, "clear", wipes=True), person(20, "wipe"),
         looked(30, 101, 4) | {"by": "task"}, ended(100, "returned", 101), state(100, "success"),
         looked(300, 101, 10, 95)],
        ["a cleared task starts over"],
    ),
    "a new run instead of a restart": (
        [started(1, 101), looked(20, 101, 6, 10), started(30, 102), *SUCCESS, looked(300, 102, 10, 60)],
        ["a Failure is restarted in place"],
    ),
    "a new run after an archived Failure": (
        [started(1, 101), looked(20, 101, 6, 10), person(25, "archive", run_id=101), started(30, 102), *SUCCESS,
         looked(300, 102, 10, 60)],
        [],
    ),
    "a run that goes on after its task": (
        [started(1, 102), ended(100, "raised"), state(100, "failed"), looked(300, 102, 1)],
        ["no run is left"],
    ),
    "a run that was restarted a moment before its task ended": (
        [started(1, 102), looked(50, 102, 6, 40), asked(99, "/agent/7/run/102/restart", run(102, 1, 99)),
         ended(99.5, "deferred"), state(100, "failed"), looked(300, 102, 1)],
        ["no run is left"],
    ),
    "a run of which a person knows, and that the task has seen since": (
        [started(1, 102), ended(20, "raised", said="Run 102 may be running and costing credits"),
         attempt(25, 2), looked(30, 102, 1) | {"by": "task"}, ended(100, "raised"), state(100, "failed"),
         looked(300, 102, 1)],
        ["no run is left"],
    ),
    "an attempt that runs in circles": (
        [started(1, 102), ended(90, "stuck"), *SUCCESS, looked(300, 102, 10, 60)],
        ["an attempt ends"],
    ),
    "a run that goes on after a worker died": (
        [started(1, 102), ended(100, "died"), state(100, "failed"), looked(300, 102, 1)],
        [],
    ),
    "a run that is stopped with its task": (
        [started(1, 102), ended(100, "raised"), state(100, "failed"), looked(300, 102, 8, 104)],
        [],
    ),
    "success with a bad run": (
        [started(1, 102), *SUCCESS, looked(300, 102, 6, 60)],
        ["success means a good run"],
    ),
    "success with a run of other inputs": (
        [started(1, 102), attempt(70, 2, "1"), *SUCCESS, looked(300, 102, 10, 60)],
        ["success means a run of these inputs"],
    ),
    "success with a run from before a clear": (
        [started(1, 102), person(20, "clear"), *SUCCESS, looked(300, 102, 10, 60)],
        ["a cleared task starts over"],
    ),
    "a start after a kill": (
        [person(0, "kill"), started(1, 102), *SUCCESS, looked(300, 102, 10, 60)],
        ["nothing is started after a kill"],
    ),
    "a task without an end": (
        [started(1, 102), state(10, "deferred"), looked(300, 102, 10, 60)],
        ["a task ends"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("history", "broken"), RUN_HISTORIES.values(), ids=RUN_HISTORIES)
def test_what_the_checker_finds_in_a_history_of_runs(history: list[Entry], broken: list[str]) -> None:
    entries = [{"at": 0.0, "what": "task", **RUN}, attempt(0), *history]
    assert [one.promise for one in promises.broken_promises(entries)] == broken


def of(task: int, *entries: Entry) -> list[Entry]:
    return [{**entry, "task": task} for entry in entries]


ONE = of(1, attempt(0), started(1, 102))
TWO = of(0, attempt(2), started(2, 101))
BOTH_END = [
    *of(1, ended(100, "returned", 102), state(100, "success")),
    *of(0, ended(100, "returned", 101), state(100, "success")),
    looked(300, 101, 10, 60),
    looked(300, 102, 10, 60),
]

SIBLING_HISTORIES: dict[str, tuple[list[Entry], list[str]]] = {
    "each with a run of its own": ([*ONE, *TWO, *BOTH_END], []),
    "one returns the run of the other": (
        [*ONE, *TWO, *BOTH_END[:-4], *of(0, ended(100, "returned", 102), state(100, "success")), *BOTH_END[-2:]],
        ["a run is one task's"],
    ),
    "one stops the run of the other": (
        [*ONE, *TWO, *of(0, asked(50, "/agent/7/run/102/stop", None)), *BOTH_END],
        ["a run is one task's"],
    ),
    "one stops a run of which nothing is known any more": (
        [*ONE, *TWO, *of(1, person(40, "wipe")), *of(0, asked(50, "/agent/7/run/102/stop", None)), *BOTH_END],
        [],
    ),
    "one takes a run that a person was given to look at": (
        [
            *of(1, attempt(0), started(1, 102, lost=True)),
            *of(
                1,
                ended(10, "raised", said=f"Run 102 may be {promises.MAY_BE_RUNNING}.")
                | {"error": "AgentRunStartAmbiguous"},
            ),
            *of(1, attempt(20, 2), started(21, 103)),
            *TWO[:1],
            *of(0, ended(100, "returned", 102), state(100, "success")),
            *of(1, ended(100, "returned", 103), state(100, "success")),
            looked(300, 102, 10, 60),
            looked(300, 103, 10, 60),
        ],
        [],
    ),
    "one starts two at a time": (
        [*ONE, *TWO, *of(0, started(30, 103)), *BOTH_END, looked(300, 103, 10, 60)],
        ["one run at a time"],
    ),
}


@pytest.mark.parametrize(("history", "broken"), SIBLING_HISTORIES.values(), ids=SIBLING_HISTORIES)
def test_what_the_checker_finds_in_a_history_of_siblings(history: list[Entry], broken: list[str]) -> None:
    entries = [{"at": 0.0, "what": "task", **RUN, "siblings": 2}, *history]
    assert [one.promise for one in siblings.broken_promises(entries)] == broken


def saw(at: float, number: int, status: int, *, by: str = "task") -> Entry:
    answer = {**run(number, status, at), "created": f"2026-11-22T09:00:{number % 100:02d}+00:00"}
    return asked(at, f"/agent/7/run/{number}/status", answer, by=by)


def raised(at: float, error: str) -> Entry:
    return ended(at, "raised") | {"error": error}


BEFORE_ANY = {"run_id": None, "since": "2026-11-22T09:00:05+00:00"}
SENSED = [ended(60, "returned", 110), state(60, "success")]

SENSOR_HISTORIES: dict[str, tuple[dict[str, Any], list[Entry], list[str]]] = {
    "a run that ends well": ({}, [saw(50, 110, 10), *SENSED], []),
    "a run that it stops": (
        {},
        [saw(50, 110, 10), asked(55, "/agent/7/run/110/stop", None), *SENSED],
        ["a sensor only watches"],
    ),
    "a run that has not ended": ({}, [saw(50, 110, 4), *SENSED], ["success means a good run"]),
    "another run": (
        {},
        [saw(50, 111, 10), ended(60, "returned", 111), state(60, "success")],
        ["a sensor waits for its run"],
    ),
    "the first run since a moment": (
        BEFORE_ANY,
        [saw(50, 110, 10), *SENSED, saw(99, 102, 10, by="census"), saw(99, 115, 10, by="census")],
        [],
    ),
    "not the first run since a moment": (
        BEFORE_ANY,
        [saw(50, 115, 10), ended(60, "returned", 115), state(60, "success"), saw(99, 110, 10, by="census")],
        ["a sensor waits for the first run"],
    ),
    "a run from before the moment": (
        BEFORE_ANY,
        [saw(50, 101, 10), ended(60, "returned", 101), state(60, "success")],
        ["a sensor waits for the first run"],
    ),
    "a Failure": ({}, [saw(50, 110, 6), raised(60, "SensedAgentRunFailure"), state(60, "failed")], []),
    "a Failure that was never there": (
        {},
        [saw(50, 110, 4), raised(60, "SensedAgentRunFailure"), state(60, "failed")],
        ["a sensor fails as its run does"],
    ),
    "a Failure that it was to wait through": (
        {"wait_for_restart": True},
        [saw(50, 110, 6), raised(60, "SensedAgentRunFailure"), state(60, "failed")],
        ["a Failure is waited through"],
    ),
    "a failure of a soft sensor": (
        {"soft_fail": True},
        [saw(50, 110, 8), raised(60, "AgentRunStopped"), state(60, "failed")],
        ["a soft sensor skips"],
    ),
    "a timeout": ({}, [saw(50, 110, 4), raised(100, "AirflowSensorTimeout"), state(100, "failed")], []),
    "a timeout that is early": (
        {},
        [saw(50, 110, 4), raised(99, "AirflowSensorTimeout"), state(99, "failed")],
        ["a timeout is not early"],
    ),
    "a timeout that is late": (
        {},
        [saw(50, 110, 4), raised(290, "AirflowSensorTimeout"), state(290, "failed")],
        ["a sensor keeps its timeout"],
    ),
    "a timeout although the end was seen": (
        {},
        [saw(50, 110, 10), raised(100, "AirflowSensorTimeout"), state(100, "failed")],
        ["an end that was seen is no timeout"],
    ),
    "a deferral that breaks": (
        {},
        [raised(60, "TaskDeferralError"), state(60, "failed")],
        ["a broken deferral is no end"],
    ),
    "a sensor that runs in circles": ({}, [ended(60, "stuck"), state(60, "failed")], ["an attempt ends"]),
    "a sensor without an end": ({}, [saw(50, 110, 4), state(60, "deferred")], ["a task ends"]),
}


@pytest.mark.parametrize(("sensor", "history", "broken"), SENSOR_HISTORIES.values(), ids=SENSOR_HISTORIES)
def test_what_the_checker_finds_in_a_history_of_a_sensor(
    sensor: dict[str, Any], history: list[Entry], broken: list[str]
) -> None:
    asks = {"wait_for_restart": False, "soft_fail": False, "timeout": 100, "poke_interval": 30, "run_id": 110}
    task = {"at": 0.0, "what": "task", "sensor": "poke", "began": 1795338000.0, **asks, **sensor}
    assert [one.promise for one in sensors.broken_promises([task, attempt(0), *history])] == broken


def begun(at: float, name: str, **how: Any) -> Entry:
    return asked(at, "/agent-builder/start", {"sessionId": name}, **how)


def sent(at: float, message: str) -> Entry:
    return asked(at, "/agent-builder/s1/followup", {"success": True}) | {"body": {"message": message}}


def finished(at: float) -> Entry:
    return asked(at, "/agent-builder/s1/finish", {"agentId": 700})


BUILT = [ended(100, "returned", 700), state(100, "success")]

SESSION_HISTORIES: dict[str, tuple[list[Entry], list[str]]] = {
    "a session that builds an agent": ([begun(1, "s1"), sent(2, "a"), sent(3, "b"), finished(4), *BUILT], []),
    "a second session beside the first": (
        [begun(0, "s0"), begun(1, "s1"), sent(2, "a"), sent(3, "b"), finished(4),
         asked(5, "/agent-builder/s0/cancel", {}), *BUILT],
        ["one session at a time"],
    ),
    "a message that is sent twice": (
        [begun(1, "s1"), sent(2, "a"), sent(3, "a"), sent(4, "b"), finished(5), ended(9, "raised"), state(9, "failed")],
        ["each message is sent once, in order"] * 2,
    ),
    "an agent without every message": (
        [begun(1, "s1"), sent(2, "a"), finished(4), *BUILT],
        ["success means everything was said"],
    ),
    "an agent that no session has saved": (
        [begun(1, "s1"), sent(2, "a"), sent(3, "b"), asked(4, "/agent-builder/s1/cancel", {}), *BUILT],
        ["success means an agent"],
    ),
    "a session that is left": ([begun(1, "s1"), ended(9, "raised"), state(9, "failed")], ["no session is left"]),
    "a session that a person was told of": (
        [begun(1, "s1"), ended(9, "raised", said="session s1 may be running and costing credits"), state(9, "failed")],
        [],
    ),
    "a good session that is done again": (
        [begun(0, "s0"), asked(1, "/agent-builder/s0/finish", {"agentId": 1}), begun(2, "s1"), sent(3, "a"),
         sent(4, "b"), finished(5), *BUILT],
        ["what went well is not done again"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wipes", "broken"), [(True, []), (False, ["each message is sent once, in order"] * 2)])
def test_only_a_clear_that_wipes_the_record_excuses_a_message_that_is_sent_again(
    wipes: bool, broken: list[str]
) -> None:
    task = {"at": 0.0, "what": "task", **SESSION, "session_id": "s1"}
    clear = person(5, "clear", wipes=wipes)
    history = [sent(2, "a"), clear, attempt(6, 2), sent(7, "a"), sent(8, "b"), finished(9), *BUILT]
    found = [one.promise for one in sessions.broken_promises([task, attempt(0), *history])]
    assert found[: len(broken)] == broken
    assert bool(found) is bool(broken)


@pytest.mark.parametrize(("history", "broken"), SESSION_HISTORIES.values(), ids=SESSION_HISTORIES)
def test_what_the_checker_finds_in_a_history_of_sessions(history: list[Entry], broken: list[str]) -> None:
    entries = [{"at": 0.0, "what": "task", **SESSION}, attempt(0), *history]
    assert [one.promise for one in sessions.broken_promises(entries)] == broken
