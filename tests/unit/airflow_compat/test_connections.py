"""A connection that is read on an event loop never blocks it."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Connection

from airflow_provider_sequentum.airflow_compat.connections import aget_connection


class Read:
    """A connection that says how its extra was read."""

    def __init__(self, how: str) -> None:
        self.how = how

    @property
    def extra_dejson(self) -> dict[str, Any]:
        return {"connection": self.how, "extra": where()}

    async def aextra_dejson(self) -> dict[str, Any]:
        return {"connection": self.how, "extra": "awaited"}


class Hook:
    def get_connection(self, conn_id: str) -> Read:
        return Read(f"{conn_id} {where()}")

    async def aget_connection(self, conn_id: str) -> Read:
        return Read(f"{conn_id} awaited")


def where() -> str:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return "in a thread" if threading.current_thread() is not threading.main_thread() else "at once"
    return "on the loop"


@pytest.mark.parametrize(("masks_without_blocking", "how"), [(True, "awaited"), (False, "in a thread")])
async def test_nothing_is_read_on_the_loop_itself(
    monkeypatch: pytest.MonkeyPatch, masks_without_blocking: bool, how: str
) -> None:
    monkeypatch.delattr(Connection, "aextra_dejson", raising=False)
    if masks_without_blocking:
        monkeypatch.setattr(Connection, "aextra_dejson", Read.aextra_dejson, raising=False)
    _, extra = await aget_connection(Hook(), "mine")  # type: ignore[arg-type]
    assert extra == {"connection": f"mine {how}", "extra": how}


@pytest.mark.parametrize(("can_be_awaited", "how"), [(True, "awaited"), (False, "in a thread")])
async def test_a_supervisor_that_cannot_be_awaited_is_asked_in_a_thread(
    monkeypatch: pytest.MonkeyPatch, can_be_awaited: bool, how: str
) -> None:
    task_runner = pytest.importorskip("airflow.sdk.execution_time.task_runner", reason="Airflow 2.11 has no supervisor")
    monkeypatch.setattr(Connection, "aextra_dejson", Read.aextra_dejson, raising=False)
    supervisor = SimpleNamespace(send=None, **({"asend": None} if can_be_awaited else {}))
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)
    _, extra = await aget_connection(Hook(), "mine")  # type: ignore[arg-type]
    assert extra == {"connection": f"mine {how}", "extra": how}


def test_the_supervisor_of_dag_test_cannot_be_awaited() -> None:
    supervisor = pytest.importorskip("airflow.sdk.execution_time.supervisor", reason="Airflow 2.11 has no supervisor")
    assert not hasattr(supervisor.InProcessSupervisorComms, "asend"), "the detour for it is not needed any more"
