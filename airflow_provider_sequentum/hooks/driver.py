"""The two drivers that carry out a procedure (see ``lifecycle/procedure.py``): one blocks, one awaits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.lifecycle.procedure import (
    Log,
    Now,
    Procedure,
    Remember,
    Say,
    Send,
    Sleep,
    Step,
    TellSiblingsRuns,
)

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import AsyncSequentumClient, SequentumClient

T = TypeVar("T")
RememberRecord = Callable[[dict[str, Any] | None], None]
SiblingsRuns = Callable[[], frozenset[int]]


def perform(
    procedure: Procedure[T],
    client: SequentumClient,
    log: Log,
    remember: RememberRecord | None = None,
    siblings_runs: SiblingsRuns | None = None,
) -> T:
    """
    Carry out ``procedure``, blocking, and return its result.

    :param client: sends its calls.
    :param log: gets what it has to say.
    :param remember: keeps its records. Without one they are dropped: the task has no place that outlives a try.
    :param siblings_runs: tells which runs the task's mapped siblings hold. Without it there are none.
    :raises SequentumError: a failed call that the procedure doesn't handle.
    """
    try:
        step = next(procedure)
        while True:
            try:
                match step:
                    case Send(call, budget_share):
                        result = client.send(call, budget_share=budget_share)
                    case Sleep(seconds):
                        result = None
                        time.sleep(seconds)
                    case _:
                        result = _without_waiting(step, log, remember, siblings_runs)
            except SequentumError as error:
                step = procedure.throw(error)
            else:
                step = procedure.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def aperform(procedure: Procedure[T], client: AsyncSequentumClient, log: Log) -> T:
    """
    Carry out ``procedure`` on an event loop and return its result: :func:`perform` for triggers, which keep no records.

    :raises SequentumError: a failed call that the procedure doesn't handle.
    """
    try:
        step = next(procedure)
        while True:
            try:
                match step:
                    case Send(call, budget_share):
                        result = await client.send(call, budget_share=budget_share)
                    case Sleep(seconds):
                        result = None
                        await asyncio.sleep(seconds)
                    case _:
                        result = _without_waiting(step, log)
            except SequentumError as error:
                step = procedure.throw(error)
            else:
                step = procedure.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def _without_waiting(
    step: Step, log: Log, remember: RememberRecord | None = None, siblings_runs: SiblingsRuns | None = None
) -> Any:
    match step:
        case Now():
            return datetime.now(UTC)
        case Say(level, message):
            log.log(level, "%s", message)
        case Remember(record) if remember is not None:
            remember(record)
        case TellSiblingsRuns():
            return siblings_runs() if siblings_runs is not None else frozenset()
    return None
