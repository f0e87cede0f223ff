from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import XCom

from airflow_provider_sequentum.airflow_compat.extra_links import address_of, push_address, set_first_address
from airflow_provider_sequentum.reporting.links import (
    AgentBuilderScreenshotLink,
    AgentBuilderSessionLink,
    AgentRunLink,
    PushedLink,
    push_dashboard_link,
)
from tests.support.airflow import FakeTaskInstance

URL = "https://ui/agents/7/runs/42"


class TaskInstance(FakeTaskInstance):
    """That of a worker of Airflow 3."""

    def __init__(self, *, resumed: bool) -> None:
        super().__init__()
        self._ti_context_from_server = SimpleNamespace(next_method="execute_complete" if resumed else None)


class Supervisor:
    """Stores what a process sends it, and knows whether it was asked for something that isn't there."""

    def __init__(self) -> None:
        self.stored: dict[str, Any] = {}
        self.asked: list[str] = []

    def send(self, msg: Any) -> Any:
        from airflow.sdk.execution_time.comms import XComResult

        if type(msg).__name__ == "SetXCom":
            self.stored[msg.key] = msg.value
            return None
        self.asked.append(msg.key)
        return XComResult(key=msg.key, value=self.stored[msg.key])


class FilesBackend(XCom):  # type: ignore[misc]
    """Keeps every value in a file, as Airflow's object storage backend can."""

    @staticmethod
    def serialize_value(value: Any, **which: Any) -> str:
        return "file:///xcoms/1.json"


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    task_runner = pytest.importorskip("airflow.sdk.execution_time.task_runner", reason="Airflow 3")
    supervisor = Supervisor()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)
    monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom", FilesBackend)
    return supervisor


def context(*, resumed: bool = False) -> dict[str, Any]:
    return {"ti": TaskInstance(resumed=resumed), "task": SimpleNamespace()}


@pytest.mark.parametrize("link", [AgentRunLink, AgentBuilderSessionLink, AgentBuilderScreenshotLink])
def test_the_address_is_stored_as_it_is_whatever_the_xcom_backend(
    supervisor: Supervisor, link: type[PushedLink]
) -> None:
    task = context()
    push_address(task, link.key, URL)
    assert supervisor.stored == {link.key: URL}
    assert link().get_link(task["task"], ti_key=task["ti"]) == URL
    assert supervisor.asked == [], "the process knows what it has pushed"


@pytest.mark.parametrize("link", [AgentRunLink, AgentBuilderSessionLink, AgentBuilderScreenshotLink])
def test_what_was_never_pushed_is_not_asked_for(supervisor: Supervisor, link: type[PushedLink]) -> None:
    task = context()
    assert link().get_link(task["task"], ti_key=task["ti"]) == ""
    assert supervisor.asked == []


def test_a_resumed_process_keeps_the_address(supervisor: Supervisor) -> None:
    push_address(context(), "agent_run_link", URL)
    task = context(resumed=True)
    set_first_address(task, "agent_run_link", "https://ui")
    assert address_of(task["task"], task["ti"], "agent_run_link") == URL


def test_the_webserver_of_airflow_2_reads_the_xcom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(XCom, "get_value", lambda **which: URL if which == {"ti_key": "key", "key": "link"} else None)
    assert address_of(SimpleNamespace(), "key", "link") == URL
    assert address_of(SimpleNamespace(), "key", "other") == ""


def test_on_airflow_2_the_address_is_an_xcom_like_any_other() -> None:
    ti = FakeTaskInstance()
    push_address({"ti": ti, "task": SimpleNamespace()}, "agent_run_link", URL)
    assert ti.pushed("agent_run_link") == URL


class Hook:
    def __init__(self, base_url: str | None) -> None:
        self._base_url = base_url

    @property
    def settings(self) -> Any:
        if self._base_url is None:
            raise ValueError("no such connection")
        return SimpleNamespace(base_url=self._base_url)


LINKS = [AgentRunLink(), AgentBuilderSessionLink(), AgentBuilderScreenshotLink()]


def test_after_a_failed_start_the_button_leads_to_the_dashboard(supervisor: Supervisor) -> None:
    task = context()
    push_dashboard_link(task, Hook("https://ui"), LINKS)  # type: ignore[arg-type]
    addresses = [link.get_link(task["task"], ti_key=task["ti"]) for link in LINKS]
    assert addresses == ["https://ui", "https://ui", ""], "there is no screenshot to see there"
    push_address(task, "agent_run_link", URL)
    assert LINKS[0].get_link(task["task"], ti_key=task["ti"]) == URL


def test_a_connection_that_cannot_be_used_fails_elsewhere(supervisor: Supervisor) -> None:
    task = context()
    push_dashboard_link(task, Hook(None), LINKS)  # type: ignore[arg-type]
    assert [link.get_link(task["task"], ti_key=task["ti"]) for link in LINKS] == ["", "", ""]
