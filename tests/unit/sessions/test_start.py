from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import AgentBuilderEnded, AgentBuilderException
from airflow_provider_sequentum.sessions.record import Request, SessionConfig, SessionRecord
from airflow_provider_sequentum.sessions.start import acquire_session
from airflow_provider_sequentum.sessions.state import Session, SessionState, Turn
from airflow_provider_sequentum.sessions.wait import EventTaker
from tests.support.builder import FakeBuilder
from tests.support.errors import raises
from tests.support.service import START, bad_request, not_found, response_lost
from tests.support.worker import Worker

OWN = SessionConfig(prompt="Pull the prices from https://shop.example", followups=("a",))
GIVEN = SessionConfig(session_id="s1", followups=("a",))
RESTARTS = OWN.updated(on_ambiguous_start="start", on_lost_session="start")


def acquire(
    worker: Worker,
    config: SessionConfig = OWN,
    previous: SessionRecord | None = None,
    max_tries: int = 1,
    take: EventTaker | None = None,
) -> SessionRecord:
    new = SessionRecord(config=config, fingerprint=config.fingerprint(), max_tries=max_tries)
    return acquire_session(worker, previous, new, take)


def opened(
    service: FakeBuilder,
    config: SessionConfig = OWN,
    previous: SessionRecord | None = None,
    max_tries: int = 1,
    take: EventTaker | None = None,
) -> tuple[SessionRecord, Worker]:
    worker = Worker(service)
    record = acquire(worker, config, previous, max_tries, take)
    # By these the next attempt knows that the session is its own, and what was said in it.
    assert (record.fingerprint, record.max_tries) == (config.fingerprint(), max_tries)
    assert worker.saved == record.to_json()
    return record, worker


def left(service: FakeBuilder, status: str = "ready", config: SessionConfig = OWN) -> SessionRecord:
    """What an attempt leaves that was killed in its session."""
    record, _ = opened(service)
    service.sessions[record.known_session.session_id].status = status
    return record.updated(fingerprint=config.fingerprint(), config=config)


def in_doubt() -> SessionRecord:
    """What an attempt leaves that was killed while it sent the start."""
    return SessionRecord(fingerprint=OWN.fingerprint(), max_tries=1).sending(Request.START, START)


def saved(worker: Worker) -> SessionRecord:
    return SessionRecord.from_json(worker.saved)


def tells(lines: list[str], *words: str) -> bool:
    return any(all(word in line for word in words) for line in lines)


def test_the_intent_is_saved_before_the_start_and_the_session_after_it() -> None:
    worker = Worker(FakeBuilder())
    records: list[object] = []
    answer = worker.service._start

    def noting(call: Call[Any]) -> dict[str, Any]:
        records.append(worker.saved)
        return answer(call)  # type: ignore[no-any-return]

    worker.service._start = noting
    record = acquire(worker)
    assert isinstance(records[0], dict)
    assert records[0]["pending"] == "start"
    assert worker.saved == record.to_json()
    assert record.pending is None
    session = record.known_session
    assert (session.session_id, session.turn) == ("s1", Turn.SENT)
    assert (session.started_at, session.state_since, session.message_sent_at) == (worker.now(),) * 3


def test_a_start_that_was_refused_leaves_nothing_to_be_in_doubt_about() -> None:
    service = FakeBuilder()
    service.broken["start"] = bad_request
    worker = Worker(service)
    with raises(400):
        acquire(worker)
    assert worker.kept[-1] is None


@pytest.mark.parametrize("took_effect", [True, False])
def test_a_lost_answer_to_the_start_is_never_followed_by_another_start(took_effect: bool) -> None:
    service = FakeBuilder()
    service.faults["start"] = [(response_lost, took_effect)]
    worker = Worker(service)
    with pytest.raises(AgentBuilderEnded, match="The response to the start was lost") as caught:
        acquire(worker)
    assert caught.value.reason == "ambiguous"
    with pytest.raises(AgentBuilderEnded, match=f"start a session at {START:%Y-%m-%d}"):
        opened(service, previous=saved(worker))
    assert service.count("start") == 1


