from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.agent_builder import SessionEvent, SessionStatus
from airflow_provider_sequentum.sessions.record import SessionRecord
from airflow_provider_sequentum.sessions.state import (
    REACTIONS,
    READY_TO_FINISH,
    SAVING_GRACE,
    TURN_GRACE,
    Action,
    Session,
    SessionState,
    Turn,
    next_action,
)
from tests.support.service import START

TAXONOMY: dict[str, dict[str, Any]] = {
    "session_started": {"sessionId": "s", "mode": "prompt"},
    "user_prompt": {"prompt": "p"},
    "thinking": {"message": "m"},
    "user_message": {"message": "m"},
    "plan_generated": {"plan": {"steps": ["a"]}},
    "step_started": {"stepNumber": 1, "totalSteps": 2, "description": "d", "actionType": "t"},
    "step_completed": {"stepNumber": 1, "success": True, "snapshot": "s", "commandAdded": "c"},
    "error": {"message": "m", "stepNumber": 1, "isRecoverable": True},
    "navigation_completed": {"url": "u", "title": "t", "snapshot": "s", "configId": 7, "agentName": "n"},
    "screenshot": {"imageBase64": "QUJD"},
    "command_added": {"command": {}},
    "ready_for_interaction": {"snapshot": "s", "message": "m", "configId": 7, "agentName": "n", "hasBrowserUrl": True},
    "tool_execution": {"toolName": "t", "phase": "start", "args": {}, "result": None, "success": None, "durationMs": 1},
    "llm_response": {"iteration": 1, "content": "c", "hasToolCalls": True, "toolCount": 1, "isComplete": True},
    "extended_thinking": {"iteration": 1, "thinkingContent": "c", "isComplete": True},
    "data_extracted": {"columns": ["a"], "rows": [["1"]], "totalRows": 1},
    "todos_updated": {"todos": []},
    "browser_session_ready": {"url": "u"},
    "completed": {"configId": 7, "agentName": "n", "commandCount": 3},
}


def event(kind: str, index: int, **payload: Any) -> SessionEvent:
    return SessionEvent.model_validate({"type": kind, "eventIndex": index, **(payload or TAXONOMY.get(kind, {}))})


def status(value: str, **fields: Any) -> SessionStatus:
    return SessionStatus.model_validate({"status": value, **fields})


def session(state: SessionState = SessionState.PROCESSING, **fields: Any) -> Session:
    return Session(session_id="s1", state=state, state_since=START, **fields)


def decide(known: Session, followups: int, on_ready: str, now: datetime) -> Action | tuple[Action, int | None]:
    """Return what is next, with the agent that was built or the number of the follow-up."""
    match next_action(known, followups, on_ready, now):
        case Action.DONE as action:
            return action, known.agent_id
        case Action.FOLLOW_UP as action:
            return action, known.sent
        case action:
            return action


def test_the_documentation_names_nineteen_types_and_all_are_tried_here() -> None:
    assert len(TAXONOMY) == 19


@pytest.mark.parametrize("kind", sorted(set(TAXONOMY) - {"completed"}))
def test_no_event_but_completed_and_an_unrecoverable_error_ends_a_session(kind: str) -> None:
    seen = session().observe_event(event(kind, 0), START)
    assert seen.state is SessionState.PROCESSING
    assert seen.agent_id is None
    assert seen.cursor == 0


def test_completed_ends_the_session_with_its_agent() -> None:
    later = START + timedelta(seconds=5)
    seen = session().observe_event(event("completed", 4), later)
    assert decide(seen, 0, "finish", later) == (Action.DONE, 7)
    assert (seen.agent_name, seen.command_count, seen.state_since) == ("n", 3, later)


def test_an_unrecoverable_error_ends_the_session() -> None:
    later = START + timedelta(seconds=5)
    seen = session().observe_event(event("error", 0, message="no page", isRecoverable=False), later)
    assert decide(seen, 0, "finish", later) == Action.BUILD_FAILED
    assert (seen.error, seen.state_since) == ("no page", later)


def test_a_session_s_end_keeps_what_was_known_before_where_it_says_nothing_new() -> None:
    known = session(agent_id=7, agent_name="Prices", error="no page")
    completed = known.observe_event(event("completed", 0, commandCount=3), START)
    assert (completed.agent_id, completed.agent_name) == (7, "Prices")
    failed = known.observe_event(event("error", 0, stepNumber=1, isRecoverable=False), START)
    assert (failed.state, failed.error) == (SessionState.ERROR, "no page")


def test_what_a_status_said_once_stays_when_the_next_one_leaves_it_out() -> None:
    full = status("processing", agentId=7, agentName="Prices", error="no page", lastEventIndex=5)
    seen = session().observe_status(full, START).observe_status(status("processing"), START)
    assert (seen.agent_id, seen.agent_name, seen.error, seen.last_index) == (7, "Prices", "no page", 5)


