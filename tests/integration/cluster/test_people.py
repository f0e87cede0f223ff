"""What people do to a real sandbox, and to an Airflow that answers as told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.cluster.people import People
from tests.cluster.plan import ENDLESS, Job
from tests.cluster.service import DashboardUser, SandboxService
from tests.system.harness import AirflowApiError, DagRun

KEY = "sk-people"


class FakeCluster:
    """An Airflow whose tasks start a run as soon as they are triggered."""

    def __init__(self, service: SandboxService) -> None:
        self._service = service
        self.state = "deferred"
        self.events: list[str] = []
        self.errors: list[Exception] = []

    def trigger(self, dag_id: str, conf: dict[str, Any], run_id: str) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.events.append(f"trigger {dag_id} {run_id}")
        self.start_run(conf["agent_id"])

    def start_run(self, agent_id: int) -> None:
        url = f"{self._service.base_url}/api/v1/agent/{agent_id}/start"
        httpx.post(url, headers={"Authorization": f"ApiKey {KEY}"}, json={}).raise_for_status()

    def task_instance(self, run: Any, task_id: str) -> Any:
        return SimpleNamespace(state=self.state)

    def clear(self, run: Any, task_id: str) -> None:
        self.events.append(f"clear {run.run_id}")

    def mark(self, run: Any, task_id: str, state: str) -> None:
        self.events.append(f"mark {run.run_id} {state}")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxService]:
    running = SandboxService(tmp_path_factory.mktemp("people") / "service", KEY)
    running.start()
    running.dashboard_user = DashboardUser(running, running.add_key("dashboard user"))  # type: ignore[attr-defined]
    yield running
    running.stop()


@pytest.fixture
def cluster(service: SandboxService) -> FakeCluster:
    return FakeCluster(service)


@pytest.fixture
def people(cluster: FakeCluster, service: SandboxService) -> People:
    def holder(run: DagRun, task_id: str) -> dict[str, int | None]:
        return {"pid": None, "triggerer_id": 3}

    return People(cluster, service, service.dashboard_user, holder, "marker")  # type: ignore[arg-type, attr-defined]


def job(name: str, deed: Any, *plans: dict[str, Any]) -> Job:
    return Job(name=name, at=0, deferrable=True, duration=0.1, plans=list(plans), deed=deed)


def work_for(people: People, seconds: float) -> None:
    stop = threading.Event()
    threading.Timer(seconds, stop.set).start()
    people.clicking.work(stop)


@pytest.mark.parametrize(("deed", "event"), [("clear", "clear"), ("mark failed", "mark"), ("mark success", "mark")])
def test_a_click_is_made_and_noted(cluster: FakeCluster, people: People, deed: Any, event: str) -> None:
    assert people.ask(job(deed, deed, ENDLESS), "provider") is None
    work_for(people, 1.5)
    assert cluster.events[0] == f"trigger storm_deferred {deed}"
    assert cluster.events[1].startswith(f"{event} {deed}")
    [click] = people.clicks
    assert (click.deed, click.triggerer) == (deed, 3)
    assert click.asked <= click.done
    assert people.deeds == {deed: 1}


def test_a_clear_that_no_one_heard_is_made_again(
    cluster: FakeCluster, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.cluster.people.UNCHANGED", 0.3)

    def hear_the_second_one(run: Any, task_id: str) -> None:
        cluster.events.append("clear")
        if cluster.events.count("clear") == 2:
            cluster.start_run(people.placed[0].agent_id)

    monkeypatch.setattr(cluster, "clear", hear_the_second_one)
    people.ask(job("unheard", "clear", ENDLESS), "provider")
    work_for(people, 2.5)
    assert cluster.events == ["trigger storm_deferred unheard", "clear", "clear"]
    assert people.clicking.is_empty()


def test_a_task_that_waits_for_a_worker_is_not_clicked_at(cluster: FakeCluster, people: People) -> None:
    cluster.state = "queued"
    people.ask(job("queued", "clear", ENDLESS), "provider")
    work_for(people, 1.5)
    assert cluster.events == ["trigger storm_deferred queued"]
    assert not people.clicking.is_empty()


def test_a_task_that_is_over_is_left_alone(cluster: FakeCluster, people: People) -> None:
    cluster.state = "success"
    people.ask(job("over", "mark failed", ENDLESS), "plain")
    work_for(people, 1.5)
    assert cluster.events == ["trigger storm_plain over"]
    assert people.clicking.is_empty()


@pytest.mark.parametrize(
    ("deed", "plan", "statuses"),
    [
        ("stop", ENDLESS, {"Stopping", "Stopped"}),
        ("restart", {"outcome": "Failure", "duration": 0.1}, {"Starting", "Running", "Exporting", "Success"}),
        ("archive", {"outcome": "Failure", "duration": 0.1}, {"Failed"}),
    ],
)
def test_a_run_is_changed_elsewhere(
    service: SandboxService, people: People, deed: Any, plan: dict[str, Any], statuses: set[str]
) -> None:
    people.ask(job(f"elsewhere {deed}", deed, plan), "provider")
    work_for(people, 2)
    assert service.runs(people.placed[0].agent_id)[-1].status in statuses
    assert people.deeds == {deed: 1}


def test_a_job_is_asked_for_again_and_once(cluster: FakeCluster, people: People) -> None:
    """The first request is lost, the second one had been taken although its response was lost."""
    request = httpx.Request("POST", "http://airflow/dagRuns")
    conflict = AirflowApiError(httpx.Response(409, request=request))
    cluster.errors = [httpx.ReadError("reset"), conflict]
    asked = job("again", None)
    assert people.ask(asked, "provider") is not None
    assert people.ask(asked, "provider") is None
    assert [placed.job for placed in people.placed] == [asked]


def test_a_click_whose_answer_was_lost_is_noted_all_the_same(
    cluster: FakeCluster, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clear(run: Any, task_id: str) -> None:
        monkeypatch.undo()
        raise httpx.ReadError("reset")

    monkeypatch.setattr(cluster, "clear", clear)
    people.ask(job("lost", "clear", ENDLESS), "provider")
    work_for(people, 2)
    assert len(people.clicks) == 2
    assert people.deeds == {"clear": 1}
