from __future__ import annotations

import base64
import struct

import pytest

from airflow_provider_sequentum.sandbox.builder_scripts import HUGE_EVENTS, SCRIPTS, marked_script
from airflow_provider_sequentum.sandbox.problems import Problem
from airflow_provider_sequentum.sandbox.session_service import RefusedByBuilder, SessionService
from airflow_provider_sequentum.sandbox.sessions import Session, screenshot
from tests.unit.sandbox.world import World

PROMPT = "Get the capital of every state"
EVENT_TYPES = {
    "session_started",
    "user_prompt",
    "thinking",
    "user_message",
    "plan_generated",
    "step_started",
    "step_completed",
    "error",
    "navigation_completed",
    "screenshot",
    "command_added",
    "ready_for_interaction",
    "tool_execution",
    "llm_response",
    "extended_thinking",
    "data_extracted",
    "todos_updated",
    "browser_session_ready",
    "completed",
}


class Desk:
    def __init__(self, world: World) -> None:
        self.world, self.service = world, SessionService(world.engine)

    def start(self, prompt: str = PROMPT, **fields: object) -> Session:
        body = {"prompt": prompt, "url": None, "mode": "prompt", "space_id": None} | fields
        return self.service.start(**body)[0]  # type: ignore[arg-type]

    def status(self, session: Session) -> str:
        return self.service.session(session.id).status(self.world.engine.settle())

    def types(self, session: Session) -> list[str]:
        return [event.type for _, event in session.emitted(self.world.clock.now())]


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)


@pytest.fixture
def single_shot() -> Desk:
    return Desk(World(builder_era="single_shot"))


def test_a_session_becomes_ready_and_is_finished_into_a_runnable_agent(desk: Desk) -> None:
    session = desk.start()
    assert desk.status(session) == "processing"
    assert desk.types(session) == ["session_started", "user_prompt"]
    desk.world.clock.advance(4)
    assert desk.status(session) == "ready"
    assert desk.types(session)[-1] == "ready_for_interaction"
    with pytest.raises(Problem):  # a draft is no agent
        desk.world.engine.agent(session.draft_id)
    desk.service.finish(session.id, "Capitals")
    assert desk.status(session) == "completed"
    assert desk.types(session)[-1] == "completed"
    agent = desk.world.engine.agent(session.draft_id)
    assert (agent.name, len(agent.records)) == ("Capitals", 50)


def test_all_event_types_occur(desk: Desk) -> None:
    seen: set[str] = set()
    for script in SCRIPTS:
        session = desk.start(f"{PROMPT} sandbox:{script}")
        desk.world.clock.advance(1000)
        if desk.status(session) == "ready":
            desk.service.finish(session.id, None)
        seen.update(desk.types(session))
    assert seen == EVENT_TYPES


def test_it_asks_twice(desk: Desk) -> None:
    session = desk.start(f"{PROMPT} (sandbox:asks-twice)")
    for answer in ("The first table.", "Yes."):
        desk.world.clock.advance(4)
        assert desk.status(session) == "ready"
        assert "data_extracted" not in desk.types(session)
        desk.service.followup(session.id, answer)
        assert desk.status(session) == "processing"
    desk.world.clock.advance(4)
    assert desk.types(session).count("ready_for_interaction") == 3
    assert "data_extracted" in desk.types(session)


def test_an_unrecoverable_error_ends_the_session(desk: Desk) -> None:
    session = desk.start(f"{PROMPT} sandbox:unrecoverable_error")
    desk.world.clock.advance(4)
    assert (desk.status(session), session.error) == ("error", "The page could not be loaded.")
    with pytest.raises(Problem, match="is error") as caught:
        desk.service.finish(session.id, "x")
    assert caught.value.status == 409


def test_a_cancellation_elsewhere_emits_no_event(desk: Desk) -> None:
    session = desk.start(f"{PROMPT} sandbox:cancelled")
    desk.world.clock.advance(3.99)
    before = desk.types(session)
    desk.world.clock.advance(10)
    assert desk.status(session) == "cancelled"
    assert set(desk.types(session)) - set(before) <= {"todos_updated"}  # the last event of the opening
    assert not {"error", "completed"} & set(desk.types(session))


def test_cancel_saves_nothing(desk: Desk) -> None:
    session = desk.start()
    desk.world.clock.advance(2)
    before = desk.types(session)
    desk.service.cancel(session.id)
    desk.world.clock.advance(100)
    assert (desk.status(session), desk.types(session)) == ("cancelled", before)
    with pytest.raises(Problem):
        desk.world.engine.agent(session.draft_id)


def test_stop_interrupts_the_turn_and_the_session_lives_on(desk: Desk) -> None:
    session = desk.start()
    desk.world.clock.advance(1)
    desk.service.stop(session.id)
    assert desk.status(session) == "ready"
    desk.service.followup(session.id, "Go on.")
    desk.world.clock.advance(4)
    assert "data_extracted" in desk.types(session)


