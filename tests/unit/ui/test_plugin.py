"""The entry point: what it costs, and where it is absent."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.providers.common.compat.sdk import DAG, AirflowPlugin, BaseOperator

from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator
from airflow_provider_sequentum.operators.agent_run import StartAgentRunOperator
from airflow_provider_sequentum.operators.run_records import CheckRunRecordsOperator
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from airflow_provider_sequentum.sensors.agent_run import AgentRunSensor
from airflow_provider_sequentum.ui.plugin import SequentumPlugin
from airflow_provider_sequentum.ui.task_link import TaskPageLink

HAS_UI = hasattr(AirflowPlugin, "external_views")

_PROGRAM = """
import sys
from airflow.providers.common.compat.sdk import AirflowPlugin, conf
from airflow_provider_sequentum import get_provider_info  # Airflow reads it
known = set(sys.modules)
import airflow_provider_sequentum.ui.plugin
print(sorted(m for m in sys.modules if "sequentum" in m and m not in known))
print(bool({"fastapi", "httpx", "jinja2", "pydantic"} & set(sys.modules) - known))
"""


def test_only_the_entry_module_is_imported_outside_the_api_server() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=os.environ, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    package = "airflow_provider_sequentum"
    assert answer[-2:] == [str([f"{package}.ui", f"{package}.ui.plugin"]), "False"]


@pytest.mark.skipif(HAS_UI, reason="This Airflow has external views.")
def test_where_airflow_has_no_external_views_it_is_absent() -> None:
    assert SequentumPlugin.fastapi_apps == []
    assert SequentumPlugin.external_views == []
    assert SequentumPlugin.operator_extra_links == []


@pytest.mark.skipif(not HAS_UI, reason="This Airflow has no external views.")
class TestViews:
    def test_the_page_and_the_tab(self) -> None:
        [app] = SequentumPlugin.fastapi_apps
        assert app["url_prefix"] == "/sequentum"
        page, tab = SequentumPlugin.external_views
        assert (page["destination"], page["href"]) == ("nav", "sequentum/agents")
        assert tab["destination"] == "task_instance"
        assert tab["href"] == "sequentum/dags/{DAG_ID}/task?run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}"
        assert SequentumPlugin.external_views is SequentumPlugin.external_views, "Airflow removes what it refuses"

    def test_addresses_are_relative_so_that_they_follow_a_path_prefix(self) -> None:
        for view in SequentumPlugin.external_views:
            assert not view["href"].startswith(("/", "http"))

    def test_all_of_it_can_be_turned_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW__SEQUENTUM__UI", "False")
        assert SequentumPlugin.fastapi_apps == []
        assert SequentumPlugin.external_views == []
        assert SequentumPlugin.operator_extra_links == []

    def test_the_tab_alone_can_be_turned_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from airflow_provider_sequentum.ui import app

        app.external_views.cache_clear()
        monkeypatch.setenv("AIRFLOW__SEQUENTUM__UI_TASK_TAB", "False")
        assert [view["destination"] for view in SequentumPlugin.external_views] == ["nav"]
        app.external_views.cache_clear()


@pytest.mark.skipif(not HAS_UI, reason="This Airflow has no external views.")
class TestButton:
    """What Airflow makes of the plugin's link: its API server reads tasks as they were serialized."""

    def button_of(self, operator: Any, map_index: int = -1) -> str | None:
        task = _as_the_api_server_reads(operator)
        link = task.operator_extra_link_dict.get(TaskPageLink.name)
        run_id = "by hand + 2026-11-28T10:00"
        key = TaskInstanceKey(task.dag_id, operator.task_id, run_id, try_number=1, map_index=map_index)
        return None if link is None else str(link.get_link(task, ti_key=key))

    @pytest.mark.parametrize(
        ("operator", "arguments"),
        [
            (StartAgentRunOperator, {"agent_id": 1}),
            (AgentRunSensor, {"agent_id": 1, "run_id": 2}),
            (StartSpaceRunsOperator, {"space_id": 3}),
            (AgentBuilderOperator, {"prompt": "Get prices."}),
            (CheckRunRecordsOperator, {"agent_id": 1, "run_id": 2, "files": "/data/prices.csv"}),
        ],
    )
    def test_it_is_on_each_kind_of_task_that_has_a_page(self, operator: type[Any], arguments: dict[str, Any]) -> None:
        with DAG("prices", schedule=None):
            task = operator(task_id="a.task", **arguments)
        own_page = "sequentum/dags/prices/task?run_id=by%20hand%20%2B%202026-11-28T10%3A00&task_id=a.task"
        assert self.button_of(task) == f"{own_page}&map_index=-1"

    def test_it_is_on_a_mapped_task(self) -> None:
        with DAG("prices", schedule=None) as dag:
            StartAgentRunOperator.partial(task_id="each").expand(agent_id=[1, 2])
        task = dag.get_task("each")
        assert (self.button_of(task, 1) or "").endswith("&task_id=each&map_index=1")

    def test_it_is_on_no_other_task(self) -> None:
        with DAG("prices", schedule=None):
            other = BaseOperator(task_id="other")
        assert self.button_of(other) is None
        assert TaskPageLink.name not in _as_the_api_server_reads(other).extra_links

    def test_the_worker_neither_pushes_nor_reads_it(self) -> None:
        assert not any(isinstance(link, TaskPageLink) for link in StartAgentRunOperator.operator_extra_links)


def _as_the_api_server_reads(operator: Any) -> Any:
    forms: Any = import_module("airflow.serialization.serialized_objects")
    # Airflow 3.2 renamed it.
    form = getattr(forms, "DagSerialization", None) or forms.SerializedDAG
    return form.from_dict(form.to_dict(operator.dag)).get_task(operator.task_id)
