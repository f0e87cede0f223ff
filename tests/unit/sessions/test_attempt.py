"""No session is left behind that no later attempt continues with."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_sequentum.airflow_compat import kill
from airflow_provider_sequentum.airflow_compat.deferral import DEFERRAL_FAILED
from airflow_provider_sequentum.airflow_compat.kill import AirflowTaskTerminated
from airflow_provider_sequentum.api.errors import HttpStatusError
from airflow_provider_sequentum.exceptions import (
    AgentBuilderEnded,
    SequentumRequestRefused,
    SequentumUnavailable,
)
from airflow_provider_sequentum.operators import remote_job
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.retry_rules import retry_after
from airflow_provider_sequentum.sessions.files import ScreenshotFolder
from tests.support.airflow import StateStore
from tests.support.builder import PROMPT, FakeBuilder, FakeSession, both_modes, build, first_event, use_builder
from tests.support.service import response_lost
from tests.support.service import server_error as down
from tests.support.worker import Worker


class Outage(Exception):
    """Airflow's state store cannot be reached."""


class FailingStore(StateStore):
    """Fails when a record with a session is to be kept."""

    def set(self, key: str, value: Any, **_: Any) -> None:
        if value.get("session") is not None:
            raise Outage
        super().set(key, value)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FakeBuilder:
    """The fake Agent Builder behind every operator and trigger."""
    fake = FakeBuilder(looks=1)
    use_builder(monkeypatch, Worker(fake))
    return fake


@both_modes
def test_how_long_the_service_asks_to_wait_is_known_to_a_retry_policy(service: FakeBuilder, deferrable: bool) -> None:
    def in_maintenance(call: Any) -> HttpStatusError:
        return HttpStatusError("Down for maintenance.", purpose=call.purpose, status_code=503, retry_after=900.0)

    service.broken["status"] = in_maintenance
    with pytest.raises(SequentumUnavailable) as caught:
        service.task(retries=1).run(build(deferrable=deferrable))
    assert retry_after(caught.value) == timedelta(seconds=900)


@both_modes
def test_without_a_state_store_a_failed_try_ends_its_session(service: FakeBuilder, deferrable: bool) -> None:
    world = service.task(retries=1, durable=False)
    service.broken["finish"] = down
    with pytest.raises(SequentumUnavailable):
        world.run(build(deferrable=deferrable))
    assert service.sessions["s1"].status == "cancelled"


def test_without_a_state_store_no_retry_says_again_what_was_said_in_a_given_session(service: FakeBuilder) -> None:
    service.sessions["s1"] = FakeSession(status="ready")
    service.broken["finish"] = down
    world = service.task(retries=1, durable=False)
    with pytest.raises(SequentumUnavailable):
        world.run(build(session_id="s1", followups="more"))
    service.broken.clear()
    world.next_attempt()
    with pytest.raises(AgentBuilderEnded):
        world.run(build(session_id="s1", followups="more"))
    assert service.sessions["s1"].messages == ["more"]


def test_without_a_state_store_no_retry_says_again_what_may_have_been_said_in_a_given_session(
    service: FakeBuilder,
) -> None:
    service.sessions["s1"] = session = FakeSession(status="ready")
    session.tell("todos_updated")
    service.broken |= {"followup": response_lost, "events": down}
    with pytest.raises(SequentumUnavailable):
        service.task(retries=1, durable=False).run(build(session_id="s1", followups="more"))
    assert session.status == "cancelled"


def test_without_a_state_store_a_retry_finishes_a_given_session_in_which_nothing_was_said(service: FakeBuilder) -> None:
    service.sessions["s1"] = FakeSession(status="ready")
    service.broken["finish"] = down
    world = service.task(retries=1, durable=False)
    with pytest.raises(SequentumUnavailable):
        world.run(build(session_id="s1"))
    service.broken.clear()
    world.next_attempt()
    assert world.run(build(session_id="s1")) == 700


def test_a_session_that_can_not_be_recorded_is_ended_at_once(service: FakeBuilder) -> None:
    world = service.task(retries=1)
    world.store = FailingStore()
    with pytest.raises(Outage):
        world.run(build())
    assert service.sessions["s1"].status == "cancelled"


