from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.api import runs
from airflow_provider_sequentum.api.call import Response
from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.api.pipeline import read_response
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.runs.wait import (
    MAX_LISTED_RUNS,
    FirstRunUncertain,
    RunPoller,
    WaitSpec,
    first_run_since,
    poll,
)
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
    found = first_run_since(Page(listed), START, START, START + skew)
    later = sorted((offset, number + 1) for number, offset in enumerate(offsets) if offset >= 0)
    assert (found.id if found else None) == (later[0][1] if later else None)


@pytest.mark.parametrize("behind", [timedelta(hours=2), timedelta(days=20_000)])
def test_a_date_from_before_the_runs_in_its_answer_makes_no_older_run_the_first(behind: timedelta) -> None:
    """A cache or a gateway may write a ``Date`` that has nothing to do with the clock that runs are dated by."""
    old = run(1, START - timedelta(hours=1))
    assert first_run_since(Page([old]), START, START, START - behind) is None
    assert first_run_since(Page([run(2, START), old]), START, START, START - behind) == run(2, START)


def undated(number: int, started: datetime | None = None) -> Run:
    return run(number, None).model_copy(update={"start_time": started})


def at(*offsets: int, unreadable: Sequence[int] = ()) -> Page[Run]:
    """Return a list as the service gives it: a run for each offset in seconds, newest first, the last one is run 1."""
    numbers = range(len(offsets), 0, -1)
    listed = [run(number, START + timedelta(seconds=offset)) for number, offset in zip(numbers, offsets, strict=True)]
    spoilt = [{**each.model_dump(mode="json", by_alias=True), "id": each.id} for each in listed]
    for place in unreadable:
        spoilt[place]["id"] = None
    body = json.dumps(spoilt).encode()
    return read_response(runs.list_runs(7), Response(200, {}, body))


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        pytest.param(at(30, 20, 10, -10, unreadable=[0]), 2, id="the newest one"),
        pytest.param(at(30, 20, 10, -10, unreadable=[1]), 2, id="one after the first"),
        pytest.param(at(10, -10, -20, unreadable=[2]), 3, id="one before the moment"),
        pytest.param(at(-10, -20, -30, unreadable=[1, 2]), None, id="only old ones"),
        pytest.param(Page([*at(20, -10), undated(9)]), 2, id="undated, and by its id a later one"),
        pytest.param(Page([*at(20, -10, -20), undated(1)]), 3, id="undated, and by its id an old one"),
        pytest.param(Page([run(9, START), undated(5, START - timedelta(seconds=1))]), 9, id="undated, started before"),
    ],
)
def test_a_run_that_cannot_be_read_and_cannot_be_the_first_does_no_harm(listed: Page[Run], found: int | None) -> None:
    first = first_run_since(listed, START, START, START)
    assert (first.id if first else None) == found


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        pytest.param(at(20, 10, -10, unreadable=[1]), "1 run in the service's list", id="the first one"),
        pytest.param(at(20, 10, 5, unreadable=[1, 2]), "2 runs in the service's list", id="nothing behind it"),
        pytest.param(at(10, -10, unreadable=[0]), "1 run in the service's list", id="the only one"),
        pytest.param(at(10, -20, -10, unreadable=[1]), "1 run in the service's list", id="the moment is in the gap"),
        pytest.param(at(5, 10, -10, unreadable=[2]), "1 run in the service's list", id="a list in no order"),
        pytest.param(Page([run(9, START), undated(5)]), r"when runs \[5\] were created", id="undated, an earlier id"),
        pytest.param(Page([undated(5)]), r"when runs \[5\] were created", id="undated, the only one"),
        pytest.param(
            Page([run(9, START), undated(5, START)]), r"when runs \[5\] were created", id="undated, started since"
        ),
    ],
)
def test_no_run_is_taken_for_the_first_while_an_earlier_one_may_be_unreadable(listed: Page[Run], reason: str) -> None:
    with pytest.raises(FirstRunUncertain, match=f"{reason}.* Set run_id"):
        first_run_since(listed, START, START, START)


