from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_sequentum.lifecycle.builder_findings import Findings
from airflow_provider_sequentum.lifecycle.builder_record import SessionRecord, Verb
from airflow_provider_sequentum.lifecycle.builder_session import BuilderSession, SessionState, Turn
from tests.unit.lifecycle.builder_service import START

SESSION = BuilderSession(
    session_id="s1",
    state=SessionState.READY,
    turn=Turn.WORKING,
    said_at=START,
    since=START,
    cursor=9,
    sent=2,
    agent_id=7,
    started_at=START,
    findings=Findings(columns=["a"], rows=[["1", 2, None]], total_rows=1, last_message="?"),
)


@pytest.mark.parametrize("session", [None, SESSION])
@pytest.mark.parametrize("verb", [None, *Verb])
def test_what_is_written_is_read_back(session: BuilderSession | None, verb: Verb | None) -> None:
    record = SessionRecord(fingerprint="f", max_tries=2, session=session)
    record = record.announcing(verb, START) if verb is not None else record
    assert SessionRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(
    "value",
    [
        {},
        "text",
        {"format": 99},
        {"format": 1, "fingerprint": "f"},
        {**SessionRecord(fingerprint="f", max_tries=0, session=SESSION).to_json(), "format": 99},
        {**SessionRecord(fingerprint="f", max_tries=0, session=SESSION).to_json(), "session": {"session_id": "s"}},
        {**SessionRecord(fingerprint="f", max_tries=0).to_json(), "announced": "dance"},
        {**SessionRecord(fingerprint="f", max_tries=0).to_json(), "announced_at": 3},
    ],
)
def test_what_can_not_be_read_is_never_taken_for_no_record(value: Any) -> None:
    with pytest.raises(ValueError, match="can't be read"):
        SessionRecord.from_json(value)
