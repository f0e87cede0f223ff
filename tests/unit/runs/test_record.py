from __future__ import annotations

import inspect
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.exceptions import SequentumConnectionException
from airflow_provider_sequentum.jobs.record import FORMAT, Stored
from airflow_provider_sequentum.jobs.siblings import Claim
from airflow_provider_sequentum.runs.record import (
    MAX_REPLACED,
    RunConfig,
    RunRecord,
    StartOptions,
    runs_named_in,
)
from airflow_provider_sequentum.runs.wait import PollOutcome, RunEvent, WaitSpec

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
CONFIG = RunConfig(agent_id=7, input_parameters='{"a": 1}', timeout=60)
RECORD = RunRecord(agent_id=7, config=RunConfig(agent_id=7), fingerprint="f", max_tries=2, requested_at=NOW)
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
        config=st.just(CONFIG),
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
    assert RECORD.updated(run_id=99, replaced=tuple(range(MAX_REPLACED))).all_runs == (*range(1, MAX_REPLACED), 99)


WORK: dict[str, Any] = {
    "agent_id": 8,
    "input_parameters": '{"a": 2}',
    "parallelism": 2,
    "parallel_max_concurrency": 2,
    "parallel_export": "Combined",
    "proxy_pool_id": 1,
    "is_exclusive": True,
    "is_wait_on_failure": False,
    "log_level": "Info",
    "log_mode": "Text",
}


@pytest.mark.parametrize("name", ["agent_id", *StartOptions.model_fields])
def test_whatever_changes_the_work_changes_the_fingerprint(name: str) -> None:
    base: dict[str, Any] = {"agent_id": 7, "input_parameters": '{"a": 1}'}
    assert RunConfig(**base).fingerprint() == RunConfig(**base).fingerprint()
    assert RunConfig(**{**base, name: WORK[name]}).fingerprint() != RunConfig(**base).fingerprint()


def test_the_fingerprint_is_the_same_in_every_release() -> None:
    # With another one, a retry after an upgrade would stop the run of its earlier attempt and start a second one.
    config = RunConfig(agent_id=7, input_parameters='{"a": 1}', log_level="Info")
    assert config.fingerprint() == "0a99ea37a96d04a5f2fea43f681542b4563ab6355b688595e9e95642202935fe"


def test_the_start_has_every_option_that_the_request_has() -> None:
    assert StartOptions.model_fields.keys() == inspect.signature(runs.start).parameters.keys() - {"agent_id"}


def test_only_what_is_set_is_sent() -> None:
    assert RunConfig(agent_id=7).start_call().body == {}
    call = RunConfig(agent_id=7, input_parameters='{"a": 1}', is_exclusive=False, log_level="Error").start_call()
    assert call.body == {"inputParameters": '{"a": 1}', "isExclusive": False, "logLevel": "Error"}
    assert (call.path, call.safe_to_repeat) == ("/agent/7/start", False)


# Written by another version

SPEC = WaitSpec(agent_id=7, run_id=5, since=NOW, poll_interval=30, deadline=NOW, restart_asked_at=NOW)
EVENT = RunEvent(agent_id=7, run_id=5, outcome=PollOutcome.ENDED, run={"id": 5, "configId": 7}, message="m")
FULL = RECORD.updated(
    run_id=5,
    config=CONFIG,
    deadline=NOW,
    execution_deadline=NOW,
    restart_asked_at=NOW,
    failure_ended_at=NOW,
    replaced=(4,),
)
STORED: list[Stored] = [FULL, CONFIG, SPEC, EVENT, Claim(agent_id=7, run_ids=(5,), map_index=1)]


@pytest.mark.parametrize("stored", STORED, ids=lambda stored: type(stored).__name__)
def test_what_a_later_version_adds_is_ignored(stored: Stored) -> None:
    value = {**stored.to_json(), "added_later": {"run_id": 9}, "": None}
    assert type(stored).from_json(value) == stored


REQUIRED = [(SPEC, "agent_id"), (EVENT, "outcome"), (EVENT, "run")]


