from __future__ import annotations

import tracemalloc
from datetime import datetime, timedelta
from typing import Any

import pytest

from airflow_provider_sequentum.api.agent_builder import MAX_PAGE_SIZE, SessionEvent
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import HttpStatusError, SequentumError
from airflow_provider_sequentum.jobs.port import FAULT_TOLERANCE, WAITING_SHARE
from airflow_provider_sequentum.sessions.describe import SessionProgress
from airflow_provider_sequentum.sessions.state import Session, SessionState
from airflow_provider_sequentum.sessions.wait import HIGHLIGHT_PAGE, SessionPoller, look_at, read_again, wait_for_turn
from tests.support.builder import FakeBuilder, FakeSession
from tests.support.errors import raises
from tests.support.service import (
    START,
    ErrorOf,
    method_not_allowed,
    not_found,
    rate_limited,
    response_lost,
    server_error,
)
from tests.support.worker import Worker


def service_with(session: FakeSession, broken: dict[str, ErrorOf] | None = None) -> FakeBuilder:
    service = FakeBuilder()
    service.broken = broken or {}
    service.sessions["s1"] = session
    return service


def forbidden(call: Call[Any]) -> SequentumError:
    return HttpStatusError("no", purpose=call.purpose, status_code=403)


def waited(worker: Worker, session: Session, poll_interval: float, deadline: datetime | None) -> Session:
    """Return the session after a wait, which is the same in the triggerer."""
    poller = SessionPoller(session, poll_interval=poll_interval, deadline=deadline)
    return wait_for_turn(worker, poller)


SESSION = Session(session_id="s1", state_since=START)


def test_a_wait_ends_when_the_session_is_ready() -> None:
    worker = Worker(service_with(FakeSession(looks_left=4)))
    assert waited(worker, SESSION, 10.0, None).state is SessionState.READY
    assert any("What next?" in line for line in worker.said)


def test_6_6_a_cancellation_ends_a_wait_although_no_event_tells_of_it() -> None:
    worker = Worker(service_with(FakeSession(status="cancelled")))
    assert waited(worker, SESSION, 10.0, None).state is SessionState.CANCELLED


@pytest.mark.parametrize("seconds", [35.0, 30.6])  # the second one is shortly after a look
def test_a_wait_ends_at_its_deadline_and_not_later(seconds: float) -> None:
    worker = Worker(service_with(FakeSession(looks_left=1000)))
    deadline = START + timedelta(seconds=seconds)
    session = waited(worker, SESSION, 10.0, deadline)
    assert session.state is SessionState.PROCESSING
    assert timedelta(0) <= worker.now() - deadline < timedelta(seconds=0.5)


def test_events_are_asked_for_only_when_there_are_some() -> None:
    session = FakeSession(looks_left=10)
    session.tell("thinking", message="m")
    worker = Worker(service := service_with(session))
    waited(worker, SESSION, 10.0, None)
    # One page for what was there, one for the ready at the end.
    assert sum(request.endswith("/events") for request in service.requests) == 2


@pytest.mark.parametrize("error", [not_found, method_not_allowed])
def test_a_server_without_events_is_asked_for_them_once(error: ErrorOf) -> None:
    service = service_with(FakeSession(looks_left=5), broken={"events": error})
    service.counts_events = False
    worker = Worker(service)
    seen = waited(worker, SESSION, 10.0, None)
    assert seen.state is SessionState.READY
    assert not seen.has_events
    assert sum(request.endswith("/events") for request in service.requests) == 1


def test_a_server_that_counts_its_events_has_them_so_a_404_may_pass() -> None:
    session = FakeSession(looks_left=3)
    session.tell("thinking", message="m")
    service = service_with(session)
    service.faults_at = {1: (not_found, False)}
    worker = Worker(service)
    seen = waited(worker, SESSION, 10.0, None)
    assert seen.has_events
    assert seen.message_index is not None
    assert sum("Could not read the events" in line for line in worker.said) == 1


def test_events_that_can_not_be_read_do_not_disturb_the_wait() -> None:
    session = FakeSession(looks_left=3)
    session.tell("thinking", message="m")
    worker = Worker(service_with(session, broken={"events": server_error}))
    assert waited(worker, SESSION, 10.0, None).state is SessionState.READY
    assert any("Could not read the events" in line for line in worker.said)