def test_a_given_session_was_started_when_its_first_event_says() -> None:
    # The service's clock is wrong by a day; only the time that has passed on it counts.
    for skew in (timedelta(0), timedelta(days=1), timedelta(days=-1)):
        first = event("session_started", 0, timestamp=(START + skew).isoformat())
        later = START + timedelta(seconds=5)
        seen = session().observe_event(first, later, later + skew)
        assert seen.started_at == START
        assert seen.observe_event(event("thinking", 1), later).started_at == START
    first = event("session_started", 0, timestamp=START.isoformat())
    assert session().observe_event(first, START).started_at is None


def test_an_error_that_does_not_say_whether_it_is_recoverable_does_not_end_the_session() -> None:
    assert session().observe_event(event("error", 0, message="hm"), START).state is SessionState.PROCESSING


def test_unknown_types_move_the_cursor_and_nothing_else() -> None:
    before = session(turn=Turn.SENT, message_sent_at=START)
    seen = before.observe_event(event("brand_new", 3, message="m"), START)
    assert seen.cursor == 3
    assert (seen.state, seen.turn, seen.message_index) == (before.state, before.turn, None)


def test_an_event_counts_once() -> None:
    once = session().observe_event(event("command_added", 5), START)
    twice = once.observe_event(event("command_added", 5), START).observe_event(event("command_added", 2), START)
    assert twice.command_count == 1
    assert twice.cursor == 5


def test_a_terminal_event_outweighs_a_status_that_lags_behind() -> None:
    seen = session().observe_event(event("completed", 0), START).observe_status(status("processing"), START)
    assert decide(seen, 0, "finish", START) == (Action.DONE, 7)


def test_a_cancellation_is_seen_in_the_status_alone() -> None:
    seen = session().observe_status(status("cancelled"), START)
    assert decide(seen, 0, "finish", START) == Action.CANCELLED


def test_6_5_the_phase_ready_to_finish_means_ready() -> None:
    seen = session().observe_status(status("processing", phase=READY_TO_FINISH), START)
    assert decide(seen, 0, "finish", START) == Action.FINISH


def test_the_phase_does_not_reopen_a_session_that_has_ended() -> None:
    assert session().observe_status(status("cancelled", phase=READY_TO_FINISH), START).state is SessionState.CANCELLED


@pytest.mark.parametrize("value", ["", "pondering", "gone", "unknown"])
def test_a_status_that_is_not_known_is_waited_through(value: str) -> None:
    seen = session().observe_status(status(value), START)
    assert seen.state is SessionState.UNKNOWN
    assert decide(seen, 0, "finish", START) == Action.WAIT


@pytest.mark.parametrize(
    ("state", "followups", "on_ready", "expected"),
    [
        (SessionState.PROCESSING, 0, "finish", Action.WAIT),
        (SessionState.READY, 2, "finish", (Action.FOLLOW_UP, 0)),
        (SessionState.READY, 2, "fail", (Action.FOLLOW_UP, 0)),
        (SessionState.READY, 0, "finish", Action.FINISH),
        (SessionState.READY, 0, "leave", Action.LEAVE),
        (SessionState.READY, 0, "fail", Action.UNANSWERED),
        (SessionState.READY, 0, "cancel", Action.CANCEL),
        (SessionState.ERROR, 0, "finish", Action.BUILD_FAILED),
        (SessionState.ERROR, 2, "leave", Action.BUILD_FAILED),
        (SessionState.CANCELLED, 0, "finish", Action.CANCELLED),
        (SessionState.GONE, 0, "finish", Action.LOST),
    ],
)
def test_decide(state: SessionState, followups: int, on_ready: str, expected: object) -> None:
    assert decide(session(state), followups, on_ready, START) == expected


def test_followups_go_out_one_by_one() -> None:
    assert decide(session(SessionState.READY, sent=1), 2, "finish", START) == (Action.FOLLOW_UP, 1)
    assert decide(session(SessionState.READY, sent=2), 2, "finish", START) == Action.FINISH


@pytest.mark.parametrize("on_ready", ["finish", "leave", "fail", "cancel"])
def test_a_session_that_completed_is_done_whatever_was_planned(on_ready: str) -> None:
    assert decide(session(SessionState.COMPLETED, agent_id=7), 0, on_ready, START) == (Action.DONE, 7)


def test_a_session_that_completed_before_everything_was_said_is_a_failure() -> None:
    completed = session(SessionState.COMPLETED, agent_id=7, sent=1)
    assert decide(completed, 2, "finish", START) == Action.FOLLOWUPS_LEFT