@both_modes
def test_a_session_whose_record_cannot_be_renewed_is_ended(service: FakeBuilder, deferrable: bool) -> None:
    world = service.task(retries=2)
    service.broken["finish"] = down
    with pytest.raises(SequentumUnavailable):
        world.run(build(deferrable=deferrable))
    service.broken.clear()
    world.store, kept = FailingStore(), world.store
    world.store.values = dict(kept.values)
    world.next_attempt()
    with pytest.raises(Outage):
        world.run(build(deferrable=deferrable))
    assert service.going() == set()
    world.store = kept
    world.next_attempt()
    assert world.run(build(deferrable=deferrable)) == 700


def test_a_last_attempt_that_does_not_reach_the_service_tries_to_end_the_session_of_the_one_before(
    service: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = service.task(retries=1)
    service.broken["finish"] = down
    with pytest.raises(SequentumUnavailable):
        world.run(build())
    assert service.sessions["s1"].status == "ready"
    world.next_attempt()
    service.broken["status"] = down
    with pytest.raises(SequentumUnavailable):
        world.run(build())
    assert service.sessions["s1"].status == "cancelled"


def kill_while(service: FakeBuilder, verb: str, killed: AgentBuilderOperator, number: int = 1) -> None:
    """Let the kill arrive in the middle of the ``number``-th such request, which then goes on, as on Airflow 3."""
    answer = getattr(service, f"_{verb}")
    asked = 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == number:
            killed.on_kill()
        return answer(*arguments)

    setattr(service, f"_{verb}", interrupted)


TERMINATED = AirflowTaskTerminated


@pytest.mark.parametrize("keep", [False, True])
def test_a_kill_in_the_midst_of_a_wait_ends_the_try(service: FakeBuilder, keep: bool) -> None:
    service.looks = 1000
    killed = build(keep_session=keep)
    kill_while(service, "status", killed, number=3)
    with pytest.raises(TERMINATED) as caught:
        service.task(retries=1).run(killed)
    assert service.sessions["s1"].status == ("processing" if keep else "cancelled")
    [fate] = caught.value.__notes__
    assert fate.startswith("Agent Builder session s1")
    assert ("keep_session" in fate, "has been cancelled" in fate) == (keep, not keep)


def test_a_kill_in_the_midst_of_the_start_says_that_a_session_may_be_running(service: FakeBuilder) -> None:
    killed = build()
    kill_while(service, "start", killed)
    with pytest.raises(TERMINATED) as caught:
        service.task().run(killed)
    [fate] = caught.value.__notes__
    assert "may be running and costing credits" in fate
    assert "find it among" in fate


def test_a_kill_between_two_messages_lets_no_other_message_follow(service: FakeBuilder) -> None:
    killed = build(followups=["one", "two"], keep_session=True)
    kill_while(service, "followup", killed)
    with pytest.raises(TERMINATED):
        service.task(retries=1).run(killed)
    assert sum(request.endswith("/followup") for request in service.requests) == 1


def test_a_kill_while_a_retry_looks_at_its_session_lets_no_start_follow(service: FakeBuilder) -> None:
    world = service.task(retries=1)
    service.broken["finish"] = down
    with pytest.raises(SequentumUnavailable):
        world.run(build())
    world.next_attempt()
    killed = build()
    kill_while(service, "status", killed)
    with pytest.raises(TERMINATED):
        world.run(killed)
    assert list(service.sessions) == ["s1"]
    assert service.sessions["s1"].status == "cancelled"


@pytest.mark.parametrize("keep", [False, True])
def test_airflow_2_ends_a_deferred_task_by_a_kill_without_resuming_it(
    service: FakeBuilder, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    world = service.task(durable=False)
    with pytest.raises(TaskDeferred):
        build(deferrable=True, keep_session=keep).execute(world.context)
    monkeypatch.setattr(remote_job, "current_context", lambda: world.context)
    build(deferrable=True).on_kill()
    assert service.sessions["s1"].status == ("processing" if keep else "cancelled")


@pytest.mark.parametrize("keep", [False, True])
def test_what_a_user_ends_in_the_triggerer_is_cancelled_there_unless_it_is_to_be_kept(
    service: FakeBuilder, keep: bool
) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        build(deferrable=True, keep_session=keep).execute(service.task().context)
    assert service.sessions["s1"].status == "processing"
    assert deferred.value.trigger.serialize()[1]["stop_on_kill"] is not keep


@pytest.mark.parametrize("keep", [False, True])
def test_a_session_whose_task_is_ended_while_it_is_being_deferred_is_cancelled_unless_it_is_to_be_kept(
    service: FakeBuilder, states: dict[str, str], monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    listener = pytest.importorskip("airflow.sdk.listener")
    monkeypatch.setattr(remote_job, "has_supervisor", lambda ti: True)
    with pytest.raises(TaskDeferred):
        build(deferrable=True, keep_session=keep).execute(service.task().context)
    states["state"] = "failed"
    listener.get_listener_manager().hook.before_stopping(component=None)
    assert service.sessions["s1"].status == ("processing" if keep else "cancelled")


def test_a_given_session_is_left_to_whoever_fixes_the_input_of_the_task(service: FakeBuilder) -> None:
    service.sessions["s1"] = FakeSession(status="ready")
    with pytest.raises(SequentumRequestRefused, match="number 1 of 1 is empty"):
        service.task().run(build(session_id="s1", followups=[" "]))
    assert service.requests == []
    assert service.task().run(build(session_id="s1", followups=["more"])) == 700


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What Airflow has on record for the task when a signal arrives."""
    on_record = {"state": "running"}
    monkeypatch.setattr(kill, "state_of", lambda task_instance: on_record["state"])
    return on_record


def test_a_worker_that_is_shut_down_leaves_its_session_to_the_next_attempt(
    service: FakeBuilder, states: dict[str, str], tmp_path: Path
) -> None:
    service.looks = 5
    start = service._start

    def with_image(call: Any) -> dict[str, Any]:
        answer = start(call)
        service.sessions["s1"].tell("screenshot", imageBase64="QUJD")
        return answer

    service._start = with_image  # type: ignore[method-assign]
    world = service.task(retries=1)
    killed = build(screenshots_path=tmp_path.as_uri())
    kill_while(service, "status", killed, number=2)
    with pytest.raises(SystemExit, match="session s1 keeps running: the next attempt joins it"):
        world.run(killed)
    assert service.sessions["s1"].status == "processing"
    world.next_attempt()
    assert world.run(build()) == 700
    assert list(service.sessions) == ["s1"]


@pytest.mark.parametrize(
    ("state", "retries", "durable"), [("failed", 1, True), ("running", 0, True), ("running", 1, False)]
)
def test_otherwise_a_kill_in_a_wait_ends_the_session(
    service: FakeBuilder, states: dict[str, str], state: str, retries: int, durable: bool
) -> None:
    service.looks, states["state"] = 1000, state
    killed = build()
    kill_while(service, "status", killed, number=2)
    with pytest.raises(TERMINATED):
        service.task(retries=retries, durable=durable).run(killed)
    assert service.sessions["s1"].status == "cancelled"


@pytest.mark.usefixtures("states")
def test_a_shutdown_in_the_midst_of_a_message_leaves_its_session_to_the_next_attempt(service: FakeBuilder) -> None:
    service.looks = 3
    killed = build(followups=["one"])
    kill_while(service, "followup", killed)
    world = service.task(retries=1)
    with pytest.raises(SystemExit, match="s1 keeps running"):
        world.run(killed)
    world.next_attempt()
    assert world.run(build(followups=["one"])) == 700
    assert service.sessions["s1"].messages == ["one"]


@pytest.mark.usefixtures("states")
def test_a_shutdown_in_the_midst_of_the_start_leaves_nothing_that_no_one_was_told_of(service: FakeBuilder) -> None:
    killed = build()
    kill_while(service, "start", killed)
    with pytest.raises(TERMINATED) as caught:
        service.task(retries=1).run(killed)
    assert "may be running and costing credits" in "".join(caught.value.__notes__)


@pytest.mark.usefixtures("states")
def test_a_shutdown_while_a_screenshot_is_saved_ends_the_session(
    service: FakeBuilder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Storing may mean to ask Airflow for a connection, and then it cannot be asked whether it still wants the task.
    service.looks = 1000
    killed = build(screenshots_path=tmp_path.as_uri())
    monkeypatch.setattr(ScreenshotFolder, "_save", lambda *_: killed.on_kill())
    status = service._status

    def with_image(session: FakeSession, call: Any) -> dict[str, Any]:
        session.tell("screenshot", imageBase64="QUJD")
        return status(session, call)

    service._status = with_image  # type: ignore[method-assign]
    with pytest.raises(TERMINATED):
        service.task(retries=1).run(killed)
    assert service.sessions["s1"].status == "cancelled"


@pytest.mark.parametrize("retries", [0, 1])
def test_a_service_that_went_away_while_the_task_was_deferred_leaves_the_session_only_to_a_next_attempt(
    service: FakeBuilder, monkeypatch: pytest.MonkeyPatch, retries: int
) -> None:
    world = service.task(retries=retries)
    with pytest.raises(TaskDeferred) as deferred:
        build(deferrable=True).execute(world.context)
    event = first_event(deferred.value.trigger)
    service.broken["status"] = down
    with pytest.raises(SequentumUnavailable):
        world.resume(build(deferrable=True), deferred.value, event)
    assert service.sessions["s1"].status == ("ready" if retries else "cancelled")


def test_events_that_can_not_be_read_again_do_not_fail_a_task_that_resumes(
    service: FakeBuilder, tmp_path: Path, task_log: pytest.LogCaptureFixture
) -> None:
    world = service.task()
    fields = {"deferrable": True, "screenshots_path": tmp_path.as_uri()}
    with pytest.raises(TaskDeferred) as deferred:
        build(**fields).execute(world.context)
    event = first_event(deferred.value.trigger)
    service.broken["events"] = down
    assert world.resume(build(**fields), deferred.value, event) == 700
    assert "Could not read the events" in task_log.text


@both_modes
@pytest.mark.parametrize("keep", [False, True])
def test_a_session_whose_task_was_changed_to_nonsense_between_two_tries_is_ended(
    service: FakeBuilder, deferrable: bool, keep: bool
) -> None:
    world = service.task(retries=1)
    service.broken["finish"] = down
    with pytest.raises(SequentumUnavailable):
        world.run(build(deferrable=deferrable, keep_session=keep))
    world.next_attempt()
    with pytest.raises(SequentumRequestRefused, match="10 to 5000"):
        world.run(build(prompt="short", deferrable=deferrable))
    assert service.sessions["s1"].status == ("ready" if keep else "cancelled")


NONSENSE: list[dict[str, Any]] = [
    {"prompt": "short"},
    {"timeout": "soon", "poll_interval": "often"},
    {"prompt": None, "followups": {"a": 1}},
    {"on_ready": "dance", "keep_session": "perhaps", "screenshots_path": "nowhere://bucket"},
    {"sequentum_conn_id": "renamed", "space_id": "my space"},
]


def changed(nonsense: dict[str, Any]) -> AgentBuilderOperator:
    """Return the operator of a DAG that was edited in the meantime."""
    return build(**{"prompt": PROMPT, "deferrable": False, **nonsense})


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("nonsense", NONSENSE)
@pytest.mark.parametrize("fails", [False, True])
def test_a_resumed_task_reads_no_argument_again(
    service: FakeBuilder, durable: bool, nonsense: dict[str, Any], fails: bool
) -> None:
    world = service.task(durable=durable)
    with pytest.raises(TaskDeferred) as deferred:
        build(deferrable=True, followups=["one"]).execute(world.context)
    event = first_event(deferred.value.trigger)
    with pytest.raises(TaskDeferred) as second:  # noqa: PT012 - one or the other defers, after the follow-up
        if fails:
            changed(nonsense).resume_execution(DEFERRAL_FAILED, {"error": "Trigger failure"}, world.context)
        world.resume(changed(nonsense), deferred.value, event)
    resumed = world.resume(changed(nonsense), second.value, first_event(second.value.trigger))
    assert resumed == 700
    assert service.sessions["s1"].messages == ["one"]
    assert service.count("start") == 1
