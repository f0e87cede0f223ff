from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow_provider_sequentum.lifecycle.run_record import RunRecord
from airflow_provider_sequentum.lifecycle.run_request import RunRequest
from airflow_provider_sequentum.lifecycle.space_record import SpaceRecord, SpaceRequest
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"format": 2}, "unknown format"), ({"runs": {"7": None}}, "an empty record of a run"), ({"extra": 1}, "extra")],
)
def test_it_is_said_why_a_record_cannot_be_read(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=rf"can't be read \(.*{reason}"):
        SpaceRecord.from_json({**RECORD.to_json(), **change})


def test_nothing_is_no_record() -> None:
    assert SpaceRecord.from_json(None) is None


def test_each_agent_is_asked_for_the_same_inputs() -> None:
    assert REQUEST.of_agent(7) == RunRequest(agent_id=7, input_parameters='{"a": 1}')


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {}),
        ({"max_tries": 5}, {"max_tries": 5}),
        ({"is_guess": True}, {"is_guess": True}),
        ({"replaced": {7: (41, 42), 8: (43,)}}, {"replaced": (41, 42)}),
        ({"replaced": {8: (43,)}}, {}),
        ({"is_ambiguous": True, "not_started": {7: "?"}}, {}),
    ],
)
def test_the_intent_of_an_agent_is_that_of_its_space(change: dict[str, Any], expected: dict[str, Any]) -> None:
    request = REQUEST.of_agent(7)
    intent = RunRecord(agent_id=7, fingerprint=request.fingerprint(), max_tries=2, intended_at=NOW)
    assert replace(RECORD, **change).intent_of(request) == replace(intent, **expected)


@pytest.mark.parametrize(
    ("runs", "replaced", "expected"),
    [
        (None, {}, {}),
        (None, {7: (41,)}, {7: (41,)}),
        ({7: 42}, {}, {7: (42,)}),
        ({7: 42}, {7: (41,), 8: (43,)}, {7: (41, 42), 8: (43,)}),
        ({7: None}, {7: (41,)}, {7: (41,)}),
    ],
)
def test_all_runs_are_those_of_now_and_the_replaced_ones(
    runs: dict[int, int | None] | None, replaced: dict[int, tuple[int, ...]], expected: dict[int, tuple[int, ...]]
) -> None:
    record = replace(RECORD, replaced=replaced)
    intents = {agent: record.intent_of(REQUEST.of_agent(agent)) for agent in runs or {}}
    records = {agent: replace(intent, run_id=(runs or {})[agent]) for agent, intent in intents.items()}
    assert replace(record, runs=None if runs is None else records).all_runs == expected


def test_doubts() -> None:
    intent = RECORD.intent_of(REQUEST.of_agent(7))
    assert RECORD.is_in_doubt
    in_doubt = RECORD.with_run(7, intent).with_run(8, intent.started(42))
    assert in_doubt.is_in_doubt
    known = in_doubt.without_doubts()
    assert not known.is_in_doubt
    assert (list(known.runs or {}), list(known.not_started)) == ([8], [7])
    assert not in_doubt.with_run(7, None).is_in_doubt
    assert not RECORD.without_doubts().is_in_doubt


def test_an_agent_whose_start_was_lost_counts_as_not_started_like_the_refused_ones() -> None:
    record = replace(RECORD, not_started={9: "No credits."}).with_run(7, RECORD.intent_of(REQUEST.of_agent(7)))
    assert record.without_doubts() == replace(RECORD, runs={}, not_started={9: "No credits.", 7: "its start was lost"})


def test_an_agent_can_get_another_run_beside_those_of_the_others() -> None:
    seven, eight = (RECORD.intent_of(REQUEST.of_agent(agent)).started(40 + agent) for agent in (7, 8))
    record = RECORD.with_run(7, seven).with_run(8, eight)
    assert record.with_run(7, seven.started(50)).runs == {7: seven.started(50), 8: eight}
    assert record.with_run(7, None).runs == {8: eight}


@pytest.mark.parametrize("change", [{"space_id": 2}, {"input_parameters": None}])
def test_whatever_changes_the_work_changes_the_fingerprint(change: dict[str, Any]) -> None:
    values: dict[str, Any] = {"space_id": 1, "input_parameters": '{"a": 1}', **change}
    assert SpaceRequest(**values).fingerprint() != REQUEST.fingerprint()
