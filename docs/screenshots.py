"""
The documentation's screenshots, taken from a real Airflow with the sandbox: ``make screenshots``.

``SCREENSHOTS=report`` takes only those of the report on records, which need no Airflow.

It needs ``chromium`` and ``chromedriver``.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_sequentum.quality.check import Check, check_records
from airflow_provider_sequentum.quality.contract import Contract, parse_contract
from airflow_provider_sequentum.quality.engine import open_workspace
from airflow_provider_sequentum.sandbox import RunPlan
from airflow_provider_sequentum.transfers.landing import LandingFolder
from tests.quality_corpus.data_sets import DataSet, Row
from tests.system.browser import Browser, missing_browser
from tests.system.stage import Stage
from tests.ui.scene import Person, Scene

if TYPE_CHECKING:
    from tests.system.harness import DagRun

IMAGES = Path(__file__).parent / "images"
SIZE = (1280, 860)
LARGEST = 200_000
"""Bytes that a picture may have: it is part of every clone."""

RUN_TASK = "run_agent"


class Photographer:
    """
    Takes the pictures.

    :param stage: the running Airflow.
    :param browser: the open browser.
    """

    def __init__(self, stage: Stage, browser: Browser) -> None:
        self._stage = stage
        self._browser = browser

    def connection_form(self) -> None:
        """The form for a new connection, of the provider's type and with its own fields."""
        self._browser.resize(1280, 1500)
        self._browser.open(f"{self._stage.airflow.url}/connections")
        self._browser.click("//button[contains(., 'Add Connection')]")
        self._browser.write("//input[@role='combobox']", "Sequentum")
        self._browser.click("//*[@role='option'][contains(., 'Sequentum Cloud')]")
        self._browser.click("//button[contains(@id, ':trigger:Extra Fields')]")
        self._browser.wait_for_text("Requests per minute")
        _take(self._browser, "connection-form")
        self._browser.resize(*SIZE)

    def grid(self, run: DagRun) -> None:
        """The quickstart's tasks, all of them done."""
        self._browser.open(self._page(run))
        self._browser.wait_for_text("land_files")
        _take(self._browser, "grid")

    def task_log(self, run: DagRun) -> None:
        """The log of a task that has waited, with the button that leads to its run."""
        self._browser.open(f"{self._page(run)}/tasks/{RUN_TASK}")
        self._browser.wait_for_text("succeeded")
        _take(self._browser, "task-log")

    def sandbox_run(self) -> None:
        """The page that the button leads to, in the sandbox."""
        if self._stage.sandbox is None:
            raise RuntimeError("The pictures are taken with the sandbox")
        agent_id = self._stage.example_agent_id
        run_id = self._stage.sandbox.ledger.runs(int(agent_id))[-1].run_id
        self._browser.resize(1000, 1200)
        self._browser.open(f"{self._stage.sandbox.base_url}/agents/{agent_id}/runs/{run_id}")
        _take(self._browser, "sandbox-run")
        self._browser.resize(*SIZE)

    def _page(self, run: DagRun) -> str:
        return f"{self._stage.airflow.url}/dags/{run.dag_id}/runs/{quote(run.run_id, safe='')}"


class UiPhotographer:
    """
    Takes the pictures of the provider's own page and tab in Airflow's UI.

    :param scene: the running Airflow, whose DAG runs the agent it is given.
    :param browser: the open browser.
    """

    AGENTS = ("Competitor prices", "Store locations", "Job postings", "Product reviews", "Flight fares", "Recalls")

    def __init__(self, scene: Scene, browser: Browser) -> None:
        self._scene = scene
        self._browser = browser
        self._person = Person(scene, browser, "user")
        browser.show_as_device(1280, 960)

    def take_all(self) -> None:
        """Let agents run; take a run that failed, one that is running, and the page of all agents."""
        sandbox = self._scene.sandbox
        records = [{"sku": f"A{number}", "store": "Lyon", "price": 9.5 + number} for number in range(480)]
        agents = [sandbox.add_agent(name, records=records).id for name in self.AGENTS]
        self._scene.add_history(175, agents=len(agents), first_agent_id=agents[0])
        message = "A page took longer than 60 seconds."
        failure = RunPlan(outcome="Failure", duration=92, record_count=310, error_count=4, message=message)
        failed = self._started(agents[1], failure, "2026-11-27 06:00")
        sandbox.advance(95)
        self._scene.airflow.wait(failed)
        running = self._started(agents[0], RunPlan(outcome="Running", duration=80), "2026-11-27 07:00")
        sandbox.advance(41)
        self._tab("ui-failure", failed, "Suggested actions", "Size")
        self._checked(agents[3])
        self._tab("ui-running", running, "From the service", "Stop")
        self._person.open_agents()
        self._person.wait_for(self.AGENTS[-1], 200)
        _take(self._browser, "ui-agents")

    def _checked(self, agent_id: int) -> None:
        """A run whose records a later task refused, with what it cost."""
        plan = RunPlan(duration=75, record_count=480)
        run = self._started(agent_id, plan, "2026-11-27 06:30", "checked")
        self._scene.sandbox.advance(80)
        self._scene.airflow.wait(run)
        self._tab("ui-check", run, "Check of the records", "Cost of the task", "Size")

    def _started(self, agent_id: int, plan: RunPlan, run_id: str, dag_id: str = "watched") -> DagRun:
        run = self._scene.start(plan, run_id=run_id, dag_id=dag_id, agent_id=agent_id)
        self._scene.airflow.wait_for_task(run, "extract", {"deferred"})
        return run

    def _tab(self, name: str, run: DagRun, *texts: str) -> None:
        self._person.open_tab(run)
        for text in texts:
            self._person.wait_for(text, 200)
        _take(self._browser, name)


