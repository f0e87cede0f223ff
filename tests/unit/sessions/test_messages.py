"""Conversations as a whole, by workers that die and over a network that loses answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import combinations, count, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_sequentum.api.agent_builder import SessionEvent
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import (
    ConnectionNotMade,
    HttpStatusError,
    RefusedByServer,
    SequentumError,
)
from airflow_provider_sequentum.exceptions import AgentBuilderEnded
from airflow_provider_sequentum.sessions.messages import (
    BUSY_DELAYS,
    MAX_DELIVERIES,
    REACTION_DELAYS,
    send_pending,
)
from airflow_provider_sequentum.sessions.record import SessionConfig, SessionRecord
from airflow_provider_sequentum.sessions.start import acquire_session
from airflow_provider_sequentum.sessions.state import (
    TURN_GRACE,
    Action,
    SessionState,
)
from airflow_provider_sequentum.sessions.wait import EventTaker, SessionPoller, wait_for_turn
from tests.support.builder import FakeBuilder, FakeSession
from tests.support.errors import raises
from tests.support.service import ErrorOf, conflict, not_found, not_reached, rate_limited, response_lost, unauthorized
from tests.support.worker import Killed, Worker

PROMPT = "Pull the prices from https://shop.example"
MESSAGES = ("first", "second", "third")


def a_service(
    *, faults: dict[int, tuple[ErrorOf, bool]] | None = None, broken: dict[str, ErrorOf] | None = None, **options: Any
) -> FakeBuilder:
    service = FakeBuilder(**options)
    service.faults_at = faults or {}
    service.broken = broken or {}
    return service


def config_of(followups: tuple[str, ...] = (), session_id: str | None = None) -> SessionConfig:
    prompt = PROMPT if session_id is None else None
    return SessionConfig(prompt=prompt, session_id=session_id, followups=followups, agent_name="Prices")


def acquired(worker: Worker, config: SessionConfig, take: EventTaker | None = None) -> SessionRecord:
    """Return the record of the session, as an attempt of the same task acquires it."""
    previous = SessionRecord.from_json(worker.saved) if worker.saved is not None else None
    new = SessionRecord(config=config, fingerprint=config.fingerprint(), max_tries=3)
    return acquire_session(worker, previous, new, take)


def waited(worker: Worker, record: SessionRecord, take: EventTaker | None = None) -> SessionRecord:
    poller = SessionPoller(record.known_session, poll_interval=10.0, take=take)
    return record.seen(wait_for_turn(worker, poller))


def one_try(
    service: FakeBuilder,
    worker: Worker,
    followups: tuple[str, ...] = (),
    kill_at: int | None = None,
    take: EventTaker | None = None,
    session_id: str | None = None,
) -> Action | int | None:
    """Do what one attempt of a task does; return the agent's id, or what else there is to do."""
    worker.steps_left = kill_at
    config = config_of(followups, session_id)
    try:
        record = acquired(worker, config, take)
        while True:
            record, action = send_pending(worker, record, take)
            if action is Action.DONE:
                return record.known_session.agent_id
            if action is not Action.WAIT:
                return action
            record = waited(worker, record, take)
    finally:
        worker.steps_left = None


def deaths(die: Callable[[int], None]) -> int:
    """Let workers die before each of their steps; return how many there are."""
    for step in count():
        try:
            die(step)
        except Killed:
            continue
        return step
    raise AssertionError


@pytest.mark.parametrize("followups", [(), MESSAGES[:1], MESSAGES])
def test_a_conversation(followups: tuple[str, ...]) -> None:
    worker = Worker(service := FakeBuilder())
    assert one_try(service, worker, followups) == 700
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
    ended = SessionRecord.from_json(worker.saved).known_session
    assert (ended.state, ended.agent_id, ended.agent_name) == (SessionState.COMPLETED, 700, "Prices")
    assert ended.started_at is not None
    assert ended.state_since is not None
    assert ended.started_at < ended.state_since <= worker.now()


def test_an_agent_that_was_saved_is_done_although_the_session_can_not_be_looked_at_any_more() -> None:
    service = FakeBuilder()
    finish = service._finish

    def and_fall_silent(session: FakeSession, call: Any) -> dict[str, Any]:
        service.broken["status"] = faulty(HttpStatusError, status_code=503)
        return finish(session, call)

    service._finish = and_fall_silent  # type: ignore[method-assign]
    worker = Worker(service)
    assert one_try(service, worker) == 700
    assert any("Agent Builder session s1" in line for line in worker.warned)


