"""The page and the tab in a real browser on a real Airflow, with people of several roles: ``make test-ui``."""

from __future__ import annotations

import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from airflow_provider_sequentum.sandbox import RunPlan
from tests.ui.scene import RUN_ID, Person

if TYPE_CHECKING:
    from tests.system.browser import Browser
    from tests.system.harness import DagRun
    from tests.ui.scene import Scene

ENDLESS = RunPlan(outcome="Running")
VERBS = ("stop", "kill", "restart")


def task_path(run: DagRun) -> str:
    return f"dags/{run.dag_id}/task?run_id={quote(run.run_id, safe='')}&task_id=extract&map_index=-1"


def start(scene: Scene, *plans: RunPlan, run_id: str | None = None, agent: str = "Prices") -> DagRun:
    """Let the DAG run a new agent."""
    made = scene.sandbox.add_agent(agent, records=[{"sku": f"A{number}", "price": number} for number in range(40)])
    scene.sandbox.plan_runs(made.id, plans)
    return scene.airflow.trigger("watched", {"agent_id": made.id}, run_id=run_id)


def effects(scene: Scene, since: int) -> list[str]:
    return [effect.kind for effect in scene.sandbox.ledger.effects[since:]]


def audit(scene: Scene, run: DagRun) -> list[tuple[str, str, str]]:
    """Return event, user and outcome of the UI's rows in Airflow's audit log about a run, oldest first."""
    entries = scene.airflow.api.get("/eventLogs", dag_id=run.dag_id, run_id=run.run_id, limit=100)["event_logs"]
    own = sorted((each for each in entries if each["event"].startswith("sequentum_")), key=lambda each: each["when"])
    return [(each["event"], each["owner"], json.loads(each["extra"])["outcome"]) for each in own]


def test_without_a_run(scene: Scene, browser: Browser) -> None:
    viewer = Person(scene, browser, "viewer")
    viewer.open_agents()
    viewer.wait_for("No task of your DAGs has run an agent yet")
    plain = scene.airflow.wait(scene.airflow.trigger("plain"))
    asked = len(scene.sandbox.ledger.requests)
    viewer.open_tab(plain, "add")
    viewer.wait_for("This task is not one of the Sequentum provider.")
    assert len(scene.sandbox.ledger.requests) == asked


def test_a_person_stops_a_run(scene: Scene, browser: Browser) -> None:
    since = len(scene.sandbox.ledger.effects)
    run = start(scene, ENDLESS, run_id=RUN_ID)
    scene.airflow.wait_for_task(run, "extract", {"deferred"})
    user = Person(scene, browser, "user")
    user.open_tab(run)
    user.wait_for("Running")
    user.press("stop")
    user.wait_for("asked for by user")
    assert scene.airflow.wait(run).state == "failed"
    user.wait_for("It has been stopped.")
    assert effects(scene, since) == ["start", "stop"]
    [(event, who, outcome)] = audit(scene, run)
    assert (event, who) == ("sequentum_stop", "user")
    assert outcome.endswith("It has been stopped.")


def test_a_person_who_cancels_does_nothing(scene: Scene, browser: Browser) -> None:
    since = len(scene.sandbox.ledger.effects)
    run = start(scene, ENDLESS, run_id="cancelled in the dialog")
    scene.airflow.wait_for_task(run, "extract", {"deferred"})
    user = Person(scene, browser, "user")
    user.open_tab(run)
    user.wait_for("Running")
    user.in_frame("page.getElementById('do-kill').click(); page.getElementById('dialog-no').click()")
    assert not user.in_frame("return page.getElementById('dialog').open")
    assert effects(scene, since) == ["start"]
    scene.post(run, "kill", "user")
    scene.airflow.wait(run)


