"""Conversations as a whole, by workers that die and over a network that loses answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import combinations, product
from typing import Any

import pytest
from airflow_provider_sequentum.lifecycle.procedure import Procedure
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_sequentum.api.agent_builder import SessionEvent
from airflow_provider_sequentum.api.errors import (
    BadRequest,
    Conflict,
    ConnectionNotMade,
    Forbidden,
    RefusedByServer,
    SequentumError,
    ServerError,
)
from airflow_provider_sequentum.lifecycle.builder_open import SessionPolicy, StartAmbiguous, open_session
from airflow_provider_sequentum.lifecycle.builder_record import SessionRecord
from airflow_provider_sequentum.lifecycle.builder_request import SessionRequest
from airflow_provider_sequentum.lifecycle.builder_session import (
    TURN_GRACE,
    Action,
    Cancelled,
    Done,
    Failed,
    Reason,
    SessionState,
    Wait,
)
from airflow_provider_sequentum.lifecycle.builder_speak import (
    DELIVERIES,
    LOOKS_FOR_A_REACTION,
    MessageAmbiguous,
    RefusedInSession,
    SingleShotServer,
    session_of,
    speak,
)
from airflow_provider_sequentum.lifecycle.builder_wait import EventSink, wait_for_turn
from tests.unit.lifecycle.builder_service import FakeBuilder, FakeSession, Killed, Worker, conflict, lost, not_found

PROMPT = "Pull the prices from https://shop.example"
MESSAGES = ("first", "second", "third")


def conversation(
    request: SessionRequest, left_behind: SessionRecord | None, sink: EventSink | None = None
) -> Procedure[Action]:
    """What one try of a task does."""
    record = yield from open_session(request, SessionPolicy(), max_tries=3, left_behind=left_behind, sink=sink)
    while True:
        record, action = yield from speak(record, request.followups, "finish", "Prices", sink)
        if not isinstance(action, Wait):
            return action
        record = record.seeing((yield from wait_for_turn(session_of(record), 10.0, deadline=None, sink=sink)))


def one_try(
    service: FakeBuilder,
    worker: Worker,
    followups: tuple[str, ...] = (),
    kill_at: int | None = None,
    sink: EventSink | None = None,
    session_id: str | None = None,
) -> Action:
    left_behind = SessionRecord.from_json(worker.record) if worker.record is not None else None
    request = SessionRequest(prompt=PROMPT if session_id is None else None, session_id=session_id, followups=followups)
    worker.service = service
    return worker.run(conversation(request, left_behind, sink), kill_at)


@pytest.mark.parametrize("followups", [(), MESSAGES[:1], MESSAGES])
def test_a_conversation(followups: tuple[str, ...]) -> None:
    worker = Worker(service := FakeBuilder())
    assert one_try(service, worker, followups) == Done(700)
    assert service.sessions["s1"].messages == list(followups)
    assert service.agents == [700]
    for number in range(1, len(followups) + 1):
        assert any(f"{number} of {len(followups)}" in line for line in worker.said)


def test_the_record_at_the_end_says_what_was_built_and_when() -> None:
    worker = Worker(service := FakeBuilder())
    finish, bodies = service._finish, list[object]()

    def noting(session: FakeSession, call: Any) -> dict[str, Any]:
        bodies.append(call.body)
        return finish(session, call)

    service._finish = noting  # type: ignore[method-assign]
    one_try(service, worker)
    assert bodies == [{"agentName": "Prices"}]
    ended = session_of(SessionRecord.from_json(worker.record))
    assert (ended.state, ended.agent_id, ended.agent_name) == (SessionState.COMPLETED, 700, "Prices")
    assert ended.started_at is not None
    assert ended.since is not None
    assert ended.started_at < ended.since <= worker.now


def test_an_agent_that_was_saved_is_done_although_the_session_can_not_be_looked_at_any_more() -> None:
    service = FakeBuilder()
    finish = service._finish

    def and_fall_silent(session: FakeSession, call: Any) -> dict[str, Any]:
        service.broken["status"] = faulty(ServerError, status_code=503)
        return finish(session, call)

    service._finish = and_fall_silent  # type: ignore[method-assign]
    worker = Worker(service)
    assert one_try(service, worker) == Done(700)
    assert any("Agent Builder session s1" in line for line in worker.warned)


def test_a_single_shot_server_needs_no_configuration() -> None:
    service = FakeBuilder(single_shot=True)
    assert one_try(service, Worker(service)) == Done(700)
    assert service.agents == [700]


def test_a_single_shot_server_takes_no_followups() -> None:
    service = FakeBuilder(single_shot=True, looks=3)
    assert one_try(service, Worker(service), MESSAGES) == Failed(Reason.FOLLOWUPS_LEFT)


def test_a_server_that_has_events_and_no_followups_refuses_them_clearly() -> None:
    service = FakeBuilder(broken={"followup": not_found})
    with pytest.raises(SingleShotServer, match="not found"):
        one_try(service, Worker(service), MESSAGES)


@pytest.mark.parametrize("saves", [True, False])
def test_6_3_a_server_that_has_events_and_no_finish_is_waited_on_until_it_completes_by_itself(saves: bool) -> None:
    service = FakeBuilder(broken={"finish": not_found})
    answer, looks = service._status, 0

    def saving_at_the_third_look_after_the_finish(session: FakeSession, call: Any) -> dict[str, Any]:
        nonlocal looks
        looks += any(request.endswith("finish") for request in service.requests)
        if saves and looks == 3:
            session.status, session.agent_id = "completed", 7
        return answer(session, call)

    service._status = saving_at_the_third_look_after_the_finish  # type: ignore[method-assign]
    worker = Worker(service)
    assert one_try(service, worker, MESSAGES[:1]) == (Done(7) if saves else Failed(Reason.NO_AGENT))
    assert sum(request.endswith("finish") for request in service.requests) == 1
    assert any("finishes sessions by itself" in line for line in worker.said)


def test_6_4_the_agent_id_may_be_missing_in_the_answer_to_finish() -> None:
    service = FakeBuilder()
    finish = service._finish

    def nameless(session: object, call: object) -> dict[str, object]:
        finish(session, call)  # type: ignore[arg-type]
        return {"success": True}

    service._finish = nameless  # type: ignore[method-assign]
    assert one_try(service, Worker(service)) == Done(700)


@pytest.mark.parametrize("service_looks", [1, 3])
@pytest.mark.parametrize("followups", [(), MESSAGES[:2]])
@pytest.mark.parametrize("single_shot", [False, True])
def test_killed_before_any_step_the_next_try_goes_on(
    service_looks: int, followups: tuple[str, ...], single_shot: bool
) -> None:
    followups = () if single_shot else followups
    whole = Worker(service := FakeBuilder(looks=service_looks, single_shot=single_shot))
    one_try(service, whole, followups)
    for step in range(whole.steps):
        service = FakeBuilder(looks=service_looks, single_shot=single_shot)
        worker = Worker(service)
        with pytest.raises(Killed):
            one_try(service, worker, followups, kill_at=step)
        worker.steps = 0
        try:
            result = one_try(service, worker, followups)
        except StartAmbiguous:
            # The one moment nobody can find out about: the start was announced, its answer not recorded.
            assert worker.record is not None
            assert worker.record["announced"] == "start"
            assert len(service.sessions) <= 1
            continue
        assert result == Done(700)
        assert [session.messages for session in service.sessions.values()] == [list(followups)]
        assert service.agents == [700]


def test_killed_before_any_step_the_next_try_goes_on_in_the_session_it_was_given() -> None:
    def a_service() -> FakeBuilder:
        service = FakeBuilder()
        service.sessions["given"] = FakeSession(status="ready")
        return service

    whole = Worker(service := a_service())
    one_try(service, whole, MESSAGES, session_id="given")
    for step in range(whole.steps):
        worker = Worker(service := a_service())
        with pytest.raises(Killed):
            one_try(service, worker, MESSAGES, kill_at=step, session_id="given")
        worker.steps = 0
        assert one_try(service, worker, MESSAGES, session_id="given") == Done(700)
        assert service.sessions["given"].messages == list(MESSAGES)
        assert service.agents == [700]


@settings(max_examples=150, deadline=None)
@given(
    followups=st.integers(0, 3),
    single_shot=st.booleans(),
    looks=st.integers(1, 3),
    kills=st.lists(st.integers(0, 60), max_size=4),
    losses=st.dictionaries(st.integers(1, 60), st.booleans(), max_size=6),
)
def test_whatever_dies_or_is_lost_each_message_is_sent_once_and_one_agent_built(
    followups: int, single_shot: bool, looks: int, kills: list[int], losses: dict[int, bool]
) -> None:
    followups = 0 if single_shot else followups
    # Request 0 is the start: losing its answer is another test's matter.
    service = FakeBuilder(
        looks=looks, single_shot=single_shot, faults={number: (lost, effect) for number, effect in losses.items()}
    )
    worker = Worker(service)
    messages = MESSAGES[:followups]
    for kill_at in [*kills, *[None] * 12]:
        worker.steps = 0
        try:
            result = one_try(service, worker, messages, kill_at)
        except (Killed, SequentumError):
            continue
        except StartAmbiguous:
            assert worker.record is not None
            assert worker.record["announced"] == "start"
            assert len(service.sessions) <= 1
            return
        break
    else:
        pytest.fail("no try came to an end")
    assert result == Done(700)
    assert [session.messages for session in service.sessions.values()] == [list(messages)]
    assert service.agents == [700]


@pytest.mark.parametrize("took_effect", [True, False])
@pytest.mark.parametrize("verb", ["followup", "finish"])
def test_a_lost_answer_is_looked_into_within_the_same_try(verb: str, took_effect: bool) -> None:
    plain = Worker(service := FakeBuilder())
    one_try(service, plain, MESSAGES[:1])
    number = next(number for number, request in enumerate(service.requests) if request.endswith(verb))
    service = FakeBuilder(faults={number: (lost, took_effect)})
    worker = Worker(service)
    assert one_try(service, worker, MESSAGES[:1]) == Done(700)
    assert service.sessions["s1"].messages == ["first"]
    assert service.agents == [700]
    fate = "was taken by" if took_effect else "was not taken by"
    assert any(fate in line for line in worker.said)


@pytest.mark.parametrize("error", [lost, conflict])
@pytest.mark.parametrize("kill", [False, True])
def test_every_event_is_handed_over_wherever_it_is_read(error: Callable[[str], SequentumError], kill: bool) -> None:
    for verb in ("followup", "finish"):
        service = FakeBuilder()
        answer, asked = getattr(service, f"_{verb}"), 0

        def in_doubt(session: FakeSession, call: Any, answer: Any = answer) -> Any:
            nonlocal asked
            asked += 1
            result = answer(session, call)
            if asked > 1:
                return result
            session.tell("screenshot", imageBase64="QUJD")
            if kill:
                raise Killed
            raise error(call.purpose)

        setattr(service, f"_{verb}", in_doubt)
        worker = Worker(service)
        handed_over: set[int | None] = set()

        def take(_: str, event: SessionEvent, handed_over: set[int | None] = handed_over) -> None:
            handed_over.add(event.event_index)

        with suppress(Killed):
            one_try(service, worker, MESSAGES[:2], sink=take)
        if kill:
            one_try(service, worker, MESSAGES[:2], sink=take)
        assert handed_over == set(range(len(service.sessions["s1"].events)))


def test_a_request_that_never_gets_through_is_left_to_the_next_try() -> None:
    service = FakeBuilder(broken={"finish": lost})
    worker = Worker(service)
    with pytest.raises(SequentumError):
        one_try(service, worker)
    assert sum(request.endswith("finish") for request in service.requests) == DELIVERIES
    assert worker.record is not None
    assert worker.record["announced"] is None
    service.broken = {}
    assert one_try(service, worker) == Done(700)
    assert len(service.sessions) == 1


def test_a_followup_in_doubt_is_not_sent_again_where_no_events_can_tell() -> None:
    service = FakeBuilder(broken={"followup": lost, "events": not_found}, counts_events=False)
    with pytest.raises(MessageAmbiguous, match="s1"):
        one_try(service, Worker(service), MESSAGES[:1])
    assert sum(request.endswith("followup") for request in service.requests) == 1


def test_a_followup_in_doubt_is_not_sent_again_while_the_events_can_not_be_read() -> None:
    service = FakeBuilder(broken={"followup": lost})
    worker = Worker(service)
    request = SessionRequest(prompt=PROMPT, followups=MESSAGES[:1])
    record = worker.run(open_session(request, SessionPolicy(), 0, None))
    record = record.seeing(worker.run(wait_for_turn(session_of(record), 10.0, None)))
    service.sessions["s1"].tell("todos_updated")  # so that there is something to be read
    service.broken["events"] = lost
    with pytest.raises(SequentumError):
        worker.run(speak(record, request.followups, "finish", None))
    assert sum(request.endswith("followup") for request in service.requests) == 1
    assert worker.record is not None
    assert worker.record["announced"] == "follow-up"


def faulty(kind: Callable[..., SequentumError], **fields: object) -> Callable[[str], SequentumError]:
    return lambda purpose: kind(f"no {purpose}", purpose=purpose, **fields)


def test_6_a_name_that_is_in_use_is_refused_clearly_and_nothing_is_saved() -> None:
    plain = Worker(service := FakeBuilder())
    one_try(service, plain)
    number = next(number for number, request in enumerate(service.requests) if request.endswith("finish"))
    for error in (faulty(BadRequest, status_code=400), faulty(Conflict, status_code=409), faulty(RefusedByServer)):
        service = FakeBuilder(faults={number: (error, False)})
        with pytest.raises(RefusedInSession, match="no finish Agent Builder session s1"):
            one_try(service, Worker(service))
        assert service.agents == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (faulty(Forbidden, status_code=403), Forbidden),
        (faulty(ConnectionNotMade), ConnectionNotMade),
    ],
)
def test_what_certainly_did_nothing_is_raised_and_not_in_doubt(
    error: Callable[[str], SequentumError], kind: type[SequentumError]
) -> None:
    plain = Worker(service := FakeBuilder())
    one_try(service, plain, MESSAGES[:1])
    number = next(number for number, request in enumerate(service.requests) if request.endswith("followup"))
    service = FakeBuilder(faults={number: (error, False)})
    worker = Worker(service)
    with pytest.raises(kind):
        one_try(service, worker, MESSAGES[:1])
    assert worker.record is not None
    assert worker.record["announced"] is None
    assert one_try(service, worker, MESSAGES[:1]) == Done(700)
    assert service.sessions["s1"].messages == ["first"]


def test_a_conflict_because_the_session_was_cancelled_elsewhere_is_seen_as_that() -> None:
    plain = Worker(service := FakeBuilder())
    one_try(service, plain)
    number = next(number for number, request in enumerate(service.requests) if request.endswith("finish"))

    def cancelled_meanwhile(purpose: str) -> SequentumError:
        service.sessions["s1"].status = "cancelled"
        return faulty(BadRequest, status_code=409)(purpose)

    service = FakeBuilder(faults={number: (cancelled_meanwhile, False)})
    worker = Worker(service)
    assert one_try(service, worker) == Cancelled()
    # The next try finds the session here. Without a record it would start another one.
    assert worker.record is not None
    assert session_of(SessionRecord.from_json(worker.record)).state is SessionState.CANCELLED


def test_a_server_fault_at_finish_that_hid_its_success_builds_no_second_agent() -> None:
    plain = Worker(service := FakeBuilder())
    one_try(service, plain)
    number = next(number for number, request in enumerate(service.requests) if request.endswith("finish"))
    service = FakeBuilder(faults={number: (faulty(ServerError, status_code=502, may_have_acted=True), True)})
    assert one_try(service, Worker(service)) == Done(700)
    assert service.agents == [700]


def test_an_unrecoverable_error_fails_the_session() -> None:
    service = FakeBuilder()
    worker = Worker(service)
    request = SessionRequest(prompt=PROMPT)
    record = worker.run(open_session(request, SessionPolicy(), 0, None))
    service.sessions["s1"].status, service.sessions["s1"].error = "error", "no page"
    session = worker.run(wait_for_turn(session_of(record), 10.0, None))
    assert worker.run(speak(record.seeing(session), (), "finish", None))[1] == Failed(Reason.BUILD_FAILED)


def test_a_record_without_a_session_can_not_be_spoken_in() -> None:
    with pytest.raises(ValueError, match="no session"):
        session_of(SessionRecord(fingerprint="f", max_tries=0))


@pytest.mark.parametrize("looks", [1, 2])
def test_whichever_two_answers_are_lost_each_message_is_sent_once(looks: int) -> None:
    plain = Worker(service := FakeBuilder(looks=looks))
    one_try(service, plain, MESSAGES[:2])
    requests = range(1, len(service.requests))
    for first, second in combinations(requests, 2):
        for effects in product([True, False], repeat=2):
            faults: dict[int, Any] = {first: (lost, effects[0]), second: (lost, effects[1])}
            service = FakeBuilder(looks=looks, faults=faults)
            worker = Worker(service)
            for _ in range(4):
                try:
                    result = one_try(service, worker, MESSAGES[:2])
                except SequentumError:
                    continue
                break
            else:
                pytest.fail(f"no try came to an end: {faults}")
            assert result == Done(700), faults
            assert service.sessions["s1"].messages == list(MESSAGES[:2]), faults
            assert service.agents == [700], faults


def test_a_message_that_takes_effect_only_when_it_is_sent_again_is_not_said_twice() -> None:
    plain = Worker(service := FakeBuilder())
    one_try(service, plain, MESSAGES[:1])
    number = next(number for number, request in enumerate(service.requests) if request.endswith("followup"))
    service = FakeBuilder(faults={number: (lost, False)})
    followup = service._followup

    def after_the_first_one(session: FakeSession, call: Any) -> dict[str, Any]:
        followup(session, call)
        return followup(session, call)  # a conflict: the session is busy with the first one

    service._followup = after_the_first_one  # type: ignore[method-assign]
    assert one_try(service, Worker(service), MESSAGES[:1]) == Done(700)
    assert service.sessions["s1"].messages == ["first"]


def test_a_status_that_is_not_known_proves_nothing_of_a_followup_in_doubt() -> None:
    service = FakeBuilder(broken={"followup": lost})
    worker = Worker(service)
    request = SessionRequest(prompt=PROMPT, followups=MESSAGES[:1])
    record = worker.run(open_session(request, SessionPolicy(), 0, None))
    record = record.seeing(worker.run(wait_for_turn(session_of(record), 10.0, None)))
    service.sessions["s1"].status = "pondering"
    with pytest.raises(MessageAmbiguous):
        worker.run(speak(record, MESSAGES[:1], "finish", None))


def test_a_message_is_looked_after_as_long_as_an_old_ready_may_be_seen() -> None:
    assert sum(LOOKS_FOR_A_REACTION) >= TURN_GRACE.total_seconds()
