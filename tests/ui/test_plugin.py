"""The page and the tab in a real browser on a real Airflow, with people of several roles: ``make test-ui``."""

from __future__ import annotations

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from airflow_provider_sequentum.sandbox import RunPlan
from airflow_provider_sequentum.ui.task_link import TaskPageLink
from tests.system.harness import DagRun
from tests.ui.scene import ENDLESS, RUN_ID, Person, task_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.browser import Browser
    from tests.ui.scene import Scene

VERBS = ("stop", "kill", "restart")
KEEPS_RECORDS = tuple(map(int, version("apache-airflow").split(".")[:2])) >= (3, 3)
"""Whether this Airflow keeps what the next attempt has to know to restart a run in place."""


def test_without_a_run(scene: Scene, browser: Browser) -> None:
    viewer = Person(scene, browser, "viewer")
    viewer.open_agents()
    viewer.wait_for("No task of your DAGs has run an agent yet")
    plain = scene.airflow.wait(scene.airflow.trigger("plain"))
    asked = len(scene.sandbox.ledger.requests)
    viewer.open_tab(plain, "add")
    viewer.wait_for("Nothing is shown for this task")
    assert len(scene.sandbox.ledger.requests) == asked
    without = scene.airflow.wait(scene.start(agent_id=987654))
    viewer.open_tab(without)
    viewer.wait_for("This task has not started a run, or has not stored which one. Its log says why.")


def test_one_run(scene: Scene, browser: Browser) -> None:
    run = scene.start(RunPlan(duration=1.0))
    scene.airflow.wait(run)
    viewer = Person(scene, browser, "viewer")
    viewer.open_tab(run)
    viewer.wait_for("Success")
    viewer.wait_for("output.csv", 120)
    viewer.open_agents()
    viewer.wait_for("Prices")
    assert viewer.in_frame("return page.querySelectorAll('.agents li').length") >= 1


def test_a_person_stops_a_run(scene: Scene, browser: Browser) -> None:
    since = len(scene.sandbox.ledger.effects)
    run = scene.start(ENDLESS, run_id=RUN_ID)
    scene.airflow.wait_for_task(run, "extract", {"deferred"})
    user = Person(scene, browser, "user")
    user.open_tab(run)
    user.wait_for("Running")
    user.press("stop")
    user.wait_for("requested by user")
    assert scene.airflow.wait(run).state == "failed"
    user.wait_for("It has been stopped.")
    assert scene.effects(since) == ["start", "stop"]
    [(event, who, outcome)] = scene.audit(run)
    assert (event, who) == ("sequentum_stop", "user")
    assert outcome.endswith("It has been stopped.")


def test_a_person_who_cancels_does_nothing(scene: Scene, browser: Browser) -> None:
    since = len(scene.sandbox.ledger.effects)
    run = scene.start(ENDLESS, run_id="cancelled in the dialog")
    scene.airflow.wait_for_task(run, "extract", {"deferred"})
    user = Person(scene, browser, "user")
    user.open_tab(run)
    user.wait_for("Running")
    user.in_frame("page.getElementById('do-kill').click(); page.getElementById('dialog-no').click()")
    assert not user.in_frame("return page.getElementById('dialog').open")
    assert scene.effects(since) == ["start"]
    scene.post(run, "kill", "user")
    scene.airflow.wait(run)


def test_a_person_kills_a_run_that_ignores_a_stop(scene: Scene, browser: Browser) -> None:
    since = len(scene.sandbox.ledger.effects)
    run = scene.start(RunPlan(outcome="Running", ignores_stop=True))
    scene.airflow.wait_for_task(run, "extract", {"deferred"})
    user = Person(scene, browser, "user")
    user.open_tab(run)
    user.wait_for("Running")
    user.press("kill")
    assert scene.airflow.wait(run).state == "failed"
    user.wait_for("It has been stopped.")
    assert scene.effects(since) == ["start", "stop", "kill"]


def test_a_person_restarts_a_failure(scene: Scene, browser: Browser) -> None:
    button = "Restart in place" if KEEPS_RECORDS else "Start a new run"
    since = len(scene.sandbox.ledger.effects)
    run = scene.start(RunPlan(outcome="Failure", duration=1.0), RunPlan(duration=1.0))
    assert scene.airflow.wait(run).state == "failed"
    user = Person(scene, browser, "user")
    user.open_tab(run)
    user.wait_for(button, 120)
    user.press("restart")
    user.wait_for(f"its next attempt {'restarts the run in place' if KEEPS_RECORDS else 'starts a new run'}")
    scene.airflow.wait_for_task(run, "extract", {"success"}, timeout=120)
    assert scene.effects(since) == ["start", "restart" if KEEPS_RECORDS else "start"]
    assert [(event, who) for event, who, _ in scene.audit(run)] == [("sequentum_restart", "user")]


