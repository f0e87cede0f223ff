"""The entry point of the UI. Every Airflow process imports this module, so it imports nothing of the web part."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import AirflowPlugin, conf


class _InApiServer:
    """An attribute that only the API server reads: its value comes from the web part, which no other process needs."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, plugin: object, owner: type) -> list[dict[str, Any]]:
        # Airflow 3.1 is the first version whose UI has external views.
        if not hasattr(AirflowPlugin, "external_views") or not conf.getboolean("sequentum", "ui", fallback=True):
            return []
        from airflow_provider_sequentum.ui import app

        entries: list[dict[str, Any]] = getattr(app, self._name)()
        return entries


class SequentumPlugin(AirflowPlugin):
    """The page in the navigation and the tab on task instances, for Airflow 3.1 and later."""

    name = "sequentum"
    fastapi_apps = _InApiServer()
    external_views = _InApiServer()
