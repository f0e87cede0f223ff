"""The web application of the UI, mounted by Airflow's API server: its routes, permissions and response headers.

Airflow does not authenticate requests to a mounted application, so each route that shows or does something requires
authentication. Actions apply to the DAG in the path, because its permissions were checked.
"""

from __future__ import annotations

import sys
import urllib.parse
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

import anyio.from_thread
import httpx
from airflow.api_fastapi.app import API_ROOT_PATH, get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep  # noqa: TC002 - FastAPI reads it
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag, requires_access_view
from airflow.models.base import ID_LEN
from airflow.providers.common.compat.sdk import conf
from airflow.utils.session import create_session
from fastapi import Body, Depends, FastAPI, HTTPException, Request, Response

from airflow_provider_sequentum.ui import actions, pages
from airflow_provider_sequentum.ui.cache import ServiceCache
from airflow_provider_sequentum.ui.task_link import PREFIX
from airflow_provider_sequentum.ui.tasks import TaskKey, TaskView, find_task

OWN_HEADER = "x-sequentum-ui"
"""A header that only our own page sets. A page of another origin cannot set it without a CORS preflight."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_STATIC = {"page.js": "text/javascript", "page.css": "text/css"}
_TASK = DagAccessEntity.TASK_INSTANCE

app = FastAPI(title="Sequentum Cloud", openapi_url=None)


@cache
def fastapi_apps() -> list[dict[str, Any]]:
    """Return the applications to mount in Airflow."""
    return [{"app": app, "url_prefix": PREFIX, "name": "Sequentum Cloud"}]


@cache
def external_views() -> list[dict[str, Any]]:
    """Return the page and, unless it is disabled, the tab. Relative addresses follow ``[api] base_url``."""
    place = PREFIX.removeprefix("/")
    page = {"name": "Sequentum", "url_route": "sequentum", "destination": "nav", "href": f"{place}/agents"}
    query = "run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}"
    tab = {
        "name": "Sequentum",
        "url_route": "sequentum_task",
        "destination": "task_instance",
        "href": f"{place}/dags/{{DAG_ID}}/task?{query}",
    }
    return [page, tab] if conf.getboolean("sequentum", "ui_task_tab", fallback=True) else [page]


@cache
def service_cache() -> ServiceCache:
    """Return the cache of this process."""
    return ServiceCache()


CacheDep = Annotated[ServiceCache, Depends(service_cache)]


def own_page(request: Request) -> None:
    """Refuse requests that do not come from our pages, because any page can send a request with a cookie."""
    is_json = request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
    if OWN_HEADER not in request.headers or not is_json:
        raise HTTPException(403, "This request does not come from the Sequentum page.")


def task_in_query(dag_id: str, request: Request) -> TaskKey:
    """Return the task instance in the path and the query.

    The query is not read as a form, because Airflow 3.1 does not escape the run id in it, so a ``+`` is a plus.
    """
    parts = (part.partition("=") for part in request.url.query.split("&"))
    return key_of(dag_id, {name: urllib.parse.unquote(value) for name, _, value in parts})


def key_of(dag_id: str, names: Any) -> TaskKey:
    """Return the task instance of a DAG in a query or a body."""
    run_id, task_id = names.get("run_id"), names.get("task_id")
    map_index = str(names.get("map_index", "-1"))
    if not _is_id(run_id) or not _is_id(task_id):
        raise HTTPException(422, "run_id and task_id are required.")
    # For a task that is not mapped, Airflow 3.1 does not replace the placeholder.
    index = int(map_index) if map_index.isascii() and map_index.isdecimal() and len(map_index) < 9 else -1
    return TaskKey(dag_id, run_id, task_id, index)


def _is_id(value: object) -> bool:
    """Return whether this may be an id of Airflow. Others are refused, because some of them fail in the database."""
    return isinstance(value, str) and 0 < len(value) <= ID_LEN and value.isprintable()


KeyDep = Annotated[TaskKey, Depends(task_in_query)]


@app.middleware("http")
async def restrict(request: Request, call_next: Any) -> Response:
    """Add the headers to each response that restrict what a browser may do."""
    response: Response = await call_next(request)
    response.headers.update(HEADERS)
    return response


@app.get("/static/{name}")
def static(name: str) -> Response:
    """Return a script or style sheet. They contain no secrets."""
    if name not in _STATIC:
        raise HTTPException(404)
    content = files("airflow_provider_sequentum.ui").joinpath("static", name).read_bytes()
    return Response(content, media_type=_STATIC[name])


@app.get("/agents", dependencies=[Depends(requires_access_view(AccessView.WEBSITE))])
def agents(session: SessionDep, user: GetUserDep, cached: CacheDep, page: int = 1) -> Response:
    """Return the page of all agents that tasks of the user's DAGs use."""
    dag_ids = get_auth_manager().get_authorized_dag_ids(user=user, method="GET")
    seen = [run for run in pages.recently_seen(session) if run.key.dag_id in dag_ids]
    return _html(pages.agents_page(seen, cached, max(page, 1)))


