"""An Airflow with people of several roles, the sandbox, and someone in front of a browser."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

import httpx

from airflow_provider_sequentum.sandbox import RunPlan, Sandbox
from tests.system.harness import AirflowInstance

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Self

    from tests.system.browser import Browser
    from tests.system.harness import DagRun

DAGS = Path(__file__).parent / "dags"
ENDLESS = RunPlan(outcome="Running")
ROLES = ("admin", "user", "viewer")
RUN_ID = "by hand + 2026-11-27T10:00:00+00:00"
"""With all that makes run ids hard: spaces, pluses, colons."""

_SEED = """
import json, sys
from airflow.models import import_all_models
from airflow.utils.session import create_session
from tests.support import airflow_rows
import_all_models()
with create_session() as session:
    getattr(airflow_rows, sys.argv[1])(session, **json.loads(sys.argv[2]))
"""
_PEOPLE = """
import json, sys
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
with get_application_builder() as builder:
    manager = builder.sm
    manager.sync_roles()
    for name, (role_name, rights, password) in json.loads(sys.argv[1]).items():
        role = manager.find_role(role_name) or manager.add_role(role_name)
        for action, resource in rights:
            manager.add_permission_to_role(role, manager.create_permission(action, resource))
        assert manager.add_user(name, name, name, f"{name}@example.com", role, password=password)
"""


def task_path(run: DagRun, task_id: str = "extract") -> str:
    """Return the address of a task's page below that of all pages."""
    return f"dags/{run.dag_id}/task?run_id={quote(run.run_id, safe='')}&task_id={task_id}&map_index=-1"


