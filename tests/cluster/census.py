"""A task that counts, from inside of the triggerer, what the other waits there leave behind."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_sequentum.watching import watcher

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class CensusTrigger(BaseTrigger):
    """
    Write down every few seconds how much there is.

    :param path: a file of JSON lines.
    :param interval: seconds between two lines.
    :param seconds: for how long.
    """

    def __init__(self, path: str, interval: float, seconds: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._arguments: dict[str, Any] = {"path": path, "interval": interval, "seconds": seconds}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class's path and the arguments."""
        return f"{type(self).__module__}.{type(self).__qualname__}", self._arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Count until the time is up."""
        until = time.monotonic() + self._arguments["seconds"]
        while time.monotonic() < until:
            _append(Path(self._arguments["path"]), json.dumps(count()))
            await asyncio.sleep(self._arguments["interval"])
        yield TriggerEvent(None)  # type: ignore[no-untyped-call]


def count() -> dict[str, float]:
    """Return what there is on this event loop at the moment."""
    gc.collect()
    watchers = watcher._watchers.get(asyncio.get_running_loop(), {}).values()
    return {
        "at": time.time(),
        "tasks": len(asyncio.all_tasks()),
        "watchers": len(watchers),
        "waits": sum(len(watcher._list) for watcher in watchers),
        "objects": len(gc.get_objects()),
    }


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


class CensusOperator(BaseOperator):
    """Wait with a :class:`CensusTrigger` for ``params.seconds``."""

    def execute(self, context: Context) -> None:
        """Defer at once."""
        params = context["params"]
        trigger = CensusTrigger(params["path"], params["interval"], params["seconds"])
        self.defer(trigger=trigger, method_name="end")

    def end(self, context: Context, event: Any) -> None:
        """Nothing is returned: the file is the result."""
