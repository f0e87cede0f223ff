from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseOperator, BaseOperatorLink, BaseSensorOperator
from airflow.triggers.base import BaseTrigger

import airflow_provider_sequentum
from airflow_provider_sequentum.get_provider_info import CONNECTION_FIELDS, get_provider_info

NAME = "airflow_provider_sequentum"
INFO = get_provider_info()
BASES = {f"{NAME}.operators.remote_job", f"{NAME}.triggers.remote_job"}
"""What Airflow is not told of, because no one uses it by itself."""
PACKAGE = Path(airflow_provider_sequentum.__file__).parent


def load(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def modules_with(*kinds: type) -> set[str]:
    """The package's modules that define a class of one of these kinds."""
    found = set()
    for folder in ("operators", "sensors", "transfers", "triggers", "assets"):
        for module in pkgutil.iter_modules([str(PACKAGE / folder)], f"airflow_provider_sequentum.{folder}."):
            members = vars(importlib.import_module(module.name)).values()
            if any(
                isinstance(one, type) and issubclass(one, kinds) and one.__module__ == module.name for one in members
            ):
                found.add(module.name)
    return found


def told(key: str) -> set[str]:
    entries = INFO[key]
    return {module for entry in entries for module in entry.get("python-modules", [entry.get("python-module")])}


def test_airflow_finds_it() -> None:
    found = [entry for entry in entry_points(group="apache_airflow_provider") if entry.module.startswith(NAME)]
    assert [entry.load()() for entry in found] == [INFO]
    assert INFO["package-name"] == "airflow-provider-sequentum"
    assert INFO["versions"] == [version("airflow-provider-sequentum")]


def test_every_operator_sensor_transfer_and_trigger_is_told_of() -> None:
    assert told("sensors") == modules_with(BaseSensorOperator)
    assert (
        told("operators") | told("transfers") == modules_with(BaseOperator) - modules_with(BaseSensorOperator) - BASES
    )
    assert told("triggers") == modules_with(BaseTrigger) - BASES
    assert told("hooks") == {"airflow_provider_sequentum.hooks.sequentum"}


def test_every_link_is_told_of() -> None:
    used = {
        f"{type(link).__module__}.{type(link).__qualname__}"
        for module in told("operators") | told("sensors") | told("transfers")
        for one in vars(importlib.import_module(module)).values()
        if isinstance(one, type) and issubclass(one, BaseOperator) and one.__module__ == module
        for link in one.operator_extra_links
    }
    assert used <= set(INFO["extra-links"])
    assert all(issubclass(load(path), BaseOperatorLink) for path in INFO["extra-links"])


def test_every_path_leads_somewhere() -> None:
    for connection in INFO["connection-types"]:
        assert load(connection["hook-class-name"]).conn_type == connection["connection-type"]
    for uri in INFO["asset-uris"]:
        assert all(callable(load(uri[name])) for name in ("handler", "factory", "to_openlineage_converter"))


def test_it_fits_airflows_schema() -> None:
    import airflow

    schema = Path(airflow.__file__).parent / "provider_info.schema.json"
    importlib.import_module("jsonschema").validate(INFO, json.loads(schema.read_text()))


@pytest.mark.parametrize("name", CONNECTION_FIELDS)
def test_a_field_of_the_form_is_complete(name: str) -> None:
    field = CONNECTION_FIELDS[name]
    assert field["label"]
    assert field["description"]
    assert field["schema"]["type"][1] == "null", "an empty field has to be allowed"
    assert "__" not in name


def test_reading_it_imports_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); from airflow_provider_sequentum.get_provider_info import "
        "get_provider_info; get_provider_info(); print(*sorted({name.partition('.')[0] for name in "
        "set(sys.modules) - before}))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(printed.split()) - sys.stdlib_module_names == {NAME}
