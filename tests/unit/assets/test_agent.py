from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import Asset

from airflow_provider_sequentum.assets.agent import agent_uri, convert_asset_to_openlineage, create_asset, sanitize_uri


@pytest.mark.parametrize("uri", ["sequentum://agent/7", "sequentum://agent/007"])
def test_an_agents_uri_is_normalised(uri: str) -> None:
    assert sanitize_uri(urlsplit(uri)).geturl() == "sequentum://agent/7"


@pytest.mark.parametrize(
    "uri",
    [
        "sequentum://agent",
        "sequentum://agent/",
        "sequentum://agent/x",
        "sequentum://agent/7/run/1",
        "sequentum://agents/7",
        "sequentum://agent/7?x=1",
        "sequentum://agent/\N{ARABIC-INDIC DIGIT SEVEN}",
    ],
)
def test_another_form_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="must look like sequentum://agent/7"):
        sanitize_uri(urlsplit(uri))


def test_an_asset_of_an_agent() -> None:
    asset = create_asset(agent_id=7, extra={"team": "prices"})
    assert (asset.uri, asset.extra) == ("sequentum://agent/7", {"team": "prices"})
    assert asset == Asset(uri=agent_uri(7), extra={"team": "prices"})


def test_airflow_knows_the_scheme() -> None:
    """Airflow 2 only warns."""
    refused = pytest.raises(ValueError, match="must look like")
    warned = pytest.warns(UserWarning, match="must look like")
    with refused if airflow_version.startswith("3") else warned:
        Asset(uri="sequentum://agent/prices")


def test_openlineage_dataset() -> None:
    dataset = convert_asset_to_openlineage(create_asset(agent_id=7), None)
    assert (dataset.namespace, dataset.name) == ("sequentum", "agent/7")