def test_a_person_kills_a_run_that_ignores_a_stop(scene: Scene, browser: Browser) -> None:
    since = len(scene.sandbox.ledger.effects)
    run = start(scene, RunPlan(outcome="Running", ignores_stop=True))
    scene.airflow.wait_for_task(run, "extract", {"deferred"})
    user = Person(scene, browser, "user")
    user.open_tab(run)
    user.wait_for("Running")
    user.press("kill")
    assert scene.airflow.wait(run).state == "failed"
    user.wait_for("It has been stopped.")
    assert effects(scene, since) == ["start", "stop", "kill"]


def test_a_person_restarts_a_failure_in_place(scene: Scene, browser: Browser) -> None:
    since = len(scene.sandbox.ledger.effects)
    run = start(scene, RunPlan(outcome="Failure", duration=1.0), RunPlan(duration=1.0))
    assert scene.airflow.wait(run).state == "failed"
    user = Person(scene, browser, "user")
    user.open_tab(run)
    user.wait_for("Restart in place", 120)
    user.press("restart")
    user.wait_for("its next attempt restarts the run in place")
    scene.airflow.wait_for_task(run, "extract", {"success"}, timeout=120)
    assert effects(scene, since) == ["start", "restart"]
    assert [(event, who) for event, who, _ in audit(scene, run)] == [("sequentum_restart", "user")]


def test_a_viewer_is_refused_and_nobody_is_not_known(scene: Scene, browser: Browser) -> None:
    run = start(scene, ENDLESS)
    scene.airflow.wait_for_task(run, "extract", {"deferred"})
    since = len(scene.sandbox.ledger.effects)
    viewer = Person(scene, browser, "viewer")
    viewer.open_tab(run)
    viewer.wait_for("Running")
    assert viewer.in_frame("return page.querySelectorAll('button[data-verb]').length") == 0
    assert {scene.post(run, verb, "viewer").status_code for verb in VERBS} == {403}
    assert {scene.post(run, verb, None).status_code for verb in VERBS} == {401}
    assert [scene.get(path, None).status_code for path in ("agents", task_path(run))] == [401, 401]
    assert effects(scene, since) == []
    assert audit(scene, run) == []
    scene.post(run, "kill", "admin")
    scene.airflow.wait(run)


def test_a_thousand_runs(scene: Scene, browser: Browser) -> None:
    scene.add_history(1000, agents=34, first_agent_id=50)
    viewer = Person(scene, browser, "viewer")
    browser.wait_until(lambda: scene.get("agents", "viewer").text.count("<svg") >= 34, "the runs are seen")
    answer = scene.get("agents", "viewer")
    assert len(answer.content) < 200_000
    assert answer.text.count("<rect") >= 990
    painted = []
    for _ in range(10):
        viewer.open_agents()
        browser.wait_until(lambda: bool(viewer.in_frame(_PAINT)), "the frame was painted")
        painted.append(viewer.in_frame(_PAINT))
    sys.stdout.write(f"painted after {sorted(round(each) for each in painted)} ms\n")
    assert statistics.median(painted) < 300


_PAINT = """
    const timing = page.defaultView.performance;
    const paint = timing.getEntriesByName("first-contentful-paint")[0];
    return paint && paint.startTime - timing.getEntriesByType("navigation")[0].responseStart;
"""


def test_ten_people_who_reload_are_served_at_once_and_the_service_is_hardly_asked(scene: Scene) -> None:
    run = start(scene, RunPlan(duration=1.0))
    scene.airflow.wait(run)
    asked = len(scene.sandbox.ledger.requests)

    def reload(number: int) -> float:
        started = time.monotonic()
        assert scene.get((task_path(run), "agents")[number % 2], "viewer").status_code == 200
        return time.monotonic() - started

    with ThreadPoolExecutor(10) as people:
        seconds = sorted(people.map(reload, range(200)))
    requests = len(scene.sandbox.ledger.requests) - asked
    sys.stdout.write(
        f"200 pages: median {statistics.median(seconds):.2f} s, longest {seconds[-1]:.2f} s; {requests=}\n"
    )
    assert requests <= 8, "four a minute"
    assert statistics.median(seconds) < 2


