"""What OpenLineage is told of landed files and of where an agent starts."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_sequentum.reporting.lineage import MOST_FILES, transfer_lineage
from airflow_provider_sequentum.transfers.manifest import LandedFile, Manifest
from airflow_provider_sequentum.transfers.run_files_transfer import Landed


def landed(count: int, folder: str) -> Landed:
    files = [LandedFile(file_id=number, name=f"{number}.csv", size=10, records=2) for number in range(count)]
    manifest = Manifest(agent_id=7, run_id=42, files=files)
    return Landed(ObjectStoragePath(folder), manifest, count, "https://cloud.example")


@pytest.mark.parametrize(
    ("folder", "namespace", "name"),
    [("file:///data/today", "file", "/data/today"), ("s3://lake/today", "s3://lake", "today")],
)
def test_of_many_files_only_the_folder_is_told_with_the_sum(folder: str, namespace: str, name: str) -> None:
    [output] = transfer_lineage(landed(MOST_FILES + 1, folder)).outputs
    assert (output.namespace, output.name.rstrip("/")) == (namespace, name)
    statistics = output.outputFacets["outputStatistics"]
    assert (statistics.rowCount, statistics.size, statistics.fileCount) == (202, 1010, 101)


@pytest.mark.parametrize("count", [1, MOST_FILES])
def test_of_few_files_each_is_told(count: int) -> None:
    outputs = transfer_lineage(landed(count, "s3://lake/today")).outputs
    assert [output.name for output in outputs] == [f"today/{number}.csv" for number in range(count)]
