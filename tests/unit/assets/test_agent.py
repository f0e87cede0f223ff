from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import Asset

from airflow_provider_sequentum.assets.agent import agent_uri, convert_asset_to_openlineage, create_asset, sanitize_uri


@pytest.mark.parametrize(
    ("uri", "normal"),
    [
        ("sequentum://agents/7", "sequentum://agents/7"),
        ("sequentum://agents/007", "sequentum://agents/7"),
        ("sequentum://agents/7/runs/42", "sequentum://agents/7/runs/42"),
        ("sequentum://agents/07/runs/0042", "sequentum://agents/7/runs/42"),
    ],
)
def test_the_uris_are_those_of_sequentums_own_server(uri: str, normal: str) -> None:
    assert sanitize_uri(urlsplit(uri)).geturl() == normal
    assert Asset(uri=uri).uri == normal


@pytest.mark.parametrize(
    "uri",
    [
        "sequentum://agent/7",
        "sequentum://agents",
        "sequentum://agents/",
        "sequentum://agents/0",
        "sequentum://agents/x",
        "sequentum://agents/7/",
        "sequentum://agents/7/runs",
        "sequentum://agents/7/run/1",
        "sequentum://agents/7/runs/x",
        "sequentum://agents/7/runs/1/files",
        "sequentum://agents/9999999999999999999",
        "sequentum://agents/7?x=1",
        "sequentum://agents/7#x",
        "sequentum://agents/\N{ARABIC-INDIC DIGIT SEVEN}",
    ],
)
def test_another_form_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="must look like sequentum://agents/7 or sequentum://agents/7/runs/42"):
        sanitize_uri(urlsplit(uri))


def test_an_asset_of_an_agent() -> None:
    asset = create_asset(agent_id=7, extra={"team": "prices"})
    assert (asset.uri, asset.extra) == ("sequentum://agents/7", {"team": "prices"})
    assert asset == Asset(uri=agent_uri(7), extra={"team": "prices"})
    assert create_asset(agent_id=7, run_id="42").uri == "sequentum://agents/7/runs/42"


def test_airflow_knows_the_scheme() -> None:
    """Airflow 2 only warns."""
    refused = pytest.raises(ValueError, match="must look like")
    warned = pytest.warns(UserWarning, match="must look like")
    with refused if airflow_version.startswith("3") else warned:
        Asset(uri="sequentum://agent/prices")


def test_openlineage_dataset() -> None:
    dataset = convert_asset_to_openlineage(create_asset(agent_id=7), None)
    assert (dataset.namespace, dataset.name) == ("sequentum", "agents/7")
    run = convert_asset_to_openlineage(create_asset(agent_id=7, run_id=42), None)
    assert run.facets is not None
    version: Any = run.facets["version"]
    assert (run.name, version.datasetVersion) == ("agents/7", "42")
