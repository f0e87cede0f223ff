"""What OpenLineage is told of landed files, of a check of their records and of where an agent starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_sequentum.quality.contract import Contract
from airflow_provider_sequentum.quality.engine import open_workspace
from airflow_provider_sequentum.quality.judge import Breach, judge
from airflow_provider_sequentum.quality.profile import SAMPLE, Profile, profile
from airflow_provider_sequentum.quality.report import Report
from airflow_provider_sequentum.reporting.lineage import MAX_COLUMNS, MAX_FILES, check_lineage, transfer_lineage
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
    [output] = transfer_lineage(landed(MAX_FILES + 1, folder)).outputs
    assert (output.namespace, output.name.rstrip("/")) == (namespace, name)
    statistics = output.outputFacets["outputStatistics"]
    assert (statistics.rowCount, statistics.size, statistics.fileCount) == (202, 1010, 101)


@pytest.mark.parametrize("count", [1, MAX_FILES])
def test_of_few_files_each_is_told(count: int) -> None:
    outputs = transfer_lineage(landed(count, "s3://lake/today")).outputs
    assert [output.name for output in outputs] == [f"today/{number}.csv" for number in range(count)]


def profile_of(tmp_path: Path, text: str) -> Profile:
    file = tmp_path / "rows.csv"
    file.write_text(text)
    with open_workspace() as workspace:
        table = workspace.load([file]).as_text()
        return profile(table, agent_id=7, run_id=42, filled=judge(table, Contract()).filled)


def checked(found: Profile, *names: str, breaches: tuple[Breach, ...] = ()) -> list[Any]:
    report = Report(found, [*breaches], learnt_from=0, is_accepted=False)
    inputs: list[Any] = check_lineage([ObjectStoragePath(f"s3://lake/{name}") for name in names], [], report).inputs
    return inputs


def test_a_check_tells_the_metrics_of_each_column_beside_its_assertions(tmp_path: Path) -> None:
    text = "sku,price,day\nA1,9.50 EUR,2026-01-01\nA2,,2026-01-02\nA2,7.00 EUR,2026-01-03\nA4,7.00 EUR,2026-01-04\n"
    breach = Breach("unique", "sku", "warn", "1 of 4 records break it")
    [file] = checked(profile_of(tmp_path, text), "rows.csv", breaches=(breach,))
    assert [each.assertion for each in file.inputFacets["dataQualityAssertions"].assertions] == [
        "records_check",
        "unique",
    ]
    metrics = file.inputFacets["dataQualityMetrics"]
    assert (metrics.rowCount, metrics.fileCount, list(metrics.columnMetrics)) == (4, 1, ["sku", "price", "day"])
    sku, price, day = metrics.columnMetrics.values()
    assert (sku.count, sku.nullCount, sku.distinctCount, sku.min) == (4, 0, 3, 1.0)
    assert (price.count, price.nullCount, price.distinctCount, price.min, price.max) == (3, 1, 2, 7.0, 9.5)
    assert price.quantiles == {"0.05": 7.0, "0.25": 7.0, "0.5": 7.0, "0.75": 9.5, "0.95": 9.5}
    assert (day.count, day.distinctCount, day.min, day.quantiles) == (4, 4, None, {}), "days since 1970 say nothing"


def test_a_check_of_a_sample_tells_no_counts_that_it_does_not_know(tmp_path: Path) -> None:
    rows = 3 * SAMPLE
    text = "n\n" + "".join(f"{number}\n" for number in range(rows))
    [file] = checked(profile_of(tmp_path, text), "rows.csv")
    [column] = file.inputFacets["dataQualityMetrics"].columnMetrics.values()
    assert (column.count, column.nullCount) == (rows, 0)
    assert (column.distinctCount, column.min, column.max) == (None, None, None)
    assert column.quantiles["0.5"] == pytest.approx(rows / 2, rel=0.05)


def test_of_many_files_the_metrics_are_those_of_the_agents_data(tmp_path: Path) -> None:
    *files, data = checked(profile_of(tmp_path, "n\n1\n"), "a.csv", "b.csv")
    assert [sorted(file.inputFacets) for file in files] == [["dataQualityAssertions"]] * 2
    assert (data.namespace, data.name, data.facets["version"].datasetVersion) == ("sequentum", "agents/7", "42")
    assert data.inputFacets["dataQualityMetrics"].fileCount == 2


def test_of_very_many_columns_the_first_are_told(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(MAX_COLUMNS + 1)]
    [file] = checked(profile_of(tmp_path, ",".join(names) + "\n" + ",".join("1" for _ in names) + "\n"), "rows.csv")
    assert list(file.inputFacets["dataQualityMetrics"].columnMetrics) == names[:-1]


def test_a_check_without_records_tells_that_there_are_none(tmp_path: Path) -> None:
    [file] = checked(profile_of(tmp_path, "sku,price\n"), "rows.csv")
    assert (file.inputFacets["dataQualityMetrics"].rowCount, file.inputFacets["dataQualityMetrics"].columnMetrics) == (
        0,
        {},
    )