@given(
    offsets=st.lists(st.integers(-9, 9), min_size=1, max_size=12, unique=True),
    data=st.data(),
)
def test_whatever_cannot_be_read_the_first_run_or_none_is_found(offsets: list[int], data: st.DataObject) -> None:
    offsets = sorted(offsets, reverse=True)
    places = range(len(offsets))
    unreadable = data.draw(st.sets(st.sampled_from(places), max_size=len(offsets) - 1))
    later = [len(offsets) - place for place in places if offsets[place] >= 0]
    truth = min(later, default=None)
    try:
        found = first_run_since(at(*offsets, unreadable=sorted(unreadable)), START, START, START)
    except FirstRunUncertain:
        assert unreadable
    else:
        assert (found.id if found else None) == truth


@pytest.mark.parametrize("error", [fakes.server_error, fakes.response_lost, fakes.rate_limited, fakes.not_reached])
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


@pytest.mark.parametrize("error", [fakes.server_error, fakes.response_lost, fakes.rate_limited, fakes.not_reached])
@pytest.mark.parametrize("days", [1, -1])
def test_a_clock_that_cannot_be_asked_just_now_is_asked_again(days: int, error: ErrorOf) -> None:
    service = FakeService(Clock(), skew=timedelta(days=days))
    service.start(by_stranger=True)
    service.clock.sleep(30)
    since = service.clock.now
    service.start(by_stranger=True)
    service.clock.sleep(30)
    service.faults["billing"] = [(error, False)] * 2
    poller = RunPoller(WaitSpec(agent_id=7, since=since))
    found = []
    for _ in range(3):
        poll(Worker(service), poller)
        found.append(poller.spec.run_id)
    assert found == [None, None, 102]


def test_where_the_service_does_not_tell_its_time_the_clocks_are_taken_to_agree() -> None:
    service = FakeService(Clock(), tells_time=False)
    service.start(by_stranger=True)
    poller = RunPoller(SPEC)
    poll(Worker(service), poller)
    assert poller.spec.run_id == 101


# The list is cut


@pytest.mark.parametrize("undated", [0, 1])
def test_a_list_that_may_lack_the_first_run_is_refused(undated: int) -> None:
    listed = [run(number, START + timedelta(seconds=number)) for number in range(MAX_LISTED_RUNS, undated, -1)]
    listed += [run(number, None) for number in range(1, undated + 1)]
    with pytest.raises(SequentumRequestRefused, match=r"lists only the newest 1000.* Set a later time, or run_id"):
        first_run_since(Page(listed), START, START, START)


@pytest.mark.parametrize("listed", [0, 1, 50])
def test_a_list_that_the_service_cuts_by_itself_is_refused(listed: int) -> None:
    page = Page([run(number, START + timedelta(seconds=number)) for number in range(60, 60 - listed, -1)], 60)
    with pytest.raises(SequentumRequestRefused, match=f"lists only the newest {listed} runs"):
        first_run_since(page, START, START, START)
    older = Page([*page, run(9, START - timedelta(seconds=1))], 61)
    found = first_run_since(older, START, START, START)
    assert (found and found.id) == (61 - listed if listed else None)


def test_a_full_list_that_reaches_back_far_enough_is_as_good_as_any() -> None:
    listed = [run(number, START + timedelta(seconds=number - 500)) for number in range(MAX_LISTED_RUNS, 0, -1)]
    found = first_run_since(Page(listed), START, START, START)
    assert (found and found.id) == 500


def test_a_list_that_is_not_full_is_complete() -> None:
    listed = [run(number, START + timedelta(seconds=number)) for number in range(MAX_LISTED_RUNS - 1, 0, -1)]
    found = first_run_since(Page(listed), START, START, START)
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
    listed = Page([run(number, START) for number in range(2, MAX_LISTED_RUNS + 1)], unreadable=1)
    with pytest.raises(SequentumRequestRefused, match="the first one cannot be determined"):
        first_run_since(listed, START, START, START)
