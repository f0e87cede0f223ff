"""What is reported to OpenLineage, where its Airflow provider is installed.

The data of an agent is one dataset (namespace ``sequentum``, name ``agents/7``, as in Sequentum's own URIs) whose
version is the run, so that a lineage graph has one node for it and not one for every run. The operator that runs the
agent reads the page where the agent starts and writes that dataset; the transfer reads it and writes files.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_provider_sequentum.api.call import API_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.providers.common.compat.openlineage.facet import Dataset, InputDataset, OutputDataset
    from airflow.providers.common.compat.sdk import ObjectStoragePath
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.hooks.connection import SequentumConnection
    from airflow_provider_sequentum.quality.profile import ColumnProfile, Profile
    from airflow_provider_sequentum.quality.report import Report
    from airflow_provider_sequentum.transfers.run_files_transfer import Landed

NAMESPACE = "sequentum"

log = logging.getLogger(__name__)

MAX_FILES = 100
"""Maximum number of files that are reported one by one. If there are more, only their folder is reported."""

MAX_ASSERTIONS = 100
"""Maximum number of breaches that are reported for a check."""

MAX_COLUMNS = 500
"""Maximum number of columns whose metrics are reported for a check."""

MAX_START_PAGES = 20
"""Maximum number of agents whose start pages are looked up, which takes a request each."""


def agent_dataset(agent_id: int, run_id: int | None = None) -> Dataset:
    """Return the dataset of an agent's data, or of the data of one run."""
    from airflow.providers.common.compat.openlineage.facet import Dataset

    return Dataset(NAMESPACE, f"agents/{agent_id}", facets={} if run_id is None else _version(run_id))


def run_lineage(hook: SequentumConnection, run: Run) -> OperatorLineage[Any, Any]:
    """Return the lineage of a task that ran an agent.

    :param hook: used to look up the start page of the agent, which is left out if that fails.
    """
    from airflow.providers.openlineage.extractors import OperatorLineage

    return OperatorLineage(
        inputs=_start_pages(hook, [run]),
        outputs=[_data_of(run)],
        **_run_facets(hook.settings.origin, run.agent_id, run.id, run.config_name, run.config_version),
    )


def space_lineage(hook: SequentumConnection, space_id: int, runs: Sequence[Run]) -> OperatorLineage[Any, Any]:
    """Return the lineage of a task that ran the agents of a space.

    :param hook: used to look up the start pages of the agents, unless there are many.
    """
    from airflow.providers.openlineage.extractors import OperatorLineage

    return OperatorLineage(
        inputs=_start_pages(hook, runs) if len(runs) <= MAX_START_PAGES else [],
        outputs=[_data_of(run) for run in runs],
        job_facets=_job(
            f"Space {space_id} of Sequentum Cloud", f"{hook.settings.origin}{API_PREFIX}/spaces/{space_id}"
        ),
    )


def transfer_lineage(landed: Landed) -> OperatorLineage[Any, Any]:
    """Return the lineage of a task that landed a run's files."""
    from airflow.providers.openlineage.extractors import OperatorLineage

    manifest = landed.manifest
    return OperatorLineage(
        inputs=[_data_read(manifest.agent_id, manifest.run_id, {})],
        outputs=_file_datasets(landed),
        **_run_facets(landed.origin, manifest.agent_id, manifest.run_id, manifest.agent_name),
    )


def check_lineage(
    files: Sequence[ObjectStoragePath], written: Sequence[ObjectStoragePath], report: Report
) -> OperatorLineage[Any, Any]:
    """Return the lineage of a task that checked landed files.

    Each breach is a failed assertion. The first assertion is about the records as a whole. The metrics of the columns
    are those of all files, so they are attached to a file only if there is one, and otherwise to the agent's dataset.

    :param written: files that the check wrote: with the records that passed, or with those that did not.
    """
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.facet_v2 import data_quality_assertions_dataset as quality

    assertions = [quality.Assertion("records_check", report.is_good)]
    assertions += [quality.Assertion(breach.rule, False, breach.column) for breach in report.breaches[:MAX_ASSERTIONS]]
    facets: dict[str, Any] = {"dataQualityAssertions": quality.DataQualityAssertionsDatasetFacet(assertions)}
    metrics = {"dataQualityMetrics": _metrics(report.profile, len(files))}
    if len(files) == 1:
        inputs = [_input(files[0], facets | metrics)]
    else:
        inputs = [*(_input(path, facets) for path in files), _data_read(report.agent_id, report.run_id, metrics)]
    return OperatorLineage(inputs=inputs, outputs=[_output(path, {}) for path in written])


def changes_lineage(
    files: Sequence[ObjectStoragePath], written: Mapping[ObjectStoragePath, int]
) -> OperatorLineage[Any, Any]:
    """Return the lineage of a task that compared the files of two runs.

    :param written: files with changes, and how many records each has.
    """
    from airflow.providers.openlineage.extractors import OperatorLineage

    return OperatorLineage(
        inputs=[_input(path, {}) for path in files],
        outputs=[_output(path, _statistics(rows=rows)) for path, rows in written.items()],
    )


