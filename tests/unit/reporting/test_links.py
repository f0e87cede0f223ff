from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import XCom

from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.reporting import links
from airflow_provider_sequentum.reporting.links import (
    AgentBuilderScreenshotLink,
    AgentBuilderSessionLink,
    AgentRunLink,
    publish_run,
)
from airflow_provider_sequentum.sensors.agent_run import AgentRunSensor

KEYS = [
    (AgentRunLink, links.RUN_LINK_KEY),
    (AgentBuilderSessionLink, links.SESSION_LINK_KEY),
    (AgentBuilderScreenshotLink, links.SCREENSHOT_LINK_KEY),
]


@pytest.mark.parametrize(("link", "key"), KEYS)
@pytest.mark.parametrize("pushed", ["https://ui/7/42", None])
def test_a_button_leads_where_the_task_said(
    monkeypatch: pytest.MonkeyPatch, link: type[Any], key: str, pushed: str | None
) -> None:
    asked: list[dict[str, Any]] = []

    def get_value(**which: Any) -> str | None:
        asked.append(which)
        return pushed

    monkeypatch.setattr(XCom, "get_value", get_value)
    assert link().get_link(None, ti_key="the task instance") == (pushed or "")
    assert asked == [{"ti_key": "the task instance", "key": key}]
    # Airflow 3 reads the XCom of this name, so the button works as soon as the task has pushed the address.
    assert link().xcom_key == key


class Hook:
    def run_link(self, agent_id: int, run_id: int) -> str:
        return f"https://ui/{agent_id}/{run_id}"


class Pushed(dict[str, Any]):
    def push(self, key: str, value: object) -> None:
        self[key] = value


def test_a_task_publishes_its_run() -> None:
    pushed = Pushed()
    run = Run.model_validate({"id": 42, "configId": 7, "status": 1, "dataCount": 3})
    publish_run(pushed, Hook(), run, note="It may be running.")  # type: ignore[arg-type]
    assert pushed[links.RUN_LINK_KEY] == "https://ui/7/42"
    summary = pushed[links.RUN_SUMMARY_KEY]
    assert (summary["run_id"], summary["status"], summary["records"]) == (42, "Running", 3)
    assert (summary["link"], summary["cost"], summary["note"]) == ("https://ui/7/42", None, "It may be running.")


@pytest.mark.parametrize("operator", [StartAgentRunOperator, AgentRunSensor])
def test_tasks_that_know_a_run_have_the_button(operator: type[Any]) -> None:
    assert [link.name for link in operator.operator_extra_links] == ["Sequentum run"]