def test_6_7_a_long_poll_that_runs_out_is_no_news() -> None:
    service = service_with(FakeSession(looks_left=1), broken={"events": response_lost})
    service.counts_events = False
    worker = Worker(service)
    assert waited(worker, SESSION, 10.0, None).state is SessionState.READY
    assert not any("Could not" in line for line in worker.said)


def test_an_outage_is_tolerated_and_logged_rarely_and_so_is_its_end() -> None:
    service = service_with(FakeSession(looks_left=1), broken={})
    service.faults_at = dict.fromkeys(range(5), (server_error, False))
    worker = Worker(service)
    assert waited(worker, SESSION, 10.0, None).state is SessionState.READY
    said = [line.partition(";")[0] for line in worker.said if "check" in line]
    name = "Agent Builder session s1"
    assert said == [
        f"Could not check {name}",
        f"Could not check {name} for 30 s",
        f"The checks of {name} succeed again, after 50 s.",
    ]


def test_a_busy_key_ends_a_fault_so_that_the_next_one_is_tolerated_as_long() -> None:
    service = service_with(FakeSession(looks_left=1))
    service.faults_at = {0: (server_error, False), 1: (rate_limited, False), 2: (server_error, False)}
    worker = Worker(service)
    assert waited(worker, SESSION, 10.0, None).state is SessionState.READY
    assert sum("Could not check" in line and "s1" in line for line in worker.warned) == 2


@pytest.mark.parametrize("fault", [server_error, rate_limited])
def test_what_was_seen_before_a_look_that_failed_ends_no_wait(fault: ErrorOf) -> None:
    service = service_with(FakeSession(status="cancelled"))
    service.faults_at = {0: (fault, False)}
    seen = waited(Worker(service), SESSION.entering(SessionState.READY, START), 10.0, None)
    assert seen.state is SessionState.CANCELLED


def test_a_session_that_is_silent_while_it_is_waited_for_is_told_of() -> None:
    worker = Worker(service_with(FakeSession(looks_left=10)))
    waited(worker, SESSION, 10.0, None)
    assert any("s1 is processing for" in line for line in worker.said)


def test_what_goes_wrong_in_the_session_is_told_as_a_warning() -> None:
    session = FakeSession(status="ready")
    session.tell("user_message", message="hello")
    session.tell("error", message="no such page", isRecoverable=True)
    worker = Worker(service_with(session))
    look_at(worker, SESSION)
    assert len(worker.said) == 2
    assert ["no such page" in line for line in worker.warned] == [True]


def test_an_end_that_only_the_events_tell_of_has_its_time() -> None:
    session = FakeSession(looks_left=10)
    session.tell("completed", configId=7)
    worker = Worker(service_with(session))
    seen = look_at(worker, SESSION)
    assert (seen.state, seen.state_since) == (SessionState.COMPLETED, worker.now())


def test_an_event_that_is_longer_than_a_page_is_read_all_the_same() -> None:
    session = FakeSession(status="ready")
    session.tell("thinking", message="m")
    session.tell("screenshot", imageBase64="A" * MAX_PAGE_SIZE)
    session.tell("thinking", message="m")
    service = service_with(session)
    answer, longest = service._events, list[int | None]()

    def noting(session: FakeSession, call: Call[Any]) -> dict[str, Any]:
        longest.append(call.max_response_size)
        return answer(session, call)

    service._events = noting  # type: ignore[method-assign]
    got: list[int | None] = []
    look_at(Worker(service), SESSION, lambda event: got.append(event.event_index))
    assert got == [0, 1, 2]
    assert longest == [MAX_PAGE_SIZE, MAX_PAGE_SIZE, 2 * MAX_PAGE_SIZE]


def test_a_passing_404_is_not_taken_for_the_end_of_a_session_that_was_seen() -> None:
    service = service_with(FakeSession(looks_left=3))
    service.faults_at = {2: (not_found, False), 3: (not_found, False)}
    worker = Worker(service)
    assert waited(worker, SESSION, 10.0, None).state is SessionState.READY


def test_a_session_that_stays_unknown_for_a_minute_is_gone() -> None:
    worker = Worker(service_with(FakeSession(), broken={"status": not_found}))
    assert waited(worker, SESSION, 10.0, None).state is SessionState.GONE
    assert timedelta(seconds=60) <= worker.now() - START < timedelta(seconds=65)


