from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.lifecycle.run_record import RunRecord
from airflow_provider_sequentum.lifecycle.space_record import SpaceRecord, SpaceRequest

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
REQUEST = SpaceRequest(space_id=1, input_parameters='{"a": 1}')
RECORD = SpaceRecord(space_id=1, fingerprint=REQUEST.fingerprint(), max_tries=2, intended_at=NOW)

run_records = st.builds(
    RunRecord,
    agent_id=st.integers(1),
    fingerprint=st.text(),
    max_tries=st.integers(),
    intended_at=st.just(NOW),
    run_id=st.none() | st.integers(1),
)


@given(
    st.builds(
        SpaceRecord,
        space_id=st.integers(1),
        fingerprint=st.text(),
        max_tries=st.integers(),
        intended_at=st.just(NOW),
        runs=st.none() | st.dictionaries(st.integers(1), run_records, max_size=4),
        not_started=st.dictionaries(st.integers(1), st.text(), max_size=4),
        is_ambiguous=st.booleans(),
        is_guess=st.booleans(),
        replaced=st.dictionaries(st.integers(1), st.lists(st.integers(1)).map(tuple), max_size=4),
    )
)
def test_a_record_outlives_json(record: SpaceRecord) -> None:
    assert SpaceRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(
    "value",
    [
        "text",
        {},
        {**RECORD.to_json(), "format": 2},
        {**RECORD.to_json(), "runs": {"7": None}},
        {**RECORD.to_json(), "runs": {"7": {}}},
        {**RECORD.to_json(), "runs": {"x": {}}},
        {**RECORD.to_json(), "runs": []},
        {**RECORD.to_json(), "not_started": None},
        {**RECORD.to_json(), "intended_at": None},
        {**RECORD.to_json(), "replaced": None},
    ],
)
def test_what_cannot_be_read_is_never_taken_for_no_record(value: Any) -> None:
    with pytest.raises(ValueError, match="can't be read"):
        SpaceRecord.from_json(value)


def test_nothing_is_no_record() -> None:
    assert SpaceRecord.from_json(None) is None


def test_doubts() -> None:
    intent = RECORD.intent_of(REQUEST.of_agent(7))
    assert intent.fingerprint == REQUEST.of_agent(7).fingerprint()
    assert RECORD.is_in_doubt
    in_doubt = RECORD.with_run(7, intent).with_run(8, intent.started(42))
    assert in_doubt.is_in_doubt
    known = in_doubt.without_doubts()
    assert not known.is_in_doubt
    assert (list(known.runs or {}), list(known.not_started)) == ([8], [7])
    assert not in_doubt.with_run(7, None).is_in_doubt


@pytest.mark.parametrize("change", [{"space_id": 2}, {"input_parameters": None}])
def test_whatever_changes_the_work_changes_the_fingerprint(change: dict[str, Any]) -> None:
    values: dict[str, Any] = {"space_id": 1, "input_parameters": '{"a": 1}', **change}
    assert SpaceRequest(**values).fingerprint() != REQUEST.fingerprint()
