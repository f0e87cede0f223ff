from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.runs.wait import LONGEST_RUN_LIST, RunPoller, WaitSpec, first_run_since, poll
from tests.support import service as fakes
from tests.support.service import START, Clock, ErrorOf, FakeService
from tests.support.worker import Worker

SPEC = WaitSpec(agent_id=7, since=START)


def run(number: int, created: datetime | None) -> Run:
    return Run.model_validate({"id": number, "configId": 7, "status": 1, "created": created and created.isoformat()})


SKEWS = [timedelta(0), *(sign * skew for skew in (timedelta(seconds=45), timedelta(days=1)) for sign in (1, -1))]


@given(st.lists(st.integers(-50, 50).filter(lambda offset: offset != -1), max_size=20), st.randoms())
@pytest.mark.parametrize("skew", SKEWS)
def test_the_first_run_since_a_moment_of_the_services_clock(
    skew: timedelta, offsets: list[int], random: object
) -> None:
    listed = [run(number + 1, START + skew + timedelta(seconds=offset)) for number, offset in enumerate(offsets)]
    random.shuffle(listed)  # type: ignore[attr-defined]
    found = first_run_since(listed, START, START, START + skew)
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
    assert all("trying again" in line for line in worker.said)
    poll(worker, poller)
    assert poller.spec.run_id == 101
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


@pytest.mark.parametrize("skew", SKEWS)
def test_a_run_is_found_whatever_the_services_clock_says(skew: timedelta) -> None:
    service = FakeService(Clock(), skew=skew)
    service.start(by_stranger=True)
    service.clock.sleep(30)
    since = service.clock.now
    service.clock.sleep(30)
    service.start(by_stranger=True)
    service.clock.sleep(30)
    service.start(by_stranger=True)
    poller = RunPoller(WaitSpec(agent_id=7, since=since))
    poll(Worker(service), poller)
    assert poller.spec.run_id == 102


def test_where_the_service_does_not_tell_its_time_the_clocks_are_taken_to_agree() -> None:
    service = FakeService(Clock(), tells_time=False)
    service.start(by_stranger=True)
    poller = RunPoller(SPEC)
    poll(Worker(service), poller)
    assert poller.spec.run_id == 101


# The list is cut


@pytest.mark.parametrize("undated", [0, 1])
def test_a_list_that_may_lack_the_first_run_is_refused(undated: int) -> None:
    listed = [run(number, START + timedelta(seconds=number)) for number in range(LONGEST_RUN_LIST, undated, -1)]
    listed += [run(number, None) for number in range(1, undated + 1)]
    with pytest.raises(
        SequentumRequestRefused, match=r"lists only the newest 1000.* Give a later time, or the run's id"
    ):
        first_run_since(listed, START, START, START)


def test_a_full_list_that_reaches_back_far_enough_is_as_good_as_any() -> None:
    listed = [run(number, START + timedelta(seconds=number - 500)) for number in range(LONGEST_RUN_LIST, 0, -1)]
    found = first_run_since(listed, START, START, START)
    assert (found and found.id) == 500


def test_a_list_that_is_not_full_is_complete() -> None:
    listed = [run(number, START + timedelta(seconds=number)) for number in range(LONGEST_RUN_LIST - 1, 0, -1)]
    found = first_run_since(listed, START, START, START)
    assert (found and found.id) == 1


# The answer to another question


def test_another_agents_run_is_not_the_next_one() -> None:
    service = FakeService(Clock())
    service.start(by_stranger=True)
    service.runs[101].agent_id, real = 7, service.runs[101].as_json
    service.runs[101].as_json = lambda *now: {**real(*now), "configId": 8}  # type: ignore[method-assign]
    poller = RunPoller(SPEC)
    poll(Worker(service), poller)
    assert poller.run is None


def test_what_cannot_be_read_counts_for_the_length_of_a_list() -> None:
    listed = Page([run(number, START) for number in range(2, LONGEST_RUN_LIST + 1)], unreadable=1)
    with pytest.raises(SequentumRequestRefused, match="the first one cannot be found"):
        first_run_since(listed, START, START, START)
