from __future__ import annotations

import inspect
import pickle

import pytest

from airflow_provider_sequentum.api import errors

ALL_ERRORS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, Exception) and kind.__module__ == errors.__name__
]


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_every_error_is_drawn_in_the_tree(kind: type[Exception]) -> None:
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_errors_survive_pickling_with_their_fields(kind: type[errors.SequentumError]) -> None:
    error = kind("text", purpose="start agent 7", request="POST /api/v1/agent/7/start", may_have_acted=True)

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is kind
    assert (str(copy), vars(copy)) == (str(error), vars(error))


def test_a_configuration_error_is_a_value_error() -> None:
    assert issubclass(errors.SequentumConfigurationError, ValueError)