@pytest.mark.parametrize(
    ("stored", "absent"),
    [(stored, name) for stored in STORED for name in type(stored).model_fields if (stored, name) not in REQUIRED],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_field_that_an_earlier_version_did_not_have_has_its_default(stored: Stored, absent: str) -> None:
    kind, value = type(stored), stored.to_json()
    value.pop(absent, None)
    read = kind.from_json(json.loads(json.dumps(value)))
    assert read == stored.updated(**{absent: kind.model_fields[absent].get_default(call_default_factory=True)})


def test_a_wait_for_no_agent_is_refused() -> None:
    with pytest.raises(ValueError, match="agent_id"):
        WaitSpec.from_json({"run_id": 5})


def test_a_record_inside_a_record_is_read_as_leniently() -> None:
    value = FULL.to_json()
    value["config"] |= {"added_later": 1}
    del value["config"]["restart_delay"]
    assert RunRecord.from_json(value) == FULL


def test_a_format_that_is_not_named_is_this_one() -> None:
    value = RECORD.to_json()
    assert value.pop("format") == FORMAT
    assert RunRecord.from_json(value) == RECORD


@pytest.mark.parametrize("other", [1, 3, "2", None, [], 2.5])
@pytest.mark.parametrize("stored", STORED, ids=lambda stored: type(stored).__name__)
def test_another_format_is_refused(stored: Stored, other: object) -> None:
    with pytest.raises(ValueError, match="written by another version"):
        type(stored).from_json({**stored.to_json(), "format": other})


@pytest.mark.parametrize(
    "value", ["text", [], 0, None, {**RECORD.to_json(), "requested_at": "yesterday"}, {"run_id": "x"}, {"config": 7}]
)
def test_what_cannot_be_read_is_never_taken_for_no_record(value: Any) -> None:
    with pytest.raises(ValueError, match=r"must be a JSON object|requested_at|run_id|config"):
        RunRecord.from_json(value)


@pytest.mark.parametrize(
    "event",
    [{}, {"run_id": 5}, {"outcome": "ended"}, {"outcome": "won"}, "text", None, {**EVENT.to_json(), "format": 1}],
)
def test_an_event_that_cannot_be_understood_is_never_taken_for_success(event: object) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        RunEvent.from_json(event)


def test_an_event_says_how_the_wait_ended_or_why_it_did_not() -> None:
    assert RunEvent.from_json(EVENT.to_json()) == EVENT
    assert RunEvent.from_json({"outcome": "deadline"}).outcome is PollOutcome.DEADLINE
    failed = RunEvent.from_json({"error": "SequentumConnectionException", "message": "No key."})
    assert (type(failed.exception()), str(failed.exception())) == (SequentumConnectionException, "No key.")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([{"agent_id": 7, "run_id": 5}], [(7, 5)]),
        ([None, "text", {"deep": {"er": {"agent_id": 7, "run_id": 5, "x": 1}}}], [(7, 5)]),
        ([{"agent_id": 7}], []),
        ([{"agent_id": True, "run_id": 5}], []),
        ([{"agent_id": "7", "run_id": 5}, {"agent_id": 7, "run_id": 0}], []),
        ([], []),
        (
            [{"format": 1, "runs": {"7": {"agent_id": 7, "run_id": 101}, "8": {"agent_id": 8, "run_id": None}}}],
            [(7, 101)],
        ),
        ([None, {"events": [{"trigger": {"agent_id": n, "run_id": 100 + n}} for n in (7, 8)]}], [(7, 107), (8, 108)]),
        ([{"agent_id": 7, "run_id": 101}, [{"agent_id": 7, "run_id": 101}]], [(7, 101)]),
        ([{"agent_id": "7", "run_id": 0}, "x", 3], []),
        ([{"agent_id": 7, "run_id": 5, "was": {"agent_id": 7, "run_id": 4}}], [(7, 5), (7, 4)]),
    ],
)
def test_the_runs_that_a_record_of_another_version_names(values: list[Any], named: list[tuple[int, int]]) -> None:
    assert [(found.agent_id, found.run_id) for found in runs_named_in(values)] == named


# The attempt that a record belongs to


@pytest.mark.parametrize(
    ("deadline", "execution_deadline", "first", "is_execution_timeout"),
    [
        (None, None, None, False),
        (NOW, None, NOW, False),
        (None, NOW, NOW, True),
        (NOW, NOW + timedelta(1), NOW, False),
        (NOW + timedelta(1), NOW, NOW, True),
    ],
)
def test_the_earlier_deadline_counts(
    deadline: datetime | None, execution_deadline: datetime | None, first: datetime | None, is_execution_timeout: bool
) -> None:
    record = RECORD.updated(deadline=deadline, execution_deadline=execution_deadline)
    assert (record.earliest_deadline, record.execution_timeout_is_first) == (first, is_execution_timeout)


def test_a_record_that_lacks_them_is_of_the_same_work_and_was_not_cleared() -> None:
    assert RECORD.is_same_work("f")
    assert not RECORD.is_same_work("g")
    assert (RECORD.was_cleared(2), RECORD.was_cleared(3)) == (False, True)
    bare = RunRecord(agent_id=7)
    assert bare.is_same_work("g")
    assert not bare.was_cleared(3)
