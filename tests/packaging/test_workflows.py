"""GitHub's workflows: they run what the project says it supports, and nothing that can change behind its back."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

import noxfile
from tests.packaging.conftest import CHECKOUT

WORKFLOWS = sorted((CHECKOUT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^\.PHONY: (.*)$", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))


def jobs(name: str) -> dict[str, Any]:
    workflow: dict[str, Any] = yaml.safe_load((CHECKOUT / ".github" / "workflows" / f"{name}.yml").read_text())
    found: dict[str, Any] = workflow["jobs"]
    return found


def test_the_matrix_is_that_of_nox() -> None:
    matrix = jobs("tests")["matrix"]["strategy"]["matrix"]
    pairs = {(airflow, python) for airflow in matrix["airflow"] for python in matrix["python"]}
    left_out = {(pair["airflow"], pair["python"]) for pair in matrix["exclude"]}
    assert left_out <= pairs
    assert pairs - left_out == {(airflow, python) for airflow, all_of in noxfile.PYTHONS.items() for python in all_of}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_by_commit_with_its_version(workflow: Any) -> None:
    used = re.findall(r"uses: (.*)", workflow.read_text())
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_target_that_is_made_is_in_the_makefile(workflow: Any) -> None:
    made = set(re.findall(r"run: make ([a-z-]+)", workflow.read_text()))
    made |= set(re.findall(r"target: ([a-z0-9.-]+)", workflow.read_text()))
    assert made
    assert made <= {target for line in TARGETS for target in line.split()}


def test_only_the_job_that_publishes_has_an_identity() -> None:
    permissions = {name: job["permissions"] for name, job in jobs("release").items()}
    assert permissions == {
        "build": {"contents": "read"},
        "publish": {"id-token": "write"},
        "announce": {"contents": "write"},
    }
    assert not any("run" in step for step in jobs("release")["publish"]["steps"])
