"""An Airflow with people of several roles, the sandbox, and someone in front of a browser."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from airflow_provider_sequentum.sandbox import Sandbox
from tests.system.harness import AirflowInstance

if TYPE_CHECKING:
    from typing import Self

    from tests.system.browser import Browser
    from tests.system.harness import DagRun

DAGS = Path(__file__).parent / "dags"
ROLES = ("admin", "user", "viewer")
RUN_ID = "by hand + 2026-11-27T10:00:00+00:00"
"""With all that makes run ids hard: spaces, pluses, colons."""

_SEED = """
import sys
from airflow.models import import_all_models
from airflow.utils.session import create_session
from tests.support.airflow_rows import add_history
import_all_models()
count, agents, first = map(int, sys.argv[1:4])
with create_session() as session:
    add_history(session, "watched", count=count, agents=agents, first_agent_id=first, conn_id="sequentum_default")
"""


class Scene:
    """A running Airflow with the UI's DAGs, and a sandbox.

    :param folder: everything that is written goes below it.
    :param base_path: a path prefix of all of Airflow's addresses.
    """

    def __init__(self, folder: Path, base_path: str = "") -> None:
        self.sandbox = Sandbox(time_scale=1.0, rate_limit=10_000)
        self._folder = folder
        self._passwords = {role: f"the {role}'s own" for role in ROLES}
        passwords = folder / "passwords.json"
        passwords.write_text(json.dumps(self._passwords))
        (folder / "dags").symlink_to(DAGS)
        self.airflow = AirflowInstance(
            folder / "airflow",
            folder / "dags",
            python=sys.executable,
            database="postgres",
            base_path=base_path,
            environment={
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{role}:{role}" for role in ROLES),
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
                "AIRFLOW__SCHEDULER__ALLOWED_RUN_ID_PATTERN": "^[A-Za-z0-9_.~:+ -]+$",
            },
        )
        self.tokens: dict[str, str] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Start everything."""
        with ExitStack() as stack:
            stack.enter_context(self.sandbox)
            stack.enter_context(self.airflow)
            for role, password in self._passwords.items():
                answer = httpx.post(f"{self.airflow.url}/auth/token", json={"username": role, "password": password})
                self.tokens[role] = answer.raise_for_status().json()["access_token"]
            self.airflow.api.authenticate(self.tokens["admin"])
            host, _, port = self.sandbox.base_url.rpartition(":")
            connection = {"conn_type": "sequentum", "host": host, "port": int(port), "password": self.sandbox.api_key}
            self.airflow.add_connection("sequentum_default", connection)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop everything."""
        self._open.close()

    def add_history(self, count: int, agents: int, first_agent_id: int) -> None:
        """Put runs of long ago into Airflow's database."""
        command = [sys.executable, "-c", _SEED, str(count), str(agents), str(first_agent_id)]
        environment = self.airflow.environment | {"PYTHONPATH": ":".join(sys.path)}
        subprocess.run(command, env=environment, check=True, capture_output=True, cwd=Path(__file__).parents[2])

    def get(self, path: str, role: str | None) -> httpx.Response:
        """Ask for a page without a browser."""
        return httpx.get(f"{self.airflow.url}/sequentum/{path}", headers=self._headers(role), timeout=30)

    def post(self, run: DagRun, verb: str, role: str | None) -> httpx.Response:
        """Send what the button of the tab sends."""
        body = {"run_id": run.run_id, "task_id": "extract", "map_index": "-1"}
        headers = {**self._headers(role), "x-sequentum-ui": "1"}
        return httpx.post(
            f"{self.airflow.url}/sequentum/dags/{run.dag_id}/{verb}", json=body, headers=headers, timeout=30
        )

    def _headers(self, role: str | None) -> dict[str, str]:
        return {} if role is None else {"Authorization": f"Bearer {self.tokens[role]}"}


_READY = """
    const page = document.querySelector('iframe')?.contentDocument;
    return page?.readyState === 'complete' && page.getElementById('main')?.innerText.length > 0;
"""


class Person:
    """Someone with a role, in front of Airflow's pages."""

    def __init__(self, scene: Scene, browser: Browser, role: str) -> None:
        self._scene = scene
        self._role = role
        self.browser = browser
        browser.open(f"{scene.airflow.url}/sequentum/static/page.css")
        browser.run(f"document.cookie = '_token={scene.tokens[role]}; path=/'")

    def get(self, address: str) -> httpx.Response:
        """Ask again for what the browser asked for."""
        return httpx.get(address, headers={"Cookie": f"_token={self._scene.tokens[self._role]}"}, timeout=30)

    def open_alone(self, path: str) -> None:
        """Open a page of ours by its own address, without Airflow around it."""
        self.browser.open(f"{self._scene.airflow.url}/sequentum/{path}")
        self.browser.wait_until(
            lambda: bool(self.browser.run("return document.getElementById('main')?.innerText")), "the page is there"
        )

    def open_agents(self) -> None:
        """Open the page in the navigation."""
        self.browser.open(f"{self._scene.airflow.url}/plugin/sequentum")
        self._wait_for_frame()

    def open_tab(self, run: DagRun, task_id: str = "extract") -> None:
        """Open the tab of a task."""
        place = f"dags/{run.dag_id}/runs/{quote(run.run_id, safe='')}/tasks/{task_id}/plugin/sequentum_task"
        self.browser.open(f"{self._scene.airflow.url}/{place}")
        self._wait_for_frame()

    @property
    def text(self) -> str:
        """What the frame shows."""
        return str(self.in_frame("return page.body.innerText"))

    def in_frame(self, script: str) -> Any:
        """Run a script; ``page`` is the document of the frame."""
        return self.browser.run(f"const page = document.querySelector('iframe').contentDocument; {script}")

    def wait_for(self, text: str, timeout: float = 60) -> None:
        """Wait until the frame shows ``text``."""
        deadline = time.monotonic() + timeout
        while text not in self.text:
            assert time.monotonic() < deadline, f"No {text!r} in: {self.text}"
            time.sleep(0.2)

    def choose_theme(self, theme: str) -> None:
        """Switch Airflow to light or dark."""
        self.browser.run(f"localStorage.theme = '{theme}'")

    def press(self, verb: str) -> None:
        """Press a button and confirm."""
        self.in_frame(f"page.getElementById('do-{verb}').click()")
        assert self.in_frame("return page.getElementById('dialog').open")
        self.in_frame("page.getElementById('dialog-yes').click()")

    def _wait_for_frame(self) -> None:
        # A button does something once the page's script has run, which is before the page is complete.
        self.browser.wait_until(lambda: bool(self.browser.run(_READY)), "the frame is there")