class Scene:
    """A running Airflow with the UI's DAGs, and a sandbox.

    :param folder: everything that is written goes below it.
    :param base_path: a path prefix of all of Airflow's addresses.
    """

    roles: Collection[str] = ROLES

    def __init__(self, folder: Path, base_path: str = "") -> None:
        self.sandbox = Sandbox(time_scale=1.0, rate_limit=10_000)
        self._folder = folder
        self._passwords = {role: f"the {role}'s own" for role in self.roles}
        (folder / "dags").symlink_to(DAGS)
        self.airflow = AirflowInstance(
            folder / "airflow",
            folder / "dags",
            python=sys.executable,
            database="postgres",
            base_path=base_path,
            environment={
                "AIRFLOW__SCHEDULER__ALLOWED_RUN_ID_PATTERN": "^[A-Za-z0-9_.~:+ -]+$",
                # 3.1 and 3.2 read it whatever the auth manager is.
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
                **self._auth_settings(),
            },
        )
        self.tokens: dict[str, str] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Start everything."""
        with ExitStack() as stack:
            stack.enter_context(self.sandbox)
            stack.enter_context(self.airflow)
            self._add_people()
            for role, password in self._passwords.items():
                answer = httpx.post(f"{self.airflow.url}/auth/token", json={"username": role, "password": password})
                self.tokens[role] = answer.raise_for_status().json()["access_token"]
            self.airflow.api.authenticate(self.tokens["admin"])
            self.airflow.add_connection("sequentum_default", self.connection(self.sandbox.api_key))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop everything."""
        self._open.close()

    def connection(self, api_key: str) -> dict[str, Any]:
        """Return a connection to the sandbox."""
        host, _, port = self.sandbox.base_url.rpartition(":")
        return {"conn_type": "sequentum", "host": host, "port": int(port), "password": api_key}

    def start(
        self, *plans: RunPlan, run_id: str | None = None, dag_id: str = "watched", agent_id: int | None = None
    ) -> DagRun:
        """Let a DAG run an agent, by default a new one."""
        if agent_id is None:
            records = [{"sku": f"A{number}", "store": "Lyon", "price": number} for number in range(40)]
            agent_id = self.sandbox.add_agent("Prices", records=records).id
        if plans:
            self.sandbox.plan_runs(agent_id, plans)
        return self.airflow.trigger(dag_id, {"agent_id": agent_id}, run_id=run_id)

    def effects(self, since: int) -> list[str]:
        """Return the effects in the sandbox's ledger from one on, by their kind."""
        return [effect.kind for effect in self.sandbox.ledger.effects[since:]]

    def audit(self, run: DagRun) -> list[tuple[str, str, str]]:
        """Return event, user and outcome of the UI's rows in Airflow's audit log about a run, oldest first."""
        entries = self.airflow.api.get("/eventLogs", dag_id=run.dag_id, run_id=run.run_id, limit=100)["event_logs"]
        own = sorted(
            (each for each in entries if each["event"].startswith("sequentum_")), key=lambda each: each["when"]
        )
        return [(each["event"], each["owner"], json.loads(each["extra"])["outcome"]) for each in own]

    def add_rows(self, function: str, **arguments: Any) -> None:
        """Put rows into Airflow's database by a function of :mod:`tests.support.airflow_rows`."""
        self._run_python(_SEED, function, json.dumps(arguments))

    def add_history(self, count: int, agents: int, first_agent_id: int, dag_id: str = "watched") -> None:
        """Put runs of long ago into Airflow's database."""
        own = {"dag_id": dag_id, "conn_id": "sequentum_default"}
        self.add_rows("add_history", count=count, agents=agents, first_agent_id=first_agent_id, **own)

    def _run_python(self, program: str, *arguments: str) -> None:
        environment = self.airflow.environment | {"PYTHONPATH": ":".join(sys.path)}
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(
            command, env=environment, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[2]
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])

    def _auth_settings(self) -> dict[str, str]:
        passwords = self._folder / "passwords.json"
        passwords.write_text(json.dumps(self._passwords))
        return {
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{role}:{role}" for role in self.roles),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        }

    def _add_people(self) -> None:
        """The simple auth manager has read them from its settings."""

    def get(self, path: str, role: str | None, url: str | None = None) -> httpx.Response:
        """Ask for a page without a browser."""
        return httpx.get(f"{url or self.airflow.url}/sequentum/{path}", headers=self._headers(role), timeout=30)

    def post(self, run: DagRun, verb: str, role: str | None, query: str = "", **more: str) -> httpx.Response:
        """Send what the button of the tab sends, and what someone adds to it."""
        body = {"run_id": run.run_id, "task_id": "extract", "map_index": "-1", **more}
        headers = {**self._headers(role), "x-sequentum-ui": "1"}
        return httpx.post(
            f"{self.airflow.url}/sequentum/dags/{run.dag_id}/{verb}{query}", json=body, headers=headers, timeout=30
        )

    def _headers(self, role: str | None) -> dict[str, str]:
        return {} if role is None else {"Authorization": f"Bearer {self.tokens[role]}"}


class FabScene(Scene):
    """The same with the FAB auth manager: roles of its own, and one for a single DAG."""

    TEAM_OF_WATCHED = (
        *(("can_read", resource) for resource in ("DAG:watched", "DAG Runs", "Task Instances", "Website")),
        *(("can_edit", resource) for resource in ("DAG:watched", "DAG Runs", "Task Instances")),
    )
    PEOPLE: ClassVar = {
        "admin": ("Admin", ()),
        "user": ("User", ()),
        "viewer": ("Viewer", ()),
        "team": ("Team of watched", TEAM_OF_WATCHED),
    }
    roles = tuple(PEOPLE)

    def _auth_settings(self) -> dict[str, str]:
        manager = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
        return {"AIRFLOW__CORE__AUTH_MANAGER": manager}

    def _add_people(self) -> None:
        people = {name: (*role, self._passwords[name]) for name, role in self.PEOPLE.items()}
        self._run_python(_PEOPLE, json.dumps(people))


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
        self.open_task(run, task_id, "/plugin/sequentum_task")
        self._wait_for_frame()

    def open_task(self, run: DagRun, task_id: str = "extract", place: str = "/details") -> None:
        """Open a task's page in Airflow."""
        task = f"dags/{run.dag_id}/runs/{quote(run.run_id, safe='')}/tasks/{task_id}"
        self.browser.open(f"{self._scene.airflow.url}/{task}{place}")

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
