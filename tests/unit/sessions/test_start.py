from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import BadRequest, SequentumError
from airflow_provider_sequentum.lifecycle.builder_open import SessionLost, SessionPolicy, StartAmbiguous, open_session
from airflow_provider_sequentum.lifecycle.builder_record import SessionRecord, Verb
from airflow_provider_sequentum.lifecycle.builder_request import SessionRequest
from airflow_provider_sequentum.lifecycle.builder_session import BuilderSession, SessionState, Turn
from airflow_provider_sequentum.lifecycle.builder_speak import session_of
from airflow_provider_sequentum.lifecycle.builder_wait import EventSink
from tests.unit.lifecycle.builder_service import START, FakeBuilder, Worker, lost

OWN = SessionRequest(prompt="Pull the prices from https://shop.example", followups=("a",))
GIVEN = SessionRequest(session_id="s1", followups=("a",))
FAIL, ANEW = SessionPolicy(), SessionPolicy(on_ambiguous_start="start", on_lost_session="start")


def opened(
    service: FakeBuilder,
    request: SessionRequest = OWN,
    policy: SessionPolicy = FAIL,
    left_behind: SessionRecord | None = None,
    max_tries: int = 1,
    sink: EventSink | None = None,
) -> tuple[SessionRecord, Worker]:
    worker = Worker(service, left_behind.to_json() if left_behind is not None else None)
    record = worker.run(open_session(request, policy, max_tries, left_behind, sink))
    # By these the next try knows that the session is its own, and what was said in it.
    assert (record.fingerprint, record.max_tries) == (request.fingerprint(), max_tries)
    assert worker.record == record.to_json()
    return record, worker


def left(service: FakeBuilder, status: str = "ready", request: SessionRequest = OWN) -> SessionRecord:
    """What a try leaves that was killed in its session."""
    record, _ = opened(service, SessionRequest(prompt=OWN.prompt))
    session = service.sessions[session_of(record).session_id]
    session.status = status
    return SessionRecord(fingerprint=request.fingerprint(), max_tries=1, session=record.session)


def tells(lines: list[str], *words: str) -> bool:
    return any(all(word in line for word in words) for line in lines)


def starts(service: FakeBuilder) -> int:
    return sum(request.endswith("/start") for request in service.requests)


def test_the_intent_is_remembered_before_the_start_and_the_session_after_it() -> None:
    worker = Worker(FakeBuilder())
    records: list[object] = []
    answer = worker.service._start

    def noting(call: Call[Any]) -> dict[str, Any]:
        records.append(worker.record)
        return answer(call)

    worker.service._start = noting  # type: ignore[method-assign]
    record = worker.run(open_session(OWN, FAIL, 1, None))
    assert isinstance(records[0], dict)
    assert records[0]["announced"] == "start"
    assert worker.record == record.to_json()
    assert (record.announced, record.announced_at) == (None, None)
    session = session_of(record)
    assert (session.session_id, session.turn) == ("s1", Turn.SAID)
    assert (session.started_at, session.since, session.said_at) == (worker.now, worker.now, worker.now)


def test_a_start_that_was_refused_leaves_nothing_to_be_in_doubt_about() -> None:
    service = FakeBuilder(broken={"start": lambda purpose: BadRequest("no", purpose=purpose, status_code=400)})
    worker = Worker(service)
    with pytest.raises(BadRequest):
        worker.run(open_session(OWN, FAIL, 1, None))
    assert worker.record is None


@pytest.mark.parametrize("took_effect", [True, False])
def test_a_lost_answer_to_the_start_is_never_followed_by_another_start(took_effect: bool) -> None:
    service = FakeBuilder(faults={0: (lost, took_effect)})
    worker = Worker(service)
    with pytest.raises(StartAmbiguous):
        worker.run(open_session(OWN, FAIL, 1, None))
    assert worker.record is not None
    with pytest.raises(StartAmbiguous, match=f"start a session at {START:%Y-%m-%d}"):
        opened(service, left_behind=SessionRecord.from_json(worker.record))
    assert starts(service) == 1


def test_a_lost_answer_to_the_start_is_followed_by_another_one_if_the_author_says_so() -> None:
    service = FakeBuilder(faults={0: (lost, True)})
    worker = Worker(service)
    with pytest.raises(SequentumError):
        worker.run(open_session(OWN, ANEW, 1, None))
    assert worker.record is not None
    record, _ = opened(service, policy=ANEW, left_behind=SessionRecord.from_json(worker.record))
    assert session_of(record).session_id == "s2"


def test_clearing_the_task_settles_a_lost_start() -> None:
    service = FakeBuilder()
    in_doubt = SessionRecord(fingerprint=OWN.fingerprint(), max_tries=1).announcing(Verb.START, START)
    record, worker = opened(service, left_behind=in_doubt, max_tries=2)
    assert session_of(record).session_id == "s1"
    assert starts(service) == 1
    assert tells(worker.warned, str(START))


@pytest.mark.parametrize("status", ["processing", "ready", "completed"])
def test_a_retry_goes_on_with_the_session(status: str) -> None:
    service = FakeBuilder()
    record, worker = opened(service, left_behind=left(service, status))
    assert session_of(record).session_id == "s1"
    assert starts(service) == 1
    assert tells(worker.said, "s1", status)


@pytest.mark.parametrize("status", ["error", "cancelled"])
def test_a_retry_begins_anew_where_the_session_ended_without_an_agent(status: str) -> None:
    service = FakeBuilder()
    record, _ = opened(service, left_behind=left(service, status))
    assert session_of(record).session_id == "s2"