class ReportPhotographer:
    """
    Takes the pictures of the page that a check of records leaves.

    :param folder: an empty folder for the runs.
    :param browser: the open browser.
    """

    RUNS = 16
    HALF = 12

    def __init__(self, folder: Path, browser: Browser) -> None:
        self._folder = folder
        self._browser = browser

    def take_all(self) -> None:
        """Check the runs of a shop that changes from day to day; the last one is broken in three ways."""
        contract = parse_contract(
            {"key": "sku", "rules": [{"rule": "unique", "columns": ["sku"], "on_breach": "warn"}]}
        )
        runs = enumerate(DataSet(120).runs(self.RUNS), start=1)
        pages = [self._check(run, self._delivered(run, rows), contract) for run, rows in runs]
        for scheme in ("light", "dark"):
            self._browser.prefer(scheme)
            self._browser.show_as_device(1100, 1330)
            self._browser.open(pages[-1].as_uri())
            _take(self._browser, f"check-report-{scheme}")

    def _delivered(self, run: int, rows: list[Row]) -> list[Row]:
        if run == self.HALF:
            return rows[: len(rows) // 2]
        if run < self.RUNS:
            return rows
        unreadable = [{**row, "price": f"from {row['price']}"} for row in rows]
        return [{**row, "category": row["category"] if place % 3 else ""} for place, row in enumerate(unreadable)] + [
            dict(row) for row in unreadable[:12]
        ]

    def _check(self, run: int, rows: list[Row], contract: Contract) -> Path:
        folder = LandingFolder(ObjectStoragePath(self._folder.as_uri()) / f"run-{run}")
        file = self._folder / f"run-{run}" / "rows.csv"
        file.parent.mkdir()
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        profiles = LandingFolder(ObjectStoragePath(self._folder.as_uri()) / "profiles")
        files = [folder.file(file.name)]
        check = Check(7, run, files, contract, profiles, folder, on_drift="fail", learn_from=10, text_options={})
        with open_workspace() as workspace:
            check_records(check, workspace)
        return file.with_name(check.page_name)


def _take(browser: Browser, name: str) -> None:
    time.sleep(2)  # what the page still loads and animates
    picture = browser.screenshot()
    if len(picture) > LARGEST:
        raise ValueError(f"{name}.png would have {len(picture)} bytes, more than {LARGEST}")
    (IMAGES / f"{name}.png").write_bytes(picture)
    print(f"{name}.png: {len(picture)} bytes")


def main() -> int:
    """Start Airflow, run two examples, take the pictures; then again with the DAGs of the UI's tests."""
    if missing := missing_browser():
        print(missing, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        ReportPhotographer(Path(folder), browser).take_all()
    if sys.argv[1:] == ["report"]:
        return 0
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder)) as stage, Browser() as browser:
        photographer = Photographer(stage, browser)
        photographer.connection_form()
        photographer.grid(stage.airflow.wait(stage.airflow.trigger("quickstart"), timeout=300))
        if stage.sandbox is not None:
            stage.sandbox.plan_runs(int(stage.example_agent_id), [RunPlan(queue_seconds=8, duration=50)])
        photographer.task_log(stage.airflow.wait(stage.airflow.trigger("partial_results"), timeout=300))
        photographer.sandbox_run()
    with tempfile.TemporaryDirectory() as folder, Scene(Path(folder)) as scene, Browser() as browser:
        UiPhotographer(scene, browser).take_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
