"""Two processes of the API server, fifty open pages, two hundred agents: what the service is asked."""

from __future__ import annotations

import json
import sys
import time
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import httpx

from tests.system.harness import DagRun
from tests.system.harness.service import Service, free_port, stop_all
from tests.ui.scene import task_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.ui.scene import Scene

AGENTS = 200
PAGES = 50
OPEN_FOR = 150.0
RELOADED_EVERY = 10.0
MINUTE = timedelta(seconds=60)


@contextmanager
def second_api_server(scene: Scene, folder: Path, connection: str) -> Iterator[str]:
    """Run another process of the API server, which takes its connection from its environment."""
    port = free_port()
    own = {"AIRFLOW__API__PORT": str(port), "AIRFLOW_CONN_SEQUENTUM_DEFAULT": connection}
    command = [sys.executable, "-m", "airflow", *scene.airflow.services["api-server"]]
    server = Service("api-server-2", command, log_folder=folder, environment={**scene.airflow.environment, **own})
    url = scene.airflow.url.replace(str(scene.airflow.port), str(port))
    try:
        server.start()
        deadline = time.monotonic() + 120
        while not _answers(url):
            assert time.monotonic() < deadline, server.log_path.read_text()[-3000:]
            time.sleep(0.5)
        yield url
    finally:
        stop_all([server])


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/sequentum/static/page.css").is_success
    except httpx.TransportError:
        return False


def test_each_server_asks_four_times_a_minute_whatever_is_open(scene: Scene, tmp_path: Path) -> None:
    agents = [scene.sandbox.add_agent(f"Agent {number}").id for number in range(AGENTS)]
    assert agents == list(range(agents[0], agents[0] + AGENTS))
    scene.add_history(6000, agents=AGENTS, first_agent_id=agents[0], dag_id="hidden")
    key = scene.sandbox.add_api_key("of the second server")
    tabs = [task_path(DagRun("hidden", f"past_{number}", "success")) for number in range(PAGES // 2)]
    open_pages = [page for tab in tabs for page in ("agents", tab)]
    asked = len(scene.sandbox.ledger.requests)
    with second_api_server(scene, tmp_path, json.dumps(scene.connection(key))) as second:
        end = time.monotonic() + OPEN_FOR

        def keep_open(number: int) -> int:
            """Reload a page as its script does, half of them at each server."""
            reloads = 0
            while time.monotonic() < end:
                url = (scene.airflow.url, second)[number // 2 % 2]
                assert scene.get(open_pages[number], "viewer", url).status_code == 200
                reloads += 1
                time.sleep(RELOADED_EVERY)
            return reloads

        with ThreadPoolExecutor(PAGES) as people:
            reloads = sum(people.map(keep_open, range(PAGES)))
    requests = [entry for entry in scene.sandbox.ledger.requests[asked:] if entry.key_name is not None]
    for name in ("default", "of the second server"):
        times = sorted(entry.at for entry in requests if entry.key_name == name)
        most = max(bisect_left(times, at + MINUTE) - number for number, at in enumerate(times))
        sys.stdout.write(f"{name}: {len(times)} requests, at most {most} in a minute, for {reloads} reloads of both\n")
        assert most <= 4
        assert len(times) >= OPEN_FOR // 60 * 4, "and what may be asked is asked"