def test_a_session_that_was_torn_down_before_everything_was_said_is_a_failure_too() -> None:
    torn_down = session(SessionState.READY, agent_id=7).updated(has_events=False).entering(SessionState.GONE, START)
    assert decide(torn_down, 1, "finish", START) == Action.FOLLOWUPS_LEFT


def test_6_8_a_session_that_was_torn_down_after_its_agent_was_seen_is_done() -> None:
    saved = session(SessionState.READY, agent_id=7, has_finish=False)
    torn_down = saved.entering(SessionState.GONE, START)
    assert decide(torn_down, 0, "finish", START) == (Action.DONE, 7)


def test_a_draft_named_by_an_event_is_no_agent() -> None:
    seen = session().observe_event(event("ready_for_interaction", 0), START).entering(SessionState.GONE, START)
    assert decide(seen, 0, "finish", START) == Action.LOST


def test_completed_without_an_agent_is_waited_on_for_a_while() -> None:
    completed = session(SessionState.COMPLETED)
    assert decide(completed, 0, "finish", START) == Action.WAIT
    assert decide(completed, 0, "finish", START + SAVING_GRACE) == Action.NO_AGENT
    assert decide(completed.observe_status(status("completed", agentId=7), START), 0, "finish", START) == (
        Action.DONE,
        7,
    )


def test_6_3_a_server_without_finish_is_waited_on_then_its_ready_agent_is_taken() -> None:
    ready = session(SessionState.READY, agent_id=7).updated(has_finish=False)
    assert decide(ready, 0, "finish", START) == Action.WAIT
    assert decide(ready.observe_status(status("completed"), START), 0, "finish", START) == (Action.DONE, 7)
    assert decide(ready, 0, "finish", START + SAVING_GRACE) == (Action.DONE, 7)
    nameless = session(SessionState.READY).updated(has_finish=False)
    assert decide(nameless, 0, "finish", START + SAVING_GRACE) == Action.NO_AGENT


@pytest.mark.parametrize("on_ready", ["finish", "leave", "fail", "cancel"])
def test_a_server_without_events_completes_by_itself_so_its_ready_is_no_question(on_ready: str) -> None:
    ready = session(SessionState.READY, agent_id=7).updated(has_events=False)
    assert decide(ready, 0, on_ready, START) == Action.WAIT
    assert decide(ready.observe_status(status("completed"), START), 0, on_ready, START) == (Action.DONE, 7)
    assert decide(ready, 0, on_ready, START + SAVING_GRACE) != Action.WAIT


@pytest.mark.parametrize("on_ready", ["finish", "leave", "fail", "cancel"])
@pytest.mark.parametrize("missing", ["has_events", "has_finish"])
def test_a_server_that_completes_by_itself_and_stays_ready_has_built_the_agent(on_ready: str, missing: str) -> None:
    ready = session(SessionState.READY, agent_id=7).updated(**{missing: False})
    # With "finish", the server is asked whether it has one.
    expected = Action.FINISH if on_ready == "finish" and ready.has_finish else (Action.DONE, 7)
    assert decide(ready, 0, on_ready, START + SAVING_GRACE) == expected
    assert decide(ready.updated(agent_id=None), 0, on_ready, START + SAVING_GRACE) != (Action.DONE, None)


def test_a_ready_from_before_the_message_is_not_taken_for_the_answer() -> None:
    said = session(SessionState.READY).sending(START).acknowledged()
    stale = said.observe_status(status("ready"), START + timedelta(seconds=1))
    assert decide(stale, 2, "finish", START + timedelta(seconds=1)) == Action.WAIT
    assert decide(stale, 2, "finish", START + TURN_GRACE) == (Action.FOLLOW_UP, 1)


def test_after_a_message_that_was_not_taken_the_turn_is_still_ours_whatever_is_read_late() -> None:
    refused = session(SessionState.READY).sending(START).rejected()
    read_late = refused.observe_event(event("thinking", 0), START)
    assert read_late.turn is Turn.USER
    assert decide(read_late, 1, "finish", START) == (Action.FOLLOW_UP, 0)


def test_the_turn_is_ours_again_when_the_builder_was_seen_at_work_and_is_ready() -> None:
    said = session(SessionState.READY).sending(START).acknowledged()
    ready = said.observe_status(status("processing"), START).observe_status(status("ready"), START)
    assert decide(ready, 2, "finish", START) == (Action.FOLLOW_UP, 1)


def test_a_quick_turn_is_seen_in_the_events_alone() -> None:
    said = session(SessionState.READY, cursor=4).sending(START).acknowledged().observe_status(status("ready"), START)
    answered = said.observe_event(event("thinking", 5), START).observe_event(event("ready_for_interaction", 6), START)
    assert answered.turn is Turn.USER
    assert decide(answered, 2, "finish", START) == (Action.FOLLOW_UP, 1)


