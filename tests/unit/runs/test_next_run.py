from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.runs.wait import RunPoller, WaitSpec, first_run_since, poll
from tests.support import service as fakes
from tests.support.service import START, Clock, ErrorOf, FakeService
from tests.support.worker import Worker


SPEC = WaitSpec(agent_id=7, since=START)


def run(number: int, created: datetime | None) -> Run:
    return Run.model_validate({"id": number, "configId": 7, "status": 1, "created": created and created.isoformat()})


@given(st.lists(st.integers(-50, 50), max_size=20), st.randoms())
def test_the_first_run_since_a_moment(offsets: list[int], random: object) -> None:
    listed = [run(number + 1, START + timedelta(seconds=offset)) for number, offset in enumerate(offsets)]
    random.shuffle(listed)  # type: ignore[attr-defined]
    found = first_run_since(listed, START, START, START)
    later = sorted((offset, number + 1) for number, offset in enumerate(offsets) if offset >= 0)
    assert (found.id if found else None) == (later[0][1] if later else None)


def test_a_run_that_does_not_say_when_it_was_created_is_not_it() -> None:
    assert first_run_since([run(1, None)], START, START, START) is None


@pytest.mark.parametrize("error", [fakes.server_error, fakes.answer_lost, fakes.rate_limited, fakes.not_reached])
def test_a_passing_fault_counts_as_not_yet(error: ErrorOf) -> None:
    service = FakeService(Clock())
    service.start()
    service.faults["runs"] = [(error, False)]
    worker = Worker(service)
    poller = RunPoller(SPEC)
    assert poll(worker, poller).outcome is None
    assert poller.run is None
    assert all("trying again" in line for line in worker.said)
    poll(worker, poller)
    assert (poller.run and poller.run.id, poller.spec.run_id) == (101, 101)
    assert any("Found run 101 of agent 7" in line for line in worker.said)


def test_the_first_run_is_found_behind_many_later_ones() -> None:
    service = FakeService(Clock())
    for _ in range(80):
        service.start(by_stranger=True)
    poller = RunPoller(SPEC)
    poll(Worker(service), poller)
    assert poller.spec.run_id == 101


@pytest.mark.parametrize("error", [fakes.unauthorized, fakes.bad_request])
def test_a_fault_that_lasts_is_raised(error: ErrorOf) -> None:
    service = FakeService(Clock())
    service.faults["runs"] = [(error, False)]
    with pytest.raises(SequentumError):
        poll(Worker(service), RunPoller(SPEC))
