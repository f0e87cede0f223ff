from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import pytest

from airflow_provider_sequentum.sandbox import Sandbox
from tests.integration.sandbox.client import Api, plain

if TYPE_CHECKING:
    import httpx


def date_of(answer: httpx.Response) -> datetime:
    return parsedate_to_datetime(answer.headers["date"])


def seconds_between(later: datetime, earlier: datetime) -> float:
    return (later - earlier).total_seconds()


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text[:26].rstrip("Z")).replace(tzinfo=UTC)


def test_the_date_of_an_answer_is_that_of_the_sandboxs_clock(sandbox: Sandbox, api: Api) -> None:
    for answer in (api.http.get("/agent/all"), plain.get(sandbox.base_url), plain.get(sandbox.storage.origin)):
        assert abs(seconds_between(date_of(answer), datetime.now(UTC))) < 5
        assert len(answer.headers.get_list("date")) == 1
    sandbox.advance(7200)
    assert seconds_between(date_of(api.http.get("/agent/all")), datetime.now(UTC)) > 7190


@pytest.mark.parametrize("skew", [-86_400, -45, 45, 86_400, 3.2e8])
def test_a_skewed_clock_shows_in_the_date_and_in_all_times(sandbox: Sandbox, api: Api, skew: float) -> None:
    sandbox.dialect.clock_skew_seconds = skew
    agent = sandbox.add_agent("Prices")
    body = {"mode": "prompt", "prompt": "Get all the US states"}
    session = api.post("/agent-builder/start", body).json()["sessionId"]
    run_id = api.finished(agent.id)
    expected = sandbox.now + timedelta(seconds=skew)
    status = api.http.get(f"/agent/{agent.id}/run/{run_id}/status")
    (event, *_) = api.get(f"/agent-builder/{session}/events")["events"]
    (file, *_) = api.get(f"/agent/{agent.id}/run/{run_id}/files")
    times = [status.json()[name] for name in ("created", "startTime", "endTime")]
    times += [event["timestamp"], file["created"], api.get(f"/agent/{agent.id}")["created"]]
    for shown in [date_of(status), *map(moment, times)]:
        assert abs(seconds_between(shown, expected)) < 30
    assert abs(seconds_between(sandbox.ledger.starts()[0].at, sandbox.now)) < 30


def test_periods_that_a_client_asks_for_are_of_the_same_clock(sandbox: Sandbox, api: Api) -> None:
    sandbox.dialect.clock_skew_seconds = 86_400 * 30
    agent = sandbox.add_agent("Prices")
    created = moment(api.status(agent.id, api.finished(agent.id))["created"])
    path = f"/billing/agents/{agent.id}/runs"
    around = {
        "startDate": (created - timedelta(hours=1)).isoformat(),
        "endDate": (created + timedelta(hours=1)).isoformat(),
    }
    before = {
        "startDate": (created - timedelta(hours=9)).isoformat(),
        "endDate": (created - timedelta(hours=8)).isoformat(),
    }
    assert [len(api.get(path, **period)["runs"]) for period in (around, before)] == [1, 0]


def test_the_date_can_be_left_out(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    sandbox.dialect.date_header = False
    started = api.post(f"/agent/{agent.id}/start")
    refused = api.http.get("/agent/1")
    page = plain.get(sandbox.base_url)
    assert (started.status_code, refused.status_code, page.status_code) == (202, 404, 200)
    assert not any("date" in answer.headers for answer in (started, refused, page))


def test_a_fault_may_bring_a_date_of_its_own(sandbox: Sandbox, api: Api) -> None:
    sandbox.fail_next("GET /spaces", status=503, headers={"Date": "never"})
    assert api.http.get("/spaces").headers.get_list("date") == ["never"]


def test_the_skew_is_changed_by_the_admin_api(sandbox: Sandbox, api: Api) -> None:
    changed = plain.patch(f"{sandbox.base_url}/sandbox/dialect", json={"clock_skew_seconds": -45, "date_header": True})
    assert changed.json()["clock_skew_seconds"] == -45
    assert 40 < seconds_between(datetime.now(UTC), date_of(api.http.get("/agent/all"))) < 60
