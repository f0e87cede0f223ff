"""A session counts as ended when its status says so; what is not confirmed is repeated, and then said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_sequentum.api.call import Call, Reply
from airflow_provider_sequentum.api.errors import HttpStatusError, SequentumError
from airflow_provider_sequentum.jobs.port import NOT_FOUND_TOLERANCE
from airflow_provider_sequentum.jobs.stop import MAX_REQUEST_SECONDS, astop_jobs
from airflow_provider_sequentum.sessions.state import Session
from airflow_provider_sequentum.sessions.stop import CANCEL_GRACE, SessionStopper, cancel_session
from tests.support.builder import BuilderClient, FakeBuilder, FakeSession, use_builder
from tests.support.service import (
    START,
    ErrorOf,
    bad_request,
    not_found,
    rate_limited,
    response_lost,
    server_error,
    unauthorized,
)
from tests.support.worker import Worker

Cancelling = Callable[[], SessionStopper]


@pytest.fixture(params=["worker", "triggerer"])
def where(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cancelled(where: str, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Cancelling:
    """Cancel session ``s1`` on a worker or in a triggerer, which do the same."""
    use_builder(monkeypatch, worker)

    def cancel() -> SessionStopper:
        if where == "worker":
            return cancel_session(worker, Session(session_id="s1"))
        stopper = SessionStopper(Session(session_id="s1"))
        asyncio.run(astop_jobs(BuilderClient(worker), [stopper]))  # type: ignore[arg-type]
        return stopper

    return cancel


@pytest.mark.parametrize("single_shot", [False, True])
@pytest.mark.parametrize("status", ["processing", "ready"])
def test_a_session_is_cancelled_in_both_eras(
    cancelled: Cancelling, service: FakeBuilder, worker: Worker, single_shot: bool, status: str
) -> None:
    service.single_shot = single_shot
    service.sessions["s1"] = FakeSession(status=status, looks_left=10)
    result = cancelled()
    assert result.confirmed
    assert service.going() == set()
    assert "s1" in worker.said[0]
    assert result.sentence == "It has been cancelled."


def test_its_time_to_end_begins_when_the_request_is_no_longer_refused_by_the_rate_limit(
    cancelled: Cancelling, service: FakeBuilder
) -> None:
    service.sessions["s1"] = FakeSession(status="processing", looks_left=100)
    service.faults["cancel"] = [(rate_limited, False)] * 25
    assert cancelled().confirmed
    assert service.going() == set()


@pytest.mark.parametrize("broken", [server_error, bad_request])
def test_repeated_requests_and_failed_polls_are_logged_once(
    cancelled: Cancelling, service: FakeBuilder, worker: Worker, broken: ErrorOf
) -> None:
    service.sessions["s1"] = FakeSession(looks_left=100)
    service.ignores_cancel = True
    service.broken["status"] = broken
    assert not cancelled().confirmed
    assert service.count("cancel") > 1
    assert service.count("status") > 2
    for line in ("cancelling it", "status could not be read"):
        assert sum(line in said for said in worker.said) == 1, line


@pytest.mark.parametrize("states_agent", [True, False])
@pytest.mark.parametrize("is_known", [True, False])
def test_an_agent_that_exists_is_named_whenever_it_was_seen(
    service: FakeBuilder, worker: Worker, states_agent: bool, is_known: bool
) -> None:
    service.single_shot = True
    service.sessions["s1"] = FakeSession(status="ready", looks_left=10, agent_id=7 if states_agent else None)
    result = cancel_session(worker, Session(session_id="s1", agent_id=7 if is_known else None))
    exists = " Agent 7 exists." if states_agent or is_known else ""
    assert result.sentence == f"It has been cancelled.{exists}"


def test_stop_is_not_used_where_it_would_only_interrupt(cancelled: Cancelling, service: FakeBuilder) -> None:
    service.sessions["s1"] = FakeSession(looks_left=10)
    cancelled()
    assert service.count("stop") == 0


def test_a_passing_404_to_the_request_does_not_leave_it_at_an_interruption(
    cancelled: Cancelling, service: FakeBuilder
) -> None:
    service.sessions["s1"] = FakeSession(looks_left=1000)
    service.faults["cancel"] = [(not_found, False)]
    assert cancelled().confirmed
    assert service.sessions["s1"].status == "cancelled"
    assert service.count("cancel") == 2


def test_a_session_that_ended_meanwhile_is_reported_as_it_is(cancelled: Cancelling, service: FakeBuilder) -> None:
    service.sessions["s1"] = FakeSession(status="completed", agent_id=7)
    result = cancelled()
    assert result.confirmed
    assert result.sentence == "It had already ended with status completed. Agent 7 exists."


@pytest.mark.parametrize("misses", [1, 5])
def test_a_404_that_passes_is_no_end(cancelled: Cancelling, service: FakeBuilder, misses: int) -> None:
    service.sessions["s1"] = FakeSession(looks_left=1000)
    service.ignores_cancel = True
    service.faults["status"] = [(not_found, False)] * misses
    result = cancelled()
    assert not result.confirmed
    assert "It may be running and costing credits" in result.sentence
    assert service.going() == {"s1"}


def test_a_404_that_lasts_is_one(cancelled: Cancelling, worker: Worker) -> None:
    result = cancelled()
    assert result.confirmed
    assert result.sentence == "The service no longer knows it."
    assert NOT_FOUND_TOLERANCE <= worker.now() - START < NOT_FOUND_TOLERANCE + timedelta(seconds=15)


def test_what_takes_no_effect_is_requested_again_within_the_time_there_is(
    cancelled: Cancelling, service: FakeBuilder
) -> None:
    service.sessions["s1"] = FakeSession(looks_left=1000)
    service.faults["cancel"] = [(response_lost, False), (server_error, False)]
    assert cancelled().confirmed
    assert service.count("cancel") == 3
    assert service.going() == set()


def test_what_cannot_be_confirmed_is_said_with_the_id(
    cancelled: Cancelling, service: FakeBuilder, worker: Worker
) -> None:
    service.sessions["s1"] = FakeSession(looks_left=1000)
    service.broken["cancel"] = server_error
    assert not cancelled().confirmed
    assert CANCEL_GRACE <= worker.now() - START < CANCEL_GRACE + timedelta(seconds=5)
    assert service.count("cancel") >= 4
    assert "s1" in worker.warned[-1]
    assert "may be running" in worker.warned[-1]


@pytest.mark.parametrize("error", [server_error, unauthorized, bad_request, not_found])
def test_no_error_is_raised_whatever_is_answered(
    cancelled: Cancelling, service: FakeBuilder, worker: Worker, error: ErrorOf
) -> None:
    service.sessions["s1"] = FakeSession(looks_left=1000)
    service.broken = {"cancel": error, "stop": error, "status": error}
    result = cancelled()
    assert result.confirmed is (error is not_found)
    assert worker.now() - START < timedelta(seconds=90)


def test_404s_and_faults_by_turns_come_to_an_end(cancelled: Cancelling, service: FakeBuilder, worker: Worker) -> None:
    service.sessions["s1"] = FakeSession(looks_left=1000)
    service.broken["cancel"] = server_error
    service.faults["status"] = [(not_found, False), (server_error, False)] * 100
    assert not cancelled().confirmed
    assert worker.now() - START < timedelta(seconds=90)


def test_a_status_refused_does_not_keep_the_cancellation_from_being_sent(
    cancelled: Cancelling, service: FakeBuilder
) -> None:
    service.sessions["s1"] = FakeSession(looks_left=1000)
    service.broken["status"] = unauthorized
    assert not cancelled().confirmed
    assert service.going() == set()


@pytest.mark.parametrize(
    ("text", "confirmed"), [("The session is cancelled.", True), ("It has already ended", True), ("Not now.", False)]
)
def test_where_the_status_is_refused_a_cancellation_refused_because_it_is_over_confirms_the_end(
    cancelled: Cancelling, service: FakeBuilder, text: str, confirmed: bool
) -> None:
    def refused(call: Call[Any]) -> SequentumError:
        return HttpStatusError(text, purpose=call.purpose, request=call.request, status_code=409)

    service.sessions["s1"] = FakeSession(looks_left=1000)
    service.broken["status"] = unauthorized
    service.faults["cancel"] = [None, *[(refused, False)] * 9]
    result = cancelled()
    assert result.confirmed == confirmed
    assert ("states that it is over" in result.sentence) == confirmed


def test_each_request_is_bounded(worker: Worker, service: FakeBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    service.sessions["s1"] = FakeSession(looks_left=3)
    bounds: list[float | None] = []
    exchange = worker.exchange

    def noting(call: Call[Any], *, budget_share: float = 1.0, within: float | None = None) -> Reply[Any]:
        bounds.append(within)
        return exchange(call, budget_share=budget_share, within=within)

    monkeypatch.setattr(worker, "exchange", noting)
    cancel_session(worker, Session(session_id="s1"))
    assert bounds
    assert set(bounds) == {MAX_REQUEST_SECONDS}
