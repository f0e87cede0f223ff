from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from airflow_provider_sequentum.api import AsyncSequentumClient, ClientSettings, SequentumClient, agent_builder, runs
from airflow_provider_sequentum.api.client import URGENT_WAIT
from airflow_provider_sequentum.api.errors import (
    ConnectionNotMade,
    ResponseLost,
    SequentumConfigurationError,
    SequentumError,
)
from tests.support.errors import raises
from tests.unit.api.support import Driver, fresh_settings

MakeDriver = Callable[..., Driver]
RUN = httpx.Response(200, json={"id": 42, "configId": 7, "status": 1})
BUSY = httpx.Response(429, headers={"Retry-After": "7"})
LIMITS = {"X-RateLimit-Limit": "100000", "X-RateLimit-Window-Seconds": "1"}


def test_a_call_is_sent_and_its_value_returned(driver: MakeDriver) -> None:
    client = driver(RUN)

    run = client.send(runs.status(7, 42))

    assert (run.id, run.agent_id) == (42, 7)
    request = client.server.requests[0]
    assert (request.method, str(request.url)) == (
        "GET",
        "https://dashboard.sequentum.com/api/v1/agent/7/run/42/status",
    )
    assert request.headers["authorization"] == f"ApiKey {client.settings.api_key}"


@pytest.mark.parametrize(
    "failure", [httpx.Response(503), httpx.Response(500), BUSY, httpx.ReadError("reset"), httpx.ConnectError("refused")]
)
def test_a_look_is_repeated_after_a_passing_failure(driver: MakeDriver, failure: httpx.Response | Exception) -> None:
    client = driver(failure, failure, RUN)

    assert client.send(runs.status(7, 42)).id == 42
    assert len(client.server.requests) == 3


@pytest.mark.parametrize("failure", [BUSY, httpx.ConnectError("refused")])
def test_a_start_is_repeated_when_the_server_certainly_did_nothing(
    driver: MakeDriver, failure: httpx.Response | Exception
) -> None:
    client = driver(failure, RUN)

    assert client.send(runs.start(7)).id == 42
    assert len(client.server.requests) == 2


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (httpx.ReadTimeout(""), ResponseLost),
        (httpx.ReadError("reset"), ResponseLost),
        (httpx.Response(502), 502),
        (httpx.Response(400), 400),
    ],
)
def test_a_start_that_may_have_happened_or_cannot_is_sent_once(
    driver: MakeDriver, failure: httpx.Response | Exception, kind: type[SequentumError] | int
) -> None:
    client = driver(failure)

    with raises(kind) as error:
        client.send(runs.start(7))

    assert error.value.may_have_acted is (kind != 400)
    assert len(client.server.requests) == 1


def test_retry_after_is_waited_for(driver: MakeDriver) -> None:
    client = driver(BUSY, RUN)

    client.send(runs.status(7, 42))

    assert sum(client.slept) >= 7


def test_who_is_about_to_be_killed_does_not_wait_for_retry_after() -> None:
    answers, slept = [BUSY, BUSY, httpx.Response(204)], list[float]()
    transport = httpx.MockTransport(lambda request: answers.pop(0))

    with SequentumClient(fresh_settings(), transport=transport, sleep=slept.append, urgent=True) as client:
        client.send(runs.stop(7, 42))

    assert not answers
    assert slept == [URGENT_WAIT, URGENT_WAIT]


@pytest.mark.parametrize(
    ("failure", "kind", "attempts"),
    [
        (httpx.Response(503), 503, 5),
        (httpx.ConnectError("refused"), ConnectionNotMade, 5),
        (httpx.Response(429, headers={"Retry-After": "0", **LIMITS}), 429, 10),
        (httpx.Response(429, headers={"Retry-After": "3600", **LIMITS}), 429, 1),
    ],
)
def test_attempts_end(
    driver: MakeDriver, failure: httpx.Response | Exception, kind: type[SequentumError] | int, attempts: int
) -> None:
    client = driver(failure)

    with raises(kind):
        client.send(runs.status(7, 42))

    assert len(client.server.requests) == attempts


def test_repeating_can_be_left_to_the_caller(driver: MakeDriver) -> None:
    client = driver(httpx.Response(503), RUN, settings=fresh_settings(max_attempts=1))

    with raises(503):
        client.send(runs.status(7, 42))

    assert client.slept == []