@app.get("/dags/{dag_id}/task", dependencies=[Depends(requires_access_dag("GET", _TASK))])
def task(key: KeyDep, session: SessionDep, user: GetUserDep, cached: CacheDep) -> Response:
    """Return the tab of a task instance."""
    view = find_task(session, key)
    if view is None:
        return _html(pages.foreign_task_page())
    may_act = get_auth_manager().is_authorized_dag(
        method="PUT", access_entity=_TASK, details=_details(key.dag_id), user=user
    )
    return _html(pages.task_page(pages.updated(view, cached), cached, pages.recently_seen(session), may_act=may_act))


@app.get("/dags/{dag_id}/preview", dependencies=[Depends(requires_access_dag("GET", _TASK))])
def preview(key: KeyDep, session: SessionDep, cached: CacheDep, request: Request) -> Response:
    """Return the start of a file of the task's run."""
    numbers = dict(part.partition("=")[::2] for part in request.url.query.split("&"))
    view = find_task(session, key)
    found = None
    if view is not None:
        found = pages.preview(
            pages.updated(view, cached), cached, numbers.get("sequentum_run", ""), numbers.get("file", "")
        )
    if found is None:
        raise HTTPException(404, "The run has no such file.")
    return _html(found)


_acting = [Depends(requires_access_dag("PUT", _TASK)), Depends(own_page)]


def task_in_body(
    dag_id: str, body: Annotated[dict[str, Any], Body()], session: SessionDep, cached: CacheDep
) -> TaskView:
    """Return the task instance that the path and the body name."""
    view = find_task(session, key_of(dag_id, body))
    if view is None:
        raise HTTPException(404, "This is not a task of the Sequentum provider.")
    return pages.updated(view, cached)


OwnTaskDep = Annotated[TaskView, Depends(task_in_body)]


@app.post("/dags/{dag_id}/restart", dependencies=_acting)
def restart(dag_id: str, view: OwnTaskDep, session: SessionDep, user: GetUserDep, request: Request) -> dict[str, str]:
    """Clear a task, so that its next attempt restarts its run."""

    def clear(clear_body: dict[str, Any]) -> None:
        anyio.from_thread.run(clear_by_airflow, request, dag_id, clear_body)

    try:
        return {"message": actions.restart(session, view, user, clear)}
    except actions.Impossible as error:
        raise HTTPException(409, str(error)) from error


@app.post("/dags/{dag_id}/{verb}", dependencies=_acting)
def stop(
    verb: actions.Verb, view: OwnTaskDep, session: SessionDep, user: GetUserDep, cached: CacheDep
) -> dict[str, str]:
    """Stop or kill the runs of a task."""

    def when_done() -> None:
        cached.expire(view.conn_id or "")

    try:
        actions.stop(session, view, verb, user, create_session, when_done)
    except actions.Impossible as error:
        raise HTTPException(409, str(error)) from error
    return {"message": "The run is being stopped." if verb == "stop" else "The run is being killed."}


async def clear_by_airflow(request: Request, dag_id: str, body: dict[str, Any]) -> None:
    """Clear task instances through Airflow's own endpoint, with the user's credentials, so that its rules apply.

    :raises Impossible: Airflow refuses.
    """
    credentials = {name: request.headers[name] for name in ("authorization", "cookie") if name in request.headers}
    transport = httpx.ASGITransport(app=sys.modules["airflow.api_fastapi.main"].app)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://airflow{API_ROOT_PATH}") as airflow:
        path = f"api/v2/dags/{urllib.parse.quote(dag_id, safe='')}/clearTaskInstances"
        response = await airflow.post(path, json=body, headers=credentials, timeout=60)
    if response.is_error:
        raise actions.Impossible(f"Airflow responded with {response.status_code}: {response.text[:300]}")


def _details(dag_id: str) -> Any:
    from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails
    from airflow.models.dag import DagModel

    # Only later versions have teams.
    team = {"team_name": DagModel.get_team_name(dag_id)} if hasattr(DagModel, "get_team_name") else {}
    return DagDetails(id=dag_id, **team)


def _html(text: str) -> Response:
    return Response(text, media_type="text/html")
