"""The entry point: what it costs, and where it is absent."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from airflow.providers.common.compat.sdk import AirflowPlugin

from airflow_provider_sequentum.ui.plugin import SequentumPlugin

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

    def test_the_tab_alone_can_be_turned_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from airflow_provider_sequentum.ui import app

        app.external_views.cache_clear()
        monkeypatch.setenv("AIRFLOW__SEQUENTUM__UI_TASK_TAB", "False")
        assert [view["destination"] for view in SequentumPlugin.external_views] == ["nav"]
        app.external_views.cache_clear()