def test_silence_on_a_long_poll_is_no_news(driver: MakeDriver) -> None:
    client = driver(httpx.ReadTimeout(""))

    page = client.send(agent_builder.events("session", last_event_index=4))

    assert (page.events, page.last_event_index) == ([], 4)
    assert len(client.server.requests) == 1


def test_silence_elsewhere_is_an_error(driver: MakeDriver) -> None:
    client = driver(httpx.ReadTimeout(""))

    with pytest.raises(ResponseLost):
        client.send(runs.status(7, 42))


def test_an_error_holds_neither_the_key_nor_httpx_s_request(driver: MakeDriver) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError(f"broke while sending {request.headers}", request=request)

    client = driver(fail)

    with pytest.raises(ResponseLost) as caught:
        client.send(runs.start(7))

    error: BaseException | None = caught.value
    assert client.settings.api_key not in "".join(traceback.format_exception(caught.value))
    while error is not None:
        assert not isinstance(error, httpx.HTTPError)
        error = error.__context__ or error.__cause__


def test_a_retry_is_logged_without_the_key(driver: MakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    client = driver(lambda request: httpx.Response(503, text=request.headers["authorization"]), RUN)

    with caplog.at_level(logging.DEBUG):
        client.send(runs.status(7, 42))

    assert "Try 1 of a request failed" in caplog.text
    assert client.settings.api_key not in caplog.text


def test_an_error_that_comes_again_is_told_once(driver: MakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    client = driver(*(httpx.Response(503, text=text) for text in ("busy", "busy", "closed", "busy")), RUN)
    client.send(runs.status(7, 42))
    told = [line for line in caplog.messages if line.startswith("Try ")]
    assert [line.endswith("The error is the same.") for line in told] == [False, True, False, False]


def test_the_key_is_in_no_repr_of_a_client() -> None:
    settings = fresh_settings()
    with SequentumClient(settings) as client:
        assert settings.api_key not in f"{client!r} {vars(client)!r} {settings!r}"


def test_one_client_serves_many_threads() -> None:
    scripted = Driver("sync", [httpx.Response(200, json={"id": 42, "configId": 7}, headers=LIMITS)])
    values: list[int] = []
    with scripted.client() as client:
        threads = [
            threading.Thread(target=lambda: values.extend(client.send(runs.status(7, 42)).id for _ in range(20)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert values == [42] * 160


async def test_many_tasks_share_the_budget_of_a_client() -> None:
    window = 0.3
    headers = {"X-RateLimit-Limit": "100", "X-RateLimit-Window-Seconds": str(window)}
    arrivals: list[float] = []

    async def serve(_request: httpx.Request) -> httpx.Response:
        arrivals.append(asyncio.get_running_loop().time())
        return httpx.Response(200, json={"id": 42, "configId": 7}, headers=headers)

    async with AsyncSequentumClient(fresh_settings(), transport=httpx.MockTransport(serve)) as client:
        await client.send(runs.status(7, 42))
        await asyncio.gather(*(client.send(runs.status(7, 42)) for _ in range(350)))

    assert len(arrivals) == 351
    assert all(later - earlier > window for earlier, later in zip(arrivals, arrivals[100:], strict=False))


async def test_a_cancelled_call_gives_its_place_in_the_budget_back() -> None:
    async def never(_request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(3600)
        raise AssertionError

    async with AsyncSequentumClient(fresh_settings(), transport=httpx.MockTransport(never)) as client:
        task = asyncio.create_task(client.send(runs.status(7, 42)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert client._budget._in_flight == 0


def test_polling_with_a_share_waits_where_a_start_does_not() -> None:
    scripted = Driver("sync", [RUN])
    with scripted.client() as client:
        for _ in range(80):
            client.send(runs.status(7, 42), budget_share=0.8)
        assert scripted.slept == []
        client.send(runs.start(7))

    assert scripted.slept == []


def test_an_unreadable_certificate_file_is_a_configuration_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pem", tmp_path):
        with pytest.raises(SequentumConfigurationError, match="certificates"):
            SequentumClient(ClientSettings(api_key="sk-certificates", verify=str(path))).send(runs.start(7))


async def test_closing_leaves_nothing_open() -> None:
    async with AsyncSequentumClient(fresh_settings()) as asynchronous:
        open_before = not asynchronous._http.is_closed
    with SequentumClient(fresh_settings()) as blocking:
        open_before = open_before and not blocking._http.is_closed
    assert open_before
    assert asynchronous._http.is_closed
    assert blocking._http.is_closed
