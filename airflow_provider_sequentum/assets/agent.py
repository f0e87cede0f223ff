"""The asset of an agent: ``sequentum://agents/7`` is the data that agent 7 extracts.

A task with this asset in its ``outlets`` updates the data, and a DAG that is scheduled on the asset runs after each
update. ``sequentum://agents/7/runs/42`` is the data of one run. Sequentum's MCP server uses the same URIs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_provider_sequentum.parameters import LARGEST_ID

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from airflow.providers.common.compat.openlineage.facet import Dataset as OpenLineageDataset
    from airflow.providers.common.compat.sdk import Asset

SCHEME = "sequentum"

_PATH = re.compile(r"/([0-9]{1,19})(?:/runs/([0-9]{1,19}))?")


def agent_uri(agent_id: int | str, run_id: int | str | None = None) -> str:
    """Return the URI of the data of an agent, or of one run."""
    return f"{SCHEME}://agents/{agent_id}" + ("" if run_id is None else f"/runs/{run_id}")


def create_asset(*, agent_id: int | str, run_id: int | str | None = None, extra: dict[str, Any] | None = None) -> Asset:
    """Return the asset of an agent's data.

    :param agent_id: the agent.
    :param run_id: the run, for the asset of the data of one run.
    :param extra: further information about the asset.
    """
    from airflow.providers.common.compat.sdk import Asset

    return Asset(uri=agent_uri(agent_id, run_id), extra=extra)


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """Validate and normalize the URI of an agent's asset, for Airflow.

    :raises ValueError: it does not look like ``sequentum://agents/7`` or ``sequentum://agents/7/runs/42``.
    """
    ids = _ids_of(uri)
    if ids is None:
        raise ValueError(
            f"A Sequentum asset's URI must look like {agent_uri(7)} or {agent_uri(7, 42)}, not {uri.geturl()}."
        )
    return urlsplit(agent_uri(*ids))


def convert_asset_to_openlineage(asset: Asset, lineage_context: object) -> OpenLineageDataset:  # noqa: ARG001
    """Return the OpenLineage dataset of an agent's asset; the dataset of a run is a version of it."""
    from airflow_provider_sequentum.reporting.lineage import agent_dataset

    agent_id, run_id = _ids_of(urlsplit(asset.uri)) or (0, None)
    return agent_dataset(agent_id, run_id)


def _ids_of(uri: SplitResult) -> tuple[int, int | None] | None:
    match = _PATH.fullmatch(uri.path)
    if uri.netloc != "agents" or uri.query or uri.fragment or match is None:
        return None
    agent_id, run_id = int(match[1]), None if match[2] is None else int(match[2])
    is_usable = all(0 < number <= LARGEST_ID for number in (agent_id, 1 if run_id is None else run_id))
    return (agent_id, run_id) if is_usable else None
