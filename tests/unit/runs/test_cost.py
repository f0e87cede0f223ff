from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_sequentum.api.billing import RunCost
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import HttpStatusError
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.runs.cost import read_cost, read_task_cost, task_cost
from airflow_provider_sequentum.runs.record import MAX_REPLACED, RunRecord
from tests.support.service import START, FakeService, unauthorized
from tests.support.worker import Answering, Worker, answering

RUN = Run.model_validate(
    {"id": 42, "configId": 7, "startTime": "2026-11-22T23:30:00Z", "endTime": "2026-11-23T00:10:00Z"}
)
ENDED = Run.model_validate({"id": 3, "configId": 7, "startTime": START, "endTime": START + timedelta(minutes=1)})
REFUSED = HttpStatusError("No billing", purpose="read", request="GET /x", status_code=403)


def bills(*costs: float) -> list[dict[str, Any]]:
    """Return the bills of runs 1, 2, ..., as the service lists them."""
    at = START.isoformat()
    return [{"runId": number, "startTime": at, "endTime": at, "cost": cost} for number, cost in enumerate(costs, 1)]


def test_the_cost_is_the_sum_of_the_runs_parts() -> None:
    asked: list[dict[str, Any]] = []

    def answer(call: Call[Any]) -> Page[RunCost]:
        asked.append(dict(call.query or {}))
        return Page(
            [
                RunCost(run_id=41, cost=Decimal(7)),
                RunCost(run_id=42, cost=Decimal("1.25")),
                RunCost(run_id=42, cost=Decimal("0.5")),
                RunCost(run_id=42),
            ]
        )

    assert read_cost(Answering(answer), RUN) == 1.75
    assert (asked[0]["startDate"], asked[0]["endDate"]) == ("2026-11-21", "2026-11-24")


def test_an_empty_page_before_the_end_makes_no_cost_of_a_part() -> None:
    pages = [Page([RunCost(run_id=42, cost=Decimal(1))], total_record_count=3), Page([], total_record_count=3)]
    assert read_cost(Answering(lambda call: pages[int((call.query or {})["pageIndex"]) - 1]), RUN) is None


def test_the_parts_of_a_cost_may_be_on_several_pages() -> None:
    pages = [Page([RunCost(run_id=42, cost=Decimal(cost))], total_record_count=3) for cost in (1, 2, 4)]
    asked: list[Any] = []

    def answer(call: Call[Any]) -> Page[RunCost]:
        asked.append((call.query or {})["pageIndex"])
        return pages[len(asked) - 1]

    assert read_cost(Answering(answer), RUN) == 7.0
    assert asked == [1, 2, 3]


def test_a_cost_of_which_a_part_may_be_missing_is_none() -> None:
    """An agent that runs every few seconds has more pages than are asked for."""
    costs = iter(range(1, 100))
    asked: list[Call[Any]] = []

    def answer(call: Call[Any]) -> Page[RunCost]:
        asked.append(call)
        return Page([RunCost(run_id=42, cost=Decimal(next(costs)))], total_record_count=1_000_000)

    assert read_cost(Answering(answer), RUN) is None
    assert len(asked) == 5


def test_a_cost_whose_pages_repeat_themselves_is_none() -> None:
    """A service that ignores the page's number would have the same part counted again and again."""
    asked: list[Call[Any]] = []

    def answer(call: Call[Any]) -> Page[RunCost]:
        asked.append(call)
        return Page([RunCost(run_id=42, cost=Decimal(1))], total_record_count=2001)

    assert read_cost(Answering(answer), RUN) is None
    assert len(asked) == 2


def test_a_cost_of_which_a_part_cannot_be_read_is_none() -> None:
    assert read_cost(answering(Page([RunCost(run_id=42, cost=Decimal(7))], unreadable=1)), RUN) is None


@pytest.mark.parametrize("answered", [Page([]), Page([RunCost(run_id=41, cost=Decimal(7))]), REFUSED])
def test_a_cost_no_one_knows_is_none(answered: Any) -> None:
    assert read_cost(answering(answered), RUN) is None


@pytest.mark.parametrize("unknown", [["start_time", "end_time"], ["start_time"], ["end_time"]])
def test_a_run_without_times_is_not_asked_for(unknown: list[str]) -> None:
    port = answering(Page([RunCost(run_id=42, cost=Decimal(7))]))
    assert read_cost(port, RUN.model_copy(update=dict.fromkeys(unknown))) is None
    assert port.sent == []


def test_the_deadline_of_a_task_leaves_no_time_for_its_bill(worker: Worker) -> None:
    worker.deadline = worker.now()
    assert read_cost(worker, RUN) is None
    assert worker.sent == []


@pytest.mark.parametrize(
    ("record", "cost"),
    [
        ({"run_id": 3}, {"credits": 4.0, "runs": [3], "is_complete": True}),
        ({"run_id": 3, "replaced": (1, 2)}, {"credits": 7.0, "runs": [1, 2, 3], "is_complete": True}),
        ({"run_id": 3, "may_lack_runs": True}, {"credits": 4.0, "runs": [3], "is_complete": False}),
        ({"run_id": 9, "replaced": (1,)}, {"credits": 1.0, "runs": [1], "is_complete": False}),
        (
            {"run_id": 3, "replaced": (1,) * MAX_REPLACED},
            {"credits": 23.0, "runs": [1] * (MAX_REPLACED - 1) + [3], "is_complete": False},
        ),
    ],
)
def test_what_a_task_has_cost(record: dict[str, Any], cost: dict[str, Any]) -> None:
    costs = {1: Decimal(1), 2: Decimal(2), 3: Decimal(4)}
    assert task_cost(RunRecord(agent_id=7, **record), costs) == cost


def test_a_late_bill_is_looked_for_once_more(service: FakeService, worker: Worker) -> None:
    service.bills = bills(1, 2)
    record = RunRecord(agent_id=7, run_id=3, replaced=(2,))
    assert read_task_cost(worker, record, ENDED, 10) == {
        "cost": None,
        "task_cost": {"credits": 2.0, "runs": [2], "is_complete": False},
    }
    assert service.count("billing") == 2
    service.bills = bills(1, 2, 4)
    assert read_task_cost(worker, record, ENDED, 10)["task_cost"]["is_complete"] is True
    assert service.count("billing") == 3
    assert worker.said == [
        "The cost of run 3 is not known yet.",
        "Run 3 cost 4 credits; the task's 2 billed runs cost 6 credits.",
    ]


def test_a_key_without_billing_is_asked_once(service: FakeService, worker: Worker) -> None:
    service.faults["billing"] = [(unauthorized, False)]
    found = read_task_cost(worker, RunRecord(agent_id=7, run_id=3), ENDED, 10)
    assert found == {"cost": None, "task_cost": {"credits": 0.0, "runs": [], "is_complete": False}}
    assert (service.count("billing"), worker.now()) == (1, START)
