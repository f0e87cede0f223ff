from __future__ import annotations

from datetime import UTC, datetime

import pytest

from airflow_provider_sequentum.api.errors import HttpStatusError
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.api.schedules import Schedule
from airflow_provider_sequentum.runs.before_start import warn_of_schedules
from tests.support.worker import Worker, answering

REFUSED = HttpStatusError("No access", purpose="read", request="GET /x", status_code=403)


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


def test_of_many_schedules_ten_are_named_and_all_are_counted() -> None:
    listed = [Schedule(id=number, name=f"schedule {number}", is_enabled=True) for number in range(11, 23)]
    port = answering(Page(listed))
    warn_of_schedules(port, 7)
    [message] = port.said
    assert "Agent 7 has 12 schedules enabled" in message
    assert "(once) and 2 more." in message
    assert [each.id for each in listed if f"'{each.name}'" in message] == list(range(11, 21))


def test_decoration_does_not_put_off_a_deadline(worker: Worker) -> None:
    worker.deadline = worker.now()
    warn_of_schedules(worker, 7)
    assert worker.sent == []
