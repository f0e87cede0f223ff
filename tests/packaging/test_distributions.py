"""Wheel and source distribution: the same bytes wherever they are built, and in them what belongs there."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_sequentum import __version__
from tests.packaging.conftest import CHECKOUT

if TYPE_CHECKING:
    from packaging.metadata import Metadata

NAME = "airflow_provider_sequentum"
STEM = f"{NAME}-{__version__}"
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
LICENCES = ("LICENSE", "NOTICE")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build(source: Path, target: Path, **environment: str) -> dict[str, str]:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(target)]
    subprocess.run(command, cwd=source, env={**os.environ, **environment}, check=True)
    return {path.name: digest(path) for path in target.iterdir()}


@pytest.fixture
def sdist_files(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {member.name.removeprefix(f"{STEM}/") for member in archive.getmembers() if member.isfile()}


def test_a_copy_elsewhere_builds_the_same_bytes(wheel: Path, sdist: Path, sources: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for name in sources:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CHECKOUT / name, copy / name)  # with another time and mode than the original
        (copy / name).chmod(0o600)
    assert build(copy, tmp_path / "dist") == {path.name: digest(path) for path in (wheel, sdist)}


def test_the_time_of_a_release_is_the_only_difference(wheel: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    first, second = (build(CHECKOUT, folder, SOURCE_DATE_EPOCH="1760000000") for folder in folders)
    assert first == second
    assert first[wheel.name] != digest(wheel)
    with zipfile.ZipFile(folders[0] / wheel.name) as dated, zipfile.ZipFile(wheel) as undated:
        assert {entry.date_time for entry in dated.infolist()} == {(2025, 10, 9, 8, 53, 20)}
        assert {name: dated.read(name) for name in dated.namelist()} == {
            name: undated.read(name) for name in undated.namelist()
        }


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    assert build(tmp_path / STEM, tmp_path / "dist")[wheel.name] == digest(wheel)


def test_twine_finds_nothing_wrong(wheel: Path, sdist: Path) -> None:
    check = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", wheel, sdist], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stdout + check.stderr


def test_the_wheel_is_the_package_and_nothing_else(wheel: Path, sources: list[Path]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
    info = f"{STEM}.dist-info"
    package = {name.as_posix() for name in sources if name.parts[0] == NAME}
    assert found == package | {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")} | {
        f"{info}/licenses/{name}" for name in LICENCES
    } | {f"{info}/sboms/airflow-provider-sequentum.cdx.json"}
    assert f"{NAME}/py.typed" in found


def test_the_source_distribution_is_what_a_build_needs(sdist_files: set[str], sources: list[Path]) -> None:
    package = {name.as_posix() for name in sources if name.parts[0] == NAME}
    around = {"pyproject.toml", "README.md", "CHANGELOG.md", "sbom.py", ".gitignore", "PKG-INFO", *LICENCES}
    assert sdist_files == package | around


def test_the_licence_is_stated_and_enclosed(metadata: Metadata) -> None:
    assert metadata.license_expression == "Apache-2.0"
    assert tuple(metadata.license_files or ()) == LICENCES


def test_metadata_say_what_pyproject_says(metadata: Metadata) -> None:
    assert str(metadata.version) == __version__
    assert str(metadata.requires_python) == PROJECT["requires-python"]
    assert metadata.summary == PROJECT["description"]
    assert metadata.description == (CHECKOUT / "README.md").read_text()
    assert metadata.description_content_type == "text/markdown"
    assert set(metadata.classifiers or ()) == set(PROJECT["classifiers"])
    assert set(metadata.provides_extra or ()) == set(PROJECT["optional-dependencies"])
    assert metadata.project_urls


def test_no_upper_bound_locks_a_user_in(metadata: Metadata) -> None:
    bounded = {
        requirement.name
        for requirement in metadata.requires_dist or ()
        if any(part.operator in ("<", "<=", "==", "~=") for part in requirement.specifier)
    }
    assert bounded == {"httpx"}, "httpx 1.0 is a rewrite, everything else is left to the user"
