"""The FAB auth manager: its roles, one of them for a single DAG, and those whose role hides plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from airflow_provider_sequentum.ui.task_link import TaskPageLink
from tests.ui.scene import ENDLESS, RUN_ID, FabScene, Person, task_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.browser import Browser
    from tests.system.harness import DagRun

VERBS = ("stop", "kill", "restart")


class Both(NamedTuple):
    """A run of each DAG, under one run id, so that only the DAG tells which is meant."""

    watched: DagRun
    hidden: DagRun
    agents: dict[str, int]


@pytest.fixture(scope="module")
def scene(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FabScene]:
    with FabScene(tmp_path_factory.mktemp("fab"), base_path="/air") as running:
        yield running


@pytest.fixture(scope="module")
def both(scene: FabScene) -> Iterator[Both]:
    agents = {name: scene.sandbox.add_agent(f"Agent of {name}").id for name in ("watched", "hidden")}
    runs = [scene.start(ENDLESS, run_id=RUN_ID, dag_id=name, agent_id=agent) for name, agent in agents.items()]
    for run in runs:
        scene.airflow.wait_for_task(run, "extract", {"deferred"})
    yield Both(runs[0], runs[1], agents)
    for run in runs:
        scene.post(run, "kill", "admin")
        scene.airflow.wait(run)


def test_another_dag_is_neither_seen_nor_acted_on(scene: FabScene, both: Both) -> None:
    since = len(scene.sandbox.ledger.effects)
    assert [scene.get(task_path(run), "team").status_code for run in both[:2]] == [200, 403]
    assert {scene.post(both.hidden, verb, "team").status_code for verb in VERBS} == {403}
    preview = task_path(both.hidden).replace("/task?", "/preview?") + "&sequentum_run=1&file=1"
    assert scene.get(preview, "team").status_code == 403
    agents = scene.get("agents", "team").text
    assert "dags/watched/task?" in agents
    assert "hidden" not in agents
    assert "dags/hidden/task?" in scene.get("agents", "viewer").text, "who may see it does"
    assert scene.effects(since) == []
    assert scene.audit(both.hidden) == []


def test_whoever_names_two_dags_reaches_only_the_one_of_the_path(scene: FabScene, both: Both) -> None:
    since = len(scene.sandbox.ledger.effects)
    seen = scene.get(f"{task_path(both.watched)}&dag_id=hidden", "team")
    assert seen.status_code in (200, 403)
    assert "Agent of hidden" not in seen.text
    assert f"of agent Agent of hidden {both.agents['hidden']}" not in seen.text
    assert scene.get(f"{task_path(both.hidden)}&dag_id=watched", "team").status_code == 403
    for verb in VERBS:
        for query in ("?dag_id=watched", "?dag_id=watched&dag_id=hidden", "?dag_id=~"):
            assert scene.post(both.hidden, verb, "team", query, dag_id="watched").status_code == 403
    assert scene.effects(since) == []
    answer = scene.post(both.watched, "kill", "team", "?dag_id=hidden", dag_id="hidden")
    assert answer.status_code == 200
    assert scene.airflow.wait(both.watched).state == "failed"
    done = scene.sandbox.ledger.effects[since:]
    assert {effect.agent_id for effect in done} == {both.agents["watched"]}
    assert scene.airflow.dag_run(both.hidden).state == "running"
    [(event, who, _)] = scene.audit(both.watched)
    assert (event, who) == ("sequentum_kill", "team")


def test_viewers_see_and_nobody_acts_without_rights(scene: FabScene, both: Both) -> None:
    since = len(scene.sandbox.ledger.effects)
    assert scene.get(task_path(both.hidden), "viewer").status_code == 200
    assert {scene.post(both.hidden, verb, "viewer").status_code for verb in VERBS} == {403}
    assert {scene.post(both.hidden, verb, None).status_code for verb in VERBS} == {401}
    assert [scene.get(path, None).status_code for path in ("agents", task_path(both.hidden))] == [401, 401]
    assert scene.effects(since) == []


def test_whose_role_hides_plugins_reaches_the_page_by_the_button(scene: FabScene, both: Both, browser: Browser) -> None:
    viewer = Person(scene, browser, "viewer")
    viewer.open_task(both.hidden)
    browser.wait_for_text(TaskPageLink.name)
    tabs = "return document.querySelectorAll(`a[href*='plugin/sequentum_task']`).length"
    assert browser.run(tabs) == 0, "FAB's viewers have no tab"
    browser.open(browser.address_of(TaskPageLink.name))
    browser.wait_for_text("Agent of hidden")
    admin = Person(scene, browser, "admin")
    admin.open_task(both.hidden)
    browser.wait_until(lambda: browser.run(tabs) == 1, "an administrator has a tab")
