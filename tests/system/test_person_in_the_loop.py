"""A person answers the Agent Builder's questions, in a real browser on a real Airflow, until the agent is built."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from airflow_provider_sequentum.airflow_compat.trigger_life import MIN_TRIGGER_LIFETIME
from tests.system.browser import Browser, missing_browser

if TYPE_CHECKING:
    from airflow_provider_sequentum.sandbox import Sandbox
    from tests.system.harness import DagRun
    from tests.system.stage import Stage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing_browser() is not None, reason=str(missing_browser())),
]

ANSWER_FIELD = "//textarea[@name='element_answer']"


def option(name: str) -> str:
    return f"//button[@data-testid='hitl-option-{name}']"


@pytest.fixture
def _required_actions(stage: Stage) -> None:
    if stage.airflow.api.major < 3:
        pytest.skip("Airflow 2.11 has no required actions")


def open_question(stage: Stage, browser: Browser, run: DagRun, task_id: str, question: str) -> None:
    """Go to the required action of a task, as the link in the list of required actions does, and read it."""
    stage.airflow.wait_for_task(run, task_id, {"awaiting_input", "deferred"}, timeout=180)
    path = f"/dags/{run.dag_id}/runs/{quote(run.run_id, safe='')}/tasks/{task_id}/required_actions"
    browser.open(stage.airflow.url + path)
    browser.wait_for_text("The Agent Builder waits for you")
    browser.wait_for_text(question)
    time.sleep(MIN_TRIGGER_LIFETIME)  # A person reads it first; Airflow can fail a task that is answered sooner.


def said_in(sandbox: Sandbox, session_id: str) -> list[tuple[str, Any]]:
    return [(effect.kind, effect.detail) for effect in sandbox.ledger.effects if effect.session_id == session_id]


@pytest.mark.usefixtures("_required_actions")
def test_two_questions_are_answered_and_the_agent_is_approved(stage: Stage, tmp_path: Path) -> None:
    sandbox = stage.sandbox
    assert sandbox is not None
    sandbox.script_sessions("asks_twice")
    run = stage.airflow.trigger("person_in_the_loop", {"agent_name": "Approved by a person"})
    with Browser() as browser:
        open_question(stage, browser, run, "ask_1", "Which of the tables do you want?")
        browser.write(ANSWER_FIELD, "The first one")
        (tmp_path / "first_question.png").write_bytes(browser.screenshot())
        browser.click(option("Answer"))
        open_question(stage, browser, run, "ask_2", "Should rows without a value be kept?")
        # A person who writes nothing leaves it to the builder.
        (tmp_path / "second_question.png").write_bytes(browser.screenshot())
        browser.click(option("Answer"))
        open_question(stage, browser, run, "ask_3", "The agent is ready.")
        browser.wait_for_text("50 rows with state")
        (tmp_path / "approval.png").write_bytes(browser.screenshot())
        browser.click(option("Approve"))
    assert stage.airflow.wait(run, timeout=180).state == "success", stage.airflow.states(run)
    agent = sandbox.engine.agent(int(stage.airflow.xcom(run, "save")))
    assert agent.name == "Approved by a person"
    assert said_in(sandbox, stage.airflow.xcom(run, "begin", "session_id")) == [
        ("session_start", None),
        ("session_followup", {"message": "The first one"}),
        ("session_followup", {"message": "Decide as you think best."}),
        ("session_finish", {"agent_name": "Approved by a person"}),
    ]
    states = stage.airflow.states(run)
    assert (states["answer_3"], states["give_up"]) == ("skipped", "skipped")


@pytest.mark.usefixtures("_required_actions")
def test_a_person_who_gives_up_leaves_no_session_and_no_agent(stage: Stage) -> None:
    sandbox = stage.sandbox
    assert sandbox is not None
    sandbox.script_sessions("asks_twice")
    run = stage.airflow.trigger("person_in_the_loop")
    with Browser() as browser:
        open_question(stage, browser, run, "ask_1", "Which of the tables do you want?")
        browser.click(option("Give up"))
    assert stage.airflow.wait(run, timeout=180).state == "success", stage.airflow.states(run)
    effects = said_in(sandbox, stage.airflow.xcom(run, "begin", "session_id"))
    assert [kind for kind, _ in effects] == ["session_start", "session_cancel"]
    states = stage.airflow.states(run)
    assert {states[task] for task in ("answer_1", "ask_2", "save", "give_up")} == {"skipped"}
