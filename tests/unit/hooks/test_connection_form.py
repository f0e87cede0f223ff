"""What each Airflow makes of the connection's form: the only judge of whether it can be shown."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

from airflow_provider_sequentum.get_provider_info import CONNECTION_FIELDS
from airflow_provider_sequentum.hooks.sequentum import SequentumHook


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
    service: Any = importlib.import_module("airflow.api_fastapi.core_api.services.ui.connections").HookMetaService
    [form] = [one for one in service.hook_meta_data() if one.connection_type == "sequentum"]
    assert form.hook_name == SequentumHook.hook_name
    assert set(form.extra_fields) == set(CONNECTION_FIELDS)
    for name, field in CONNECTION_FIELDS.items():
        shown = form.extra_fields[name]
        assert (shown["schema"]["title"], shown["description"]) == (field["label"], field["description"])
        assert shown["value"] == field["schema"].get("default")
    assert (form.standard_fields.password.title, form.standard_fields.host.title) == ("API key", "Base URL")
    assert form.standard_fields.login.hidden
    assert form.standard_fields.port.hidden
