"""What each Airflow makes of the connection's form: the only judge of whether it can be shown."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_1_PLUS

from airflow_provider_sequentum.get_provider_info import CONNECTION_FIELDS
from airflow_provider_sequentum.hooks.sequentum import SequentumHook

TELL_FORM = """
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
[form] = [one for one in HookMetaService.hook_meta_data() if one.connection_type == "sequentum"]
print()
print(form.model_dump_json())
"""
"""For a process of its own: what an Airflow has read of its providers once, it does not read again."""


@pytest.mark.skipif(AIRFLOW_V_3_0_PLUS, reason="Airflow 3 tells its form by its API")
def test_airflow_2_shows_every_field() -> None:
    manager = importlib.import_module("airflow.providers_manager").ProvidersManager()
    assert manager.hooks["sequentum"].hook_name == SequentumHook.hook_name
    shown = {
        widget.field_name
        for widget in manager.connection_form_widgets.values()
        if widget.hook_class_name == SequentumHook.__name__
    }
    assert shown == set(CONNECTION_FIELDS)
    assert manager.field_behaviours["sequentum"] == SequentumHook.get_ui_field_behaviour()


@pytest.mark.skipif(not AIRFLOW_V_3_0_PLUS, reason="Airflow 2 renders its form from the hook")
def test_airflow_3_shows_every_field() -> None:
    told = subprocess.run([sys.executable, "-c", TELL_FORM], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    form = json.loads(told.stdout.splitlines()[-1])
    assert form["hook_name"] == SequentumHook.hook_name
    if not AIRFLOW_V_3_1_PLUS:
        pytest.importorskip("flask_appbuilder", reason="Airflow 3.0 shows no own fields without FAB")
    assert set(form["extra_fields"]) == set(CONNECTION_FIELDS)
    for name, field in CONNECTION_FIELDS.items():
        shown = form["extra_fields"][name]
        assert (shown["schema"]["title"], shown["description"]) == (field["label"], field["description"])
        assert shown["value"] == field["schema"].get("default")
    standard = form["standard_fields"]
    assert (standard["password"]["title"], standard["host"]["title"]) == ("API key", "Base URL")
    assert standard["login"]["hidden"]
    assert standard["port"]["hidden"]