def test_a_session_that_was_never_seen_is_looked_for_as_long() -> None:
    # A single 404 to the first look must not leave a session that another task has handed over.
    service = service_with(FakeSession(status="ready"))
    service.faults_at = {0: (not_found, False)}
    assert look_at(Worker(service), Session(session_id="s1")).state is SessionState.READY
    worker = Worker(service_with(FakeSession(), broken={"status": not_found}))
    assert look_at(worker, Session(session_id="s1")).state is SessionState.GONE
    assert timedelta(seconds=60) <= worker.now() - START < timedelta(seconds=66)


def test_a_404_is_believed_at_once_after_the_agent_was_seen() -> None:
    worker = Worker(service_with(FakeSession(), broken={"status": not_found}))
    seen = look_at(worker, Session(session_id="s1", state_since=START, agent_id=7))
    assert (seen.state, seen.state_since) == (SessionState.GONE, worker.now())
    assert len(worker.service.requests) == 1


def test_404s_and_other_faults_by_turns_are_no_end() -> None:
    worker = Worker(service_with(FakeSession(looks_left=1)))
    worker.service.faults["status"] = [(not_found, False), (server_error, False)] * 10
    assert waited(worker, SESSION, 10.0, None).state is SessionState.READY


def test_a_busy_key_delays_a_wait_and_never_fails_it() -> None:
    service = service_with(FakeSession(looks_left=1))
    service.faults_at = dict.fromkeys(range(100), (rate_limited, False))
    worker = Worker(service)
    assert waited(worker, SESSION, 30.0, None).state is SessionState.READY
    assert worker.now() - START > FAULT_TOLERANCE


def test_a_service_that_stays_away_ends_the_wait() -> None:
    worker = Worker(service_with(FakeSession(), broken={"status": server_error}))
    with raises(503):
        waited(worker, SESSION, 30.0, None)
    assert worker.now() - START >= FAULT_TOLERANCE


def test_what_can_not_pass_ends_the_wait_at_once() -> None:
    worker = Worker(service_with(FakeSession(), broken={"status": forbidden}))
    with raises(403):
        waited(worker, SESSION, 30.0, None)
    assert worker.now() - START < timedelta(seconds=5)


def test_a_status_that_is_not_known_is_warned_about_once() -> None:
    worker = Worker(service_with(FakeSession(status="pondering\n")))
    deadline = START + timedelta(seconds=60)
    assert waited(worker, SESSION, 10.0, deadline).state is SessionState.UNKNOWN
    [line] = [line for line in worker.said if "does not know" in line]
    assert line.startswith("Agent Builder session s1 has the status 'pondering', which this version does not know.")


def test_the_history_of_a_session_can_be_read_without_telling_of_it() -> None:
    session = FakeSession(status="ready")
    session.tell("user_message", message="hello")
    worker = Worker(service_with(session))
    got: list[str] = []
    look_at(worker, SESSION, lambda event: got.append(event.type), narrate=False)
    assert got == ["user_message"]
    assert worker.said == []


def test_events_the_triggerer_has_read_are_read_again_for_the_screenshots() -> None:
    session = FakeSession(status="ready")
    for number in range(6):
        session.tell("screenshot", imageBase64=str(number))
    worker = Worker(service_with(session))
    got: list[int | None] = []
    known = look_at(worker, SESSION)
    read_again(worker, known, 2, lambda event: got.append(event.event_index))
    assert got == [3, 4, 5]
    requests = len(worker.service.requests)
    read_again(worker, known, known.cursor, lambda event: got.append(event.event_index))
    read_again(worker, known.updated(has_events=False), 2, lambda event: got.append(event.event_index))
    assert len(worker.service.requests) == requests


def test_events_that_came_since_are_left_to_the_next_look() -> None:
    session = FakeSession(status="ready")
    for number in range(4):
        session.tell("user_message", message=f"message {number}")
    worker = Worker(service_with(session))
    got: list[int | None] = []
    known = look_at(worker, SESSION, narrate=False)
    session.tell("user_message", message="message 4")
    read_again(worker, known, 1, lambda event: got.append(event.event_index))
    assert got == [2, 3]
    look_at(worker, known, lambda event: got.append(event.event_index))
    assert got == [2, 3, 4]
    assert sum("message 4" in line for line in worker.said) == 1


