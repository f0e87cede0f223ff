"""Who is killed comes back, who ends by themselves too, and no one is killed twice at once."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.cluster.breaking import Breaking
from tests.cluster.plan import Death, Squall

SERVICES = ("api-server", "scheduler", "dag-processor", "triggerer", "triggerer-2", "worker", "worker-2")


@dataclass
class FakeCluster:
    """What happens to it, in order."""

    workers: tuple[str, ...] = ("worker", "worker-2")
    triggerers: tuple[str, ...] = ("triggerer", "triggerer-2")
    services: tuple[str, ...] = SERVICES
    events: list[str] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)

    @property
    def postgres(self) -> Any:
        return SimpleNamespace(crash=lambda: self.kill("postgres"), recover=lambda: self.start("postgres"))

    def is_running(self, name: str) -> bool:
        return name not in self.dead

    def kill(self, name: str) -> None:
        self.events.append(f"kill {name}")
        self.dead.add(name)

    def start(self, name: str) -> None:
        self.events.append(f"start {name}")
        self.dead.discard(name)


class FakeSandbox:
    """A service that is out of reach a few times."""

    def __init__(self, unreachable: int = 0) -> None:
        self.unreachable = unreachable
        self.faults: list[Any] = []

    def add_fault(self, fault: Any) -> None:
        if self.unreachable:
            self.unreachable -= 1
            raise httpx.ConnectError("refused")
        self.faults.append(fault)

    def clear_faults(self) -> None:
        self.faults.clear()


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def breaking(cluster: FakeCluster) -> Breaking:
    return Breaking(cluster, FakeSandbox())  # type: ignore[arg-type]


def work_for(breaking: Breaking, seconds: float) -> None:
    stop = threading.Event()
    threading.Timer(seconds, stop.set).start()
    breaking.agenda.work(stop)


def death(kind: Any, choice: float = 0.0, downtime: float = 0.0) -> Death:
    return Death(at=0, kind=kind, choice=choice, downtime=downtime)


@pytest.mark.parametrize(
    ("kind", "choice", "name"),
    [
        ("worker", 0.2, "worker"),
        ("worker", 0.7, "worker-2"),
        ("triggerer", 0.99, "triggerer-2"),
        ("scheduler", 0.5, "scheduler"),
        ("api-server", 0.9, "api-server"),
        ("postgres", 0.9, "postgres"),
    ],
)
def test_who_is_killed_comes_back(
    cluster: FakeCluster, breaking: Breaking, kind: str, choice: float, name: str
) -> None:
    assert breaking.strike(death(kind, choice)) is None
    assert not breaking.calm()
    work_for(breaking, 0.1)
    assert cluster.events == [f"kill {name}", f"start {name}"]
    assert breaking.deaths == {kind: 1}
    assert breaking.calm()


def test_the_dead_are_not_killed_again(cluster: FakeCluster, breaking: Breaking) -> None:
    breaking.strike(death("worker", downtime=60))
    assert breaking.strike(death("worker")) is not None
    assert breaking.deaths == {"worker": 1}


def test_who_ends_by_themselves_is_started_again_and_told(cluster: FakeCluster, breaking: Breaking) -> None:
    cluster.dead.add("scheduler")
    work_for(breaking, 0.1)
    assert cluster.events == ["kill scheduler", "start scheduler"]
    assert breaking.collapses == {"scheduler": 1}


def test_who_is_down_on_purpose_is_left_down(cluster: FakeCluster, breaking: Breaking) -> None:
    breaking.strike(death("scheduler", downtime=60))
    work_for(breaking, 0.1)
    assert cluster.events == ["kill scheduler"]


def test_a_fault_waits_for_a_service_that_is_down(cluster: FakeCluster) -> None:
    sandbox = FakeSandbox(unreachable=1)
    breaking = Breaking(cluster, sandbox)  # type: ignore[arg-type]
    squall = Squall(at=time.monotonic(), kind="5xx burst")
    assert breaking.disturb(squall) is not None
    assert breaking.disturb(squall) is None
    assert (len(sandbox.faults), breaking.squalls) == (1, {"5xx burst": 1})
    breaking.calm()
    assert sandbox.faults == []
