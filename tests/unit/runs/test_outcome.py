from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.analytics import RunDiagnostics
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.parameters import ON_EMPTY
from airflow_provider_sequentum.runs.outcome import OutcomePolicy, describe_ending, diagnose, judge_outcome
from airflow_provider_sequentum.runs.phases import Phase
from tests.support import service as fakes
from tests.support.service import Clock, ErrorOf, FakeService
from tests.support.worker import Worker

BAD_PHASES = [Phase.RESTARTABLE, Phase.ARCHIVED, Phase.STOPPED, Phase.SKIPPED]


def run(**fields: Any) -> Run:
    return Run.model_validate({"id": 42, "configId": 7, "status": 10, **fields})


# Messages


@pytest.mark.parametrize("phase", BAD_PHASES)
def test_a_message_says_what_happened_what_is_left_and_what_is_next(phase: Phase) -> None:
    diagnostics = RunDiagnostics.model_validate(
        {
            "runId": 42,
            "possibleCauses": ["The page changed", "A ban"],
            "suggestedActions": ["Look at the selectors", "Ask"],
        }
    )
    ended = run(status=6, dataCount=5, exportCount=3, errorCount=1, pageCount=2, message="Criteria not met.")
    text = describe_ending(ended, phase, "The next try restarts it.", diagnostics)
    for part in (
        "Run 42 of agent 7",
        "Failure, 2 pages, 5 records (3 exported), 1 errors",
        "The service says: Criteria not met.",
        "Possible causes: The page changed; A ban",
        "Suggested actions: Look at the selectors; Ask",
    ):
        assert part in text
    assert text.splitlines()[-1] == "The next try restarts it."


def test_the_message_tells_failure_from_failed() -> None:
    texts = {phase: describe_ending(run(status=6), phase, "") for phase in BAD_PHASES}
    assert "restarted in place" in texts[Phase.RESTARTABLE]
    assert "nothing left to restart" in texts[Phase.ARCHIVED]
    assert len(set(texts.values())) == len(BAD_PHASES)


@pytest.mark.parametrize("error", [fakes.not_found, fakes.unauthorized, fakes.server_error])
def test_diagnostics_are_an_extra_whose_absence_hurts_nobody(error: ErrorOf) -> None:
    service = FakeService(Clock(), diagnostics={"runId": 42, "possibleCauses": ["A ban"]})
    found = Worker(service).perform(diagnose(run()))
    assert found is not None
    assert found.possible_causes == ["A ban"]
    service.faults["diagnostics"] = [(error, False)]
    assert Worker(service).perform(diagnose(run())) is None


# What a run that ended well has to have delivered


@pytest.mark.parametrize("on_empty", ON_EMPTY)
def test_an_empty_run(on_empty: str) -> None:
    judgement = judge_outcome(run(dataCount=0), OutcomePolicy(on_empty=on_empty))
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
    judgement = judge_outcome(run(**fields), OutcomePolicy(**policy))
    assert judgement.action == action
    assert bool(judgement.reason) is (action != "succeed")


@given(st.integers(0, 50), st.integers(0, 5), st.none() | st.integers(0, 50), st.none() | st.integers(0, 5))
def test_a_run_that_delivered_enough_succeeds(records: int, errors: int, least: int | None, most: int | None) -> None:
    policy = OutcomePolicy(min_records=least, max_errors=most)
    enough = records >= (least or 0) and (most is None or errors <= most)
    assert (judge_outcome(run(dataCount=records, errorCount=errors), policy).action == "succeed") is enough
