"""A service's processes are found and ended, whatever they fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.system.harness.service import Service, ServiceDied, stop_all
from tests.system.stage import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# The shell ends at once after a SIGTERM; its child in the background ignores it.
STUBBORN = (
    "trap 'exit 0' TERM; (trap '' TERM; echo ready; while true; do sleep 0.1; done) & while true; do sleep 0.1; done"
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def started(*command: str) -> Service:
        service = Service("example", command, log_folder=tmp_path, environment=dict(os.environ))
        services.append(service)
        service.start()
        return service

    yield started
    stop_all(services, patience=0)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stop_ends_children_that_ignore_it(start: Callable[..., Service]) -> None:
    service = start("sh", "-c", STUBBORN)
    until(lambda: "ready" in service.log_path.read_text())
    pids = [process.pid for process in service.processes()]
    assert len(pids) >= 2
    stop_all([service], patience=0.5)
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


def test_orphans_of_a_dead_service_are_found(start: Callable[..., Service]) -> None:
    service = start("sh", "-c", "sleep 600 & exit 3")
    until(lambda: not service.is_running)
    until(lambda: len(service.processes()) == 1)
    service.kill()
    assert not service.processes()


def test_a_death_no_one_asked_for_is_reported_with_the_log(start: Callable[..., Service]) -> None:
    service = start("sh", "-c", "echo I cannot go on; exit 3")
    until(lambda: not service.is_running)
    with pytest.raises(ServiceDied, match=r"example ended with 3(?s:.*)I cannot go on"):
        service.raise_if_dead()


def test_a_kill_is_no_such_death_and_the_service_can_start_again(start: Callable[..., Service]) -> None:
    service = start(sys.executable, "-c", "import time; time.sleep(600)")
    first = service.pid
    service.kill(signal.SIGKILL)
    service.raise_if_dead()
    service.start()
    assert service.is_running
    assert service.pid != first
    with pytest.raises(RuntimeError, match="running already"):
        service.start()


RUNNER = """
import os, sys, time
from pathlib import Path
from tests.system.harness.service import Service
folder = Path(sys.argv[1])
service = Service("orphan", ["sh", "-c", "sleep 600 & sleep 600"], log_folder=folder, environment=dict(os.environ))
service.start()
time.sleep(0.3)
(folder / "pids").write_text(" ".join(str(process.pid) for process in service.processes()))
time.sleep(600)
"""


def test_services_end_when_their_runner_is_killed(tmp_path: Path) -> None:
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, str(tmp_path)], cwd=CHECKOUT)
    try:
        until(lambda: (tmp_path / "pids").exists() and len((tmp_path / "pids").read_text().split()) >= 2)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    finally:
        runner.kill()
        runner.wait()
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