def test_a_viewer_is_refused_and_nobody_is_not_known(scene: Scene, browser: Browser) -> None:
    run = scene.start(ENDLESS)
    scene.airflow.wait_for_task(run, "extract", {"deferred"})
    since = len(scene.sandbox.ledger.effects)
    viewer = Person(scene, browser, "viewer")
    viewer.open_tab(run)
    viewer.wait_for("Running")
    assert viewer.in_frame("return page.querySelectorAll('button[data-verb]').length") == 0
    assert {scene.post(run, verb, "viewer").status_code for verb in VERBS} == {403}
    assert {scene.post(run, verb, None).status_code for verb in VERBS} == {401}
    assert [scene.get(path, None).status_code for path in ("agents", task_path(run))] == [401, 401]
    assert scene.effects(since) == []
    assert scene.audit(run) == []
    scene.post(run, "kill", "admin")
    scene.airflow.wait(run)


def test_a_thousand_runs(scene: Scene, browser: Browser) -> None:
    scene.add_history(1000, agents=34, first_agent_id=50)
    scene.add_rows("add_space", dag_id="watched", run_id="a space", count=1000)
    viewer = Person(scene, browser, "viewer")
    browser.wait_until(lambda: scene.get("agents", "viewer").text.count("<svg") >= 34, "the runs are seen")
    answer = scene.get("agents", "viewer")
    assert answer.text.count("<rect") >= 990
    space = DagRun("watched", "a space", "success")
    tab = scene.get(task_path(space), "viewer")
    assert "runs that are not listed: " in tab.text
    assert max(len(answer.content), len(tab.content)) < 200_000
    for name, open_page in (("page", viewer.open_agents), ("tab", lambda: viewer.open_tab(space))):
        painted = [painted_after(viewer, browser, open_page) for _ in range(10)]
        sys.stdout.write(f"{name}: painted after {sorted(round(each) for each in painted)} ms\n")


def painted_after(person: Person, browser: Browser, open_page: Callable[[], None]) -> float:
    """Return the milliseconds from the first byte of the frame's document until it was painted."""
    open_page()
    browser.wait_until(lambda: bool(person.in_frame(_PAINT)), "the frame was painted")
    return float(person.in_frame(_PAINT))


_PAINT = """
    const timing = page.defaultView.performance;
    const paint = timing.getEntriesByName("first-contentful-paint")[0];
    return paint && paint.startTime - timing.getEntriesByType("navigation")[0].responseStart;
"""


def test_ten_people_who_reload_are_served_at_once_and_the_service_is_hardly_asked(scene: Scene) -> None:
    run = scene.start(RunPlan(duration=1.0))
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


def failed_run(scene: Scene) -> DagRun:
    return scene.airflow.wait(scene.start(RunPlan(outcome="Failure", duration=1.0, message="Timed out.")))


def checked_run(scene: Scene) -> DagRun:
    return scene.airflow.wait(scene.start(RunPlan(duration=1.0), dag_id="checked"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_the_theme_is_airflow_s_and_axe_finds_nothing(
    scene: Scene, browser: Browser, axe: str, theme: str, width: int
) -> None:
    going = scene.start(ENDLESS)
    runs = failed_run(scene), checked_run(scene), going, DagRun("watched", "a space", "success")
    scene.airflow.wait_for_task(going, "extract", {"deferred"})
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
        scene.post(going, "kill", "admin")
        scene.airflow.wait(going)


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


def test_the_check_of_a_run_s_records_and_what_the_task_cost_are_on_its_tab(scene: Scene, browser: Browser) -> None:
    run = checked_run(scene)
    viewer = Person(scene, browser, "viewer")
    for task_id in ("extract", "check"):
        viewer.open_tab(run, task_id)
        viewer.wait_for("was checked by the task check")
        assert "records: 40" in viewer.text
    viewer.open_tab(run)
    viewer.wait_for("Cost of the task")


def test_the_button_of_a_task_leads_to_its_page(scene: Scene, browser: Browser) -> None:
    run = scene.start(ENDLESS)
    scene.airflow.wait_for_task(run, "extract", {"deferred"})
    user = Person(scene, browser, "user")
    user.open_task(run)
    browser.wait_for_text(TaskPageLink.name)
    address = browser.address_of(TaskPageLink.name)
    assert address == f"{scene.airflow.url}/sequentum/{task_path(run)}"
    browser.open(address)
    browser.wait_for_text("Running")
    browser.run("document.getElementById('do-kill').click(); document.getElementById('dialog-yes').click()")
    browser.wait_for_text("requested by user")
    assert scene.airflow.wait(run).state == "failed"
    assert "XCom not found" not in scene.airflow.log(run, "extract")
    plain = scene.airflow.wait(scene.airflow.trigger("plain"))
    links = scene.airflow.api.get(f"/dags/plain/dagRuns/{plain.run_id}/taskInstances/add/links")
    assert links["extra_links"] == {}
