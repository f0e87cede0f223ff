from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.runs.wait import first_run_since, look_for_next_run
from tests.support import service as fakes
from tests.support.service import START, Clock, ErrorOf, FakeService
from tests.support.worker import Worker


def run(number: int, created: datetime | None) -> Run:
    return Run.model_validate({"id": number, "configId": 7, "status": 1, "created": created and created.isoformat()})


@given(st.lists(st.integers(-50, 50), max_size=20), st.randoms())
def test_the_first_run_since_a_moment(offsets: list[int], random: object) -> None:
    listed = [run(number + 1, START + timedelta(seconds=offset)) for number, offset in enumerate(offsets)]
    random.shuffle(listed)  # type: ignore[attr-defined]
    found = first_run_since(listed, START)
    later = sorted((offset, number + 1) for number, offset in enumerate(offsets) if offset >= 0)
    assert (found.id if found else None) == (later[0][1] if later else None)


def test_a_run_that_does_not_say_when_it_was_created_is_not_it() -> None:
    assert first_run_since([run(1, None)], START) is None


@pytest.mark.parametrize("error", [fakes.server_error, fakes.answer_lost, fakes.rate_limited, fakes.not_reached])
def test_a_passing_fault_counts_as_not_yet_and_is_said(error: ErrorOf) -> None:
    service = FakeService(Clock())
    service.start()
    service.faults["runs"] = [(error, False)]
    worker = Worker(service)
    assert look_for_next_run(worker, 7, START)) is None
    assert "will look again" in worker.said[0]
    found = look_for_next_run(worker, 7, START))
    assert found is not None
    assert found.id == 101
    assert "run 101 of agent 7" in worker.said[1]


def test_the_first_run_is_found_behind_many_later_ones() -> None:
    service = FakeService(Clock())
    for _ in range(80):
        service.start(by_stranger=True)
    found = Worker(service).perform(look_for_next_run(7, START))
    assert found is not None
    assert found.id == 101


@pytest.mark.parametrize("error", [fakes.unauthorized, fakes.not_found, fakes.bad_request])
def test_a_fault_that_lasts_is_raised(error: ErrorOf) -> None:
    service = FakeService(Clock())
    service.faults["runs"] = [(error, False)]
    with pytest.raises(SequentumError):
        Worker(service).perform(look_for_next_run(7, START))
