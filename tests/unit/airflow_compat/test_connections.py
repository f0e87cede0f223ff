"""A connection that is read on an event loop never blocks it."""

from __future__ import annotations

import asyncio
import threading
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