def _start_pages(hook: SequentumConnection, runs: Sequence[Run]) -> list[InputDataset]:
    from airflow_provider_sequentum.api import SequentumClient, agents
    from airflow_provider_sequentum.api.errors import SequentumError

    addresses = []
    # A separate client: OpenLineage calls this in a fork or a thread, and the hook's client belongs to the task.
    with SequentumClient(hook.settings) as client:
        for run in runs:
            try:
                addresses.append(client.send(agents.get(run.agent_id), within=30.0).start_url)
            except SequentumError as error:
                log.info("Could not read the start page of agent %s for its lineage. (%s)", run.agent_id, error)
    return [page for address in dict.fromkeys(addresses) if (page := _page(address or "")) is not None]


def _data_of(run: Run) -> OutputDataset:
    from airflow.providers.common.compat.openlineage.facet import OutputDataset

    data = agent_dataset(run.agent_id)
    statistics = _statistics(rows=run.export_count or run.data_count)
    return OutputDataset(data.namespace, data.name, facets=_version(run.id), outputFacets=statistics)


def _data_read(agent_id: int, run_id: int, facets: dict[str, Any]) -> InputDataset:
    from airflow.providers.common.compat.openlineage.facet import InputDataset

    data = agent_dataset(agent_id)
    return InputDataset(data.namespace, data.name, facets=_version(run_id), inputFacets=facets)


def _metrics(profile: Profile, files: int) -> Any:
    from openlineage.client.facet_v2 import data_quality_metrics_input_dataset as quality

    columns = list(profile.columns.items())[:MAX_COLUMNS]
    return quality.DataQualityMetricsInputDatasetFacet(
        columnMetrics={name: quality.ColumnMetrics(**_column_metrics(column, profile)) for name, column in columns},
        rowCount=profile.records,
        fileCount=files,
    )


def _column_metrics(column: ColumnProfile, profile: Profile) -> dict[str, Any]:
    """Return the metrics of a column. If only a sample of the numbers is known, just the quantiles are reported."""
    filled = round(column.filled * profile.records)
    metrics: dict[str, Any] = {"nullCount": profile.records - filled, "count": filled}
    is_whole = profile.rows == profile.records
    if is_whole:
        metrics["distinctCount"] = round(column.distinct * filled)
    if column.numeric > 0.5 and not column.has_dates:
        smallest, *quantiles, largest = column.numbers
        metrics["quantiles"] = dict(zip(("0.05", "0.25", "0.5", "0.75", "0.95"), quantiles, strict=True))
        if is_whole:
            metrics |= {"min": smallest, "max": largest}
    return metrics


def _file_datasets(landed: Landed) -> list[OutputDataset]:
    files = landed.manifest.files
    if len(files) > MAX_FILES:
        totals = _statistics(rows=landed.manifest.records, size=landed.manifest.size, files=len(files))
        return [_output(landed.folder, totals)]
    return [_output(landed.folder / file.name, _statistics(rows=file.records, size=file.size)) for file in files]


def _output(path: ObjectStoragePath, statistics: dict[str, Any]) -> OutputDataset:
    from airflow.providers.common.compat.openlineage.facet import OutputDataset

    return OutputDataset(*_name(path), outputFacets=statistics)


def _input(path: ObjectStoragePath, facets: dict[str, Any]) -> InputDataset:
    from airflow.providers.common.compat.openlineage.facet import InputDataset

    return InputDataset(*_name(path), inputFacets=facets)


def _name(path: ObjectStoragePath) -> tuple[str, str]:
    return (path.namespace, path.key) if path.bucket else ("file", path.path)


def _page(url: str) -> InputDataset | None:
    """Return the dataset of a web page; ``None`` if the address is not one of a page."""
    from airflow.providers.common.compat.openlineage.facet import InputDataset

    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    # Neither credentials nor a query, which may contain a token, belong in a catalog.
    host = parts.netloc.rpartition("@")[2]
    return InputDataset(f"{parts.scheme}://{host}", parts.path or "/")


def _statistics(*, rows: int | None, size: int | None = None, files: int | None = None) -> dict[str, Any]:
    from airflow.providers.common.compat.openlineage.facet import OutputStatisticsOutputDatasetFacet

    return {"outputStatistics": OutputStatisticsOutputDatasetFacet(rowCount=rows, size=size, fileCount=files)}


def _version(run_id: int) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset

    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=str(run_id))}


def _run_facets(
    origin: str, agent_id: int, run_id: int, agent_name: str | None, version: int | None = None
) -> dict[str, Any]:
    from airflow.providers.common.compat.openlineage.facet import ExternalQueryRunFacet

    run = ExternalQueryRunFacet(externalQueryId=f"agents/{agent_id}/runs/{run_id}", source=origin)
    described = f"Agent {agent_id} of Sequentum Cloud" + (f": {agent_name}" if agent_name else "")
    return {
        "run_facets": {"externalQuery": run},
        "job_facets": _job(described, f"{origin}{API_PREFIX}/agent/{agent_id}", version),
    }


def _job(description: str, address: str, version: int | None = None) -> dict[str, Any]:
    """Return the facets that describe the job. Airflow gives precedence to the documentation of the DAG or task."""
    from openlineage.client.facet_v2 import documentation_job, source_code_location_job

    code = source_code_location_job.SourceCodeLocationJobFacet(
        type=NAMESPACE, url=address, version=None if version is None else str(version)
    )
    return {
        "documentation": documentation_job.DocumentationJobFacet(description=description),
        "sourceCodeLocation": code,
    }
