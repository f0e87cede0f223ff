from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.runs.record import MOST_REPLACED, RunConfig, RunRecord

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
CONFIG = RunConfig(agent_id=7, input_parameters='{"a": 1}', timeout=60)
RECORD = RunRecord(agent_id=7, fingerprint="f", max_tries=2, requested_at=NOW)
moments = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]))


@given(
    st.builds(
        RunRecord,
        agent_id=st.integers(1),
        fingerprint=st.text(),
        max_tries=st.integers(),
        requested_at=moments,
        run_id=st.none() | st.integers(1),
        restart_asked_at=st.none() | moments,
        failure_ended_at=st.none() | moments,
        replaced=st.lists(st.integers(1), max_size=5).map(tuple),
        is_ambiguous=st.booleans(),
        is_rejected=st.booleans(),
        restarts_done=st.integers(0),
        deadline=st.none() | moments,
        config=st.none() | st.just(CONFIG),
        is_guess=st.booleans(),
    )
)
def test_a_record_outlives_json(record: RunRecord) -> None:
    assert RunRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_the_times_of_the_api_outlive_json() -> None:
    record = RECORD.restarting(NOW, pendulum.datetime(2026, 11, 22, 8, 59, 59, 123456))
    assert RunRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_a_started_run_has_no_restart_behind_it() -> None:
    started = RECORD.restarting(NOW, NOW).started(42)
    assert (started.run_id, started.restart_asked_at, started.failure_ended_at) == (42, None, None)


def test_a_record_names_the_runs_it_replaced_up_to_a_bound() -> None:
    assert RECORD.all_runs == ()
    assert RECORD.updated(run_id=5, replaced=(3, 4)).all_runs == (3, 4, 5)
    assert RECORD.updated(run_id=99, replaced=tuple(range(MOST_REPLACED))).all_runs == (*range(1, MOST_REPLACED), 99)


@pytest.mark.parametrize(
    "change",
    [
        {"agent_id": 8},
        {"input_parameters": '{"a": 2}'},
        {"parallelism": 2},
        {"parallel_max_concurrency": 2},
        {"parallel_export": "Combined"},
        {"proxy_pool_id": 1},
        {"is_exclusive": True},
        {"is_wait_on_failure": False},
        {"log_level": "Info"},
        {"log_mode": "Text"},
    ],
)
def test_whatever_changes_the_work_changes_the_fingerprint(change: dict[str, Any]) -> None:
    base: dict[str, Any] = {"agent_id": 7, "input_parameters": '{"a": 1}'}
    assert RunConfig(**base).fingerprint() == RunConfig(**base).fingerprint()
    assert RunConfig(**{**base, **change}).fingerprint() != RunConfig(**base).fingerprint()


def test_only_what_is_set_is_sent() -> None:
    assert RunConfig(agent_id=7).start_call().body == {}
    call = RunConfig(agent_id=7, input_parameters='{"a": 1}', is_exclusive=False, log_level="Error").start_call()
    assert call.body == {"inputParameters": '{"a": 1}', "isExclusive": False, "logLevel": "Error"}
    assert (call.path, call.safe_to_repeat) == ("/agent/7/start", False)
