"""The census counts what is on the event loop it runs on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.cluster.census import CensusTrigger, count


async def test_a_line_is_written_until_the_time_is_up(tmp_path: Path) -> None:
    path = tmp_path / "census.ndjson"
    events = [event async for event in CensusTrigger(str(path), interval=0.01, seconds=1.5).run()]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(events) == 1
    assert len(lines) >= 2
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
