from __future__ import annotations

import json
from typing import Any

import pytest
from airflow_provider_sequentum.lifecycle.run_wait import WaitOutcome
from airflow_provider_sequentum.triggers.run_event import ended_event, error_event, read_run_event
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import (
    SequentumConnectionException,
    SequentumConnectionNotFound,
    SequentumException,
    SequentumRequestRefused,
    SequentumUnavailable,
)

ARGUMENTS = {"agent_id": 7, "run_id": 42, "carried": {"a": 1}}
RUN = Run.model_validate(
    {"id": 42, "configId": 7, "status": 6, "endTime": "2026-11-22T09:00:00.1234567", "tableType": "run", "dataCount": 5}
)


@pytest.mark.parametrize("status", [*range(14), 99, "Paused"])
def test_the_runs_record_outlives_the_event(status: int | str) -> None:
    run = Run.model_validate({"id": 42, "configId": 7, "status": status})
    event = json.loads(json.dumps(ended_event(WaitOutcome.ENDED, run, ARGUMENTS)))
    assert read_run_event(event).run == run


def test_times_outlive_the_event() -> None:
    event = json.loads(json.dumps(ended_event(WaitOutcome.ENDED, RUN, ARGUMENTS)))
    assert read_run_event(event).run == RUN


def test_the_run_that_was_found_is_the_events_run() -> None:
    event = ended_event(WaitOutcome.ENDED, RUN, {**ARGUMENTS, "run_id": None})
    assert read_run_event(event).known_run_id == 42


def test_no_run_by_the_deadline() -> None:
    news = read_run_event(ended_event(WaitOutcome.DEADLINE, None, {**ARGUMENTS, "run_id": None}))
    assert (news.outcome, news.run_id) == (WaitOutcome.DEADLINE, None)
    with pytest.raises(SequentumUnavailable, match="names no run"):
        _ = news.known_run_id


@pytest.mark.parametrize(
    "kind",
    [SequentumConnectionException, SequentumConnectionNotFound, SequentumRequestRefused, SequentumUnavailable],
)
def test_an_error_keeps_its_kind_and_words(kind: type[SequentumException]) -> None:
    news = read_run_event(json.loads(json.dumps(error_event(kind("It broke."), ARGUMENTS))))
    assert type(news.error) is kind
    assert str(news.error) == "It broke."
    assert (news.outcome, news.known_run_id) == (None, 42)


def test_an_error_of_another_kind_may_be_retried() -> None:
    event = {**error_event(SequentumException("?"), ARGUMENTS), "error": "os.system"}
    assert type(read_run_event(event).error) is SequentumUnavailable


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
events = st.fixed_dictionaries(
    {},
    optional={
        "outcome": st.sampled_from(["ended", "deadline", "success", ""]) | values,
        "run": values,
        "trigger": st.fixed_dictionaries({}, optional=dict.fromkeys(ARGUMENTS, values)) | values,
        "status": st.just("success"),
    },
)


@given(st.none() | values | events)
def test_what_cannot_be_understood_is_never_success(event: Any) -> None:
    try:
        news = read_run_event(event)
    except SequentumUnavailable as error:
        assert "can't be understood" in str(error)  # noqa: PT017
        return
    assert news.outcome is not WaitOutcome.ENDED or news.run is not None
