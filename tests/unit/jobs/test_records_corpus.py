"""What this and earlier versions have written is read, also with fields more and fields less."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sequentum.assets.announced_runs import AnnouncedRuns
from airflow_provider_sequentum.jobs.record import Stored
from airflow_provider_sequentum.jobs.siblings import Announcement, Claim
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.runs.schedules import PausedSchedules, ResumedSchedules
from airflow_provider_sequentum.runs.sense import SensorConfig
from airflow_provider_sequentum.runs.wait import RunEvent, WaitSpec
from airflow_provider_sequentum.sessions.record import SessionRecord
from airflow_provider_sequentum.sessions.state import Session
from airflow_provider_sequentum.sessions.wait import TurnEvent
from airflow_provider_sequentum.spaces.attempt import SpaceEvent
from airflow_provider_sequentum.spaces.record import SpaceRecord
from airflow_provider_sequentum.transfers.column_types import ColumnTypes
from airflow_provider_sequentum.transfers.manifest import Manifest
from tests.support.records_corpus import CORPUS, written


def _json_of(read: Callable[[Any], Stored]) -> Callable[[Any], Any]:
    return lambda value: read(value).to_json()


def space_event(value: Any) -> Any:
    return {"events": [_json_of(RunEvent.from_json)(event) for event in SpaceEvent.from_json(value).events]}


def trigger(value: Any) -> Any:
    module, _, name = value["path"].rpartition(".")
    path, arguments = getattr(import_module(module), name)(**value["arguments"]).serialize()
    assert path == value["path"]
    for wait in [*arguments.get("waits", []), *arguments.get("also_stop", [])]:
        WaitSpec.from_json(wait)
    if "session" in arguments:
        Session.from_json(arguments["session"])
    return {"path": path, "arguments": arguments}


def manifest(value: Any) -> Any:
    read = Manifest.parse(json.dumps(value).encode())
    if read is None:
        raise ValueError("This is no manifest.")
    return json.loads(read.to_json())


def column_types(value: Any) -> Any:
    return ColumnTypes.model_validate(value).model_dump(mode="json")


READERS: dict[str, Callable[[Any], Any]] = {
    "run-record": _json_of(RunRecord.from_json),
    "space-record": _json_of(SpaceRecord.from_json),
    "session-record": _json_of(SessionRecord.from_json),
    "run-event": _json_of(RunEvent.from_json),
    "space-event": space_event,
    "session-event": _json_of(TurnEvent.from_json),
    "run-trigger": trigger,
    "space-trigger": trigger,
    "session-trigger": trigger,
    "claim": _json_of(Claim.from_json),
    "announcement": _json_of(Announcement.from_json),
    "sensor-config": _json_of(SensorConfig.from_json),
    "announced-runs": _json_of(AnnouncedRuns.from_json),
    "manifest": manifest,
    "column-types": column_types,
    "paused-schedules": _json_of(PausedSchedules.from_json),
    "resumed-schedules": _json_of(ResumedSchedules.from_json),
}
REQUIRED: dict[str, set[tuple[str, ...]]] = {
    "session-record": {("session", "session_id")},
    "run-event": {("outcome",), ("run",), ("run", "id"), ("run", "config_id")},
    "space-event": {
        ("events",),
        *(("events", name) for name in ("outcome", "run")),
        *(("events", "run", name) for name in ("id", "config_id")),
    },
    "session-event": {("session",), ("session", "session_id")},
    "run-trigger": {("path",), ("arguments",), ("arguments", "sequentum_conn_id"), ("arguments", "agent_id")},
    "space-trigger": {("path",), ("arguments",), ("arguments", "waits"), ("arguments", "waits", "agent_id")},
    "session-trigger": {
        ("path",),
        ("arguments",),
        ("arguments", "sequentum_conn_id"),
        ("arguments", "session"),
        ("arguments", "session", "session_id"),
    },
    "sensor-config": {("agent_id",), ("since",)},
    "manifest": {
        *(("agent_id",), ("run_id",)),
        *((files, name) for files in ("files", "without_records") for name in ("file_id", "name")),
    },
    "column-types": {("agent_id",), ("run_id",), ("columns",)},
    "paused-schedules": {("agent_id",)},
    "resumed-schedules": {("agent_id",)},
}
"""What makes a value what it is; without it, it is refused."""

NO_FIELDS: dict[str, set[tuple[str, ...]]] = {
    "space-record": {("ended",), ("further",), ("not_started",), ("replaced",), ("runs",)},
    "run-trigger": {()},
    "space-trigger": {()},
    "session-trigger": {()},
    "paused-schedules": {("paused",)},
    "manifest": {("form", "record_schema")},
    "column-types": {("columns",), ("before",)},
}
"""Objects whose names are ids, or that are only this corpus's."""

FILES = sorted(CORPUS.rglob("*.json"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")


def load(path: Path) -> tuple[str, Any]:
    stored = json.loads(path.read_text())
    return stored["kind"], stored["value"]


def objects(value: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Return the JSON objects in a value with the names that lead there."""
    if isinstance(value, dict):
        yield where, value
        for name, item in value.items():
            yield from objects(item, (*where, name))
    elif isinstance(value, list):
        for item in value:
            yield from objects(item, where)


def contains(value: Any, part: Any) -> bool:
    """Return whether everything in ``part`` is in ``value``, which may have more fields."""
    if isinstance(part, dict):
        return isinstance(value, dict) and all(contains(value.get(name), item) for name, item in part.items())
    if isinstance(part, list):
        return len(value) == len(part) and all(map(contains, value, part))
    return bool(value == part)


def test_the_corpus_has_every_kind() -> None:
    assert {load(path)[0] for path in FILES} == READERS.keys()


@every_file
def test_it_is_read_without_loss(path: Path) -> None:
    kind, value = load(path)
    assert contains(READERS[kind](value), value)


@every_file
def test_a_field_that_is_not_known_changes_nothing(path: Path) -> None:
    kind, value = load(path)
    plain = READERS[kind](copy.deepcopy(value))
    for where, _ in objects(value):
        if where in NO_FIELDS.get(kind, set()):
            continue
        changed = copy.deepcopy(value)
        next(found for place, found in objects(changed) if place == where)["of_a_later_version"] = {"a": [1]}
        assert contains(READERS[kind](changed), plain), where


@every_file
def test_a_field_that_is_absent_has_a_default(path: Path) -> None:
    kind, value = load(path)
    for where, found in objects(value):
        for name in found:
            changed = copy.deepcopy(value)
            for place, target in objects(changed):
                if place == where:
                    target.pop(name, None)
            if (*where, name) in REQUIRED.get(kind, set()):
                with pytest.raises((ValueError, TypeError, KeyError)):
                    READERS[kind](changed)
            else:
                READERS[kind](changed)


def test_this_version_writes_nothing_that_the_corpus_does_not_have() -> None:
    known: dict[str, set[tuple[str, ...]]] = {}
    for path in FILES:
        kind, value = load(path)
        known.setdefault(kind, set()).update(fields(value))
    for kind, name, value in written():
        new = fields(value) - known[kind]
        assert not new, f"{kind} {name} has new fields {new}: python -m tests.support.records_corpus"


def fields(value: Any) -> set[tuple[str, ...]]:
    return {(*where, name) for where, found in objects(value) for name in found}
