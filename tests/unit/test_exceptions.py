from __future__ import annotations

import inspect

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSkipException

from airflow_provider_sequentum import exceptions
from airflow_provider_sequentum.exceptions import SequentumException
from airflow_provider_sequentum.runs.outcome import EXCEPTION_OF
from airflow_provider_sequentum.runs.phases import Phase

ALL = [kind for _, kind in inspect.getmembers(exceptions, inspect.isclass) if kind.__module__ == exceptions.__name__]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_failure_is_airflows_and_a_skip_is_not_a_failure(kind: type[Exception]) -> None:
    assert issubclass(kind, SequentumException)
    assert issubclass(kind, AirflowException)
    assert not issubclass(kind, AirflowFailException) or not issubclass(kind, AirflowSkipException)
    assert kind.__doc__


def test_every_bad_end_has_an_exception() -> None:
    # A skipped run skips the task; the others are no bad ends.
    assert set(EXCEPTION_OF) == {phase for phase in Phase if phase.is_over} - {Phase.SUCCEEDED, Phase.SKIPPED}
    assert issubclass(exceptions.SequentumSkipped, AirflowSkipException)


def test_failure_and_failed_are_different_exceptions() -> None:
    assert not issubclass(exceptions.AgentRunFailure, exceptions.AgentRunFailed)
    assert not issubclass(exceptions.AgentRunFailed, exceptions.AgentRunFailure)


def test_a_sensor_raises_the_same_failures_and_is_not_retried() -> None:
    assert issubclass(exceptions.SensedAgentRunFailure, exceptions.AgentRunFailure)
    assert issubclass(exceptions.SensedAgentRunFailed, exceptions.AgentRunFailed)
    for kind in (exceptions.SensedAgentRunFailure, exceptions.SensedAgentRunFailed):
        assert issubclass(kind, AirflowFailException)


@pytest.mark.parametrize("kind", [exceptions.AgentRunFailure, exceptions.AgentRunFailed])
def test_all_are_caught_as_unsuccessful_and_a_stop_is_not(kind: type[Exception]) -> None:
    assert issubclass(kind, exceptions.AgentRunUnsuccessful)
    assert not issubclass(exceptions.AgentRunStopped, exceptions.AgentRunUnsuccessful)


def test_an_exception_about_a_run_carries_its_ids() -> None:
    error = exceptions.AgentRunFailure("It ended.", agent_id=7, run_id=42, status="Failure")
    assert (str(error), error.agent_id, error.run_id, error.status) == ("It ended.", 7, 42, "Failure")


def test_a_failure_that_names_a_run_carries_its_ids() -> None:
    with pytest.raises(exceptions.RunFilesUnavailable) as caught, exceptions.about_run(7, 42):
        raise exceptions.RunFilesUnavailable("The files of run 42 of agent 7 are gone.")
    assert (caught.value.agent_id, caught.value.run_id) == (7, 42)


def test_ids_that_a_failure_has_are_kept() -> None:
    with pytest.raises(exceptions.AgentRunFailure) as caught, exceptions.about_run(7, 42):
        raise exceptions.AgentRunFailure("It ended.", agent_id=8, run_id=43)
    assert (caught.value.agent_id, caught.value.run_id) == (8, 43)


def test_a_failure_about_nothing_has_no_ids() -> None:
    error = exceptions.SequentumConnectionNotFound("There is none.")
    assert (error.agent_id, error.run_id) == (None, None)
