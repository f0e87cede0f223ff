"""The operator against the sandbox over real HTTP: every script, on the worker and in the triggerer."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_sequentum.exceptions import (
    AgentBuilderEnded,
    AgentBuilderFailed,
    AgentBuilderTimeout,
    SequentumConnectionException,
    SequentumRequestRefused,
)
from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.sandbox import Sandbox
from airflow_provider_sequentum.sandbox.builder_scripts import HUGE_SCREENSHOT_BYTES, HUGE_SCREENSHOTS
from tests.support.builder import BuildTask
from tests.support.service import Clock
from tests.support.worker import PACKAGE

PROMPT = "Pull the symbol and name of the chemical elements from https://elements.example"

both_modes = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


def serving(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Sandbox]:
    """Serve a sandbox whose builder takes a tenth of a second for a turn, to operators and triggers."""
    with Sandbox(builder_seconds=0.1, rate_limit=10_000, **settings) as service:
        monkeypatch.setenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT", service.connection_uri)
        monkeypatch.setattr("airflow_provider_sequentum.airflow_compat.trigger_life.MIN_TRIGGER_LIFETIME", 0.0)
        for module in ("sessions.wait", "jobs.stop"):
            path = f"airflow_provider_sequentum.{module}.NOT_FOUND_TOLERANCE"
            monkeypatch.setattr(path, timedelta(seconds=0.3))
        monkeypatch.setattr("airflow_provider_sequentum.sessions.wait.NOT_YET_FOUND_INTERVAL", 0.1)
        monkeypatch.setattr("airflow_provider_sequentum.sessions.messages.BUSY_DELAYS", (0.1, 0.1))
        yield service


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    yield from serving(monkeypatch)


@pytest.fixture
def task_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the package writes to the task's log, in all versions of Airflow."""
    caplog.set_level(logging.DEBUG, PACKAGE)
    return caplog


@pytest.fixture
def single_shot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    yield from serving(monkeypatch, builder_era="single_shot")


class RealClock(Clock):
    """The time as it is."""

    @property
    def now(self) -> datetime:
        return datetime.now(UTC)

    @now.setter
    def now(self, value: datetime) -> None:
        """No one sets it."""


def build_task(retries: int = 0, *, durable: bool = True) -> BuildTask:
    return BuildTask(RealClock(), retries, has_state_store=durable)


def build(**fields: Any) -> AgentBuilderOperator:
    start = {} if {"url", "session_id", "prompt"} & set(fields) else {"prompt": PROMPT}
    return AgentBuilderOperator(**{"task_id": "build", "poll_interval": 0.05, **start, **fields})


def effects(sandbox: Sandbox) -> list[str]:
    return [effect.kind for effect in sandbox.ledger.effects]


def messages(sandbox: Sandbox) -> list[Any]:
    return [effect.detail for effect in sandbox.ledger.effects if effect.kind == "session_followup"]


@both_modes
def test_success(sandbox: Sandbox, deferrable: bool) -> None:
    world = build_task()
    agent_id = world.run(build(agent_name="Elements", deferrable=deferrable))
    assert sandbox.engine.agent(agent_id).name == "Elements"
    assert effects(sandbox) == ["session_start", "session_finish"]
    summary = world.xcoms["session"]
    assert summary["agent_name"] == "Elements"
    assert summary["columns"][:2] == ["atomic_number", "symbol"]
    assert (len(summary["rows"]), summary["total_rows"], summary["command_count"]) == (5, 118, 1)
    assert summary["last_message"] == "The agent is ready."


@both_modes
def test_what_the_person_watching_reads_and_what_is_saved(
    sandbox: Sandbox, deferrable: bool, tmp_path: Path, task_log: pytest.LogCaptureFixture
) -> None:
    sandbox.script_sessions("asks_twice")
    world = build_task()
    agent_id = world.run(
        build(
            followups=["The first table", "Keep them"],
            deferrable=deferrable,
            screenshots_path=f"{tmp_path.as_uri()}/shots",
            conversation_path=f"{tmp_path.as_uri()}/agents/conversation.json",
        )
    )
    told = [
        "Opened https://elements.example (Chemical elements)",
        "Plan: Open the page; Extract the table",
        "The builder is ready: Which of the tables do you want?",
        "The builder is ready: Should rows without a value be kept?",
        "Step 1 of 1: Extract the table",
        "Found 118 rows: atomic_number, symbol",
        "The builder says: I found 118 records.",
        "The builder is ready: The agent is ready.",
    ]
    places = [task_log.text.find(line) for line in told]
    assert -1 not in places
    assert places == sorted(places)
    # Narrated thoughts, answers of a language model, tools and the list of things to do are for debugging.
    for noise in ("What is asked for?", "Looking at the table again", "The page has a table", "open_page", "iVBOR"):
        assert noise not in task_log.text
    [screenshot] = (tmp_path / "shots" / world.xcoms["session_id"]).iterdir()
    assert screenshot.read_bytes().startswith(b"\x89PNG")
    assert world.xcoms["agent_builder_screenshot_link"] == screenshot.as_uri()
    conversation = json.loads((tmp_path / "agents" / "conversation.json").read_text())
    assert (conversation["agent_id"], conversation["last_user_prompt"]) == (agent_id, "Keep them")
    assert "Which of the tables do you want?" in conversation["message_history"]


