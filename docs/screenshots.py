"""
The documentation's screenshots, taken from a real Airflow with the sandbox: ``make screenshots``.

It needs ``chromium`` and ``chromedriver``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow_provider_sequentum.sandbox import RunPlan
from tests.system.browser import Browser, missing_browser
from tests.system.stage import Stage

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
        self._take("connection-form")
        self._browser.resize(*SIZE)

    def grid(self, run: DagRun) -> None:
        """The quickstart's tasks, all of them done."""
        self._browser.open(self._page(run))
        self._browser.wait_for_text("land_files")
        self._take("grid")

    def task_log(self, run: DagRun) -> None:
        """The log of a task that has waited, with the button that leads to its run."""
        self._browser.open(f"{self._page(run)}/tasks/{RUN_TASK}")
        self._browser.wait_for_text("ended well")
        self._take("task-log")

    def sandbox_run(self) -> None:
        """The page that the button leads to, in the sandbox."""
        if self._stage.sandbox is None:
            raise RuntimeError("The pictures are taken with the sandbox")
        agent_id = self._stage.example_agent_id
        run_id = self._stage.sandbox.ledger.runs(int(agent_id))[-1].run_id
        self._browser.resize(1000, 1200)
        self._browser.open(f"{self._stage.sandbox.base_url}/agents/{agent_id}/runs/{run_id}")
        self._take("sandbox-run")
        self._browser.resize(*SIZE)

    def _page(self, run: DagRun) -> str:
        return f"{self._stage.airflow.url}/dags/{run.dag_id}/runs/{quote(run.run_id, safe='')}"

    def _take(self, name: str) -> None:
        time.sleep(2)  # what the page still loads and animates
        picture = self._browser.screenshot()
        if len(picture) > LARGEST:
            raise ValueError(f"{name}.png would have {len(picture)} bytes, more than {LARGEST}")
        (IMAGES / f"{name}.png").write_bytes(picture)
        print(f"{name}.png: {len(picture)} bytes")


def main() -> int:
    """Start Airflow, run two examples, take the pictures."""
    if missing := missing_browser():
        print(missing, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder)) as stage, Browser() as browser:
        photographer = Photographer(stage, browser)
        photographer.connection_form()
        photographer.grid(stage.airflow.wait(stage.airflow.trigger("quickstart"), timeout=300))
        if stage.sandbox is not None:
            stage.sandbox.plan_runs(int(stage.example_agent_id), [RunPlan(queue_seconds=8, duration=50)])
        photographer.task_log(stage.airflow.wait(stage.airflow.trigger("partial_results"), timeout=300))
        photographer.sandbox_run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
