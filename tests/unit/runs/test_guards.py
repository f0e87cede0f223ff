from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_sequentum.api.billing import Credits, RunCost
from airflow_provider_sequentum.api.call import Call, Reply
from airflow_provider_sequentum.api.errors import HttpStatusError, SequentumError
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.api.schedules import Schedule
from airflow_provider_sequentum.exceptions import CreditsTooLow
from airflow_provider_sequentum.runs.outcome import read_cost
from airflow_provider_sequentum.runs.start import check_credits, warn_of_schedules
from tests.support.errors import raises
from tests.support.service import Clock, FakeService
from tests.support.worker import Worker

RUN = Run.model_validate(
    {"id": 42, "configId": 7, "startTime": "2026-11-22T23:30:00Z", "endTime": "2026-11-23T00:10:00Z"}
)
REFUSED = HttpStatusError("No billing", purpose="read", request="GET /x", status_code=403)


class Answering(Worker):
    """A port whose calls are all answered by one function."""

    def __init__(self, answer: Callable[[Call[Any]], Any]) -> None:
        super().__init__(FakeService(Clock()))
        self.answer = answer

    def exchange(self, call: Call[Any], *, budget_share: float = 1.0, within: float | None = None) -> Reply[Any]:
        self.sent.append((self.now(), call, budget_share))
        answer = self.answer(call)
        if isinstance(answer, SequentumError):
            raise answer
        return Reply(answer, None)


def answering(value: Any) -> Answering:
    return Answering(lambda _: value)


def test_an_unknown_agent_is_left_to_the_start_to_report() -> None:
    unknown = HttpStatusError("No such agent", purpose="list", request="GET /x", status_code=404)
    port = answering(unknown)
    warn_of_schedules(port, 7)
    assert port.said == []


def test_an_enabled_schedule_is_warned_of() -> None:
    listed = [
        Schedule(id=1, name="nightly", schedule="0 3 * * *", is_enabled=True),
        Schedule(id=2, name="old", is_enabled=False),
    ]
    port = answering(Page(listed))
    warn_of_schedules(port, 7)
    [message] = port.said
    assert port.warned == [message]
    assert "Agent 7 has 1 schedule enabled" in message
    assert "'nightly' (0 3 * * *)" in message
    assert "old" not in message


@pytest.mark.parametrize("listed", [[], [Schedule(id=2, is_enabled=False)], [Schedule(id=3)]])
def test_without_an_enabled_schedule_nothing_is_said(listed: list[Schedule]) -> None:
    port = answering(Page(listed))
    warn_of_schedules(port, 7)
    assert port.said == []


def test_schedules_that_cannot_be_read_are_no_failure() -> None:
    port = answering(REFUSED)
    warn_of_schedules(port, 7)
    [message] = port.said
    assert not port.warned
    assert "agent 7" in message


def test_a_schedule_is_described_by_its_name_or_id_its_rhythm_and_its_next_time() -> None:
    listed = [
        Schedule(id=31, is_enabled=True, next_run_time=datetime(2026, 11, 23, 3, tzinfo=UTC)),
        Schedule(id=32, name="hourly", schedule="0 * * * *", is_enabled=True),
    ]
    port = answering(Page(listed))
    warn_of_schedules(port, 7)
    [message] = port.said
    assert "Agent 7 has 2 schedules enabled" in message
    assert "2026-11-23 03:00" in message
    assert all(part in message for part in ("31", "'hourly'", "0 * * * *"))
    assert "None" not in message


def test_of_many_schedules_five_are_named_and_all_are_counted() -> None:
    listed = [Schedule(id=number, name=f"schedule {number}", is_enabled=True) for number in range(1, 8)]
    port = answering(Page(listed))
    warn_of_schedules(port, 7)
    [message] = port.said
    assert "Agent 7 has 7 schedules enabled" in message
    assert [each.id for each in listed if f"'{each.name}'" in message] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("left", "wanted"), [("10", 10), ("10.5", 10), ("0", 0)])
def test_enough_credits(left: str, wanted: float) -> None:
    port = answering(Credits(available_credits=Decimal(left)))
    check_credits(port, wanted, "Agent 7")
    assert port.said == [f"{left} credits are left."]


def test_too_few_credits_say_the_balance() -> None:
    with pytest.raises(
        CreditsTooLow, match=r"Agent 7 was not started: 9\.99 credits are left, fewer than min_credits=10"
    ):
        check_credits(answering(Credits(available_credits=Decimal("9.99"))), 10, "Agent 7")


def test_a_balance_that_cannot_be_read_is_a_failure() -> None:
    with raises(403):
        check_credits(answering(REFUSED), 10, "Agent 7")


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


def test_the_parts_of_a_cost_may_be_on_several_pages() -> None:
    pages = [Page([RunCost(run_id=42, cost=Decimal(cost))], total_record_count=2001) for cost in (1, 2, 4)]
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


def test_decoration_does_not_put_off_a_deadline(worker: Worker) -> None:
    worker.deadline = worker.now()
    warn_of_schedules(worker, 7)
    assert read_cost(worker, RUN) is None
    assert worker.sent == []
