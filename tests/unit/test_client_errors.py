from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_sequentum.api import errors
from airflow_provider_sequentum.exceptions import (
    SequentumConnectionException,
    SequentumException,
    SequentumRequestRefused,
    SequentumUnavailable,
    client_errors_as_exceptions,
    from_client,
)

# Every error of the client, and what it is to a task. A retry is spent exactly where it can help.
EXPECTED: dict[type[errors.SequentumError], type[SequentumException]] = {
    errors.SequentumError: SequentumRequestRefused,
    errors.SequentumConfigurationError: SequentumConnectionException,
    errors.ConnectionNotMade: SequentumUnavailable,
    errors.ResponseLost: SequentumUnavailable,
    errors.UnexpectedResponse: SequentumUnavailable,
    errors.RefusedByServer: SequentumRequestRefused,
    errors.DownloadError: SequentumUnavailable,
}


def all_errors(kind: type[errors.SequentumError] = errors.SequentumError) -> set[type[errors.SequentumError]]:
    return {kind}.union(*(all_errors(child) for child in kind.__subclasses__()))


def test_the_table_is_complete() -> None:
    assert {kind for kind in all_errors() if kind.__module__ == errors.__name__} == {*EXPECTED, errors.HttpStatusError}


EXPECTED_OF_STATUS: dict[int, type[SequentumException]] = {
    **dict.fromkeys((400, 402, 404, 405, 409, 418, 422), SequentumRequestRefused),
    **dict.fromkeys((401, 403), SequentumConnectionException),
    **dict.fromkeys((429, 500, 502, 503, 504, 599), SequentumUnavailable),
}

CASES = [(kind("It broke."), expected) for kind, expected in EXPECTED.items()] + [
    (errors.HttpStatusError("It broke.", status_code=status), expected)
    for status, expected in EXPECTED_OF_STATUS.items()
]


@pytest.mark.parametrize(("error", "expected"), CASES, ids=lambda value: getattr(value, "status_code", None))
def test_what_an_error_is_to_a_task(error: errors.SequentumError, expected: type[SequentumException]) -> None:
    exception = from_client(error, "my_conn")
    assert isinstance(exception, expected)
    assert isinstance(exception, AirflowException)
    assert str(exception) == "It broke. (connection 'my_conn')"
    assert isinstance(exception, AirflowFailException) is not isinstance(exception, SequentumUnavailable)


def test_the_cause_is_kept() -> None:
    error = errors.HttpStatusError("gone", status_code=404)
    with pytest.raises(SequentumRequestRefused) as caught, client_errors_as_exceptions("c"):
        raise error
    assert caught.value.__cause__ is error


def test_an_error_that_is_not_the_clients_stays_as_it_is() -> None:
    error = KeyError("x")
    assert from_client(error, "c") is error


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(KeyError), client_errors_as_exceptions("c"):
        raise KeyError


def test_the_log_of_a_task_shows_none_of_the_frames_of_the_client() -> None:
    """Airflow prints the chain of causes: an unknown agent is one sentence there and not two stacked tracebacks."""
    with pytest.raises(SequentumRequestRefused) as caught, client_errors_as_exceptions("sequentum_default"):
        raise errors.RefusedByServer("Could not start agent 1: 404 Not Found.")
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.__traceback__ is None
