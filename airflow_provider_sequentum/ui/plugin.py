"""The entry point of the UI. Every Airflow process imports this module, so it does not import the web application."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from airflow.providers.common.compat.sdk import AirflowPlugin, conf


class _Later:
    """An attribute whose module is only imported when the attribute is read.

    The API server reads all of them, a process that deserializes DAGs with their links only reads the links, and other
    processes read none.

    :param module: the module of this package, which has a function with the name of the attribute.
    """

    def __init__(self, module: str) -> None:
        self._module = module

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, plugin: object, owner: type) -> list[Any]:
        # Airflow 3.1 is the first version whose UI has external views.
        if not hasattr(AirflowPlugin, "external_views") or not conf.getboolean("sequentum", "ui", fallback=True):
            return []
        module = import_module(f"airflow_provider_sequentum.ui.{self._module}")
        entries: list[Any] = getattr(module, self._name)()
        return entries


class SequentumPlugin(AirflowPlugin):
    """The page in the navigation, the tab on task instances and the button on tasks, for Airflow 3.1 and later."""

    name = "sequentum"
    fastapi_apps = _Later("app")
    external_views = _Later("app")
    operator_extra_links = _Later("task_link")
