from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.errors import NotFound, SequentumError
from airflow_provider_sequentum.hooks import driver
from airflow_provider_sequentum.lifecycle.procedure import Procedure, now, remember, say, send, sleep, warn

CALL = runs.status(7, 42)
ERROR = NotFound("gone", status_code=404)
Drive = Callable[..., Any]


class Client:
    """Answers with what it is given, in order."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.shares: list[float] = []

    def send(self, call: Any, *, budget_share: float) -> object:
        assert call is CALL
        self.shares.append(budget_share)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class AsyncClient(Client):
    async def send(self, call: Any, *, budget_share: float) -> object:
        return super().send(call, budget_share=budget_share)


@pytest.fixture(params=["blocking", "async"])
def drive(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Drive:
    """Either driver, as a function of a procedure and the client's answers; it returns result, client and naps."""
    naps: list[float] = []

    async def anap(seconds: float) -> None:
        naps.append(seconds)

    monkeypatch.setattr(time, "sleep", naps.append)
    monkeypatch.setattr(asyncio, "sleep", anap)

    async def drive_async(procedure: Procedure[Any], *answers: object) -> Any:
        client = AsyncClient(*answers)
        return await driver.aperform(procedure, client, logging.getLogger("task")), client, naps  # type: ignore[arg-type]

    async def drive_blocking(procedure: Procedure[Any], *answers: object) -> Any:
        client = Client(*answers)
        return driver.perform(procedure, client, logging.getLogger("task")), client, naps  # type: ignore[arg-type]

    return drive_async if request.param == "async" else drive_blocking


async def test_steps_are_carried_out_in_order(drive: Drive, caplog: pytest.LogCaptureFixture) -> None:
    def procedure() -> Procedure[str]:
        first = yield from send(CALL)
        yield from sleep(3)
        yield from say("50% done")
        yield from warn("careful")
        yield from remember({"run": 1})
        assert (yield from now()).tzinfo is not None
        return f"{first} {(yield from send(CALL, 0.8))}"

    with caplog.at_level(logging.INFO, "task"):
        result, client, naps = await drive(procedure(), "one", "two")
    assert (result, client.shares, naps) == ("one two", [1.0, 0.8], [3])
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "50% done"),
        ("WARNING", "careful"),
    ]


async def test_a_failed_call_is_thrown_into_the_procedure(drive: Drive) -> None:
    def procedure() -> Procedure[object]:
        try:
            return (yield from send(CALL))
        except NotFound:
            return (yield from send(CALL))

    assert (await drive(procedure(), ERROR, "found"))[0] == "found"


async def test_an_error_nobody_handles_is_raised(drive: Drive) -> None:
    with pytest.raises(SequentumError) as caught:
        await drive(send(CALL), ERROR)
    assert caught.value is ERROR


async def test_a_procedure_without_steps(drive: Drive) -> None:
    def procedure(*, talks: bool) -> Procedure[int]:
        if talks:
            yield from say("something")
        return 5

    assert (await drive(procedure(talks=False)))[0] == 5


def test_records_are_handed_to_who_keeps_them() -> None:
    kept: list[Any] = []

    def procedure() -> Procedure[None]:
        yield from remember({"run": 1})
        yield from remember(None)

    driver.perform(procedure(), Client(), logging.getLogger("task"), kept.append)  # type: ignore[arg-type]
    assert kept == [{"run": 1}, None]


def test_a_record_that_cannot_be_kept_ends_the_procedure_before_its_next_step() -> None:
    def procedure() -> Procedure[None]:
        yield from remember({"intent": True})
        yield from send(CALL)

    def refuse(record: Any) -> None:
        raise OSError("the store is down")

    client = Client("never asked")
    with pytest.raises(OSError, match="the store is down"):
        driver.perform(procedure(), client, logging.getLogger("task"), refuse)  # type: ignore[arg-type]
    assert client.shares == []
