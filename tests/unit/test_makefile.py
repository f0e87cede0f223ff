from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
LOCKS = ("airflow-3.3", "toolset")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_a_wheel_is_built_without_an_airflow() -> None:
    command = ["make", "--dry-run", "--always-make", "build", "VENV=no-such-environment"]
    printed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    assert "hatchling build" in printed
    assert "requirements/build.txt" in printed
    assert "no-such-environment" not in printed
    assert "airflow-3.3.txt" not in printed


def locked(name: str) -> set[str]:
    lines = (CHECKOUT / "requirements" / name).read_text().splitlines()
    return {line.rstrip(" \\") for line in lines if "==" in line and not line.startswith((" ", "#"))}


def test_the_toolset_is_tested_with_the_versions_that_the_tests_use() -> None:
    used, toolset = ({line.partition(" ;")[0] for line in locked(f"{name}.txt")} for name in LOCKS)
    names = {package.partition("==")[0] for package in used}
    further = {package.partition("==")[0] for package in toolset - used}
    assert further & names == set(), "other versions"
    assert "apache-airflow-providers-common-ai" in further


def test_the_build_is_locked_to_the_versions_that_the_tests_use() -> None:
    assert locked("build.txt") <= locked("airflow-3.3.txt")
    assert any(line.startswith("hatchling==") for line in locked("build.txt"))