def test_event_indices_never_change(desk: Desk) -> None:
    session = desk.start(f"{PROMPT} sandbox:asks_twice")
    desk.world.clock.advance(2)
    first = session.emitted(desk.world.clock.now())
    desk.world.clock.advance(2)
    desk.service.followup(session.id, "Both.")
    desk.world.clock.advance(4)
    later = session.emitted(desk.world.clock.now())
    assert later[: len(first)] == first
    assert [index for index, _ in later] == list(range(len(later)))
    assert session.emitted(desk.world.clock.now(), after=later[-2][0]) == later[-1:]


def test_the_huge_script_is_huge(desk: Desk) -> None:
    session = desk.start(f"{PROMPT} sandbox:huge")
    desk.world.clock.advance(4)
    events = session.emitted(desk.world.clock.now())
    assert len(events) == HUGE_EVENTS
    big = max((event.screenshot_bytes for _, event in events))
    assert len(base64.b64decode(screenshot(big))) == big == 10 * 1024 * 1024


@pytest.mark.parametrize("size", [0, 68, 80, 81, 1000])
def test_a_screenshot_is_a_png(size: int) -> None:
    data = base64.b64decode(screenshot(size))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(data) >= size
    offset, kinds = 8, []
    while offset < len(data):
        (length,), kind = struct.unpack(">I", data[offset : offset + 4]), data[offset + 4 : offset + 8]
        kinds.append(kind)
        offset += 12 + length
    assert offset == len(data)
    assert (kinds[0], kinds[-1]) == (b"IHDR", b"IEND")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"prompt": "too short"}, "10 to 5000"),
        ({"prompt": "x" * 5001}, "10 to 5000"),
        ({"prompt": None}, "10 to 5000"),
        ({"mode": "url"}, "url is required"),
        ({"mode": "url", "url": "file:///etc/passwd"}, "url is required"),
        ({"mode": "chat"}, '"prompt" or "url"'),
    ],
)
def test_the_stateful_builder_refuses_in_its_envelope(desk: Desk, body: dict[str, object], problem: str) -> None:
    with pytest.raises(RefusedByBuilder, match=problem):
        desk.start(**body)  # type: ignore[arg-type]
    assert desk.world.engine.state.sessions == {}


def test_url_mode_opens_the_url(desk: Desk) -> None:
    session = desk.start(None, mode="url", url="https://example.com/chemical-elements")  # type: ignore[arg-type]
    assert (session.url, session.data_set) == ("https://example.com/chemical-elements", "chemical_elements")


def test_a_followup_needs_a_ready_session_and_a_message(desk: Desk) -> None:
    session = desk.start()
    with pytest.raises(Problem, match="is processing"):
        desk.service.followup(session.id, "now")
    desk.world.clock.advance(4)
    with pytest.raises(RefusedByBuilder, match="required"):
        desk.service.followup(session.id, "  ")


def test_single_shot_saves_by_itself(single_shot: Desk) -> None:
    session = single_shot.start()
    single_shot.world.clock.advance(3)
    assert single_shot.status(session) == "ready"
    assert single_shot.world.engine.agent(session.draft_id).name == "Us states"
    single_shot.world.clock.advance(1)
    assert single_shot.status(session) == "completed"


def test_single_shot_stop_keeps_a_saved_draft_only(single_shot: Desk) -> None:
    early, late = single_shot.start(), single_shot.start()
    single_shot.world.clock.advance(1)
    single_shot.service.stop(early.id)
    single_shot.world.clock.advance(2)
    single_shot.service.stop(late.id)
    single_shot.world.clock.advance(5)
    assert (single_shot.status(early), single_shot.status(late)) == ("cancelled", "cancelled")
    assert single_shot.world.engine.agent(late.draft_id).name == "Us states"
    with pytest.raises(Problem):
        single_shot.world.engine.agent(early.draft_id)


def test_single_shot_sessions_are_torn_down(single_shot: Desk) -> None:
    session = single_shot.start()
    single_shot.world.clock.advance(303)
    assert single_shot.status(session) == "completed"
    single_shot.world.clock.advance(2)
    with pytest.raises(Problem) as caught:
        single_shot.status(session)
    assert caught.value.status == 404


def test_single_shot_refuses_a_bad_prompt_as_a_problem(single_shot: Desk) -> None:
    with pytest.raises(Problem) as caught:
        single_shot.start("short")
    assert caught.value.status == 400


def test_scripts_can_be_lined_up(desk: Desk) -> None:
    desk.service.next_scripts = ["slow", "huge"]
    chosen = [desk.start().script, desk.start(f"{PROMPT} sandbox:asks_twice").script, desk.start().script]
    assert chosen == ["slow", "asks_twice", "huge"]
    assert desk.start().script == "success"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("a sandbox:slow b", "slow"),
        ("(sandbox:asks-twice).", "asks_twice"),
        ("sandbox:nothing", None),
        ("slow", None),
    ],
)
def test_a_prompt_may_name_a_script(text: str, script: str | None) -> None:
    assert marked_script(text) == script