def failed_run(scene: Scene) -> DagRun:
    return scene.airflow.wait(start(scene, RunPlan(outcome="Failure", duration=1.0, message="Timed out.")))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_the_theme_is_airflow_s_and_axe_finds_nothing(
    scene: Scene, browser: Browser, axe: str, theme: str, width: int
) -> None:
    runs = failed_run(scene), start(scene, ENDLESS)
    scene.airflow.wait_for_task(runs[1], "extract", {"deferred"})
    user = Person(scene, browser, "user")
    user.choose_theme(theme)
    user.open_agents()
    assert user.in_frame("return page.documentElement.classList.contains('dark')") is (theme == "dark")
    browser.show_as_device(width, 900)
    try:
        for path in ("agents", *map(task_path, runs)):
            user.open_alone(path)
            browser.run(f"document.documentElement.classList.toggle('dark', {str(theme == 'dark').lower()})")
            browser.run("document.getElementById('do-stop')?.click()")
            assert browser.run("return document.documentElement.scrollWidth") <= width
            assert browser.run(f"{axe}; {_VIOLATIONS}") == []
    finally:
        browser.show_as_window()
        scene.post(runs[1], "kill", "admin")
        scene.airflow.wait(runs[1])


def test_axe_finds_what_is_wrong(scene: Scene, browser: Browser, axe: str) -> None:
    viewer = Person(scene, browser, "viewer")
    viewer.open_alone("agents")
    browser.run("document.getElementById('main').append(new Image(), document.createElement('button'))")
    found = browser.run(f"{axe}; {_VIOLATIONS}")
    assert {each.partition(":")[0] for each in found} == {"button-name", "image-alt"}


_VIOLATIONS = """
    return axe.run(document).then(found => found.violations.map(
        each => each.id + ": " + each.nodes.map(node => node.html + " " + node.failureSummary).join("; ")));
"""


def test_links_lead_somewhere(scene: Scene, browser: Browser) -> None:
    run = failed_run(scene)
    viewer = Person(scene, browser, "viewer")
    viewer.open_alone(task_path(run))
    links: list[str] = browser.run("return [...document.querySelectorAll('.place a')].map(link => link.href)")
    assert [viewer.get(link).status_code for link in links] == [200, 200]
    browser.run("document.querySelector('.place a[data-airflow]').click()")
    browser.wait_for_text("extract")
    viewer.open_tab(run)
    viewer.in_frame("page.querySelector('.place a:first-child').click()")
    browser.wait_until(lambda: "Sequentum agents" in viewer.text, "the frame shows all agents")
    viewer.in_frame("page.querySelector('a[data-airflow]').click()")
    browser.wait_until(lambda: "/dags/watched/runs/" in browser.run("return location.href"), "Airflow shows the task")


def test_a_page_that_cannot_be_refreshed_says_so(scene: Scene, browser: Browser) -> None:
    run = failed_run(scene)
    viewer = Person(scene, browser, "viewer")
    viewer.open_alone(task_path(run))
    browser.run("document.cookie = '_token=; path=/; expires=Thu, 01 Jan 1970 00:00:00 GMT'")
    browser.wait_for_text("you are logged out")


def test_the_key_is_in_nothing_that_the_browser_got(scene: Scene, browser: Browser) -> None:
    run = start(scene, RunPlan(duration=1.0))
    scene.airflow.wait(run)
    admin = Person(scene, browser, "admin")
    admin.open_tab(run)
    admin.wait_for("output.csv", 120)
    entries: list[Any] = admin.in_frame("return page.defaultView.performance.getEntries().map(entry => entry.name)")
    addresses = [entry for entry in entries if entry.startswith("http")]
    assert len(addresses) >= 3
    for address in addresses:
        answer = admin.get(address)
        assert scene.sandbox.api_key not in answer.text + str(answer.headers)
    assert scene.sandbox.api_key not in scene.get("agents", "admin").text
    assert scene.sandbox.api_key not in scene.airflow.service_log("api-server")