@pytest.mark.parametrize("status", ["processing", "ready"])
@pytest.mark.parametrize("changed", [True, False])
def test_a_cleared_or_changed_task_gives_its_session_up(status: str, changed: bool) -> None:
    service = FakeBuilder()
    before = left(service, status)
    request = SessionRequest(prompt="Something else, from https://shop.example") if changed else OWN
    record, worker = opened(service, request, left_behind=before, max_tries=1 if changed else 2)
    assert session_of(record).session_id == "s2"
    assert service.sessions["s1"].status == "cancelled"
    assert tells(worker.said, "something else" if changed else "cleared", "s1")


def test_a_cleared_success_builds_anew_and_leaves_the_old_agent_alone() -> None:
    service = FakeBuilder()
    before = left(service, "completed")
    assert before.session is not None
    before = before.seeing(before.session.finished(700, None, START))
    requests = len(service.requests)
    record, _ = opened(service, left_behind=before, max_tries=2)
    assert session_of(record).session_id == "s2"
    assert len(service.requests) == requests + 1


def test_keep_session_leaves_a_given_up_session_as_it_is() -> None:
    service = FakeBuilder()
    policy = SessionPolicy(keep_session=True)
    record, worker = opened(service, policy=policy, left_behind=left(service), max_tries=2)
    assert session_of(record).session_id == "s2"
    assert service.sessions["s1"].status == "ready"
    assert tells(worker.said, "cleared", "s1")


def test_a_lost_session_is_said_so_and_begun_anew_only_by_policy() -> None:
    service = FakeBuilder()
    before = left(service)
    assert before.session is not None
    del service.sessions["s1"]
    with pytest.raises(SessionLost, match="s1"):
        opened(service, left_behind=before.seeing(before.session.unheard()))
    record, worker = opened(service, policy=ANEW, left_behind=before.seeing(before.session.unheard()))
    assert starts(service) == 2
    assert any("is gone" in line for line in worker.said)
    assert record.announced is None


def test_a_given_session_is_gone_on_with_and_its_events_are_not_told_again() -> None:
    service = FakeBuilder()
    left(service)
    service.sessions["s1"].tell("user_message", message="hello")
    record, worker = opened(service, GIVEN)
    session = session_of(record)
    assert (session.session_id, session.state, session.findings.last_message) == ("s1", SessionState.READY, "hello")
    assert not any("hello" in line for line in worker.said)
    assert starts(service) == 1


@pytest.mark.parametrize("policy", [FAIL, ANEW])
def test_a_given_session_that_is_unknown_is_lost_whatever_the_policy(policy: SessionPolicy) -> None:
    with pytest.raises(SessionLost, match="s1"):
        opened(FakeBuilder(), GIVEN, policy)


def test_a_cleared_task_goes_on_with_the_session_it_was_given() -> None:
    service = FakeBuilder()
    left(service)
    before = SessionRecord(
        fingerprint=GIVEN.fingerprint(), max_tries=1, session=BuilderSession(session_id="s1", sent=1)
    )
    record, worker = opened(service, GIVEN, left_behind=before, max_tries=2)
    assert session_of(record).session_id == "s1"
    assert session_of(record).sent == 0
    assert service.sessions["s1"].status == "ready"
    assert tells(worker.said, "cleared", "s1")


@pytest.mark.parametrize("agent_id", [None, 7])
def test_a_given_session_that_is_torn_down_between_two_tries_is_lost_unless_its_agent_was_seen(
    agent_id: int | None,
) -> None:
    seen = BuilderSession(session_id="s1", state=SessionState.READY, agent_id=agent_id, since=START)
    before = SessionRecord(fingerprint=GIVEN.fingerprint(), max_tries=1, session=seen)
    if agent_id is None:
        with pytest.raises(SessionLost, match="s1"):
            opened(FakeBuilder(), GIVEN, ANEW, before)
    else:
        record, _ = opened(FakeBuilder(), GIVEN, ANEW, before)
        assert session_of(record).agent_id == agent_id


@pytest.mark.parametrize("case", ["ended without an agent", "cleared", "lost start"])
def test_every_start_is_announced_and_never_followed_by_another_on_its_own(case: str) -> None:
    service = FakeBuilder()
    before = left(service, "error" if case == "ended without an agent" else "ready")
    if case == "lost start":
        before = SessionRecord(fingerprint=OWN.fingerprint(), max_tries=1).announcing(Verb.START, START)
    service.broken["start"] = lost
    with pytest.raises(StartAmbiguous, match="the answer was lost"):
        opened(service, left_behind=before, max_tries=1 if case == "ended without an agent" else 2)


@pytest.mark.parametrize(
    ("request_", "is_retry", "max_tries"), [(OWN, True, 1), (GIVEN, False, 1), (GIVEN, True, 1), (GIVEN, True, 2)]
)
def test_the_events_so_far_are_handed_over_when_a_session_is_joined(
    request_: SessionRequest, is_retry: bool, max_tries: int
) -> None:
    service = FakeBuilder()
    before = left(service, request=request_)
    service.sessions["s1"].tell("screenshot", imageBase64="QUJD")
    got: list[int | None] = []
    opened(
        service, request_, left_behind=before if is_retry else None, max_tries=max_tries,
        sink=lambda _, event: got.append(event.event_index),
    )  # fmt: skip
    assert got == [0, 1, 2]