def test_events_are_read_again_page_by_page() -> None:
    session = FakeSession(status="ready")
    for number in range(6):
        session.tell("screenshot", imageBase64=str(number))
    service = service_with(session)

    def page(session: FakeSession, call: Call[Any]) -> dict[str, Any]:
        first = int(call.query["lastEventIndex"]) + 1
        return {"events": session.events[first : first + 2], "lastEventIndex": first + 1}

    service._events = page  # type: ignore[method-assign]
    worker = Worker(service)
    got: list[int | None] = []
    read_again(worker, look_at(worker, SESSION), -1, lambda event: got.append(event.event_index))
    assert got == [0, 1, 2, 3, 4, 5]


def test_one_event_is_read_without_those_that_follow_it() -> None:
    session = FakeSession(status="ready")
    for number in range(4):
        session.tell("user_message", message=f"message {number}")
    session.tell("screenshot", imageBase64="A" * MAX_PAGE_SIZE)
    worker = Worker(service_with(session))
    got: list[int | None] = []

    def take(event: SessionEvent) -> None:
        got.append(event.event_index)

    assert read_again(worker, SESSION, 1, take, until=2, longest_page=HIGHLIGHT_PAGE)
    assert got == [2]
    assert not read_again(worker, SESSION, 8, take, until=9, longest_page=HIGHLIGHT_PAGE)
    assert got == [2]


def test_events_that_can_not_be_read_again_fail_nothing() -> None:
    session = FakeSession(status="ready")
    session.tell("screenshot", imageBase64="QUJD")
    worker = Worker(service := service_with(session))
    known = look_at(worker, SESSION)
    service.broken["events"] = server_error
    read_again(worker, known, -1, lambda event: None)
    assert any("s1" in line for line in worker.warned)


def test_a_session_with_5000_events_and_10_megabyte_screenshots_is_read_in_bounded_memory() -> None:
    size, pages = 10 * 1024 * 1024, 20
    session = FakeSession(status="ready", events=[{}] * 5000)
    service = service_with(session)

    def page(_: FakeSession, call: object) -> dict[str, object]:
        first = int(call.query["lastEventIndex"]) + 1  # type: ignore[attr-defined]
        last = min(first + 5000 // pages, 5000) - 1
        events: list[dict[str, object]] = [
            {"type": "thinking", "eventIndex": index, "message": "m"} for index in range(first, last)
        ]
        events.append({"type": "screenshot", "eventIndex": last, "imageBase64": "A" * size})
        return {"events": events, "lastEventIndex": last}

    service._events = page  # type: ignore[method-assign, assignment]
    images: list[int] = []

    def sink(event: SessionEvent) -> None:
        if event.image_base64:
            images.append(len(event.image_base64))

    worker = Worker(service)
    tracemalloc.start()
    seen = look_at(worker, SESSION, sink)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen.cursor == 4999
    assert images == [size] * pages
    # Twenty of them together would be ten times as much; one page is a few copies of one.
    assert peak < 8 * size


def test_a_silent_session_is_told_of_ever_more_rarely() -> None:
    progress = SessionProgress()
    lines = [progress.line(SESSION, START + timedelta(seconds=second)) for second in range(0, 2400, 10)]
    told = [second for second, line in zip(range(0, 2400, 10), lines, strict=True) if line is not None]
    assert told == [30, 90, 210, 510, 1110, 1710, 2310]
    assert lines[3] == "Agent Builder session s1 is processing for 30 s."


def test_a_given_session_that_is_silent_is_told_of_without_since_when() -> None:
    progress = SessionProgress()
    given = Session(session_id="s1")
    lines = [progress.line(given, START + timedelta(seconds=second)) for second in (0, 30)]
    assert lines == [None, "Agent Builder session s1 is processing."]


def test_news_of_a_session_make_its_next_silence_as_short_as_the_first() -> None:
    progress = SessionProgress()
    for second in range(0, 300, 10):
        progress.line(SESSION, START + timedelta(seconds=second))
    ready = SESSION.entering(SessionState.READY, START + timedelta(seconds=300))
    lines = [progress.line(ready, START + timedelta(seconds=second)) for second in range(300, 340, 10)]
    assert lines == [None, None, None, "Agent Builder session s1 is ready for 30 s."]


def test_a_wait_leaves_a_part_of_the_budget_to_starts_and_messages() -> None:
    session = FakeSession(looks_left=3)
    session.tell("thinking", message="m")
    worker = Worker(service_with(session))
    waited(worker, SESSION, 10.0, None)
    assert {call.path.rpartition("/")[2] for _, call, _ in worker.sent} == {"status", "events"}
    assert {share for _, _, share in worker.sent} == {WAITING_SHARE}
