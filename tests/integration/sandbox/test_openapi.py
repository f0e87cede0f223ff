"""The sandbox keeps what its OpenAPI document says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from airflow_provider_sequentum.sandbox import Dialect, Sandbox
from airflow_provider_sequentum.sandbox.app import api_app
from tests.integration.sandbox.client import Api

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

schema = schemathesis.openapi.from_dict(api_app().openapi()).include(path_regex="^/api/v1/")
QUIET = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
    database=None,
)

Case = schemathesis.Case[Any]


@pytest.fixture(scope="module")
def furnished() -> Iterator[Sandbox]:
    with Sandbox(rate_limit=10**9, long_poll_seconds=0, dialect=Dialect(times="utc")) as sandbox:
        agent = sandbox.add_agent("Prices")
        Api(sandbox).finished(agent.id)
        yield sandbox


def check(case: Case, sandbox: Sandbox) -> None:
    # A synchronous start that waits an hour would be a slow way to learn nothing.
    if isinstance(case.body, dict) and case.body.get("isRunSynchronously") is True:
        case.body["isRunSynchronously"] = False
    headers = {"Authorization": f"ApiKey {sandbox.api_key}"}
    case.call_and_validate(base_url=sandbox.base_url, headers=headers, checks=CHECKS)


@schema.parametrize()
@settings(QUIET, max_examples=3)
def test_answers_are_as_documented(case: Case, furnished: Sandbox) -> None:
    check(case, furnished)


@pytest.mark.slow
@schema.parametrize()
@settings(QUIET, max_examples=50)
def test_many_answers_are_as_documented(case: Case, furnished: Sandbox) -> None:
    check(case, furnished)


def test_the_document_has_every_known_path() -> None:
    documented = {
        f"{method.upper()} {path.removeprefix('/api/v1')}"
        for path, verbs in api_app().openapi()["paths"].items()
        if path.startswith("/api/v1/")
        for method in verbs
    }
    assert documented == {
        "GET /agent/all",
        "GET /agent/search",
        "GET /agent/{agent_id}",
        "GET /agent/{agent_id}/versions",
        "POST /agent/{agent_id}/version/{version_number}/restore",
        "POST /agent/{agent_id}/start",
        "GET /agent/{agent_id}/runs",
        "GET /agent/{agent_id}/run/{run_id}/status",
        "POST /agent/{agent_id}/run/{run_id}/stop",
        "POST /agent/{agent_id}/run/{run_id}/kill",
        "POST /agent/{agent_id}/run/{run_id}/restart",
        "DELETE /agent/{agent_id}/run/{run_id}",
        "GET /agent/{agent_id}/run/{run_id}/files",
        "GET /agent/{agent_id}/run/{run_id}/file/{file_id}/download",
        "POST /agent-builder/start",
        "GET /agent-builder/{session_id}/status",
        "GET /agent-builder/{session_id}/events",
        "GET /agent-builder/{session_id}/conversation",
        "POST /agent-builder/{session_id}/followup",
        "POST /agent-builder/{session_id}/finish",
        "POST /agent-builder/{session_id}/cancel",
        "POST /agent-builder/{session_id}/stop",
        "GET /agent/{agent_id}/schedules",
        "POST /agent/{agent_id}/schedules",
        "GET /agent/{agent_id}/schedules/{schedule_id}",
        "PUT /agent/{agent_id}/schedules/{schedule_id}",
        "DELETE /agent/{agent_id}/schedules/{schedule_id}",
        "POST /agent/{agent_id}/schedules/{schedule_id}/enable",
        "POST /agent/{agent_id}/schedules/{schedule_id}/disable",
        "GET /analytics/schedules/upcoming",
        "GET /spaces",
        "GET /spaces/{space_id}",
        "GET /spaces/search",
        "GET /spaces/{space_id}/agents",
        "POST /spaces/{space_id}/run-all",
        "POST /input-files/space/{space_id}",
        "GET /analytics/runs/summary",
        "GET /analytics/records/summary",
        "GET /analytics/agents/{agent_id}/runs/{run_id}/diagnostics",
        "GET /analytics/agents/{agent_id}/latest-failure",
        "GET /billing/credits",
        "GET /billing/spending",
        "GET /billing/history",
        "GET /billing/agents",
        "GET /billing/agents/{agent_id}",
        "GET /billing/agents/{agent_id}/runs",
    }
