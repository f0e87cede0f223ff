from __future__ import annotations

import json
import os

from airflow_provider_sequentum.sandbox import Sandbox
from airflow_provider_sequentum.sandbox.testing import sandbox as sandbox  # noqa: PLC0414 - how users import it
from tests.integration.sandbox.client import Api


def test_the_fixture_is_airflows_connection(sandbox: Sandbox) -> None:
    connection = json.loads(os.environ["AIRFLOW_CONN_SEQUENTUM_DEFAULT"])
    assert (connection["host"], connection["password"]) == (sandbox.base_url, sandbox.api_key)
    assert Api(sandbox, connection["password"]).get("/agent/all") == []