def test_a_single_shot_server_needs_no_configuration() -> None:
    service = a_service(single_shot=True)
    assert one_try(service, Worker(service)) == 700
    assert service.agents == [700]


def test_a_single_shot_server_takes_no_followups() -> None:
    service = a_service(single_shot=True, looks=3)
    assert one_try(service, Worker(service), MESSAGES) == Action.FOLLOWUPS_LEFT


def test_a_server_that_has_events_and_no_followups_refuses_them_clearly() -> None:
    service = a_service(broken={"followup": not_found})
    with pytest.raises(AgentBuilderEnded, match="accepts no follow-ups"):
        one_try(service, Worker(service), MESSAGES)


@pytest.mark.parametrize("saves", [True, False])
def test_6_3_a_server_that_has_events_and_no_finish_is_waited_on_until_it_completes_by_itself(saves: bool) -> None:
    service = a_service(broken={"finish": not_found})
    answer, looks = service._status, 0

    def saving_at_the_third_look_after_the_finish(session: FakeSession, call: Any) -> dict[str, Any]:
        nonlocal looks
        looks += any(request.endswith("finish") for request in service.requests)
        if saves and looks == 3:
            session.status, session.agent_id = "completed", 7
        return answer(session, call)

    service._status = saving_at_the_third_look_after_the_finish  # type: ignore[method-assign]
    worker = Worker(service)
    assert one_try(service, worker, MESSAGES[:1]) == (7 if saves else Action.NO_AGENT)
    # It counts its events, so that the refusal could be a passing one.
    assert service.count("finish") == (3 if saves else 1 + len(BUSY_DELAYS))
    assert saves or any("finishes sessions by itself" in line for line in worker.said)


def test_6_4_the_agent_id_may_be_missing_in_the_answer_to_finish() -> None:
    service = FakeBuilder()
    finish = service._finish

    def nameless(session: object, call: object) -> dict[str, object]:
        finish(session, call)  # type: ignore[arg-type]
        return {"success": True}

    service._finish = nameless  # type: ignore[method-assign]
    assert one_try(service, Worker(service)) == 700


@pytest.mark.parametrize("service_looks", [1, 3])
@pytest.mark.parametrize("followups", [(), MESSAGES[:2]])
@pytest.mark.parametrize("single_shot", [False, True])
def test_killed_before_any_step_the_next_attempt_continues(
    service_looks: int, followups: tuple[str, ...], single_shot: bool
) -> None:
    followups = () if single_shot else followups

    def die(step: int) -> None:
        service = a_service(looks=service_looks, single_shot=single_shot)
        worker = Worker(service)
        try:
            one_try(service, worker, followups, kill_at=step)
        except Killed:
            try:
                result = one_try(service, worker, followups)
            except AgentBuilderEnded:
                # The one moment no one can find out about: the start was announced, its answer not recorded.
                assert worker.saved is not None
                assert worker.saved["pending"] == "start"
                assert len(service.sessions) <= 1
                raise Killed from None
            assert result == 700
            assert [session.messages for session in service.sessions.values()] == [list(followups)]
            assert service.agents == [700]
            raise

    assert deaths(die) > 4


def test_killed_before_any_step_the_next_attempt_continues_in_the_session_it_was_given() -> None:
    def die(step: int) -> None:
        service = FakeBuilder()
        service.sessions["given"] = FakeSession(status="ready")
        worker = Worker(service)
        try:
            one_try(service, worker, MESSAGES, kill_at=step, session_id="given")
        except Killed:
            assert one_try(service, worker, MESSAGES, session_id="given") == 700
            assert service.sessions["given"].messages == list(MESSAGES)
            assert service.agents == [700]
            raise

    assert deaths(die) > 4


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
    service = a_service(
        looks=looks,
        single_shot=single_shot,
        faults={number: (response_lost, effect) for number, effect in losses.items()},
    )
    worker = Worker(service)
    messages = MESSAGES[:followups]
    for kill_at in [*kills, *[None] * 12]:
        try:
            result = one_try(service, worker, messages, kill_at)
        except (Killed, SequentumError):
            continue
        except AgentBuilderEnded:
            assert worker.saved is not None
            assert worker.saved.get("pending") == "start"
            assert len(service.sessions) <= 1
            return
        break
    else:
        pytest.fail("no try came to an end")
    assert result == 700
    assert [session.messages for session in service.sessions.values()] == [list(messages)]
    assert service.agents == [700]


