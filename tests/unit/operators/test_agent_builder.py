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
from airflow_provider_sequentum.task_try import DEFERRAL_FAILED

from airflow_provider_sequentum import exceptions
from airflow_provider_sequentum.api.agent_builder import SessionEvent
from airflow_provider_sequentum.api.errors import BadRequest, NotFound, SequentumError, ServerError
from airflow_provider_sequentum.exceptions import (
    AgentBuilderAmbiguous,
    AgentBuilderCancelled,
    AgentBuilderException,
    AgentBuilderFailed,
    AgentBuilderRefused,
    AgentBuilderSessionLost,
    AgentBuilderSkipped,
    AgentBuilderTimeout,
    AgentBuilderUnanswered,
    SequentumConnectionNotFound,
    SequentumRequestRefused,
    SequentumUnavailable,
)
from airflow_provider_sequentum.hooks.sequentum import SequentumHook
from airflow_provider_sequentum.lifecycle import builder_session
from airflow_provider_sequentum.lifecycle.builder_session import BuilderSession
from airflow_provider_sequentum.operators.agent_builder import DEFAULT_POLL_INTERVAL, AgentBuilderOperator
from airflow_provider_sequentum.operators.session_ending import summarize
from airflow_provider_sequentum.operators.session_files import ScreenshotFolder, storage_path
from tests.unit.lifecycle.builder_service import START, FakeBuilder, FakeSession, lost
from tests.unit.operators.task_world import TaskWorld

PROMPT = "Pull the prices from https://shop.example"

both_modes = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


def build(**fields: Any) -> AgentBuilderOperator:
    start = {} if {"url", "session_id", "prompt"} & set(fields) else {"prompt": PROMPT}
    return AgentBuilderOperator(**{"task_id": "build", "deferrable": False, **start, **fields})


def down(purpose: str) -> SequentumError:
    return ServerError("down", purpose=purpose, status_code=503)


@both_modes
def test_a_prompt_becomes_an_agent(service: FakeBuilder, deferrable: bool) -> None:
    world = TaskWorld()
    assert world.run(build(followups=["first", "second"], agent_name="Prices", deferrable=deferrable)) == 700
    assert service.sessions["s1"].messages == ["first", "second"]
    assert world.xcoms["session_id"] == "s1"
    assert world.xcoms["agent_builder_session_link"] == "https://cloud.example/s1"
    summary = world.xcoms["session"]
    assert (summary["agent_id"], summary["agent_name"], summary["status"]) == (700, "Prices", "completed")
    assert (summary["followups_sent"], summary["last_message"]) == (2, "What next?")


def test_the_result_and_the_summary_are_the_same_in_both_modes_and_after_a_retry(service: FakeBuilder) -> None:
    summaries = []
    for deferrable in (False, True):
        world = TaskWorld(retries=1)
        result = world.run(build(followups="one", deferrable=deferrable))
        first = world.xcoms["session"]
        world.retry()
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
    assert TaskWorld().run(build(deferrable=deferrable, **fields)) == 700
    assert service.sessions["s1"].status == "completed"
    assert [request for request in service.requests if request.startswith("POST")] == ["POST /agent-builder/start"]


@both_modes
def test_a_session_left_ready_is_gone_on_with_by_another_task(service: FakeBuilder, deferrable: bool) -> None:
    first = TaskWorld()
    assert first.run(build(finish=False, deferrable=deferrable)) is None
    assert service.sessions["s1"].status == "ready"
    second = TaskWorld()
    assert second.run(build(session_id=first.xcoms["session_id"], followups=["more"], finish=False)) is None
    assert service.sessions["s1"].status == "ready"
    assert TaskWorld().run(build(session_id="s1", agent_name="Prices")) == 700
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
        ({"followups": ["fine", ""]}, "Follow-up 2 of 2 is empty"),
        ({"followups": {"a": 1}}, "list of strings"),
        ({"space_id": "my space"}, "space_id"),
        ({"timeout": "soon"}, "timeout"),
        ({"session_id": "s" * 1000}, "session id"),
        ({"screenshots_path": "nowhere://bucket/shots"}, "screenshots_path 'nowhere://bucket/shots' can't be used"),
        ({"conversation_path": "nowhere://bucket/c.json"}, "conversation_path 'nowhere://bucket/c.json' can't be used"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    service: FakeBuilder, fields: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(SequentumRequestRefused, match=complaint) as caught:
        TaskWorld(retries=3).run(build(**fields))
    assert isinstance(caught.value, AirflowFailException)
    assert service.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        {"finish": False, "on_ready": "cancel"},
        {"finish": False, "on_ready": "fail"},
        {"on_ready": "dance"},
        {"on_ambiguous_start": "adopt"},
        {"on_lost_session": "cry"},
        {"poll_interval": 0},
        {"poll_interval": "often"},
    ],
)
def test_contradictions_and_unknown_choices_are_found_when_the_dag_is_parsed(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"on_|poll_interval"):
        build(**fields)


