"""Networks, gateways and tired servers: reads are repeated, starts are sent once, and errors say what is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_sequentum.api import ClientSettings, SequentumClient, runs
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import (
    ConnectionNotMade,
    ResponseLost,
    SequentumError,
    UnexpectedResponse,
)
from airflow_provider_sequentum.sandbox import Sandbox
from tests.support.errors import raises

Send = Callable[[Call[Any]], Any]
START = "POST /agent/{agent_id}/start"
STATUS = "GET /agent/{agent_id}/run/{run_id}/status"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_sequentum.api.retry.FIRST_WAIT", 0.01)


@pytest.mark.parametrize("fault", ["reset_before", "reset_after", "status", "truncated"])
def test_a_look_survives_passing_faults(send: Send, service: Sandbox, fault: Any) -> None:
    agent = service.add_agent("Prices")
    run = send(runs.start(agent.id))
    service.fail_next(STATUS, fault, times=3)

    assert send(runs.status(agent.id, run.id)).id == run.id


@pytest.mark.parametrize(
    ("fault", "kind", "starts"),
    [
        ("reset_before", ResponseLost, 0),
        ("reset_after", ResponseLost, 1),
        ("truncated", ResponseLost, 1),
        ("status", 503, 0),
        ("status_after", 503, 1),
        ("garbage", UnexpectedResponse, 1),
        ("html", UnexpectedResponse, 1),
        ("empty", UnexpectedResponse, 1),
    ],
)
def test_a_start_is_never_made_twice_and_its_error_says_that_it_may_have_been_made(
    send: Send, service: Sandbox, fault: Any, kind: type[SequentumError] | int, starts: int
) -> None:
    agent = service.add_agent("Prices")
    service.fail_next(START, fault)

    with raises(kind) as error:
        send(runs.start(agent.id))

    assert error.value.may_have_acted
    assert len(service.ledger.starts(agent.id)) == starts
    assert len([entry for entry in service.ledger.requests if entry.method == "POST"]) == 1


def test_a_start_refused_by_a_rate_limit_is_made_once_in_the_end(send: Send, service: Sandbox) -> None:
    agent = service.add_agent("Prices")
    service.fail_next(START, "status", status=429, headers={"Retry-After": "0"}, times=3)

    send(runs.start(agent.id))

    assert len(service.ledger.starts(agent.id)) == 1


def test_silence_is_given_up_after_the_read_time_out(service: Sandbox) -> None:
    agent = service.add_agent("Prices")
    settings = ClientSettings(api_key=service.api_key, base_url=service.base_url, read_timeout=0.2)
    with SequentumClient(settings) as client:
        run = client.send(runs.start(agent.id))
        service.fail_next(STATUS, "delay", delay=1.0, times=None)

        with pytest.raises(ResponseLost):
            client.send(runs.status(agent.id, run.id))


def test_a_server_that_is_not_there_did_certainly_nothing(service: Sandbox) -> None:
    gone = ClientSettings(api_key=service.api_key, base_url="http://127.0.0.1:9", connect_timeout=1)

    with SequentumClient(gone) as client, pytest.raises(ConnectionNotMade, match="Nothing was sent") as error:
        client.send(runs.start(7))

    assert not error.value.may_have_acted
    assert "there is no connection to http://127.0.0.1:9 (" in str(error.value)