@pytest.mark.parametrize("took_effect", [True, False])
@pytest.mark.parametrize("verb", ["followup", "finish"])
def test_a_lost_answer_is_looked_into_within_the_same_attempt(verb: str, took_effect: bool) -> None:
    plain = Worker(service := FakeBuilder())
    one_try(service, plain, MESSAGES[:1])
    number = next(number for number, request in enumerate(service.requests) if request.endswith(verb))
    service = a_service(faults={number: (response_lost, took_effect)})
    worker = Worker(service)
    assert one_try(service, worker, MESSAGES[:1]) == 700
    assert service.sessions["s1"].messages == ["first"]
    assert service.agents == [700]
    fate = "was received by" if took_effect else "was not received by"
    assert any(fate in line for line in worker.said)


@pytest.mark.parametrize("error", [response_lost, conflict])
@pytest.mark.parametrize("kill", [False, True])
def test_every_event_is_handed_over_wherever_it_is_read(error: ErrorOf, kill: bool) -> None:
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
            raise error(call)

        setattr(service, f"_{verb}", in_doubt)
        worker = Worker(service)
        handed_over: set[int | None] = set()

        def take(event: SessionEvent, handed_over: set[int | None] = handed_over) -> None:
            handed_over.add(event.event_index)

        with suppress(Killed):
            one_try(service, worker, MESSAGES[:2], take=take)
        if kill:
            one_try(service, worker, MESSAGES[:2], take=take)
        assert handed_over == set(range(len(service.sessions["s1"].events)))


def test_a_request_that_never_gets_through_is_left_to_the_next_attempt() -> None:
    service = a_service(broken={"finish": response_lost})
    worker = Worker(service)
    with pytest.raises(SequentumError):
        one_try(service, worker)
    assert sum(request.endswith("finish") for request in service.requests) == MAX_DELIVERIES
    assert worker.saved is not None
    assert worker.saved.get("pending") is None
    service.broken = {}
    assert one_try(service, worker) == 700
    assert len(service.sessions) == 1


def test_a_followup_in_doubt_is_not_sent_again_where_no_events_can_tell() -> None:
    service = a_service(broken={"followup": response_lost, "events": not_found}, counts_events=False)
    with pytest.raises(AgentBuilderEnded, match="It is unknown whether it was received"):
        one_try(service, Worker(service), MESSAGES[:1])
    assert sum(request.endswith("followup") for request in service.requests) == 1


def test_a_followup_in_doubt_is_not_sent_again_while_the_events_can_not_be_read() -> None:
    service = a_service(broken={"followup": response_lost})
    worker = Worker(service)
    config = config_of(MESSAGES[:1])
    record = waited(worker, acquired(worker, config))
    service.sessions["s1"].tell("todos_updated")  # so that there is something to be read
    service.broken["events"] = response_lost
    with pytest.raises(SequentumError):
        send_pending(worker, record)
    assert sum(request.endswith("followup") for request in service.requests) == 1
    assert worker.saved is not None
    assert worker.saved.get("pending") == "follow-up"


def faulty(kind: Callable[..., SequentumError], **fields: object) -> ErrorOf:
    return lambda call: kind(f"no {call.purpose}", purpose=call.purpose, **fields)


def test_6_a_name_that_is_in_use_is_refused_clearly_and_nothing_is_saved() -> None:
    plain = Worker(service := FakeBuilder())
    one_try(service, plain)
    number = next(number for number, request in enumerate(service.requests) if request.endswith("finish"))
    for error in (faulty(HttpStatusError, status_code=400), faulty(RefusedByServer)):
        service = a_service(faults={number: (error, False)})
        with pytest.raises(AgentBuilderEnded, match="no finish Agent Builder session s1"):
            one_try(service, Worker(service))
        assert service.agents == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (faulty(HttpStatusError, status_code=403), 403),
        (faulty(ConnectionNotMade), ConnectionNotMade),
    ],
)
def test_what_certainly_did_nothing_is_raised_and_not_in_doubt(
    error: ErrorOf, kind: type[SequentumError] | int
) -> None:
    plain = Worker(service := FakeBuilder())
    one_try(service, plain, MESSAGES[:1])
    number = next(number for number, request in enumerate(service.requests) if request.endswith("followup"))
    service = a_service(faults={number: (error, False)})
    worker = Worker(service)
    with raises(kind):
        one_try(service, worker, MESSAGES[:1])
    assert worker.saved is not None
    assert worker.saved.get("pending") is None
    assert one_try(service, worker, MESSAGES[:1]) == 700
    assert service.sessions["s1"].messages == ["first"]