def test_a_lost_answer_to_the_start_is_followed_by_another_one_if_the_author_says_so() -> None:
    service = FakeBuilder()
    service.faults["start"] = [(response_lost, True)]
    worker = Worker(service)
    with pytest.raises(SequentumError):
        acquire(worker, RESTARTS)
    record, _ = opened(service, RESTARTS, previous=saved(worker))
    assert record.known_session.session_id == "s2"


def test_clearing_the_task_settles_a_lost_start() -> None:
    service = FakeBuilder()
    record, worker = opened(service, previous=in_doubt(), max_tries=2)
    assert record.known_session.session_id == "s1"
    assert service.count("start") == 1
    assert tells(worker.warned, str(START))


@pytest.mark.parametrize("status", ["processing", "ready", "completed"])
def test_a_retry_continues_with_the_session(status: str) -> None:
    service = FakeBuilder()
    record, worker = opened(service, previous=left(service, status))
    assert record.known_session.session_id == "s1"
    assert service.count("start") == 1
    assert tells(worker.said, "s1", status)


@pytest.mark.parametrize("status", ["error", "cancelled"])
def test_a_retry_begins_again_where_the_session_ended_without_an_agent(status: str) -> None:
    service = FakeBuilder()
    record, _ = opened(service, previous=left(service, status))
    assert record.known_session.session_id == "s2"


@pytest.mark.parametrize("status", ["processing", "ready"])
@pytest.mark.parametrize("changed", [True, False])
def test_a_cleared_or_changed_task_gives_its_session_up(status: str, changed: bool) -> None:
    service = FakeBuilder()
    before = left(service, status)
    config = SessionConfig(prompt="Something else, from https://shop.example") if changed else OWN
    record, worker = opened(service, config, previous=before, max_tries=1 if changed else 2)
    assert record.known_session.session_id == "s2"
    assert service.sessions["s1"].status == "cancelled"
    assert tells(worker.said, "parameters" if changed else "cleared", "s1")


def test_a_cleared_success_builds_again_and_leaves_the_old_agent_alone() -> None:
    service = FakeBuilder()
    before = left(service, "completed")
    assert before.session is not None
    before = before.seen(before.session.finished(700, None, START))
    requests = len(service.requests)
    record, _ = opened(service, previous=before, max_tries=2)
    assert record.known_session.session_id == "s2"
    assert len(service.requests) == requests + 1


def test_keep_session_leaves_a_given_up_session_as_it_is() -> None:
    service = FakeBuilder()
    config = OWN.updated(keep_session=True)
    record, worker = opened(service, config, previous=left(service), max_tries=2)
    assert record.known_session.session_id == "s2"
    assert service.sessions["s1"].status == "ready"
    assert tells(worker.said, "cleared", "s1")


def test_a_lost_session_is_said_so_and_started_again_only_by_policy() -> None:
    service = FakeBuilder()
    before = left(service)
    assert before.session is not None
    del service.sessions["s1"]
    with pytest.raises(AgentBuilderEnded, match="does not know Agent Builder session s1"):
        opened(service, previous=before.seen(before.session.rejected()))
    record, worker = opened(service, RESTARTS, previous=before.seen(before.session.rejected()))
    assert service.count("start") == 2
    assert any("is over (gone); starting a new one" in line for line in worker.said)
    assert record.pending is None


def test_a_given_session_is_continued_and_its_events_are_not_told_again() -> None:
    service = FakeBuilder()
    left(service)
    service.sessions["s1"].tell("user_message", message="hello")
    record, worker = opened(service, GIVEN)
    session = record.known_session
    assert (session.session_id, session.state, session.message_index) == ("s1", SessionState.READY, 2)
    assert not any("hello" in line for line in worker.said)
    assert service.count("start") == 1


@pytest.mark.parametrize("choice", ["fail", "start"])
def test_a_given_session_that_is_unknown_is_lost_whatever_the_policy(choice: str) -> None:
    with pytest.raises(AgentBuilderEnded, match="does not know Agent Builder session s1"):
        opened(FakeBuilder(), GIVEN.updated(on_lost_session=choice))


