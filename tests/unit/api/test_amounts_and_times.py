"""Amounts and times of the service that arithmetic cannot take: they count as not stated."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_sequentum.api.billing import Credits, RunCost
from airflow_provider_sequentum.api.call import Call, Reply, Response
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.api.pipeline import parse_date, read_response
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.runs.cost import read_cost
from airflow_provider_sequentum.runs.lost_start import candidates_for, requested_by_service
from airflow_provider_sequentum.runs.record import RunConfig, RunRecord
from airflow_provider_sequentum.runs.wait import RunPoller, WaitSpec, first_run_since
from tests.support.service import START

TIMES = ["0001-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.9999999", "1969-12-31T23:59:59Z"]
YEARS = [1, 1969, 1970, 2026, 2999, 3000, 8999, 9999]
AMOUNTS = ["NaN", "sNaN", "-Infinity", "1e999999", "1E+400", 1e300, "-1e16"]


def ended(**changes: Any) -> Run:
    times = {"startTime": "2026-11-22T09:00:00Z", "endTime": "2026-11-22T10:00:00Z"}
    return Run.model_validate({"id": 101, "configId": 7, "status": 10, **times, **changes})


class Billing:
    """Answers with what two parts of the run cost."""

    def __init__(self, *costs: object) -> None:
        self.costs = costs

    def send(self, call: Call[Any], **_: object) -> Any:
        body = json.dumps([{"runId": 101, "cost": cost} for cost in self.costs])
        return Reply(read_response(call, Response(200, {}, body.encode()))).value


@pytest.mark.parametrize("field", ["startTime", "endTime", "created"])
@pytest.mark.parametrize("time", TIMES)
def test_a_time_outside_the_calendar_is_none_and_the_cost_of_the_run_can_be_asked_for(field: str, time: str) -> None:
    run = ended(**{field: time})
    assert {run.start_time, run.end_time, run.created} >= {None}
    assert read_cost(Billing(1), run) in (None, 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("date", [*TIMES, "Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 31 Dec 8999 23:59:59 GMT", "now", ""])
def test_a_date_header_outside_the_calendar_is_none(date: str) -> None:
    assert parse_date(date) is None


@pytest.mark.parametrize("served", YEARS)
@pytest.mark.parametrize("started", YEARS)
def test_no_times_of_an_answer_lead_out_of_the_calendar(served: int, started: int) -> None:
    """A look at a run, the search for the first one, and the search for a lost one."""
    time = f"{started:04d}-06-01T00:00:00Z"
    run, served_at = ended(created=time, startTime=time, status=2), parse_date(f"{served:04d}-06-01T00:00:00Z")
    RunPoller(WaitSpec(agent_id=7, run_id=101)).observe(run, START, served_at)
    assert first_run_since(Page([]), START, START, served_at) is None
    record = RunRecord(config=RunConfig(agent_id=7), agent_id=7, requested_at=START)
    assert candidates_for(record, [run], requested_by_service(record, START, served_at)) in ([], [run])


@pytest.mark.parametrize("amount", AMOUNTS)
def test_an_amount_that_is_no_json_number_is_none(amount: object) -> None:
    assert RunCost.model_validate({"runId": 101, "cost": amount}).cost is None
    assert read_cost(Billing(amount, amount), ended()) is None  # type: ignore[arg-type]
    assert read_cost(Billing(amount, 2), ended()) == 2.0  # type: ignore[arg-type]


@pytest.mark.parametrize("amount", AMOUNTS)
def test_credits_that_are_no_number_are_no_answer(amount: object) -> None:
    with pytest.raises(ValueError, match=r"available_?[cC]redits"):
        Credits.model_validate({"availableCredits": amount})