def test_a_conflict_because_the_session_was_cancelled_elsewhere_is_seen_as_that() -> None:
    plain = Worker(service := FakeBuilder())
    one_try(service, plain)
    number = next(number for number, request in enumerate(service.requests) if request.endswith("finish"))

    def cancelled_meanwhile(call: Call[Any]) -> SequentumError:
        service.sessions["s1"].status = "cancelled"
        return conflict(call)

    service = a_service(faults={number: (cancelled_meanwhile, False)})
    worker = Worker(service)
    assert one_try(service, worker) == Action.CANCELLED
    # The next attempt finds the session here. Without a record it would start another one.
    assert worker.saved is not None
    assert SessionRecord.from_json(worker.saved).known_session.state is SessionState.CANCELLED


def test_a_server_fault_at_finish_that_hid_its_success_builds_no_second_agent() -> None:
    plain = Worker(service := FakeBuilder())
    one_try(service, plain)
    number = next(number for number, request in enumerate(service.requests) if request.endswith("finish"))
    service = a_service(faults={number: (faulty(HttpStatusError, status_code=502, may_have_acted=True), True)})
    assert one_try(service, Worker(service)) == 700
    assert service.agents == [700]


def test_an_unrecoverable_error_fails_the_session() -> None:
    service = FakeBuilder()
    worker = Worker(service)
    record = acquired(worker, config_of())
    service.sessions["s1"].status, service.sessions["s1"].error = "error", "no page"
    record = waited(worker, record)
    assert send_pending(worker, record)[1] == Action.BUILD_FAILED


def test_a_record_without_a_session_can_not_be_spoken_in() -> None:
    with pytest.raises(RuntimeError, match="no session"):
        send_pending(Worker(FakeBuilder()), SessionRecord())


@pytest.mark.parametrize("looks", [1, 2])
def test_whichever_two_answers_are_lost_each_message_is_sent_once(looks: int) -> None:
    plain = Worker(service := a_service(looks=looks))
    one_try(service, plain, MESSAGES[:2])
    requests = range(1, len(service.requests))
    for first, second in combinations(requests, 2):
        for effects in product([True, False], repeat=2):
            faults: dict[int, Any] = {first: (response_lost, effects[0]), second: (response_lost, effects[1])}
            service = a_service(looks=looks, faults=faults)
            worker = Worker(service)
            for _ in range(4):
                try:
                    result = one_try(service, worker, MESSAGES[:2])
                except SequentumError:
                    continue
                break
            else:
                pytest.fail(f"no try came to an end: {faults}")
            assert result == 700, faults
            assert service.sessions["s1"].messages == list(MESSAGES[:2]), faults
            assert service.agents == [700], faults


def test_a_message_that_takes_effect_only_when_it_is_sent_again_is_not_said_twice() -> None:
    plain = Worker(service := FakeBuilder())
    one_try(service, plain, MESSAGES[:1])
    number = next(number for number, request in enumerate(service.requests) if request.endswith("followup"))
    service = a_service(faults={number: (response_lost, False)})
    followup = service._followup

    def after_the_first_one(session: FakeSession, call: Any) -> dict[str, Any]:
        followup(session, call)
        return followup(session, call)  # a conflict: the session is busy with the first one

    service._followup = after_the_first_one  # type: ignore[method-assign]
    assert one_try(service, Worker(service), MESSAGES[:1]) == 700
    assert service.sessions["s1"].messages == ["first"]


@pytest.mark.parametrize("error", [not_reached, rate_limited, unauthorized])
def test_a_message_that_takes_effect_while_it_cannot_be_sent_again_is_not_said_twice(error: ErrorOf) -> None:
    service = a_service()
    followup, asked = service._followup, []

    def late(session: FakeSession, call: Any) -> dict[str, Any]:
        asked.append(call)
        if len(asked) == 1:
            raise response_lost(call)
        if len(asked) == 2:
            followup(session, asked[0])
            raise error(call)
        return followup(session, call)

    service._followup = late  # type: ignore[method-assign]
    assert one_try(service, Worker(service), MESSAGES[:1]) == 700
    assert service.sessions["s1"].messages == ["first"]