@both_modes
def test_a_page_instead_of_a_prompt(sandbox: Sandbox, deferrable: bool) -> None:
    assert build_task().run(build(url="https://elements.example", deferrable=deferrable)) > 0


@both_modes
def test_asks_twice(sandbox: Sandbox, deferrable: bool) -> None:
    sandbox.script_sessions("asks_twice")
    agent_id = build_task().run(build(followups=["The first table", "Keep them"], deferrable=deferrable))
    assert sandbox.engine.agent(agent_id).id == agent_id
    assert messages(sandbox) == [{"message": "The first table"}, {"message": "Keep them"}]


@both_modes
def test_a_recoverable_error_is_only_told_of(sandbox: Sandbox, deferrable: bool) -> None:
    sandbox.script_sessions("recoverable_error")
    assert build_task().run(build(deferrable=deferrable)) > 0


@both_modes
def test_an_unrecoverable_error_is_retried_in_a_new_session(sandbox: Sandbox, deferrable: bool) -> None:
    sandbox.script_sessions("unrecoverable_error")
    world = build_task(retries=1)
    with pytest.raises(AgentBuilderFailed, match="could not be loaded"):
        world.run(build(deferrable=deferrable))
    world.next_attempt()
    assert world.run(build(deferrable=deferrable)) > 0
    assert effects(sandbox) == ["session_start", "session_start", "session_finish"]


@both_modes
def test_cancelled_elsewhere(sandbox: Sandbox, deferrable: bool) -> None:
    sandbox.script_sessions("cancelled")
    with pytest.raises(AgentBuilderEnded):
        build_task(retries=1).run(build(deferrable=deferrable))


@both_modes
def test_slow(sandbox: Sandbox, deferrable: bool) -> None:
    sandbox.script_sessions("slow")
    assert build_task().run(build(deferrable=deferrable)) > 0


@both_modes
def test_too_slow(sandbox: Sandbox, deferrable: bool) -> None:
    sandbox.settings.builder_seconds = 6000
    with pytest.raises(AgentBuilderTimeout):
        build_task().run(build(deferrable=deferrable, timeout=4))
    assert effects(sandbox) == ["session_start", "session_cancel"]


@both_modes
def test_single_shot(single_shot: Sandbox, deferrable: bool) -> None:
    world = build_task()
    agent_id = world.run(build(agent_name="Ignored there", deferrable=deferrable))
    assert single_shot.engine.agent(agent_id).id == agent_id
    assert world.xcoms["session"]["status"] in ("ready", "completed")
    assert effects(single_shot)[0] == "session_start"
    assert "session_finish" not in effects(single_shot)


def test_single_shot_sessions_are_stopped(single_shot: Sandbox) -> None:
    single_shot.settings.builder_seconds = 6000
    with pytest.raises(AgentBuilderTimeout):
        build_task().run(build(timeout=4))
    assert effects(single_shot) == ["session_start", "session_stop"]


@both_modes
def test_huge(sandbox: Sandbox, deferrable: bool, tmp_path: Path) -> None:
    sandbox.script_sessions("huge")
    assert build_task().run(build(deferrable=deferrable, screenshots_path=tmp_path.as_uri())) > 0
    sizes = sorted(path.stat().st_size for path in tmp_path.rglob("*.png"))
    assert sizes[1:] == [HUGE_SCREENSHOT_BYTES] * HUGE_SCREENSHOTS


@pytest.mark.parametrize("finish_id", ["agentId", "configId", "id", "none"])
def test_6_4_wherever_finish_names_the_agent(sandbox: Sandbox, finish_id: Any) -> None:
    sandbox.dialect.finish_id = finish_id
    assert build_task().run(build()) in sandbox.engine.state.agents


def test_6_5_a_server_that_says_ready_to_finish(sandbox: Sandbox) -> None:
    sandbox.dialect.builder_phase = True
    assert build_task().run(build()) > 0


@both_modes
def test_a_conversation_over_three_tasks(sandbox: Sandbox, deferrable: bool) -> None:
    sandbox.script_sessions("asks_twice")
    first = build_task()
    assert first.run(build(finish=False, deferrable=deferrable)) is None
    assert first.xcoms["session"]["last_message"] == "Which of the tables do you want?"
    second = build_task()
    going_on = {"session_id": first.xcoms["session_id"], "deferrable": deferrable}
    assert second.run(build(**going_on, followups=["The first"], finish=False)) is None
    assert second.xcoms["session"]["last_message"] == "Should rows without a value be kept?"
    assert build_task().run(build(**going_on, followups="Yes", agent_name="Elements")) > 0
    assert effects(sandbox) == ["session_start", "session_followup", "session_followup", "session_finish"]


