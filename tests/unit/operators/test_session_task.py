"""No session is left behind that no later try goes on with."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.api.errors import SequentumError, ServerError
from airflow_provider_sequentum.exceptions import AgentBuilderCancelled, AgentBuilderSkipped, SequentumUnavailable
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from tests.unit.lifecycle.builder_service import FakeBuilder, FakeSession
from tests.unit.operators.task_world import StateStore, TaskWorld

PROMPT = "Pull the prices from https://shop.example"

both_modes = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


def build(**fields: Any) -> AgentBuilderOperator:
    start = {} if "session_id" in fields else {"prompt": PROMPT}
    return AgentBuilderOperator(**{"task_id": "build", "deferrable": False, **start, **fields})


def down(purpose: str) -> SequentumError:
    return ServerError("down", purpose=purpose, status_code=503)


class Outage(Exception):
    """Airflow's state store can't be reached."""


class FailingStore(StateStore):
    """Fails when a record with a session is to be kept."""

    def set(self, key: str, value: Any) -> None:
        if value["session"] is not None:
            raise Outage
        super().set(key, value)


@both_modes
def test_without_a_state_store_a_failed_try_ends_its_session(service: FakeBuilder, deferrable: bool) -> None:
    world = TaskWorld(retries=1, durable=False)
    service.broken["finish"] = down
    with pytest.raises(SequentumUnavailable):
        world.run(build(deferrable=deferrable))
    assert service.sessions["s1"].status == "cancelled"


def test_without_a_state_store_no_retry_says_again_what_was_said_in_a_given_session(service: FakeBuilder) -> None:
    service.sessions["s1"] = FakeSession(status="ready")
    service.broken["finish"] = down
    world = TaskWorld(retries=1, durable=False)
    with pytest.raises(SequentumUnavailable):
        world.run(build(session_id="s1", followups="more"))
    service.broken.clear()
    world.retry()
    with pytest.raises(AgentBuilderCancelled):
        world.run(build(session_id="s1", followups="more"))
    assert service.sessions["s1"].messages == ["more"]


def test_without_a_state_store_a_retry_finishes_a_given_session_in_which_nothing_was_said(service: FakeBuilder) -> None:
    service.sessions["s1"] = FakeSession(status="ready")
    service.broken["finish"] = down
    world = TaskWorld(retries=1, durable=False)
    with pytest.raises(SequentumUnavailable):
        world.run(build(session_id="s1"))
    service.broken.clear()
    world.retry()
    assert world.run(build(session_id="s1")) == 700


def test_a_session_that_can_not_be_recorded_is_ended_at_once(service: FakeBuilder) -> None:
    world = TaskWorld(retries=1)
    world.store = FailingStore()
    with pytest.raises(Outage):
        world.run(build())
    assert service.sessions["s1"].status == "cancelled"


@both_modes
def test_a_record_that_can_not_be_renewed_leaves_the_session_to_the_next_try(
    service: FakeBuilder, deferrable: bool
) -> None:
    world = TaskWorld(retries=2)
    service.broken["finish"] = down
    with pytest.raises(SequentumUnavailable):
        world.run(build(deferrable=deferrable))
    service.broken.clear()
    world.store = FailingStore(world.store)
    world.retry()
    with pytest.raises(Outage):
        world.run(build(deferrable=deferrable))
    assert service.sessions["s1"].status == "ready"


def test_a_last_try_that_does_not_reach_the_service_tries_to_end_the_session_of_the_one_before(
    service: FakeBuilder,
) -> None:
    world = TaskWorld(retries=1)
    service.broken["finish"] = down
    with pytest.raises(SequentumUnavailable):
        world.run(build())
    assert service.sessions["s1"].status == "ready"
    world.retry()
    service.broken["status"] = down
    with pytest.raises(SequentumUnavailable):
        world.run(build())
    assert service.sessions["s1"].status == "cancelled"


@both_modes
def test_on_ready_cancel_cancels_once_and_says_so_in_the_summary(service: FakeBuilder, deferrable: bool) -> None:
    world = TaskWorld(retries=0)
    with pytest.raises(AgentBuilderSkipped):
        world.run(build(on_ready="cancel", deferrable=deferrable))
    assert sum(request.endswith("/cancel") for request in service.requests) == 1
    assert world.xcoms["session"]["status"] == "cancelled"


def test_a_kill_in_the_midst_of_the_start_is_said_in_the_log(
    service: FakeBuilder, task_log: pytest.LogCaptureFixture
) -> None:
    operator = build()

    def killed(purpose: str) -> BaseException:
        operator.on_kill()
        return KeyboardInterrupt()

    service.faults[0] = (killed, True)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        TaskWorld().run(operator)
    assert "was being started" in task_log.text