def test_every_template_field_is_a_parameter() -> None:
    parameters = inspect.signature(AgentBuilderOperator.__init__).parameters
    assert set(AgentBuilderOperator.template_fields) <= set(parameters)
    assert all(
        parameter.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
        for name, parameter in parameters.items()
        if name != "self"
    )


@both_modes
def test_on_ready_cancel_skips_the_task_and_saves_nothing(service: FakeBuilder, deferrable: bool) -> None:
    with pytest.raises(AgentBuilderSkipped) as caught:
        TaskWorld().run(build(on_ready="cancel", deferrable=deferrable))
    assert isinstance(caught.value, AirflowSkipException)
    assert service.sessions["s1"].status == "cancelled"
    assert service.agents == []


@both_modes
@pytest.mark.parametrize("keep", [False, True])
def test_on_ready_fail_says_what_the_builder_asked(service: FakeBuilder, deferrable: bool, keep: bool) -> None:
    with pytest.raises(AgentBuilderUnanswered, match="What next") as caught:
        TaskWorld(retries=2).run(build(on_ready="fail", keep_session=keep, deferrable=deferrable))
    assert service.sessions["s1"].status == ("ready" if keep else "cancelled")
    assert caught.value.session_id == "s1"


@both_modes
def test_a_session_that_ended_in_an_error_is_built_anew_by_a_retry(service: FakeBuilder, deferrable: bool) -> None:
    world = TaskWorld(retries=1)
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
    world.retry()
    assert world.run(build(deferrable=deferrable)) == 700
    assert list(service.sessions) == ["s1", "s2"]


@both_modes
def test_a_session_that_completes_without_an_agent_is_looked_at_again_by_a_retry(
    service: FakeBuilder, deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder_session, "SAVING_GRACE", timedelta(0))
    service.sessions["s1"] = FakeSession(status="completed")
    world = TaskWorld(retries=1)
    with pytest.raises(AgentBuilderFailed, match="s1 is completed, but the service names no agent"):
        world.run(build(session_id="s1", deferrable=deferrable))
    service.sessions["s1"].agent_id = 7
    world.retry()
    assert world.run(build(session_id="s1", deferrable=deferrable)) == 7


def test_a_given_session_that_ended_in_an_error_is_not_retried(service: FakeBuilder) -> None:
    service.sessions["s1"] = FakeSession(status="error", error="no page")
    with pytest.raises(AgentBuilderRefused, match="no page"):
        TaskWorld(retries=2).run(build(session_id="s1"))


@both_modes
def test_a_session_cancelled_elsewhere_is_not_retried(service: FakeBuilder, deferrable: bool) -> None:
    service.sessions["s1"] = FakeSession(status="cancelled")
    with pytest.raises(AgentBuilderCancelled, match="cancelled by somebody") as caught:
        TaskWorld(retries=2).run(build(session_id="s1", deferrable=deferrable))
    assert isinstance(caught.value, AirflowFailException)


def test_followups_on_a_finished_session_are_refused(service: FakeBuilder) -> None:
    service.sessions["s1"] = FakeSession(status="completed", agent_id=700)
    with pytest.raises(AgentBuilderRefused, match="1 of 1 follow-ups could not be sent") as caught:
        TaskWorld().run(build(session_id="s1", followups="more"))
    assert caught.value.agent_id == 700
    assert TaskWorld().run(build(session_id="s1")) == 700


def test_an_unknown_session_is_lost_and_nothing_is_started(service: FakeBuilder) -> None:
    with pytest.raises(AgentBuilderSessionLost, match="never existed, or belongs to another key"):
        TaskWorld(retries=2).run(build(session_id="nobody", on_lost_session="start"))
    assert service.sessions == {}


