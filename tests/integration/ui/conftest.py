"""The UI's application with Airflow's own simple auth manager, a database of Airflow's, and the sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowPlugin

if not hasattr(AirflowPlugin, "external_views"):  # before Airflow 3.1 there is no UI to be part of
    collect_ignore_glob = ["test_*.py"]
else:
    from airflow import settings
    from airflow.api_fastapi.app import create_auth_manager, get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.models import Log, import_all_models
    from airflow.models.base import Base
    from airflow.utils.session import create_session
    from fastapi.testclient import TestClient

    from airflow_provider_sequentum.ui import app as ui
    from airflow_provider_sequentum.ui import pages
    from airflow_provider_sequentum.ui.cache import ServiceCache
    from tests.support import airflow_rows as rows

if TYPE_CHECKING:
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.sandbox import Sandbox

RUN_ID = "manual__2026-11-27T10:00:00+00:00 by hand"
"""With all that makes run ids hard: a plus, colons, a space."""


@dataclass
class Stage:
    """The application, and who looks at it."""

    sandbox: Sandbox
    cached: Any
    airflow_refuses: int | None = None
    airflow_breaks: Exception | None = None
    meanwhile: Callable[[], object] = lambda: None
    """What happens between the press of a button and Airflow's clear."""
    cleared: list[dict[str, Any]] = field(default_factory=list)
    _clients: dict[str, Any] = field(default_factory=dict)

    def as_(self, role: str | None) -> Any:
        """Return a browser of someone with this role; ``None`` for no one who is known."""
        if role not in self._clients:
            client = TestClient(ui.app)
            if role is not None:
                user = SimpleAuthManagerUser(username=f"some_{role}", role=role)
                client.cookies.set("_token", get_auth_manager().generate_jwt(user))
            self._clients[str(role)] = client
        return self._clients[str(role)]

    def act(self, verb: str, role: str | None = "admin", dag_id: str = "sales", **names: Any) -> Any:
        """Press a button of the tab."""
        body = {"run_id": RUN_ID, "task_id": "extract", "map_index": "-1", **names}
        headers = {"x-sequentum-ui": "1", "content-type": "application/json"}
        return self.as_(role).post(f"/dags/{dag_id}/{verb}", content=json.dumps(body), headers=headers)

    def tab(self, role: str | None = "viewer", dag_id: str = "sales", task_id: str = "extract") -> Any:
        """Open the tab, with the run id as Airflow 3.2 and later encode it."""
        from urllib.parse import quote

        query = f"run_id={quote(RUN_ID, safe='')}&task_id={task_id}&map_index=-1"
        return self.as_(role).get(f"/dags/{dag_id}/task?{query}")

    def start(self, agent_id: int, dag_id: str = "sales", *, record: bool = True, **columns: Any) -> Run:
        """Let a task of a DAG start a run, and store what its operator would."""
        from airflow_provider_sequentum.api import runs
        from airflow_provider_sequentum.hooks.sequentum import SequentumHook
        from airflow_provider_sequentum.runs.describe import run_summary
        from airflow_provider_sequentum.runs.record import RunConfig, RunRecord

        hook = SequentumHook()
        run = hook.send(runs.start(agent_id))
        hook.close()
        kept = RunRecord(agent_id=agent_id, run_id=run.id, config=RunConfig(agent_id=agent_id), max_tries=0)
        with create_session() as session:
            task_id = columns.pop("task_id", "extract")
            dag_run = rows.add_task(session, dag_id, RUN_ID, task_id, **columns)
            summary = run_summary(run, link="https://example.com/run", cost=None)
            rows.add_xcom(session, dag_run, task_id, "run", summary)
            rows.add_rendered_fields(
                session, dag_run, task_id, agent_id=str(agent_id), sequentum_conn_id="sequentum_default"
            )
            if record:
                store(session, dag_run, "sequentum_run", kept.to_json(), task_id)
        return run

    def clear(self, body: dict[str, Any]) -> None:
        """Do what Airflow's own endpoint does: take it, or refuse."""
        from airflow_provider_sequentum.ui.actions import Impossible

        self.meanwhile()
        if self.airflow_breaks:
            raise self.airflow_breaks
        if self.airflow_refuses:
            raise Impossible(f"Airflow responded with {self.airflow_refuses}: no")
        self.cleared.append(body)

    def logs(self) -> list[Any]:
        """Return the rows of the audit log that the UI wrote."""
        with create_session() as session:
            rows = session.query(Log).filter(Log.event.like("sequentum_%")).order_by(Log.id).all()
            session.expunge_all()
        return rows

    def until(self, condition: Callable[[], Any], seconds: float = 10) -> Any:
        """Wait until something holds."""
        import time

        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, "It did not happen in time."
            time.sleep(0.02)
        return found


def store(session: Any, run: Any, key: str, value: Any, task_id: str) -> None:
    """Keep a record where this Airflow keeps it."""
    try:
        from airflow.models.task_state_store import TaskStateStoreModel
    except ImportError:
        rows.add_xcom(session, run, task_id, key, value)
        return
    names = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": task_id, "map_index": -1, "dag_run_id": run.id}
    session.add(TaskStateStoreModel(key=key, value=json.dumps(value), **names))


@pytest.fixture(scope="session")
def airflow_database() -> None:
    settings.initialize()  # type: ignore[no-untyped-call]
    import_all_models()  # type: ignore[no-untyped-call]
    Base.metadata.create_all(settings.engine)


@pytest.fixture
def stage(airflow_database: None, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv(
        "AIRFLOW__API_AUTH__JWT_SECRET",
        "no secret " * 8,
    )
    monkeypatch.setenv("AIRFLOW__SCHEDULER__ALLOWED_RUN_ID_PATTERN", "^.+$")
    monkeypatch.setattr(pages, "_SEEN_FOR", -1.0)
    monkeypatch.setattr("airflow_provider_sequentum.ui.cache.REQUESTS_PER_MINUTE", 1000)
    create_auth_manager()
    cached = ServiceCache()
    ui.app.dependency_overrides[ui.service_cache] = lambda: cached
    running = Stage(sandbox, cached)

    async def clear(_request: Any, _dag_id: str, body: dict[str, Any]) -> None:
        running.clear(body)

    monkeypatch.setattr(ui, "clear_by_airflow", clear)
    yield running
    ui.app.dependency_overrides.clear()
    with create_session() as session:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(table.delete())
