from __future__ import annotations

from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_sequentum.api.files import RunFile
from airflow_provider_sequentum.transfers.landed_runs import find_landed_runs
from airflow_provider_sequentum.transfers.landing import MANIFEST_NAME
from airflow_provider_sequentum.transfers.manifest import Manifest, planned_file
from tests.support.stored import changed

FILE = RunFile.model_validate({"id": 1, "name": "a.csv", "fileType": 1, "fileSize": 2, "created": "2026-11-22T09:00Z"})
SHA256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


def manifest(name: str = "a.csv") -> bytes:
    entry = planned_file(FILE, "a.csv").model_copy(update={"name": name, "size": 1, "sha256": SHA256})
    return Manifest(agent_id=7, run_id=42, files=[entry], is_complete=True).to_json()


def why_not(folder: Path, content: bytes) -> list[str | None]:
    (folder / "a.csv").write_text("x")
    (folder / MANIFEST_NAME).write_bytes(content)
    found = find_landed_runs([ObjectStoragePath(folder.as_uri())], 7)
    return [run.why_not([FILE]) for runs in found.values() for run in runs]


def test_a_run_whose_files_are_there_is_landed(tmp_path: Path) -> None:
    assert why_not(tmp_path, manifest()) == [None]


def test_whatever_a_manifest_contains_it_proves_something_or_nothing(tmp_path: Path) -> None:
    proofs = [why_not(tmp_path, content) for content in changed(manifest())]
    assert len(proofs) > 300
    assert [] in proofs


@pytest.mark.parametrize("name", ["../a.csv", "/etc/passwd", "", ".", "a//b", "a/./b", "ftp://host/x", "ftp:/x", "x/"])
def test_a_manifest_that_names_a_file_outside_of_its_folder_is_not_trusted(tmp_path: Path, name: str) -> None:
    assert Manifest.parse(manifest(name)) is None
    assert why_not(tmp_path, manifest(name)) == []


@pytest.mark.parametrize("name", ["a.csv", "region=E%2FU/a.parquet", "a:b.csv", "..a", "ftp:"])
def test_a_manifest_may_name_any_file_in_its_folder(name: str) -> None:
    assert Manifest.parse(manifest(name)) is not None
