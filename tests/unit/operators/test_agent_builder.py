from __future__ import annotations

import base64
import inspect
import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    ObjectStoragePath,
    TaskDeferred,
)

from airflow_provider_sequentum import exceptions
from airflow_provider_sequentum.airflow_compat.deferral import DEFERRAL_FAILED
from airflow_provider_sequentum.exceptions import (
    AgentBuilderEnded,
    AgentBuilderException,
    AgentBuilderFailed,
    AgentBuilderTimeout,
    SequentumException,
    SequentumRequestRefused,
    SequentumSkipped,
    SequentumUnavailable,
)
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.sessions import state
from airflow_provider_sequentum.sessions.wait import TurnEvent
from tests.support.builder import PROMPT, FakeBuilder, FakeSession, both_modes, build
from tests.support.service import bad_request, not_found, response_lost
from tests.support.service import server_error as down


@both_modes
def test_a_prompt_becomes_an_agent(service: FakeBuilder, task_log: pytest.LogCaptureFixture, deferrable: bool) -> None:
    world = service.task()
    assert world.run(build(followups=["first", "second"], agent_name="Prices", deferrable=deferrable)) == 700
    assert service.sessions["s1"].messages == ["first", "second"]
    assert world.xcoms["session_id"] == "s1"
    assert world.xcoms["agent_builder_session_link"] == "https://cloud.example/s1"
    assert task_log.text.count("See the session in Sequentum Cloud: https://cloud.example/s1") == 1
    summary = world.xcoms["session"]
    assert (summary["agent_id"], summary["agent_name"], summary["status"]) == (700, "Prices", "completed")
    assert (summary["followups_sent"], summary["last_message"]) == (2, "What next?")


def test_the_result_and_the_summary_are_the_same_in_both_modes_and_after_a_retry(service: FakeBuilder) -> None:
    summaries = []
    for deferrable in (False, True):
        world = service.task(retries=1)
        result = world.run(build(followups="one", deferrable=deferrable))
        first = world.xcoms["session"]
        world.next_attempt()
        assert world.run(build(followups="one", deferrable=deferrable)) == result
        assert world.xcoms["session"] == first
        summaries.append({name: first[name] for name in first if name not in ("agent_id", "session_id", "link")})
    assert {**summaries[0], "elapsed_seconds": 0} == {**summaries[1], "elapsed_seconds": 0}
    assert len(service.sessions) == 2


@both_modes
@pytest.mark.parametrize("fields", [{}, {"on_ready": "fail"}, {"on_ready": "cancel"}, {"finish": False}])
def test_a_single_shot_server_gives_the_same_result_whatever_was_planned(
    service: FakeBuilder, deferrable: bool, fields: dict[str, Any]
) -> None:
    service.single_shot = True
    assert service.task().run(build(deferrable=deferrable, **fields)) == 700
    assert service.sessions["s1"].status == "completed"
    assert [request for request in service.requests if request.startswith("POST")] == ["POST /agent-builder/start"]