@pytest.mark.parametrize("fault", ["reset_after", "reset_before", "garbage", "html", "status_after"])
@pytest.mark.parametrize("verb", ["followup", "finish"])
def test_a_lost_answer_to_a_message(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, verb: str, fault: Any) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.sessions.messages.REACTION_DELAYS", (0.0, 0.1, 0.2))
    sandbox.fail_next(f"POST /agent-builder/{{session_id}}/{verb}", fault)
    agent_id = build_task().run(build(followups="The first table", agent_name="Elements"))
    assert sandbox.engine.agent(agent_id).name == "Elements"
    assert effects(sandbox) == ["session_start", "session_followup", "session_finish"]


@pytest.mark.parametrize("fault", ["reset_after", "reset_before", "garbage", "html", "status_after"])
def test_a_lost_answer_to_the_start_is_never_followed_by_another_start(sandbox: Sandbox, fault: Any) -> None:
    sandbox.fail_next("POST /agent-builder/start", fault)
    world = build_task(retries=1)
    for _ in range(2):
        with pytest.raises(AgentBuilderEnded) as caught:
            world.run(build())
        assert isinstance(caught.value, AirflowFailException)
        world.next_attempt()
    posts = [entry for entry in sandbox.ledger.requests if entry.path.endswith("/start")]
    assert len(posts) == 1


def test_a_wrong_key_is_not_retried(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = sandbox.connection_uri.replace(sandbox.api_key, "sk-wrong")
    monkeypatch.setenv("AIRFLOW_CONN_SEQUENTUM_DEFAULT", wrong)
    with pytest.raises(SequentumConnectionException) as caught:
        build_task(retries=1).run(build())
    assert "sk-wrong" not in str(caught.value)


def test_a_refusal_in_an_envelope_is_not_retried(sandbox: Sandbox) -> None:
    with pytest.raises(SequentumRequestRefused):
        build_task(retries=1).run(build(url="not a url"))


def test_a_session_of_another_key_or_of_no_one(sandbox: Sandbox) -> None:
    with pytest.raises(AgentBuilderEnded):
        build_task(retries=1).run(build(session_id="unknown"))


@both_modes
def test_followups_on_a_finished_session(sandbox: Sandbox, deferrable: bool) -> None:
    world = build_task()
    agent_id = world.run(build())
    with pytest.raises(AgentBuilderEnded, match="1 of 1 follow-ups could not be sent") as caught:
        build_task().run(build(session_id=world.xcoms["session_id"], followups="more", deferrable=deferrable))
    assert (caught.value.session_id, caught.value.agent_id) == (world.xcoms["session_id"], agent_id)
    assert effects(sandbox) == ["session_start", "session_finish"]


@both_modes
def test_a_given_session_that_was_cancelled(sandbox: Sandbox, deferrable: bool) -> None:
    world = build_task()
    world.run(build(finish=False))
    sandbox.sessions.cancel(world.xcoms["session_id"])
    with pytest.raises(AgentBuilderEnded, match="was cancelled by a person or another program"):
        build_task(retries=1).run(build(session_id=world.xcoms["session_id"], followups="more", deferrable=deferrable))
    assert effects(sandbox) == ["session_start", "session_cancel"]


NAME_IN_USE = "An agent with this name already exists."


@both_modes
@pytest.mark.parametrize("status", [200, 400, 409, 422])
def test_an_agent_name_in_use_is_refused_once_and_leaves_nothing_running(
    sandbox: Sandbox, deferrable: bool, status: int
) -> None:
    # How the service refuses a name is not published: each of its ways to refuse has to do.
    refusal = {"success": False, "error": NAME_IN_USE} if status == 200 else {"title": "Refused", "detail": NAME_IN_USE}
    sandbox.fail_next(
        "POST /agent-builder/{session_id}/finish", "status", times=None, status=status, body=json.dumps(refusal)
    )
    with pytest.raises(AgentBuilderEnded, match=NAME_IN_USE) as caught:
        build_task(retries=2).run(build(agent_name="Elements", deferrable=deferrable))
    assert isinstance(caught.value, AirflowFailException)
    assert effects(sandbox) == ["session_start", "session_cancel"]
    # A conflict may pass, so it is tried three times.
    finishes = sum(entry.path.endswith("/finish") for entry in sandbox.ledger.requests)
    assert finishes == (3 if status == 409 else 1)


def test_a_session_of_a_key_that_is_not_ours(sandbox: Sandbox) -> None:
    # Whether the service hides such a session or refuses it is not published either.
    refusals = (
        (404, AgentBuilderEnded),
        (401, SequentumConnectionException),
        (403, SequentumConnectionException),
    )
    for status, kind in refusals:
        sandbox.fail_next("GET /agent-builder/{session_id}/status", status=status)
        with pytest.raises(kind) as caught:
            build_task(retries=1).run(build(session_id="theirs", followups="more"))
        assert isinstance(caught.value, AirflowFailException)
    assert effects(sandbox) == []


def test_the_key_is_nowhere_but_in_its_header(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    world = build_task()
    world.run(build(deferrable=True))
    assert sandbox.api_key not in f"{world.xcoms} {world.store.values} {caplog.text}"
    assert sandbox.ledger.leaks == []
