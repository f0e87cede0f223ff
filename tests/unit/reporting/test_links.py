from __future__ import annotations

from typing import Any

import pytest

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
def test_airflow_3_reads_the_xcom_that_the_task_pushes(link: type[Any], key: str) -> None:
    assert link().xcom_key == key


class Hook:
    def run_link(self, agent_id: int, run_id: int) -> str:
        return f"https://ui/{agent_id}/{run_id}"


class Pushed(dict[str, Any]):
    hook = Hook()

    def push(self, key: str, value: object) -> None:
        self[key] = value

    push_link = push


def test_a_task_publishes_its_run() -> None:
    pushed = Pushed()
    run = Run.model_validate({"id": 42, "configId": 7, "status": 1, "dataCount": 3})
    publish_run(pushed, run, note="It may be running.")  # type: ignore[arg-type]
    assert pushed[links.RUN_LINK_KEY] == "https://ui/7/42"
    summary = pushed[links.RUN_SUMMARY_KEY]
    assert (summary["run_id"], summary["status"], summary["records"]) == (42, "Running", 3)
    assert (summary["link"], summary["cost"], summary["note"]) == ("https://ui/7/42", None, "It may be running.")
    assert (summary["input_parameters"], summary["map_index"]) == (None, None)


@pytest.mark.parametrize("operator", [StartAgentRunOperator, AgentRunSensor])
def test_tasks_that_know_a_run_have_the_button(operator: type[Any]) -> None:
    assert [link.name for link in operator.operator_extra_links] == ["Sequentum run"]
