"""What users import is complete, documented and cheap to import."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from airflow_provider_sequentum import api

MODULES = [importlib.import_module(f"{api.__name__}.{module.name}") for module in pkgutil.iter_modules(api.__path__)]


def public_names() -> Iterator[tuple[str, Any]]:
    """Every public class and function with its dotted name, methods and properties included."""
    for module in MODULES:
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            yield f"{module.__name__}.{name}", value
            if inspect.isclass(value):
                for attribute, member in vars(value).items():
                    if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                        yield f"{module.__name__}.{name}.{attribute}", member


DOCUMENTED = {name: value for name, value in public_names() if inspect.isclass(value) or callable(value)}


@pytest.mark.parametrize("name", api.__all__)
def test_every_exported_name_exists_and_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(api, name))


def test_the_exports_are_sorted_and_what_dir_shows() -> None:
    assert api.__all__ == sorted(api.__all__) == dir(api)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sessions'"):
        _ = api.sessions


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_module_is_documented(module: ModuleType) -> None:
    assert module.__doc__


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_class_function_and_method_is_documented(name: str) -> None:
    documentation = DOCUMENTED[name].__doc__

    assert documentation
    # Dataclasses and enumerations write a docstring themselves where there is none.
    assert not documentation.startswith((f"{name.rpartition('.')[2]}(", "An enumeration."))


@pytest.mark.parametrize("name", [name for name, value in DOCUMENTED.items() if inspect.isfunction(value)])
def test_documented_parameters_exist(name: str) -> None:
    function = DOCUMENTED[name]
    described = [
        line.split()[1].rstrip(":")
        for line in (function.__doc__ or "").splitlines()
        if line.strip().startswith(":param")
    ]

    assert set(described) <= set(inspect.signature(function).parameters)


def test_importing_the_package_loads_no_heavy_library() -> None:
    program = (
        "import sys, airflow_provider_sequentum.api, airflow_provider_sequentum.api.run_status,"
        " airflow_provider_sequentum.api.call, airflow_provider_sequentum.api.errors,"
        " airflow_provider_sequentum.api.settings, airflow_provider_sequentum.api.text;"
        "print(sorted({'httpx', 'pydantic', 'pendulum', 'tenacity', 'airflow'} & set(sys.modules)))"
    )

    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout

    assert printed.strip() == "[]"