def test_a_cleared_task_continues_the_session_it_was_given_and_sends_nothing_again() -> None:
    service = FakeBuilder()
    left(service)
    before = SessionRecord(fingerprint=GIVEN.fingerprint(), max_tries=1, session=Session(session_id="s1", sent=1))
    record, worker = opened(service, GIVEN, previous=before, max_tries=2)
    assert record.known_session.session_id == "s1"
    assert record.known_session.sent == 1
    assert service.sessions["s1"].status == "ready"
    assert tells(worker.said, "Continuing", "s1", "1 follow-up sent")


def test_a_task_that_asks_for_something_else_starts_over_in_the_session_it_was_given() -> None:
    service = FakeBuilder()
    left(service)
    before = SessionRecord(fingerprint="another", max_tries=1, session=Session(session_id="s1", sent=1))
    record, worker = opened(service, GIVEN, previous=before, max_tries=2)
    assert (record.known_session.session_id, record.known_session.sent) == ("s1", 0)
    assert tells(worker.said, "cleared", "s1")


@pytest.mark.parametrize("agent_id", [None, 7])
def test_a_given_session_that_is_torn_down_between_two_tries_is_lost_unless_its_agent_was_seen(
    agent_id: int | None,
) -> None:
    seen = Session(session_id="s1", state=SessionState.READY, agent_id=agent_id, state_since=START)
    before = SessionRecord(fingerprint=GIVEN.fingerprint(), max_tries=1, session=seen)
    if agent_id is None:
        with pytest.raises(AgentBuilderEnded, match="does not know Agent Builder session s1"):
            opened(FakeBuilder(), GIVEN.updated(on_lost_session="start"), before)
    else:
        record, _ = opened(FakeBuilder(), GIVEN.updated(on_lost_session="start"), before)
        assert record.known_session.agent_id == agent_id


@pytest.mark.parametrize("case", ["ended without an agent", "cleared", "lost start"])
def test_every_start_is_announced_and_never_followed_by_another_on_its_own(case: str) -> None:
    service = FakeBuilder()
    before = left(service, "error" if case == "ended without an agent" else "ready")
    if case == "lost start":
        before = in_doubt()
    service.broken["start"] = response_lost
    with pytest.raises(AgentBuilderEnded, match="The response to the start was lost"):
        opened(service, previous=before, max_tries=1 if case == "ended without an agent" else 2)


@pytest.mark.parametrize(
    ("config", "is_retry", "max_tries"), [(OWN, True, 1), (GIVEN, False, 1), (GIVEN, True, 1), (GIVEN, True, 2)]
)
def test_the_events_so_far_are_handed_over_when_a_session_is_joined(
    config: SessionConfig, is_retry: bool, max_tries: int
) -> None:
    service = FakeBuilder()
    before = left(service, config=config)
    service.sessions["s1"].tell("screenshot", imageBase64="QUJD")
    got: list[int | None] = []
    opened(
        service, config, previous=before if is_retry else None, max_tries=max_tries,
        take=lambda event: got.append(event.event_index),
    )  # fmt: skip
    assert got == [0, 1, 2]


def test_a_session_that_cannot_be_seen_ended_is_not_replaced() -> None:
    service = FakeBuilder()
    before = left(service)
    service.ignores_cancel = True
    with pytest.raises(AgentBuilderException, match=r"nothing was started.*may be running"):
        opened(service, previous=before, max_tries=2)
    assert service.count("start") == 1
    service.ignores_cancel = False
    record, _ = opened(service, previous=before, max_tries=2)
    assert (record.known_session.session_id, service.going()) == ("s2", {"s2"})


def test_the_session_of_a_cleared_task_is_not_taken_for_ended_because_of_one_404() -> None:
    service = FakeBuilder()
    before = left(service, "processing")
    service.ignores_cancel = True
    service.faults["status"] = [(not_found, False)]
    with pytest.raises(AgentBuilderException, match="may be running"):
        opened(service, previous=before, max_tries=2)


def test_a_given_session_is_recorded_before_it_is_looked_at() -> None:
    service = FakeBuilder()
    service.broken["status"] = bad_request
    worker = Worker(service)
    with raises(400):
        acquire(worker, GIVEN)
    assert saved(worker).known_session.session_id == "s1"
