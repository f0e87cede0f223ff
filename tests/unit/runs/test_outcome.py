from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.analytics import RunDiagnostics
from airflow_provider_sequentum.api.run_status import RunStatus, status_name
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import (
    AgentRunException,
    AgentRunFailed,
    AgentRunFailure,
    AgentRunStopped,
    SequentumSkipped,
)
from airflow_provider_sequentum.parameters import OnEmpty
from airflow_provider_sequentum.runs.outcome import describe_end, failure_for, judge
from airflow_provider_sequentum.runs.phases import Phase, phase_of_status
from airflow_provider_sequentum.runs.record import RunConfig
from airflow_provider_sequentum.runs.sense import sensed_failure
from tests.support import service as fakes
from tests.support.service import Clock, ErrorOf, FakeService
from tests.support.worker import Worker

BAD_ENDS = {6: AgentRunFailure, 7: AgentRunFailed, 8: AgentRunStopped, 11: SequentumSkipped}


def run(**fields: Any) -> Run:
    return Run.model_validate({"id": 42, "configId": 7, "status": 10, **fields})


# Messages


@pytest.mark.parametrize("status", BAD_ENDS)
def test_a_message_says_what_happened_what_is_left_and_what_is_next(status: int) -> None:
    diagnostics = RunDiagnostics.model_validate(
        {
            "runId": 42,
            "possibleCauses": ["The page changed", "A ban"],
            "suggestedActions": ["Look at the selectors", "Ask"],
        }
    )
    ended = run(status=status, dataCount=5, exportCount=3, errorCount=1, pageCount=2, message="Criteria not met.")
    text = describe_end(ended, "The next attempt restarts it.", diagnostics)
    for part in (
        "Run 42 of agent 7",
        f"{status_name(ended.status)}, 2 pages, 5 records (3 exported), 1 error",
        "The service says: Criteria not met.",
        "Possible causes: The page changed; A ban",
        "Suggested actions: Look at the selectors; Ask",
    ):
        assert part in text
    assert text.splitlines()[-1] == "The next attempt restarts it."


def test_the_message_tells_failure_from_failed() -> None:
    texts = [describe_end(run(status=status), "") for status in BAD_ENDS]
    assert "restarted in place" in texts[0]
    assert "nothing left to restart" in texts[1]
    assert "nothing left to restart" in describe_end(run(status=6, tableType="history"), "")
    assert len({text.partition("; ")[2] for text in texts}) == len(BAD_ENDS)


def test_what_the_service_says_is_cut_and_what_is_next_is_not() -> None:
    diagnostics = RunDiagnostics.model_validate({"runId": 42, "possibleCauses": ["x" * 300] * 50})
    text = describe_end(run(status=6, message="y" * 1000), "The next attempt restarts it.", diagnostics)
    assert len(text) < 4096
    assert text.endswith("[cut]\nThe next attempt restarts it.")


@pytest.mark.parametrize(("status", "kind"), BAD_ENDS.items())
def test_each_bad_end_has_its_exception(worker: Worker, status: int, kind: type[AgentRunException]) -> None:
    failure = failure_for(worker, run(status=status), "Clear it.")
    assert type(failure) is kind
    assert str(failure).endswith("Clear it.")
    if isinstance(failure, AgentRunException):
        assert (failure.agent_id, failure.run_id) == (7, 42)
        assert str(failure.status) in str(failure)


def test_every_status_that_is_a_bad_end_has_an_exception_for_operators_and_one_for_sensors(worker: Worker) -> None:
    bad = {
        status for status in RunStatus if (phase := phase_of_status(status)).is_over and phase is not Phase.SUCCEEDED
    }
    assert BAD_ENDS.keys() == bad
    for status, kind in BAD_ENDS.items():
        sensed = sensed_failure(worker, run(status=status))
        assert isinstance(sensed, kind)
        assert str(sensed).splitlines()[-1].endswith(".")


@pytest.mark.parametrize("error", [fakes.not_found, fakes.unauthorized, fakes.server_error])
@pytest.mark.parametrize("status", BAD_ENDS)
def test_diagnostics_are_an_extra_that_failures_are_reported_without(error: ErrorOf, status: int) -> None:
    service = FakeService(Clock(), diagnostics={"runId": 42, "possibleCauses": ["A ban"]})
    assert ("A ban" in str(failure_for(Worker(service), run(status=status), ""))) is (status in (6, 7))
    service.faults["diagnostics"] = [(error, False)]
    assert "A ban" not in str(failure_for(Worker(service), run(status=status), ""))


# What a run that ended well has to have delivered


@pytest.mark.parametrize("on_empty", get_args(OnEmpty))
def test_an_empty_run(on_empty: str) -> None:
    judgement = judge(run(dataCount=0), RunConfig(on_empty=on_empty))
    assert judgement.action == on_empty
    assert bool(judgement.reason) is (on_empty != "succeed")


@pytest.mark.parametrize(
    ("fields", "policy", "action"),
    [
        ({"dataCount": 5}, {}, "succeed"),
        ({}, {}, "succeed"),
        ({"dataCount": 5}, {"min_records": 5}, "succeed"),
        ({"dataCount": 4}, {"min_records": 5}, "fail"),
        ({"dataCount": 0}, {"min_records": 1}, "fail"),
        ({"dataCount": 0}, {"min_records": 0}, "succeed"),
        ({}, {"min_records": 1}, "fail"),
        ({"exportCount": 5}, {"min_records": 5}, "succeed"),
        ({"exportCount": 5}, {"on_empty": "fail"}, "succeed"),
        ({"dataCount": 0, "exportCount": 5}, {"on_empty": "fail"}, "fail"),
        ({"dataCount": 5, "errorCount": 2}, {"max_errors": 2}, "succeed"),
        ({"dataCount": 5, "errorCount": 3}, {"max_errors": 2}, "fail"),
        ({"dataCount": 5, "errorCount": 1}, {"max_errors": 0}, "fail"),
        ({"dataCount": 5}, {"max_errors": 0}, "succeed"),
        # What an empty run means is asked before how many records there have to be, and errors before both.
        ({"dataCount": 0}, {"min_records": 1, "on_empty": "skip"}, "skip"),
        ({"dataCount": 0}, {"min_records": 1, "on_empty": "warn"}, "warn"),
        ({"dataCount": 3}, {"min_records": 5, "on_empty": "skip"}, "fail"),
        ({"dataCount": 0, "errorCount": 9}, {"max_errors": 1, "on_empty": "skip"}, "fail"),
    ],
)
def test_the_outcome_policy(fields: dict[str, Any], policy: dict[str, Any], action: str) -> None:
    judgement = judge(run(**fields), RunConfig(**policy))
    assert judgement.action == action
    assert bool(judgement.reason) is (action != "succeed")


@given(st.integers(0, 50), st.integers(0, 5), st.none() | st.integers(0, 50), st.none() | st.integers(0, 5))
def test_a_run_that_delivered_enough_succeeds(records: int, errors: int, least: int | None, most: int | None) -> None:
    policy = RunConfig(min_records=least, max_errors=most)
    enough = records >= (least or 0) and (most is None or errors <= most)
    assert (judge(run(dataCount=records, errorCount=errors), policy).action == "succeed") is enough
