"""What runs and sessions have in common when they are stopped; the rest is tested with each of them."""

from __future__ import annotations

import pytest

from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import HttpStatusError
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.runs.stop import stop_run
from tests.support import service as fakes
from tests.support.service import Clock, ErrorOf, FakeService, Plan
from tests.support.worker import Worker

RECORD = RunRecord(agent_id=7, run_id=101)


@pytest.fixture
def service() -> FakeService:
    service = FakeService(Clock(), plans=[Plan(seconds=None)])
    service.start()
    return service


def refusing(text: str) -> ErrorOf:
    def refuse(call: Call[object]) -> HttpStatusError:
        return HttpStatusError(text, purpose=call.purpose, request=call.request, status_code=409)

    return refuse


@pytest.mark.parametrize("text", ["Run 101 is over.", "The run has already finished", "Run is not running"])
@pytest.mark.parametrize("status", [fakes.unauthorized, fakes.bad_request])
def test_where_the_status_is_refused_a_stop_refused_because_it_is_over_confirms_the_end(
    service: FakeService, worker: Worker, text: str, status: ErrorOf
) -> None:
    service.faults["status"] = [(status, False)] * 200
    service.faults["stop"] = [None, *[(refusing(text), False)] * 200]
    result = stop_run(worker, RECORD, 45.0)
    assert (result.confirmed, service.count("kill")) == (True, 0)
    assert result.sentence == "The service does not show it, but states that it is over."


def test_whatever_a_stop_sends_waits_for_no_budget_of_this_process(service: FakeService, worker: Worker) -> None:
    service.ignores_stop = True
    assert stop_run(worker, RECORD, 5.0).confirmed
    assert {call.path.rpartition("/")[2] for _, call, _ in worker.sent} == {"stop", "kill", "status"}
    assert all(call.is_of_stop for _, call, _ in worker.sent)


@pytest.mark.parametrize("text", ["Run 101 is not over yet.", "Not in this state.", "Cannot stop while exporting"])
def test_a_refusal_that_says_something_else_confirms_nothing(service: FakeService, worker: Worker, text: str) -> None:
    service.faults["status"] = [(fakes.unauthorized, False)] * 200
    for verb in ("stop", "kill"):
        service.faults[verb] = [(refusing(text), False)] * 200
    assert not stop_run(worker, RECORD, 45.0).confirmed


@pytest.mark.parametrize("look", [None, fakes.server_error, fakes.response_lost])
def test_where_the_status_can_be_read_it_decides(service: FakeService, worker: Worker, look: ErrorOf | None) -> None:
    service.faults["status"] = [(look, False)] * 3 if look else []
    service.faults["stop"] = [(refusing("Run 101 is over."), False)]
    result = stop_run(worker, RECORD, 45.0)
    assert (result.confirmed, result.sentence) == (True, "It has been stopped.")
