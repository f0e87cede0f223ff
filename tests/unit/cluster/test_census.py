"""The census counts what is on the event loop it runs on."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from tests.cluster.census import CensusTrigger, count

if TYPE_CHECKING:
    import pytest


async def test_a_line_is_written_until_the_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each look at the clock finds that a second has passed: counting takes longer on a busy machine.
    clock = SimpleNamespace(monotonic=map(float, itertools.count()).__next__, time=time.time)
    monkeypatch.setattr("tests.cluster.census.time", clock)
    path = tmp_path / "census.ndjson"
    events = [event async for event in CensusTrigger(str(path), interval=0.0, seconds=3.0).run()]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(events) == 1
    assert len(lines) == 2
    assert (lines[0]["waits"], lines[0]["watchers"]) == (0, 0)


async def test_a_task_that_is_left_behind_is_counted() -> None:
    before = count()["tasks"]
    left = asyncio.create_task(asyncio.sleep(60))
    assert count()["tasks"] == before + 1
    left.cancel()


def test_the_trigger_outlives_its_serialisation() -> None:
    trigger = CensusTrigger("/tmp/census", 5.0, 60.0)
    path, arguments = trigger.serialize()
    assert path == "tests.cluster.census.CensusTrigger"
    assert CensusTrigger(**json.loads(json.dumps(arguments))).serialize() == (path, arguments)
