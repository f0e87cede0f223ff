"""The wheel in an environment of its own: what a user has after ``pip install``."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from airflow_provider_sequentum.get_provider_info import get_provider_info
from tests.packaging.conftest import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_MODULE = """
import importlib, pkgutil
import airflow_provider_sequentum as package
names = [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
wanted = [name for name in names if ".sandbox" not in name]
for name in wanted:
    importlib.import_module(name)
print(len(wanted))
"""
VALIDATE = """
import importlib.metadata, json, pathlib
import airflow, jsonschema
[entry] = [
    entry for entry in importlib.metadata.entry_points(group="apache_airflow_provider")
    if entry.dist.name == "airflow-provider-sequentum"
]
info = entry.load()()
folder = pathlib.Path(airflow.__file__).parent
schema = json.loads((folder / "provider_info.schema.json").read_text())
form = json.loads((folder / "provider.yaml.schema.json").read_text())["properties"]["connection-types"]
jsonschema.Draft7Validator.check_schema(form)
jsonschema.validate(info["connection-types"], form)
jsonschema.validate(info, schema)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables with which Airflow has a home of its own, and no settings of the tests around it."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    return {**outside, "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))}


def output(*command: str | Path, env: dict[str, str] | None = None) -> str:
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def airflow(commands: Path, home: dict[str, str], *arguments: str) -> Any:
    return json.loads(output(commands / "airflow", *arguments, "--output", "json", env=home))


def test_every_module_can_be_imported_without_an_extra(bare: Path, home: dict[str, str]) -> None:
    # Airflow's own API server, which the UI imports, may log something first.
    assert int(output(bare / "python", "-c", EVERY_MODULE, env=home).splitlines()[-1]) > 50


def test_airflow_discovers_the_provider(bare: Path, home: dict[str, str]) -> None:
    [provider] = airflow(bare, home, "providers", "get", "airflow-provider-sequentum")
    info = get_provider_info()
    assert provider["Version"] == info["versions"][0]
    hooks = airflow(bare, home, "providers", "hooks")
    assert [hook["package_name"] for hook in hooks if hook["connection_type"] == "sequentum"] == [info["package-name"]]
    links = [link["extra_link_class_name"] for link in airflow(bare, home, "providers", "links")]
    assert set(info["extra-links"]) <= set(links)


def test_airflows_own_schemas_accept_the_provider_info(bare: Path, home: dict[str, str]) -> None:
    output(bare / "python", "-c", VALIDATE, env=home)


def test_the_sandbox_comes_with_its_extra(install: Callable[[str], Path], tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    command = install("sandbox") / "sequentum-sandbox"
    with subprocess.Popen([command, "--port", "0", "--ready-file", ready], stdout=subprocess.DEVNULL) as sandbox:
        try:
            told = _read_when_there(ready, sandbox)
            headers = {"Authorization": f"ApiKey {told['api_key']}"}
            answer = httpx.get(f"{told['base_url']}/api/v1/agent/all", headers=headers)
        finally:
            sandbox.terminate()
    assert answer.status_code == 200, answer.text
    assert sandbox.returncode == 0


def test_the_registry_file_names_what_there_is() -> None:
    registry = yaml.safe_load((CHECKOUT / ".airflow-registry.yaml").read_text())
    info = get_provider_info()
    assert registry["package-name"] == info["package-name"]
    assert registry["display-name"] == info["name"]
    assert registry["description"] == info["description"]
    modules = {
        entry["module"].rpartition(".")[0]
        for kind in ("operators", "sensors", "transfers", "hooks", "triggers")
        for entry in registry[kind]
    }
    assert modules == {
        module
        for kind in ("operators", "sensors", "transfers", "hooks", "triggers")
        for entry in info[kind]
        for module in entry.get("python-modules", [entry.get("python-module")])
    }


def _read_when_there(path: Path, process: subprocess.Popen[bytes], patience: float = 60) -> dict[str, Any]:
    deadline = time.monotonic() + patience
    while not path.exists():
        assert process.poll() is None, f"the sandbox ended with {process.returncode}"
        assert time.monotonic() < deadline, f"no {path} within {patience:g} s"
        time.sleep(0.1)
    told: dict[str, Any] = json.loads(path.read_text())
    return told
