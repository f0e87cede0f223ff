from __future__ import annotations

import pytest

from airflow_provider_sequentum.api.errors import ServerError
from airflow_provider_sequentum.lifecycle.builder_cancel import CANCEL_GRACE, cancel_session
from tests.unit.lifecycle.builder_service import START, FakeBuilder, FakeSession, Worker, not_found


def cancelled(service: FakeBuilder) -> tuple[bool, Worker]:
    worker = Worker(service)
    return worker.run(cancel_session("s1")), worker


@pytest.mark.parametrize("single_shot", [False, True])
@pytest.mark.parametrize("status", ["processing", "ready"])
def test_a_session_is_cancelled_in_both_eras(single_shot: bool, status: str) -> None:
    service = FakeBuilder(single_shot=single_shot)
    service.sessions["s1"] = FakeSession(status=status, looks_left=10)
    ended, worker = cancelled(service)
    assert ended
    assert service.sessions["s1"].status == "cancelled"
    assert "s1" in worker.said[0]
    assert worker.said[-1] == "Agent Builder session s1 has ended: cancelled."


def test_stop_is_not_used_where_it_would_only_interrupt() -> None:
    service = FakeBuilder()
    service.sessions["s1"] = FakeSession(looks_left=10)
    cancelled(service)
    assert not any(request.endswith("/stop") for request in service.requests)


def test_a_session_that_ended_meanwhile_is_reported_as_it_is() -> None:
    service = FakeBuilder()
    service.sessions["s1"] = FakeSession(status="completed")
    ended, worker = cancelled(service)
    assert ended
    assert worker.said[-1] == "Agent Builder session s1 has ended: completed."


def test_a_session_that_is_gone_has_ended() -> None:
    ended, worker = cancelled(FakeBuilder())
    assert ended
    assert "no longer knows it" in worker.said[-1]


def test_a_cancellation_that_can_not_be_confirmed_is_said_with_the_id() -> None:
    service = FakeBuilder(broken={"cancel": lambda purpose: ServerError("down", purpose=purpose, status_code=503)})
    service.sessions["s1"] = FakeSession(looks_left=1000)
    ended, worker = cancelled(service)
    assert not ended
    assert worker.now - START >= CANCEL_GRACE
    refused, unconfirmed = worker.warned
    assert "down" in refused
    assert "Could not confirm that Agent Builder session s1 has ended" in unconfirmed


def test_no_error_is_raised_when_nothing_answers() -> None:
    def down(purpose: str) -> ServerError:
        return ServerError("down", purpose=purpose, status_code=503)

    ended, worker = cancelled(FakeBuilder(broken={"cancel": down, "stop": down, "status": down}))
    assert not ended
    assert "no answer" in worker.said[-1]
    assert any("s1" in line and "down" in line for line in worker.warned)


def test_a_missing_cancel_is_told_from_a_missing_session() -> None:
    service = FakeBuilder(broken={"cancel": not_found, "stop": not_found})
    service.sessions["s1"] = FakeSession(looks_left=1000)
    ended, _ = cancelled(service)
    assert not ended