@both_modes
def test_a_session_left_ready_is_continued_by_another_task(service: FakeBuilder, deferrable: bool) -> None:
    first = service.task()
    assert first.run(build(finish=False, deferrable=deferrable)) is None
    assert service.sessions["s1"].status == "ready"
    second = service.task()
    assert second.run(build(session_id=first.xcoms["session_id"], followups=["more"], finish=False)) is None
    assert service.sessions["s1"].status == "ready"
    assert service.task().run(build(session_id="s1", agent_name="Prices")) == 700
    assert service.sessions["s1"].messages == ["more"]
    assert service.agents == [700]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"prompt": None}, "none of them"),
        ({"prompt": "", "url": " "}, "none of them"),
        ({"prompt": PROMPT, "url": "https://shop.example"}, "prompt and url"),
        ({"prompt": "short"}, "10 to 5000"),
        ({"prompt": "x" * 5001}, "10 to 5000"),
        ({"followups": ["fine", ""]}, "number 2 of 2 is empty"),
        ({"followups": {"a": 1}}, "list of strings"),
        ({"space_id": "my space"}, "space_id"),
        ({"timeout": "soon"}, "timeout"),
        ({"session_id": "s" * 1000}, "session id"),
        ({"screenshots_path": "nowhere://bucket/shots"}, "screenshots_path 'nowhere://bucket/shots' cannot be used"),
        (
            {"conversation_path": "nowhere://bucket/c.json"},
            "conversation_path 'nowhere://bucket/c.json' cannot be used",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    service: FakeBuilder, fields: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(SequentumRequestRefused, match=complaint) as caught:
        service.task(retries=3).run(build(**fields))
    assert isinstance(caught.value, AirflowFailException)
    assert service.requests == []


def test_the_parameters_are_only_assigned_when_the_dag_is_parsed() -> None:
    # A template is no choice, and no number, before it is rendered.
    operator = build(on_ready="{{ params.on_ready }}", poll_interval="{{ 3 }}", finish="{{ params.finish }}")
    assert operator.on_ready == "{{ params.on_ready }}"


def test_every_template_field_is_a_parameter() -> None:
    parameters = inspect.signature(AgentBuilderOperator.__init__).parameters
    assert set(AgentBuilderOperator.template_fields) == set(parameters) - {"self", "kwargs"}
    assert all(
        parameter.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
        for name, parameter in parameters.items()
        if name != "self"
    )


@both_modes
def test_on_ready_cancel_skips_the_task_and_saves_nothing(service: FakeBuilder, deferrable: bool) -> None:
    world = service.task()
    with pytest.raises(SequentumSkipped) as caught:
        world.run(build(on_ready="cancel", deferrable=deferrable))
    assert isinstance(caught.value, AirflowSkipException)
    assert sum(request.endswith("/cancel") for request in service.requests) == 1
    assert (service.sessions["s1"].status, world.xcoms["session"]["status"]) == ("cancelled", "cancelled")
    assert service.agents == []


@both_modes
@pytest.mark.parametrize("keep", [False, True])
def test_on_ready_fail_says_what_the_builder_asked(service: FakeBuilder, deferrable: bool, keep: bool) -> None:
    with pytest.raises(AgentBuilderEnded, match="What next") as caught:
        service.task(retries=2).run(build(on_ready="fail", keep_session=keep, deferrable=deferrable))
    assert service.sessions["s1"].status == ("ready" if keep else "cancelled")
    assert caught.value.session_id == "s1"


@both_modes
def test_a_session_that_ended_in_an_error_is_built_again_by_a_retry(service: FakeBuilder, deferrable: bool) -> None:
    world = service.task(retries=1)
    start = service._start

    def failing_once(call: Any) -> dict[str, Any]:
        answer = start(call)
        if len(service.sessions) == 1:
            service.sessions["s1"].status, service.sessions["s1"].error = "error", "no page\nat all."
        return answer

    service._start = failing_once  # type: ignore[method-assign]
    with pytest.raises(AgentBuilderFailed, match=r"in an error: no page at all\. No agent") as caught:
        world.run(build(deferrable=deferrable))
    assert not isinstance(caught.value, AirflowFailException)
    world.next_attempt()
    assert world.run(build(deferrable=deferrable)) == 700
    assert list(service.sessions) == ["s1", "s2"]


@both_modes
def test_a_session_that_completes_without_an_agent_is_looked_at_again_by_a_retry(
    service: FakeBuilder, deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "SAVING_GRACE", timedelta(0))
    service.sessions["s1"] = FakeSession(status="completed")
    world = service.task(retries=1)
    with pytest.raises(AgentBuilderFailed, match="s1 is completed, but the service names no agent"):
        world.run(build(session_id="s1", deferrable=deferrable))
    service.sessions["s1"].agent_id = 7
    world.next_attempt()
    assert world.run(build(session_id="s1", deferrable=deferrable)) == 7


@both_modes
@pytest.mark.parametrize("status", ["error", "cancelled"])
def test_the_summary_of_a_failed_session_says_why_and_what_the_builder_said_last(
    service: FakeBuilder, deferrable: bool, status: str
) -> None:
    session = FakeSession(status=status, error="no page" if status == "error" else None)
    session.tell("user_message", message="Which table?")
    service.sessions["s1"] = session
    world = service.task()
    with pytest.raises(AgentBuilderException) as caught:
        world.run(build(session_id="s1", deferrable=deferrable))
    summary = world.xcoms["session"]
    assert summary["last_message"] == "Which table?"
    assert summary["note"]
    assert str(caught.value).startswith(summary["note"])
    assert ("The builder said last: 'Which table?'. No agent" in str(caught.value)) is (status == "error")


def test_a_given_session_that_ended_in_an_error_is_not_retried(service: FakeBuilder) -> None:
    service.sessions["s1"] = FakeSession(status="error", error="no page")
    with pytest.raises(AgentBuilderEnded, match="no page"):
        service.task(retries=2).run(build(session_id="s1"))


@both_modes
def test_a_session_cancelled_elsewhere_is_not_retried(service: FakeBuilder, deferrable: bool) -> None:
    service.sessions["s1"] = FakeSession(status="cancelled")
    with pytest.raises(AgentBuilderEnded, match="cancelled by a person or another program") as caught:
        service.task(retries=2).run(build(session_id="s1", deferrable=deferrable))
    assert isinstance(caught.value, AirflowFailException)


def test_followups_on_a_finished_session_are_refused(service: FakeBuilder) -> None:
    service.sessions["s1"] = FakeSession(status="completed", agent_id=700)
    with pytest.raises(AgentBuilderEnded, match="1 of 1 follow-ups could not be sent") as caught:
        service.task().run(build(session_id="s1", followups="more"))
    assert caught.value.agent_id == 700
    assert service.task().run(build(session_id="s1")) == 700


def test_an_unknown_session_is_lost_and_nothing_is_started(service: FakeBuilder) -> None:
    with pytest.raises(AgentBuilderEnded, match="never existed, or belongs to another key"):
        service.task(retries=2).run(build(session_id="unknown", on_lost_session="start"))
    assert service.sessions == {}


@pytest.mark.parametrize(
    ("broken", "status", "kind", "advice"),
    [
        ("status", "ready", AgentBuilderEnded, "Clear {place} to start over"),
        (None, "cancelled", AgentBuilderEnded, "Clear {place} to start over."),
        ("finish", "ready", AgentBuilderEnded, "Correct this, then clear {place}."),
    ],
)
def test_the_advice_is_to_clear_the_task_that_begins_the_session(
    service: FakeBuilder, monkeypatch: pytest.MonkeyPatch,
    broken: str | None, status: str, kind: type[AgentBuilderException], advice: str,
) -> None:  # fmt: skip

    def changed(session: FakeSession, call: Any) -> dict[str, Any]:
        session.status = status if session.status == "processing" else session.status
        return answer(session, call)

    answer, service._status = service._status, changed  # type: ignore[method-assign]
    if broken is not None:
        service.broken[broken] = not_found if broken == "status" else bad_request
    with pytest.raises(kind) as own:
        service.task(retries=2).run(build())
    service.sessions["given"] = FakeSession()
    with pytest.raises(kind) as given:
        service.task(retries=2).run(build(session_id="given"))
    assert advice.format(place="the task") in str(own.value)
    assert advice.format(place="the task that session_id comes from") in str(given.value)
    assert "on_lost_session" not in str(given.value)


@pytest.mark.parametrize("keep", [False, True])
def test_an_agent_name_that_is_in_use_is_refused_and_nothing_is_left_running(service: FakeBuilder, keep: bool) -> None:
    service.broken["finish"] = bad_request
    with pytest.raises(AgentBuilderEnded, match="Bad input") as caught:
        service.task(retries=2).run(build(agent_name="Prices", keep_session=keep))
    assert service.sessions["s1"].status == ("ready" if keep else "cancelled")
    assert ("left as it is" if keep else "has been cancelled") in str(caught.value)


def test_followups_on_a_single_shot_server_are_refused(service: FakeBuilder) -> None:
    service.single_shot = True
    service.looks = 4
    with pytest.raises(
        AgentBuilderEnded, match="1 of 1 follow-ups could not be sent: this server accepts none"
    ) as caught:
        service.task().run(build(followups="more"))
    assert service.sessions["s1"].status == "completed"
    assert caught.value.agent_id == 700


def test_a_lost_answer_to_the_start_is_not_retried(service: FakeBuilder) -> None:
    service.faults["start"] = [(response_lost, True)]
    with pytest.raises(AgentBuilderEnded, match="The API cannot list sessions"):
        service.task(retries=2).run(build())
    assert len(service.sessions) == 1


def test_a_lost_answer_to_the_start_is_retried_if_the_author_says_so(service: FakeBuilder) -> None:
    service.faults["start"] = [(response_lost, True)]
    world = service.task(retries=1)
    with pytest.raises(SequentumUnavailable):
        world.run(build(on_ambiguous_start="start"))
    world.next_attempt()
    assert world.run(build(on_ambiguous_start="start")) == 700
    assert list(service.sessions) == ["s1", "s2"]


@pytest.mark.parametrize("policy", ["fail", "start"])
def test_another_connection_hides_no_session_whose_start_was_lost(service: FakeBuilder, policy: str) -> None:
    """A user who clears the task, or has said so before, wants another session; a retry by itself does not."""
    service.faults["start"] = [(response_lost, True)]
    world = service.task(retries=1)
    with pytest.raises((AgentBuilderEnded, SequentumUnavailable)):
        world.run(build(on_ambiguous_start=policy))
    world.next_attempt()
    if policy == "fail":
        with pytest.raises(SequentumUnavailable, match=r"The API cannot list sessions.*Nothing was started"):
            world.run(build(on_ambiguous_start=policy, sequentum_conn_id="another"))
        assert list(service.sessions) == ["s1"]
        world.clear()
    assert world.run(build(on_ambiguous_start=policy, sequentum_conn_id="another")) == 700
    assert list(service.sessions) == ["s1", "s2"]


@pytest.mark.parametrize("keep", [False, True])
def test_another_connection_ends_the_session_unless_it_is_to_be_kept(service: FakeBuilder, keep: bool) -> None:
    service.broken["finish"] = down
    world = service.task(retries=1)
    with pytest.raises(SequentumUnavailable):
        world.run(build(keep_session=keep))
    service.broken.clear()
    world.next_attempt()
    assert world.run(build(keep_session=keep, sequentum_conn_id="another")) == 700
    assert service.sessions["s1"].status == ("ready" if keep else "cancelled")


@both_modes
def test_a_session_lost_on_the_way(service: FakeBuilder, deferrable: bool) -> None:
    def gone(session: FakeSession, call: Any) -> dict[str, Any]:
        service.sessions.clear()
        return {"status": "processing", "lastEventIndex": 1}

    service._status = gone  # type: ignore[method-assign]
    world = service.task(retries=2)
    with pytest.raises(AgentBuilderEnded) as caught:
        world.run(build(deferrable=deferrable))
    assert isinstance(caught.value, AirflowFailException)
    world = service.task(retries=2)
    with pytest.raises(AgentBuilderFailed, match="The next attempt starts a new one"):
        world.run(build(deferrable=deferrable, on_lost_session="start"))


def test_a_given_session_lost_on_the_way_is_not_started_again_whatever_the_policy(
    service: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.sessions["given"] = FakeSession(looks_left=100)
    status = service._status

    def then_gone(session: FakeSession, call: Any) -> dict[str, Any]:
        service.sessions.clear()
        return status(session, call)

    service._status = then_gone  # type: ignore[method-assign]
    with pytest.raises(AgentBuilderEnded):
        service.task(retries=2).run(build(session_id="given", on_lost_session="start"))
    assert service.sessions == {}


@both_modes
def test_a_service_that_is_away_keeps_the_session_for_the_next_attempt(service: FakeBuilder, deferrable: bool) -> None:
    world = service.task(retries=1)
    service.broken["finish"] = down
    with pytest.raises(SequentumUnavailable):
        world.run(build(deferrable=deferrable))
    assert service.sessions["s1"].status == "ready"
    service.broken.clear()
    world.next_attempt()
    assert world.run(build(deferrable=deferrable)) == 700
    assert len(service.sessions) == 1


def test_the_last_attempt_that_fails_leaves_no_session_behind(service: FakeBuilder) -> None:
    service.broken["finish"] = down
    with pytest.raises(SequentumUnavailable):
        service.task(retries=0).run(build())
    assert service.sessions["s1"].status == "cancelled"


@both_modes
def test_a_cleared_success_builds_again(service: FakeBuilder, deferrable: bool) -> None:
    world = service.task()
    assert world.run(build(deferrable=deferrable)) == 700
    world.clear()
    assert world.run(build(deferrable=deferrable)) == 701


def test_a_worker_that_died_before_it_could_report_returns_the_same_agent(service: FakeBuilder) -> None:
    world = service.task(retries=1)
    assert world.run(build()) == 700
    world.next_attempt()
    assert world.run(build()) == 700
    assert service.agents == [700]


def test_without_a_state_store_a_retry_begins_again(service: FakeBuilder) -> None:
    world = service.task(retries=1, durable=False)
    assert world.run(build()) == 700
    world.next_attempt()
    assert world.run(build()) == 701


FIRST_FORMAT = {
    "format": 1,
    "fingerprint": "f",
    "max_tries": 0,
    "announced": None,
    "session": {"session_id": "s1", "state": "processing", "turn": "said", "findings": {}},
}
"""What the code before the first release kept."""


@pytest.mark.parametrize("keep", [False, True])
def test_a_record_of_the_earlier_format_is_refused_and_its_session_cancelled(service: FakeBuilder, keep: bool) -> None:
    service.begin("s1")
    world = service.task(retries=1)
    world.store.set("sequentum_session", FIRST_FORMAT)
    with pytest.raises(SequentumException, match="format 1") as caught:
        world.run(build(keep_session=keep))
    assert "s1" in str(caught.value)
    assert service.sessions["s1"].status == ("processing" if keep else "cancelled")
    assert service.count("start") == 0
    world.next_attempt()
    assert world.run(build()) == 700


@pytest.mark.parametrize("durable", [False, True])
def test_a_task_deferred_by_the_earlier_code_is_refused_and_its_session_cancelled(
    service: FakeBuilder, durable: bool
) -> None:
    service.begin("s1")
    world = service.task(durable=durable)
    if durable:
        world.store.set("sequentum_session", FIRST_FORMAT)
    event = TurnEvent(session=state.Session(session_id="s1")).to_json()
    with pytest.raises(SequentumException, match="s1"):
        build(deferrable=True).execute_complete(world.context, event=event)
    assert service.sessions["s1"].status == "cancelled"


def test_a_record_that_names_no_session_starts_nothing(service: FakeBuilder) -> None:
    world = service.task()
    world.store.set("sequentum_session", {"format": 99})
    with pytest.raises(SequentumException, match="Nothing was started"):
        world.run(build())
    assert service.requests == []


def test_a_kill_before_there_is_a_session_does_nothing(service: FakeBuilder) -> None:
    build().on_kill()
    assert service.requests == []


def test_a_cancellation_that_fails_is_said_and_hides_no_error(service: FakeBuilder) -> None:
    service.looks = 10_000
    service.broken |= {"cancel": down, "stop": down}
    with pytest.raises(AgentBuilderTimeout, match=r"timeout passed.*may be running and costing credits") as caught:
        service.task().run(build(timeout=30, deferrable=False))
    assert caught.value.session_id == "s1"


@both_modes
@pytest.mark.parametrize("keep", [False, True])
def test_a_timeout_cancels_the_session(service: FakeBuilder, deferrable: bool, keep: bool) -> None:
    service.looks = 10_000
    world = service.task(retries=2)
    with pytest.raises(AgentBuilderTimeout, match="timeout passed") as caught:
        world.run(build(timeout=20, keep_session=keep, deferrable=deferrable))
    assert not isinstance(caught.value, AirflowFailException)
    follows = "It has been cancelled. The next attempt starts a new session."
    assert str(caught.value).split(" passed. ")[1].startswith("It is left as it is" if keep else follows)
    assert service.sessions["s1"].status == ("processing" if keep else "cancelled")
    service.looks = service.sessions["s1"].looks_left = 1
    world.next_attempt()
    assert world.run(build(timeout=100, keep_session=keep, deferrable=deferrable)) == 700
    assert list(service.sessions) == (["s1"] if keep else ["s1", "s2"])


def test_execution_timeout_is_watched_while_deferred(service: FakeBuilder) -> None:
    service.looks = 10_000
    with pytest.raises(AgentBuilderTimeout, match=r"It has been cancelled\. Clear the task to start over\."):
        service.task().run(build(deferrable=True, execution_timeout=timedelta(seconds=20)))
    assert service.sessions["s1"].status == "cancelled"


@pytest.mark.parametrize("durable", [True, False])
def test_a_deferral_that_airflow_ended_finds_its_session_again(service: FakeBuilder, durable: bool) -> None:
    service.looks = 10_000
    world = service.task(retries=1, durable=durable)
    with pytest.raises(TaskDeferred):
        build(deferrable=True, timeout=100).execute(world.context)
    world.ti.start_date -= timedelta(seconds=200)
    with pytest.raises(AgentBuilderTimeout):
        build(deferrable=True, timeout=100).resume_execution(
            DEFERRAL_FAILED, {"error": "Trigger timeout"}, world.context
        )
    assert service.sessions["s1"].status == "cancelled"


@pytest.mark.parametrize("durable", [True, False])
def test_after_a_broken_trigger_the_wait_goes_on_on_the_worker(service: FakeBuilder, durable: bool) -> None:
    service.looks = 3
    world = service.task(durable=durable)
    with pytest.raises(TaskDeferred):
        build(deferrable=True).execute(world.context)
    resumed = build(deferrable=True).resume_execution(DEFERRAL_FAILED, {"error": "Trigger failure"}, world.context)
    assert resumed == 700
    assert len(service.sessions) == 1


def test_the_triggerer_is_told_how_often_to_look_and_how_long(service: FakeBuilder) -> None:
    world = service.task()
    with pytest.raises(TaskDeferred) as deferred:
        build(deferrable=True, poll_interval=7, timeout=100).execute(world.context)
    arguments = deferred.value.trigger.serialize()[1]
    assert arguments["poll_interval"] == 7
    assert arguments["deadline"] == (world.ti.start_date + timedelta(seconds=100)).isoformat()
    # Airflow's own timeout is only behind the trigger's: it drops what the trigger has seen.
    assert deferred.value.timeout is not None
    assert deferred.value.timeout > timedelta(seconds=100)
    with pytest.raises(TaskDeferred) as deferred:
        build(deferrable=True).execute(service.task().context)
    assert deferred.value.trigger.serialize()[1]["poll_interval"] == 10.0
    assert deferred.value.timeout is None


@pytest.mark.parametrize("event", [{}, {"session": 1}, {"session": {"session_id": "s9"}}, "text", {"format": 1}])
def test_an_event_that_cannot_be_understood_is_never_a_success(service: FakeBuilder, event: Any) -> None:
    world = service.task()
    with pytest.raises(TaskDeferred) as deferred:
        build(deferrable=True).execute(world.context)
    with pytest.raises(SequentumUnavailable, match="event cannot be read"):
        world.resume(build(), deferred.value, event)
    assert service.sessions["s1"].status == "cancelled"


@pytest.mark.parametrize("retries", [0, 1])
def test_an_error_in_the_triggerer_fails_the_task_with_its_kind(service: FakeBuilder, retries: int) -> None:
    world = service.task(retries=retries)
    with pytest.raises(TaskDeferred) as deferred:
        build(deferrable=True).execute(world.context)
    event = {"session": {"session_id": "s1"}, "error": "SequentumConnectionException", "message": "The key is gone."}
    with pytest.raises(exceptions.SequentumConnectionException, match=r"The key is gone.*has been cancelled"):
        world.resume(build(), deferred.value, event)
    assert service.sessions["s1"].status == "cancelled"


@both_modes
def test_screenshots_are_saved_and_the_latest_is_linked(service: FakeBuilder, deferrable: bool, tmp_path: Path) -> None:
    images = [b"\x89PNG one", b"\xff\xd8\xff two"]
    start = service._start

    def with_images(call: Any) -> dict[str, Any]:
        answer = start(call)
        for image in [*images, b""]:
            service.sessions["s1"].tell("screenshot", imageBase64=base64.b64encode(image).decode())
        service.sessions["s1"].tell("screenshot", imageBase64="%%%")
        return answer

    service._start = with_images  # type: ignore[method-assign]
    world = service.task()
    assert world.run(build(screenshots_path=f"file://{tmp_path}/shots", deferrable=deferrable)) == 700
    saved = sorted((tmp_path / "shots" / "s1").iterdir())
    assert [path.suffix for path in saved] == [".png", ".jpg"]
    assert [path.read_bytes() for path in saved] == images
    assert world.xcoms["agent_builder_screenshot_link"] == saved[-1].as_uri()
    world.next_attempt()
    assert world.run(build(screenshots_path=f"file://{tmp_path}/shots", deferrable=deferrable)) == 700
    assert world.xcoms["agent_builder_screenshot_link"] == saved[-1].as_uri()


def test_the_latest_screenshot_is_linked_while_the_builder_is_at_work(service: FakeBuilder, tmp_path: Path) -> None:
    world, links = service.task(), []
    service.looks = 4
    status = service._status

    def with_image(session: FakeSession, call: Any) -> dict[str, Any]:
        links.append(world.xcoms.get("agent_builder_screenshot_link"))
        session.tell("screenshot", imageBase64="QUJD")
        return status(session, call)

    service._status = with_image  # type: ignore[method-assign]
    world.run(build(screenshots_path=f"file://{tmp_path}/shots"))
    assert links[0] is None
    assert len(set(links[:4])) == 4


@both_modes
def test_what_the_triggerer_told_is_told_again_before_the_next_deferral_wipes_it_out(
    service: FakeBuilder, deferrable: bool, task_log: pytest.LogCaptureFixture
) -> None:
    world = service.task()
    world.run(build(followups=["one", "two"], deferrable=deferrable))
    assert world.deferrals == (3 if deferrable else 0)
    # Airflow 3 keeps the triggerer's log of the last deferral only: two of the three answers are told again.
    assert task_log.text.count("The builder is ready: What next?") == (3 + 2 if deferrable else 3)
    assert task_log.text.count("Repeated from the triggerer") == (2 if deferrable else 0)
    said = [line for line in task_log.messages if line.startswith(("Sending follow-up", "Repeated from"))]
    if deferrable:
        # What the builder said comes before the message that answers it.
        assert [line.split()[0] for line in said] == ["Repeated", "Sending", "Repeated", "Sending"]


@both_modes
def test_screenshots_are_nowhere_unless_asked_for(
    service: FakeBuilder, deferrable: bool, task_log: pytest.LogCaptureFixture
) -> None:
    start = service._start

    def with_image(call: Any) -> dict[str, Any]:
        answer = start(call)
        service.sessions["s1"].tell("screenshot", imageBase64="QUJDREVG" * 100)
        return answer

    service._start = with_image  # type: ignore[method-assign]
    world = service.task()
    world.run(build(deferrable=deferrable))
    assert "The builder is ready: What next?" in task_log.text
    assert "QUJDREVG" not in json.dumps([world.xcoms, world.store.values]) + task_log.text


def test_the_conversation_is_saved_next_to_the_agent(service: FakeBuilder, tmp_path: Path) -> None:
    service._conversation = lambda session, call: {"sessionId": "s1", "configId": 700}  # type: ignore[attr-defined]
    path = tmp_path / "agents" / "prices.json"
    assert service.task().run(build(conversation_path=f"file://{path}")) == 700
    assert json.loads(path.read_text())["agent_id"] == 700


class StorageFailure(Exception):
    """What a storage library raises that knows nothing of ``OSError``, as botocore does."""


@both_modes
def test_a_storage_that_fails_does_not_fail_the_task(
    service: FakeBuilder,
    deferrable: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task_log: pytest.LogCaptureFixture,
) -> None:
    start = service._start

    def with_image(call: Any) -> dict[str, Any]:
        answer = start(call)
        service.sessions["s1"].tell("screenshot", imageBase64="QUJD")
        return answer

    def failing(path: ObjectStoragePath, *arguments: Any, **options: Any) -> None:
        raise StorageFailure("no credentials")

    service._start = with_image  # type: ignore[method-assign]
    service._conversation = lambda session, call: {"sessionId": "s1", "configId": 700}  # type: ignore[attr-defined]
    monkeypatch.setattr(ObjectStoragePath, "mkdir", failing)
    paths = {"screenshots_path": f"file://{tmp_path}/shots", "conversation_path": f"file://{tmp_path}/c.json"}
    assert service.task().run(build(deferrable=deferrable, **paths)) == 700
    assert task_log.text.count("no credentials") == 2


def test_a_conversation_that_can_not_be_had_does_not_fail_the_task(service: FakeBuilder, tmp_path: Path) -> None:
    service.broken["conversation"] = down
    assert service.task().run(build(conversation_path=f"file://{tmp_path}/c.json")) == 700


def test_retries_happen_exactly_where_they_can_help() -> None:
    kinds = {
        kind
        for kind in vars(exceptions).values()
        if isinstance(kind, type) and issubclass(kind, AgentBuilderException) and kind is not AgentBuilderException
    }
    assert all(issubclass(kind, AirflowException) for kind in kinds)
    assert {kind for kind in kinds if not issubclass(kind, AirflowFailException)} == {
        AgentBuilderFailed,
        AgentBuilderTimeout,
    }


def test_importing_the_operator_imports_nothing_heavy() -> None:
    code = (
        "import airflow.providers.common.compat.sdk as c, sys; c.BaseOperator, c.BaseOperatorLink, c.XCom;"
        "before = set(sys.modules);"
        "import airflow_provider_sequentum.operators.agent_builder;"
        "print([m for m in set(sys.modules) - before if m.split('.')[0] in "
        "('httpx', 'pydantic', 'pendulum', 'tenacity') or m.endswith('api.agent_builder')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("retries", "durable", "told"),
    [
        (1, True, "The next attempt checks again."),
        (1, False, "The next attempt starts a new session."),
        (0, True, "Clear the task to start over."),
        (0, False, "Clear the task to start over."),
    ],
)
def test_what_follows_a_session_without_an_agent_is_true(
    service: FakeBuilder, monkeypatch: pytest.MonkeyPatch, retries: int, durable: bool, told: str
) -> None:
    monkeypatch.setattr(state, "SAVING_GRACE", timedelta(0))
    service._status = lambda session, call: {"status": "completed"}  # type: ignore[method-assign]
    with pytest.raises(AgentBuilderFailed) as caught:
        service.task(retries=retries, durable=durable).run(build())
    assert str(caught.value).endswith(f"names no agent. {told}")


@pytest.mark.parametrize("retries", [0, 1])
def test_after_the_last_attempt_no_other_one_is_promised(service: FakeBuilder, retries: int) -> None:
    def failing(session: FakeSession, call: Any) -> dict[str, Any]:
        return {"status": "error", "error": "no page"}

    service._status = failing  # type: ignore[method-assign]
    with pytest.raises(AgentBuilderFailed) as caught:
        service.task(retries=retries).run(build())
    assert ("next attempt" in str(caught.value)) is (retries > 0)