@pytest.mark.parametrize(
    ("broken", "status", "kind", "advice"),
    [
        ("status", "ready", AgentBuilderSessionLost, "Clear {place} to begin anew"),
        (None, "cancelled", AgentBuilderCancelled, "Clear {place} to begin anew."),
        ("finish", "ready", AgentBuilderRefused, "Correct this, then clear {place}."),
    ],
)
def test_the_advice_is_to_clear_the_task_that_begins_the_session(
    service: FakeBuilder, monkeypatch: pytest.MonkeyPatch,
    broken: str | None, status: str, kind: type[AgentBuilderException], advice: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(builder_session, "UNKNOWN_GRACE", timedelta(0))

    def no(purpose: str) -> SequentumError:
        gone = NotFound("no", purpose=purpose, status_code=404)
        return gone if broken == "status" else BadRequest("no", purpose=purpose, status_code=400)

    def changed(session: FakeSession, call: Any) -> dict[str, Any]:
        session.status = status if session.status == "processing" else session.status
        return answer(session, call)

    answer, service._status = service._status, changed  # type: ignore[method-assign]
    if broken is not None:
        service.broken[broken] = no
    with pytest.raises(kind) as own:
        TaskWorld(retries=2).run(build())
    service.sessions["given"] = FakeSession()
    with pytest.raises(kind) as given:
        TaskWorld(retries=2).run(build(session_id="given"))
    assert advice.format(place="the task") in str(own.value)
    assert advice.format(place="the task that session_id comes from") in str(given.value)
    assert "on_lost_session" not in str(given.value)


@pytest.mark.parametrize("keep", [False, True])
def test_an_agent_name_that_is_in_use_is_refused_and_nothing_is_left_running(service: FakeBuilder, keep: bool) -> None:
    service.broken["finish"] = lambda purpose: BadRequest("The name is in use.", purpose=purpose, status_code=400)
    with pytest.raises(AgentBuilderRefused, match="The name is in use") as caught:
        TaskWorld(retries=2).run(build(agent_name="Prices", keep_session=keep))
    assert service.sessions["s1"].status == ("ready" if keep else "cancelled")
    assert ("left as it is" if keep else "cancelled") in str(caught.value)


def test_followups_on_a_single_shot_server_are_refused(service: FakeBuilder) -> None:
    service.single_shot = True
    service.looks = 4
    with pytest.raises(
        AgentBuilderRefused, match="1 of 1 follow-ups could not be sent: this server takes none"
    ) as caught:
        TaskWorld().run(build(followups="more"))
    assert service.sessions["s1"].status == "completed"
    assert caught.value.agent_id == 700


def test_a_lost_answer_to_the_start_is_not_retried(service: FakeBuilder) -> None:
    service.faults[0] = (lost, True)
    with pytest.raises(AgentBuilderAmbiguous, match="Sessions can't be listed"):
        TaskWorld(retries=2).run(build())
    assert len(service.sessions) == 1


def test_a_lost_answer_to_the_start_is_retried_if_the_author_says_so(service: FakeBuilder) -> None:
    service.faults[0] = (lost, True)
    world = TaskWorld(retries=1)
    with pytest.raises(SequentumUnavailable):
        world.run(build(on_ambiguous_start="start"))
    world.retry()
    assert world.run(build(on_ambiguous_start="start")) == 700
    assert list(service.sessions) == ["s1", "s2"]


@both_modes
def test_a_session_lost_on_the_way(service: FakeBuilder, deferrable: bool) -> None:
    def gone(session: FakeSession, call: Any) -> dict[str, Any]:
        service.sessions.clear()
        return {"status": "processing", "lastEventIndex": 1}

    service._status = gone  # type: ignore[method-assign]
    world = TaskWorld(retries=2)
    with pytest.raises(AgentBuilderSessionLost) as caught:
        world.run(build(deferrable=deferrable))
    assert isinstance(caught.value, AirflowFailException)
    world = TaskWorld(retries=2)
    with pytest.raises(AgentBuilderFailed, match="The next try begins a new one"):
        world.run(build(deferrable=deferrable, on_lost_session="start"))


def test_a_given_session_lost_on_the_way_is_not_begun_anew_whatever_the_policy(
    service: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.sessions["given"] = FakeSession(looks_left=100)
    status = service._status

    def then_gone(session: FakeSession, call: Any) -> dict[str, Any]:
        service.sessions.clear()
        return status(session, call)

    service._status = then_gone  # type: ignore[method-assign]
    with pytest.raises(AgentBuilderSessionLost):
        TaskWorld(retries=2).run(build(session_id="given", on_lost_session="start"))
    assert service.sessions == {}


def test_the_elapsed_time_ends_with_the_session() -> None:
    started = BuilderSession.started("s1", START)
    ended = started.finished(7, None, START + timedelta(seconds=90))
    later = START + timedelta(hours=1)
    assert summarize(ended, later)["elapsed_seconds"] == 90.0
    assert summarize(started, later)["elapsed_seconds"] == 3600.0
    assert summarize(BuilderSession(session_id="s1"), later)["elapsed_seconds"] is None


@both_modes
def test_a_service_that_is_away_keeps_the_session_for_the_next_try(service: FakeBuilder, deferrable: bool) -> None:
    world = TaskWorld(retries=1)
    service.broken["finish"] = down
    with pytest.raises(SequentumUnavailable):
        world.run(build(deferrable=deferrable))
    assert service.sessions["s1"].status == "ready"
    service.broken.clear()
    world.retry()
    assert world.run(build(deferrable=deferrable)) == 700
    assert len(service.sessions) == 1


def test_the_last_try_that_fails_leaves_no_session_behind(service: FakeBuilder) -> None:
    service.broken["finish"] = down
    with pytest.raises(SequentumUnavailable):
        TaskWorld(retries=0).run(build())
    assert service.sessions["s1"].status == "cancelled"


@both_modes
def test_a_cleared_success_builds_anew(service: FakeBuilder, deferrable: bool) -> None:
    world = TaskWorld()
    assert world.run(build(deferrable=deferrable)) == 700
    world.clear()
    assert world.run(build(deferrable=deferrable)) == 701


def test_a_worker_that_died_before_it_could_report_returns_the_same_agent(service: FakeBuilder) -> None:
    world = TaskWorld(retries=1)
    assert world.run(build()) == 700
    world.retry()
    assert world.run(build()) == 700
    assert service.agents == [700]


def test_without_a_state_store_a_retry_begins_anew(service: FakeBuilder) -> None:
    world = TaskWorld(retries=1, durable=False)
    assert world.run(build()) == 700
    world.retry()
    assert world.run(build()) == 701


def test_a_record_that_can_not_be_read_stops_everything(service: FakeBuilder) -> None:
    world = TaskWorld()
    world.store.set("sequentum_session", {"format": 99})
    with pytest.raises(AgentBuilderAmbiguous, match="sequentum_session"):
        world.run(build())
    assert service.requests == []


def test_a_kill_before_there_is_a_session_does_nothing(service: FakeBuilder) -> None:
    build().on_kill()
    assert service.requests == []


def test_a_cancellation_that_fails_is_said_and_hides_no_error(
    service: FakeBuilder, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    service.looks = 10_000

    def no_connection(hook: SequentumHook, procedure: object, urgent: bool = False) -> None:
        raise SequentumConnectionNotFound("The connection is gone.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SequentumHook, "perform_apart", no_connection)
        with pytest.raises(AgentBuilderTimeout):
            TaskWorld().run(build(timeout=0.2, deferrable=False))
    assert "Session s1 could not be cancelled: The connection is gone." in caplog.text + capsys.readouterr().out


@both_modes
@pytest.mark.parametrize("keep", [False, True])
def test_a_timeout_cancels_the_session(service: FakeBuilder, deferrable: bool, keep: bool) -> None:
    service.looks = 10_000
    world = TaskWorld(retries=2)
    with pytest.raises(AgentBuilderTimeout, match="time was over") as caught:
        world.run(build(timeout=0.2, keep_session=keep, deferrable=deferrable))
    assert not isinstance(caught.value, AirflowFailException)
    assert service.sessions["s1"].status == ("processing" if keep else "cancelled")
    service.looks = service.sessions["s1"].looks_left = 1
    world.retry()
    assert world.run(build(timeout=100, keep_session=keep, deferrable=deferrable)) == 700
    assert list(service.sessions) == (["s1"] if keep else ["s1", "s2"])


def test_execution_timeout_is_watched_while_deferred(service: FakeBuilder) -> None:
    service.looks = 10_000
    with pytest.raises(AgentBuilderTimeout):
        TaskWorld().run(build(deferrable=True, execution_timeout=timedelta(seconds=0.2)))
    assert service.sessions["s1"].status == "cancelled"


@pytest.mark.parametrize("durable", [True, False])
def test_a_deferral_that_airflow_ended_finds_its_session_again(service: FakeBuilder, durable: bool) -> None:
    service.looks = 10_000
    world = TaskWorld(retries=1, durable=durable)
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
    world = TaskWorld(durable=durable)
    with pytest.raises(TaskDeferred):
        build(deferrable=True).execute(world.context)
    resumed = build(deferrable=True).resume_execution(DEFERRAL_FAILED, {"error": "Trigger failure"}, world.context)
    assert resumed == 700
    assert len(service.sessions) == 1


def test_the_triggerer_is_told_how_often_to_look_and_how_long(service: FakeBuilder) -> None:
    world = TaskWorld()
    with pytest.raises(TaskDeferred) as deferred:
        build(deferrable=True, poll_interval=7, timeout=100).execute(world.context)
    arguments = deferred.value.trigger.serialize()[1]
    assert arguments["poll_interval"] == 7
    assert arguments["deadline"] == (world.ti.start_date + timedelta(seconds=100)).isoformat()
    # Airflow's own timeout is only behind the trigger's: it drops what the trigger has seen.
    assert deferred.value.timeout is not None
    assert deferred.value.timeout > timedelta(seconds=100)
    with pytest.raises(TaskDeferred) as deferred:
        build(deferrable=True).execute(TaskWorld().context)
    assert deferred.value.trigger.serialize()[1]["poll_interval"] == DEFAULT_POLL_INTERVAL
    assert deferred.value.timeout is None


@pytest.mark.parametrize("event", [None, {}, {"record": 1}, {"record": None, "error": None, "trigger": {}}, "text"])
def test_an_event_that_can_not_be_understood_is_never_a_success(service: FakeBuilder, event: Any) -> None:
    with pytest.raises(SequentumUnavailable, match="can't be understood"):
        build().execute_complete(TaskWorld().context, event)


def test_an_error_in_the_triggerer_fails_the_task_with_its_kind(service: FakeBuilder) -> None:
    world = TaskWorld(retries=1)
    with pytest.raises(TaskDeferred) as deferred:
        build(deferrable=True).execute(world.context)
    arguments = deferred.value.trigger.serialize()[1]
    fault = {"kind": "SequentumConnectionException", "message": "The connection is missing."}
    event = {"record": arguments["record"], "error": fault, "trigger": arguments}
    with pytest.raises(exceptions.SequentumConnectionException, match="The connection is missing"):
        build(deferrable=True).execute_complete(world.context, event)


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
    world = TaskWorld()
    assert world.run(build(screenshots_path=f"file://{tmp_path}/shots", deferrable=deferrable)) == 700
    saved = sorted((tmp_path / "shots" / "s1").iterdir())
    assert [path.suffix for path in saved] == [".png", ".jpg"]
    assert [path.read_bytes() for path in saved] == images
    assert world.xcoms["agent_builder_screenshot_link"] == saved[-1].as_uri()
    world.retry()
    assert world.run(build(screenshots_path=f"file://{tmp_path}/shots", deferrable=deferrable)) == 700
    assert world.xcoms["agent_builder_screenshot_link"] == saved[-1].as_uri()


def test_the_latest_screenshot_is_linked_while_the_builder_is_at_work(service: FakeBuilder, tmp_path: Path) -> None:
    world, links = TaskWorld(), []
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
    world = TaskWorld()
    world.run(build(followups=["one", "two"], deferrable=deferrable))
    assert world.deferrals == (3 if deferrable else 0)
    # Airflow 3 keeps the triggerer's log of the last deferral only: two of the three answers are told again.
    assert task_log.text.count("The builder is ready: What next?") == (3 + 2 if deferrable else 3)
    assert task_log.text.count("Told in the triggerer before") == (2 if deferrable else 0)


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
    world = TaskWorld()
    world.run(build(deferrable=deferrable))
    assert "The builder is ready: What next?" in task_log.text
    assert "QUJDREVG" not in json.dumps([world.xcoms, world.store]) + task_log.text


def test_a_session_id_can_not_lead_out_of_the_screenshots_folder(tmp_path: Path) -> None:
    announced: list[str] = []
    folder = ScreenshotFolder(
        storage_path("screenshots_path", f"file://{tmp_path}/shots"), announced.append, build().log
    )
    folder("../../x\x00/y", SessionEvent(type="screenshot", event_index=1, image_base64="QUJD"))
    [saved] = tmp_path.rglob("*.bin")
    assert saved.parent.parent == tmp_path / "shots"
    assert announced == [saved.as_uri()]


def test_the_conversation_is_saved_next_to_the_agent(service: FakeBuilder, tmp_path: Path) -> None:
    service._conversation = lambda session, call: {"sessionId": "s1", "configId": 700}  # type: ignore[attr-defined]
    path = tmp_path / "agents" / "prices.json"
    assert TaskWorld().run(build(conversation_path=f"file://{path}")) == 700
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
    assert TaskWorld().run(build(deferrable=deferrable, **paths)) == 700
    assert task_log.text.count("no credentials") == 2


def test_a_conversation_that_can_not_be_had_does_not_fail_the_task(service: FakeBuilder, tmp_path: Path) -> None:
    service.broken["conversation"] = down
    assert TaskWorld().run(build(conversation_path=f"file://{tmp_path}/c.json")) == 700


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
