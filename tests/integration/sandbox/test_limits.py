from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from airflow_provider_sequentum.sandbox import Sandbox
from tests.integration.sandbox.client import Api, plain


@pytest.fixture
def limited() -> Iterator[Sandbox]:
    with Sandbox(rate_limit=5, rate_window_seconds=60, rate_queue=0) as sandbox:
        yield sandbox


def test_past_the_limit_is_429_with_a_time_to_wait(limited: Sandbox) -> None:
    api = Api(limited)
    answers = [api.http.get("/spaces") for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
    assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {"5"}
    assert {answer.headers["x-ratelimit-window-seconds"] for answer in answers} == {"60"}
    assert ["retry-after" in answer.headers for answer in answers] == [False] * 5 + [True] * 2
    assert 50 < int(answers[-1].headers["retry-after"]) <= 60
    assert len(limited.ledger.rate_limited) == 2


def test_a_refused_start_starts_nothing(limited: Sandbox) -> None:
    agent, api = limited.add_agent("Prices"), Api(limited)
    answers = [api.post(f"/agent/{agent.id}/start").status_code for _ in range(6)]
    assert answers == [202] * 5 + [429]
    assert len(limited.ledger.starts(agent.id)) == 5


def test_every_key_has_its_own_budget(limited: Sandbox) -> None:
    first, second = Api(limited), Api(limited, limited.add_api_key("second"))
    for _ in range(6):
        first.http.get("/spaces")
    assert second.http.get("/spaces").status_code == 200
    assert {entry.key_name for entry in limited.ledger.requests} == {"default", "second"}


def test_the_admin_api_and_the_pages_are_not_counted(limited: Sandbox) -> None:
    for _ in range(10):
        assert plain.get(f"{limited.base_url}/sandbox").status_code == 200
        assert plain.get(f"{limited.base_url}/").status_code == 200
    assert Api(limited).http.get("/spaces").status_code == 200
    assert len(limited.ledger.requests) == 1


def test_a_few_requests_are_held_until_the_next_window() -> None:
    with Sandbox(rate_limit=5, rate_window_seconds=1, rate_queue=2) as sandbox:

        async def burst() -> list[int]:
            async with httpx.AsyncClient(
                verify=False, headers={"Authorization": f"ApiKey {sandbox.api_key}"}
            ) as client:
                calls = (client.get(f"{sandbox.base_url}/api/v1/spaces") for _ in range(8))
                return sorted(answer.status_code for answer in await asyncio.gather(*calls))

        assert asyncio.run(burst()) == [200] * 7 + [429]
        held = [entry.held_seconds for entry in sandbox.ledger.requests if entry.held_seconds]
        assert len(held) == 2
        assert max(held) <= 1


@pytest.mark.parametrize("header", [None, "ApiKey wrong", "Bearer {key}", "{key}", "ApiKey", "ApiKey ü"])
def test_a_request_without_a_good_key_is_a_401(sandbox: Sandbox, header: str | None) -> None:
    headers = [(b"Authorization", header.format(key=sandbox.api_key).encode())] if header else []
    agent = sandbox.add_agent("Prices")
    answer = plain.post(f"{sandbox.base_url}/api/v1/agent/{agent.id}/start", headers=headers)
    assert answer.status_code == 401
    assert "x-ratelimit-limit" in answer.headers
    assert sandbox.ledger.starts() == []


def test_the_scheme_is_read_in_any_case(sandbox: Sandbox) -> None:
    headers = {"Authorization": f"apikey {sandbox.api_key}"}
    assert plain.get(f"{sandbox.base_url}/api/v1/spaces", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("form", "kind"),
    [("legacy_a", "json"), ("legacy_b", "json"), ("html", "html"), ("text", "text"), ("empty", "")],
)
def test_errors_come_in_the_form_asked_for(sandbox: Sandbox, api: Api, form: str, kind: str) -> None:
    sandbox.dialect.errors = form  # type: ignore[assignment]
    for path in ("/agent/1", "/nowhere", "/agent/x"):
        answer = api.http.get(path)
        assert answer.status_code in (400, 404)
        assert kind in answer.headers["content-type"]