def test_a_late_ready_for_interaction_of_the_turn_before_is_no_answer() -> None:
    said = session(SessionState.READY, cursor=4).sending(START).acknowledged()
    late = said.observe_event(event("ready_for_interaction", 5), START)
    assert late.turn is Turn.SENT
    assert decide(late, 2, "finish", START) == Action.WAIT


@pytest.mark.parametrize("kind", sorted(REACTIONS))
def test_events_of_a_builder_at_work_prove_that_the_message_was_taken(kind: str) -> None:
    assert session(SessionState.READY).sending(START).observe_event(event(kind, 0), START).turn is Turn.WORKING


def test_events_from_before_the_message_prove_nothing_even_when_they_are_read_after_it() -> None:
    # The status told of events up to 5; they could not be read before the message was sent.
    ready = session(SessionState.READY, cursor=2).observe_status(status("ready", lastEventIndex=5), START)
    said = ready.sending(START)
    old = said.observe_event(event("thinking", 4), START).observe_event(event("ready_for_interaction", 5), START)
    assert old.turn is Turn.SENT
    assert said.observe_event(event("thinking", 5), START).turn is Turn.SENT
    assert old.observe_event(event("thinking", 6), START).turn is Turn.WORKING


def test_a_status_that_is_not_known_is_no_reaction_to_a_message() -> None:
    said = session(SessionState.READY).sending(START)
    assert said.observe_status(status("pondering"), START).turn is Turn.SENT


EVENTS = st.builds(
    lambda kind, index, recoverable: event(kind, index, **TAXONOMY.get(kind, {}) | {"isRecoverable": recoverable}),
    st.sampled_from([*TAXONOMY, "brand_new"]),
    st.integers(0, 30),
    st.sampled_from([True, False, None]),
)
STATUSES = st.builds(
    lambda value, agent_id, phase: status(value, agentId=agent_id, phase=phase),
    st.sampled_from(["processing", "ready", "completed", "error", "cancelled", "odd"]),
    st.sampled_from([None, 7]),
    st.sampled_from([None, READY_TO_FINISH]),
)
OBSERVATIONS = st.lists(st.one_of(EVENTS, STATUSES, st.just("404"), st.just("message")), max_size=40)


ERAS = st.sampled_from(
    [
        Session.started("s1", START),
        Session.started("s1", START).updated(has_finish=False),
        Session.started("s1", START).updated(has_events=False),
        Session.started("s1", START).updated(has_events=False).updated(has_finish=False),
    ]
)


@given(OBSERVATIONS, st.integers(0, 3), st.sampled_from(["finish", "leave", "fail", "cancel"]), ERAS)
def test_whatever_is_observed_the_rules_hold(
    observations: list[Any], followups: int, on_ready: str, known: Session
) -> None:
    now = START
    for observation in observations:
        before, now = known, now + timedelta(seconds=7)
        if isinstance(observation, SessionEvent):
            known = known.observe_event(observation, now)
        elif isinstance(observation, SessionStatus):
            known = known.observe_status(observation, now)
        elif observation == "404":
            known = known if known.state.is_over else known.entering(SessionState.GONE, now)
        elif next_action(known, followups, on_ready, now) is Action.FOLLOW_UP:
            known = known.sending(now).acknowledged()
        assert known.cursor >= before.cursor
        assert not (before.state.is_over and not known.state.is_over)
        action = next_action(known, followups, on_ready, now)
        if action in (Action.FOLLOW_UP, Action.FINISH, Action.LEAVE, Action.CANCEL):
            assert known.state is SessionState.READY
        if action is Action.FOLLOW_UP:
            assert known.sent < followups
        if action in (Action.FINISH, Action.LEAVE, Action.CANCEL):
            assert known.sent >= followups
        if action is Action.DONE:
            assert known.agent_id is not None
            assert known.sent >= followups
            assert known.state is not SessionState.CANCELLED
        record = SessionRecord(max_tries=0, session=known)
        assert SessionRecord.from_json(record.to_json()) == record


@given(st.permutations([*TAXONOMY, "brand_new"]), st.booleans(), ERAS)
def test_all_types_in_any_order_end_the_session_when_one_of_them_does(
    kinds: list[str], recoverable: bool, known: Session
) -> None:
    ends = {"completed": SessionState.COMPLETED} | ({} if recoverable else {"error": SessionState.ERROR})
    expected: SessionState | None = None
    for index, kind in enumerate(kinds):
        told = event(kind, index, **TAXONOMY.get(kind, {"message": "m"}) | {"isRecoverable": recoverable})
        known = known.observe_event(told, START)
        expected = ends.get(kind, expected)
        assert known.state is (expected or SessionState.PROCESSING)
        assert known.cursor == index
        assert known == known.observe_event(told, START)
    assert known.agent_id == 7
