"""How long a call may take, and when it was answered by the service's own clock."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from airflow_provider_sequentum.api import AsyncSequentumClient, Reply, SequentumClient, agent_builder, runs
from airflow_provider_sequentum.api.errors import (
    ConnectionNotMade,
    ResponseLost,
)
from tests.support.errors import raises
from tests.unit.api.support import Driver, fresh_settings

MakeDriver = Callable[..., Driver]
RUN = httpx.Response(200, json={"id": 42, "configId": 7, "status": 1})
FULL = {"X-RateLimit-Limit": "1", "X-RateLimit-Window-Seconds": "60"}


def timeouts(request: httpx.Request) -> dict[str, float]:
    extension: dict[str, float] = request.extensions["timeout"]
    return extension


def test_the_wait_for_the_budget_ends_and_nothing_was_sent(driver: MakeDriver) -> None:
    client = driver(httpx.Response(200, json={"id": 42}, headers=FULL))
    client.send(runs.status(7, 42))

    with pytest.raises(ConnectionNotMade, match=r"within 5 s.*Nothing was sent") as error:
        client.send(runs.start(7), within=5)

    assert error.value.transient
    assert (error.value.transient, error.value.may_have_acted) == (True, False)
    assert len(client.server.requests) == 1
    assert client.now() == pytest.approx(5)


def test_the_wait_of_a_stop_for_the_budget_does_not_count(driver: MakeDriver) -> None:
    """Otherwise, if hundreds of runs are stopped together, most stops would never be sent."""
    client = driver(httpx.Response(200, json={"id": 42}, headers=FULL), httpx.Response(200))
    client.send(runs.status(7, 42))
    client.send(runs.stop(7, 42), within=5)
    assert client.now() == pytest.approx(60, abs=1)


@pytest.mark.parametrize("within", [0, 0.0, -3])
def test_without_any_time_nothing_is_sent(driver: MakeDriver, within: float) -> None:
    client = driver(RUN)

    with pytest.raises(ConnectionNotMade):
        client.send(runs.status(7, 42), within=within)

    assert client.server.requests == []


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (httpx.Response(503), 503),
        (httpx.Response(429, headers={"Retry-After": "60"}), 429),
        (httpx.ReadTimeout(""), ResponseLost),
        (httpx.ConnectError("refused"), ConnectionNotMade),
    ],
)
def test_repeats_end_with_the_last_error(driver: MakeDriver, failure: Any, kind: type[Exception] | int) -> None:
    client = driver(failure, settings=fresh_settings(max_attempts=50))

    with raises(kind):
        client.send(runs.status(7, 42), within=10)

    assert client.now() <= 10
    assert len(client.server.requests) >= 1


def test_a_pause_that_would_end_too_late_is_not_waited_for(driver: MakeDriver) -> None:
    client = driver(httpx.Response(429, headers={"Retry-After": "60"}))

    with raises(429):
        client.send(runs.status(7, 42), within=10)

    assert client.slept == []


def test_a_budget_that_closes_between_attempts_ends_with_the_last_error(driver: MakeDriver) -> None:
    client = driver(httpx.Response(503, headers=FULL))

    with raises(503):
        client.send(runs.status(7, 42), within=10)

    assert len(client.server.requests) == 1
    assert client.now() <= 10.001


def test_time_outs_shrink_to_what_is_left(driver: MakeDriver) -> None:
    client = driver(httpx.Response(503), RUN)
    client.send(runs.status(7, 42), within=6)

    first, second = map(timeouts, client.server.requests)
    assert (first["connect"], first["read"]) == (6, 6)
    assert second["read"] == pytest.approx(6 - client.now())


def test_a_start_keeps_its_read_time_out_once_it_is_sent(driver: MakeDriver) -> None:
    client = driver(RUN)
    client.send(runs.start(7), within=5)

    assert (timeouts(client.server.requests[0])["connect"], timeouts(client.server.requests[0])["read"]) == (5, 90)


def test_a_long_poll_ends_without_news(driver: MakeDriver) -> None:
    client = driver(httpx.ReadTimeout(""))
    reply = client.exchange(agent_builder.events("s", 4), within=5)

    assert timeouts(client.server.requests[0])["read"] == 5
    assert (reply.value.last_event_index, reply.served_at) == (4, None)


def test_an_answer_that_comes_in_drops_is_given_up() -> None:
    scripted = Driver("sync", [])

    class Drops(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                scripted.slept.append(1.0)
                yield b" "

    scripted.server._replies.append(lambda _request: httpx.Response(200, stream=Drops()))
    with pytest.raises(ResponseLost):
        scripted.send(runs.status(7, 42), within=30)

    assert scripted.now() < 40


def test_without_a_limit_a_call_waits_as_long_as_it_takes(driver: MakeDriver) -> None:
    client = driver(httpx.Response(429, headers={"Retry-After": "100"}), RUN)

    assert client.send(runs.status(7, 42)).id == 42
    assert client.now() >= 100


@pytest.mark.parametrize(
    ("date", "served_at"),
    [
        ("Fri, 27 Nov 2026 18:44:10 GMT", datetime(2026, 11, 27, 18, 44, 10, tzinfo=UTC)),
        ("Friday, 27-Nov-26 18:44:10 GMT", datetime(2026, 11, 27, 18, 44, 10, tzinfo=UTC)),
        ("Fri Nov 27 18:44:10 2026", datetime(2026, 11, 27, 18, 44, 10, tzinfo=UTC)),
        ("Fri, 27 Nov 2026 19:44:10 +0100", datetime(2026, 11, 27, 18, 44, 10, tzinfo=UTC)),
        ("Fri, 27 Nov 2026 18:44:10 -0000", datetime(2026, 11, 27, 18, 44, 10, tzinfo=UTC)),
        ("2026-11-27T18:44:10Z", datetime(2026, 11, 27, 18, 44, 10, tzinfo=UTC)),
        *((text, None) for text in (None, "", "soon", "Fri, 99 Nov 2026 18:44:10 GMT", "0001-01-01T00:00:00+14:00")),
    ],
)
def test_the_service_s_time_comes_with_the_value(
    driver: MakeDriver, date: str | None, served_at: datetime | None
) -> None:
    client = driver(httpx.Response(200, json={"id": 42}, headers={} if date is None else {"Date": date}))

    reply = client.exchange(runs.status(7, 42))

    assert isinstance(reply, Reply)
    assert (reply.value.id, reply.served_at) == (42, served_at)
    assert served_at is None or reply.served_at.utcoffset() is not None  # type: ignore[union-attr]


@pytest.mark.parametrize("method", ["send", "exchange"])
def test_both_clients_take_the_same_arguments(method: str) -> None:
    one, other = (inspect.signature(getattr(client, method)) for client in (SequentumClient, AsyncSequentumClient))
    # Signal handlers raise in the main thread: the event loop has other ways to cancel.
    assert one.parameters.keys() - {"on_interruption"} == other.parameters.keys()
    assert other.parameters.keys() == {"self", "call", "budget_share", "within"}
    assert inspect.iscoroutinefunction(getattr(AsyncSequentumClient, method))
