"""
The asset of an agent: ``sequentum://agent/7`` is the data that agent 7 yields.

A DAG whose task has it among its ``outlets`` says that it renews the data; a DAG scheduled on it runs when they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from airflow.providers.common.compat.openlineage.facet import Dataset as OpenLineageDataset
    from airflow.providers.common.compat.sdk import Asset

SCHEME = "sequentum"


def agent_uri(agent_id: int | str) -> str:
    """Return the URI of an agent's data."""
    return f"{SCHEME}://agent/{agent_id}"


def create_asset(*, agent_id: int | str, extra: dict[str, Any] | None = None) -> Asset:
    """
    Return the asset of an agent's data.

    :param agent_id: the agent.
    :param extra: what else is to be known of the asset.
    """
    from airflow.providers.common.compat.sdk import Asset

    return Asset(uri=agent_uri(agent_id), extra=extra)


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """
    Check an agent's URI for Airflow.

    :raises ValueError: it has another form than ``sequentum://agent/7``.
    """
    agent_id = uri.path.removeprefix("/")
    if uri.netloc != "agent" or not agent_id.isascii() or not agent_id.isdecimal() or uri.query:
        raise ValueError(f"A Sequentum asset's URI must look like {agent_uri(7)}, not {uri.geturl()}.")
    return uri._replace(path=f"/{int(agent_id)}")


def convert_asset_to_openlineage(asset: Asset, lineage_context: object) -> OpenLineageDataset:  # noqa: ARG001
    """Return the OpenLineage dataset of an agent's asset."""
    from airflow_provider_sequentum.reporting.lineage import agent_dataset

    return agent_dataset(urlsplit(asset.uri).path.removeprefix("/"))
