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
    errors.SequentumTransportError: SequentumUnavailable,
    errors.ConnectionNotMade: SequentumUnavailable,
    errors.AnswerLost: SequentumUnavailable,
    errors.AnswerTimedOut: SequentumUnavailable,
    errors.HttpStatusError: SequentumRequestRefused,
    errors.BadRequest: SequentumRequestRefused,
    errors.Unauthorized: SequentumConnectionException,
    errors.Forbidden: SequentumConnectionException,
    errors.NotFound: SequentumRequestRefused,
    errors.MethodNotAllowed: SequentumRequestRefused,
    errors.Conflict: SequentumRequestRefused,
    errors.UnprocessableRequest: SequentumRequestRefused,
    errors.RateLimited: SequentumUnavailable,
    errors.ServerError: SequentumUnavailable,
    errors.UnexpectedAnswer: SequentumUnavailable,
    errors.RefusedByServer: SequentumRequestRefused,
    errors.DownloadError: SequentumUnavailable,
    errors.StorageRefused: SequentumUnavailable,
}


def all_errors(kind: type[errors.SequentumError] = errors.SequentumError) -> set[type[errors.SequentumError]]:
    return {kind}.union(*(all_errors(child) for child in kind.__subclasses__()))


def test_the_table_is_complete() -> None:
    assert {kind for kind in all_errors() if kind.__module__ == errors.__name__} == set(EXPECTED)


@pytest.mark.parametrize("kind", list(EXPECTED), ids=lambda kind: kind.__name__)
def test_what_an_error_is_to_a_task(kind: type[errors.SequentumError]) -> None:
    error = kind("It broke.")
    if isinstance(error, errors.HttpStatusError):
        error.status_code = {"Unauthorized": 401, "Forbidden": 403}.get(kind.__name__, 0)
    exception = from_client(error, "my_conn")
    assert isinstance(exception, EXPECTED[kind])
    assert isinstance(exception, AirflowException)
    assert str(exception) == "It broke. (connection 'my_conn')"
    assert isinstance(exception, AirflowFailException) is not isinstance(exception, SequentumUnavailable)


def test_the_cause_is_kept() -> None:
    error = errors.NotFound("gone")
    with pytest.raises(SequentumRequestRefused) as caught, client_errors_as_exceptions("c"):
        raise error
    assert caught.value.__cause__ is error


def test_an_error_that_is_not_the_clients_stays_as_it_is() -> None:
    error = KeyError("x")
    assert from_client(error, "c") is error


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(KeyError), client_errors_as_exceptions("c"):
        raise KeyError
