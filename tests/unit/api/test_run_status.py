from __future__ import annotations

import json

import pytest

from airflow_provider_sequentum.api.run_status import RunStatus, parse_run_status, status_name
from airflow_provider_sequentum.api.runs import Run


@pytest.mark.parametrize("status", RunStatus)
def test_every_status_is_read_from_its_code_its_digits_and_its_name(status: RunStatus) -> None:
    name = status_name(status)

    assert parse_run_status(int(status)) is status
    assert parse_run_status(f" {int(status)} ") is status
    assert parse_run_status(name) is status
    assert parse_run_status(name.upper()) is status


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (14, 14),
        ("14", 14),
        (-1, -1),
        ("CompletedWithErrors", "CompletedWithErrors"),
        (6.0, RunStatus.FAILURE),
        ("", ""),
    ],
)
def test_an_unknown_status_is_kept_as_itself(value: object, expected: object) -> None:
    assert parse_run_status(value) == expected


def test_a_missing_status_is_invalid() -> None:
    assert parse_run_status(None) is RunStatus.INVALID


@pytest.mark.parametrize("value", [True, [1], {"a": 1}, "x" * 10_000, "9" * 10_000, "٣", float("nan")])
def test_hostile_statuses_become_short_text_or_a_number(value: object) -> None:
    status = parse_run_status(value)

    assert not isinstance(status, RunStatus)
    assert len(str(status)) <= 64


@pytest.mark.parametrize(
    ("status", "name"), [(RunStatus.UPDATING_DATA_SET, "UpdatingDataSet"), (6, "Failure"), (14, "14"), ("Odd", "Odd")]
)
def test_status_names_are_the_api_s(status: RunStatus | int | str, name: str) -> None:
    assert status_name(status) == name


@pytest.mark.parametrize("status", [*RunStatus, 99, "Resting"])
def test_a_run_in_json_has_the_name_of_its_status_and_is_read_back(status: RunStatus | int | str) -> None:
    """A language model, or a person who reads an XCom, knows ``Failure`` and not 6."""
    run = Run.model_validate({"id": 1, "configId": 7, "status": status})
    written = run.model_dump_json()
    assert json.loads(written)["status"] == status_name(status)
    assert Run.model_validate_json(written).status == status