def test_a_message_that_takes_effect_late_is_not_said_twice_by_a_later_attempt() -> None:
    def die(step: int) -> None:
        service = FakeBuilder()
        service.sessions["given"] = FakeSession(status="ready")
        followup, asked = service._followup, []

        def late(session: FakeSession, call: Any) -> dict[str, Any]:
            asked.append(call)
            if len(asked) == 1:
                raise response_lost(call)
            if len(asked) == 2:
                followup(session, asked[0])
            return followup(session, call)  # the second time, a conflict: the session is busy with the first one

        service._followup = late  # type: ignore[method-assign]
        worker = Worker(service)
        try:
            one_try(service, worker, MESSAGES[:1], kill_at=step, session_id="given")
        except Killed:
            assert one_try(service, worker, MESSAGES[:1], session_id="given") == 700
            raise
        finally:
            assert service.sessions["given"].messages == ["first"], step

    assert deaths(die) > 12


def test_a_status_that_is_not_known_proves_nothing_of_a_followup_in_doubt() -> None:
    service = a_service(broken={"followup": response_lost})
    worker = Worker(service)
    config = config_of(MESSAGES[:1])
    record = waited(worker, acquired(worker, config))
    service.sessions["s1"].status = "pondering"
    with pytest.raises(AgentBuilderEnded, match="It is unknown whether it was received"):
        send_pending(worker, record)


@pytest.mark.parametrize("saving_looks", [1, 20])
@pytest.mark.parametrize("took_effect", [True, False])
def test_a_finish_in_doubt_is_not_sent_again_while_the_status_is_not_known(
    saving_looks: int, took_effect: bool
) -> None:
    """A server may be saving the agent for a while, in a status of its own."""
    service = FakeBuilder()
    status, looks = service._status, 0

    def saving(session: FakeSession, call: Any) -> dict[str, Any]:
        nonlocal looks
        answer = status(session, call)
        looks += service.count("finish") == 1
        is_saving = 0 < looks <= saving_looks
        return answer | {"status": "saving", "configId": None, "lastEventIndex": -1} if is_saving else answer

    service._status = saving  # type: ignore[method-assign]
    service.faults["finish"] = [(response_lost, took_effect)]
    worker = Worker(service)
    assert one_try(service, worker) == 700
    assert service.agents == [700]
    assert service.count("finish") == (1 if took_effect else 2)
    assert not (took_effect and any("was not received" in line for line in worker.said))


def test_a_message_is_looked_after_as_long_as_an_old_ready_may_be_seen() -> None:
    assert sum(REACTION_DELAYS) >= TURN_GRACE.total_seconds()


@pytest.mark.parametrize("verb", ["followup", "finish"])
@pytest.mark.parametrize("times", [1, len(BUSY_DELAYS)])
@pytest.mark.parametrize("error", [conflict, not_found])
def test_a_refusal_that_may_pass_while_the_session_is_seen_ready_passes(verb: str, times: int, error: ErrorOf) -> None:
    """A server that counts the events of its sessions takes messages, so a 404 may pass there as it does elsewhere."""
    service = FakeBuilder()
    service.faults[verb] = [(error, False)] * times
    worker = Worker(service)
    assert one_try(service, worker, MESSAGES[:1]) == 700
    assert service.sessions["s1"].messages == ["first"]
    assert service.agents == [700]
    assert service.count(verb) == times + 1


def test_a_conflict_that_does_not_pass_is_said() -> None:
    service = FakeBuilder()
    service.broken["followup"] = conflict
    worker = Worker(service)
    with pytest.raises(AgentBuilderEnded, match="Not in this state") as caught:
        one_try(service, worker, MESSAGES[:1])
    assert caught.value.reason == "refused"
    assert service.count("followup") == len(BUSY_DELAYS) + 1
    assert service.sessions["s1"].messages == []


def test_a_conflict_after_a_lost_answer_is_looked_into_and_not_repeated_blindly() -> None:
    service = FakeBuilder()
    service.faults["followup"] = [(conflict, False), (response_lost, True)]
    worker = Worker(service)
    assert one_try(service, worker, MESSAGES[:1]) == 700
    assert service.sessions["s1"].messages == ["first"]
