from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from airflow_provider_sequentum.lifecycle.procedure import Procedure, Say, Send

from airflow_provider_sequentum.api.billing import Credits, RunCost
from airflow_provider_sequentum.api.errors import Forbidden, SequentumError
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.api.schedules import Schedule
from airflow_provider_sequentum.runs.outcome import read_cost
from airflow_provider_sequentum.runs.start import CreditsShort, check_credits, warn_of_schedules

RUN = Run.model_validate(
    {"id": 42, "configId": 7, "startTime": "2026-11-22T23:30:00Z", "endTime": "2026-11-23T00:10:00Z"}
)
REFUSED = Forbidden("No billing", purpose="read", request="GET /x", status_code=403)


def carry_out(procedure: Procedure[Any], answer: Callable[[Send], Any]) -> tuple[Any, list[Say]]:
    said: list[Say] = []
    try:
        step = next(procedure)
        while True:
            if isinstance(step, Say):
                said.append(step)
                step = procedure.send(None)
                continue
            assert isinstance(step, Send)
            result = answer(step)
            step = procedure.throw(result) if isinstance(result, SequentumError) else procedure.send(result)
    except StopIteration as stop:
        return stop.value, said


def test_an_enabled_schedule_is_warned_of() -> None:
    listed = [
        Schedule(id=1, name="nightly", schedule="0 3 * * *", is_enabled=True),
        Schedule(id=2, name="old", is_enabled=False),
    ]
    _, [said] = carry_out(warn_of_schedules(7), lambda _: listed)
    assert said.level == logging.WARNING
    assert "Agent 7 has 1 enabled schedules" in said.message
    assert "'nightly' (0 3 * * *)" in said.message
    assert "old" not in said.message


@pytest.mark.parametrize("listed", [[], [Schedule(id=2, is_enabled=False)], [Schedule(id=3)]])
def test_without_an_enabled_schedule_nothing_is_said(listed: list[Schedule]) -> None:
    assert carry_out(warn_of_schedules(7), lambda _: listed) == (None, [])


def test_schedules_that_cannot_be_read_are_no_failure() -> None:
    _, [said] = carry_out(warn_of_schedules(7), lambda _: REFUSED)
    assert said.level == logging.INFO
    assert "agent 7" in said.message


def test_a_schedule_is_described_by_its_name_or_id_its_rhythm_and_its_next_time() -> None:
    listed = [
        Schedule(id=31, is_enabled=True, next_run_time=datetime(2026, 11, 23, 3, tzinfo=UTC)),
        Schedule(id=32, name="hourly", schedule="0 * * * *", is_enabled=True),
    ]
    _, [said] = carry_out(warn_of_schedules(7), lambda _: listed)
    assert "Agent 7 has 2 enabled schedules" in said.message
    assert "2026-11-23 03:00" in said.message
    assert all(part in said.message for part in ("31", "'hourly'", "0 * * * *"))
    assert "None" not in said.message


def test_of_many_schedules_five_are_named_and_all_are_counted() -> None:
    listed = [Schedule(id=number, name=f"schedule {number}", is_enabled=True) for number in range(1, 8)]
    _, [said] = carry_out(warn_of_schedules(7), lambda _: listed)
    assert "Agent 7 has 7 enabled schedules" in said.message
    assert [each.id for each in listed if f"'{each.name}'" in said.message] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("left", "wanted"), [("10", 10), ("10.5", 10), ("0", 0)])
def test_enough_credits(left: str, wanted: float) -> None:
    _, [said] = carry_out(check_credits(wanted), lambda _: Credits(available_credits=Decimal(left)))
    assert said.message == f"{left} credits are left."


def test_too_few_credits_say_the_balance() -> None:
    with pytest.raises(CreditsShort, match=r"9\.99 credits are left, fewer than min_credits=10"):
        carry_out(check_credits(10), lambda _: Credits(available_credits=Decimal("9.99")))


def test_a_balance_that_cannot_be_read_is_a_failure() -> None:
    with pytest.raises(Forbidden):
        carry_out(check_credits(10), lambda _: REFUSED)


def test_the_cost_is_the_sum_of_the_runs_parts() -> None:
    asked: list[dict[str, Any]] = []

    def answer(step: Send) -> Page[RunCost]:
        asked.append(dict(step.call.query or {}))
        return Page(
            [
                RunCost(run_id=41, cost=Decimal(7)),
                RunCost(run_id=42, cost=Decimal("1.25")),
                RunCost(run_id=42, cost=Decimal("0.5")),
                RunCost(run_id=42),
            ]
        )

    assert carry_out(read_cost(RUN), answer)[0] == 1.75
    assert (asked[0]["startDate"], asked[0]["endDate"]) == ("2026-11-21", "2026-11-24")


def test_the_parts_of_a_cost_may_be_on_several_pages() -> None:
    pages = [Page([RunCost(run_id=42, cost=Decimal(cost))], total_record_count=2001) for cost in (1, 2, 4)]
    asked: list[Any] = []

    def answer(step: Send) -> Page[RunCost]:
        asked.append((step.call.query or {})["pageIndex"])
        return pages[len(asked) - 1]

    assert carry_out(read_cost(RUN), answer)[0] == 7.0
    assert asked == [1, 2, 3]


def test_a_cost_of_which_a_part_may_be_missing_is_none() -> None:
    """An agent that runs every few seconds has more pages than are asked for."""
    costs = iter(range(1, 100))
    asked: list[Send] = []

    def answer(step: Send) -> Page[RunCost]:
        asked.append(step)
        return Page([RunCost(run_id=42, cost=Decimal(next(costs)))], total_record_count=1_000_000)

    assert carry_out(read_cost(RUN), answer)[0] is None
    assert len(asked) == 5


def test_a_cost_whose_pages_repeat_themselves_is_none() -> None:
    """A service that ignores the page's number would have the same part counted again and again."""
    asked: list[Send] = []

    def answer(step: Send) -> Page[RunCost]:
        asked.append(step)
        return Page([RunCost(run_id=42, cost=Decimal(1))], total_record_count=2001)

    assert carry_out(read_cost(RUN), answer)[0] is None
    assert len(asked) == 2


@pytest.mark.parametrize("answered", [Page([]), Page([RunCost(run_id=41, cost=Decimal(7))]), REFUSED])
def test_a_cost_nobody_knows_is_none(answered: Any) -> None:
    assert carry_out(read_cost(RUN), lambda _: answered)[0] is None


@pytest.mark.parametrize("unknown", [["start_time", "end_time"], ["start_time"], ["end_time"]])
def test_a_run_without_times_is_not_asked_for(unknown: list[str]) -> None:
    def fail(_: Send) -> None:
        raise AssertionError("asked")

    run = RUN.model_copy(update=dict.fromkeys(unknown))
    assert carry_out(read_cost(run), fail)[0] is None
