from __future__ import annotations

import itertools
import logging
import math
import random
from collections import Counter
from datetime import timedelta
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_sequentum.api.agents import Agent
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.errors import HttpStatusError, SequentumError, UnexpectedResponse
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.api.run_status import RunStatus
from airflow_provider_sequentum.jobs.port import FAULT_TOLERANCE, NOT_FOUND_TOLERANCE
from airflow_provider_sequentum.runs.wait import PollOutcome
from airflow_provider_sequentum.watching.polls import CHECK_INTERVAL, MIN_INTERVAL
from airflow_provider_sequentum.watching.watch_list import LAST_LOOK
from tests.support.errors import status_of
from tests.support.service import START
from tests.unit.watching.watch_world import World


def lognormal(number: int, seed: int = 1, sigma: float = 0.8) -> list[float]:
    generator = random.Random(seed)
    return [300 * math.exp(generator.gauss(0, sigma)) for _ in range(number)]


def server_error(call: Call[object]) -> SequentumError:
    return HttpStatusError("The service is down.", status_code=503)


# One poll for many


def test_one_request_answers_for_all_runs_of_an_agent() -> None:
    world = World()
    for _ in range(50):
        world.wait(world.run(7, 100.0))
    world.live(300)
    assert len(world.ended) == 50
    assert world.requests["runs"] <= 300 / MIN_INTERVAL
    assert world.requests["status"] == 0


def test_a_run_by_itself_is_asked_for_by_its_own_record() -> None:
    world = World()
    world.wait(world.run(7, 100.0))
    world.live(300)
    assert set(world.requests) == {"status"}
    assert 0 < world.delays()[0] <= 10


def test_two_who_wait_for_the_same_run_both_hear_of_it() -> None:
    world = World()
    run = world.run(7, 100.0)
    first, second = world.wait(run), world.wait(run, wait_for_restart=True)
    world.live(300)
    assert [news.wait for _, news in world.news if news.result.outcome] in ([first, second], [second, first])
    assert len(world.list) == 0


def test_the_list_is_no_longer_than_it_has_to_be_and_as_long_as_it_takes() -> None:
    world = World()
    oldest = world.run(7, 5000.0)
    for _ in range(300):
        world.run(7, 1.0)
    world.wait(oldest)
    world.wait(world.run(7, 5000.0))
    world.live(100)
    assert world.requests["status"] == 0
    [agent] = world.list._agents.values()
    assert 302 <= agent.list_size <= 400
    world.list.remove(next(iter(agent)))


def test_runs_older_than_the_longest_list_are_asked_for_by_themselves() -> None:
    world = World()
    old = [world.run(7, 900.0) for _ in range(3)]
    for _ in range(1200):
        world.run(7, 1.0)
    for run in [*old, world.run(7, 900.0), world.run(7, 900.0)]:
        world.wait(run)
    world.live(2000)
    assert len(world.ended) == 5
    assert world.requests["status"] > 0
    assert max(world.delays()) < 60


def test_a_run_that_the_list_does_not_show_yet_is_asked_for_by_itself_and_then_no_longer() -> None:
    world = World()
    late = world.run(7, 600.0, listed_from=120.0)
    world.wait(late)
    world.wait(world.run(7, 600.0))
    world.live(1000)
    assert len(world.ended) == 2
    asked_alone = [at for at, path in world.asked if path.endswith(f"/run/{late.id}/status")]
    assert asked_alone
    assert max(asked_alone) < 120 + 30


def test_runs_of_which_the_list_showed_none_at_first_are_asked_for_together_after_a_check() -> None:
    world = World()
    for _ in range(5):
        world.wait(world.run(7, 2000.0, listed_from=30.0))
    world.live(20)
    assert world.requests["status"] > 0
    world.live(CHECK_INTERVAL)
    before = world.requests["status"]
    world.live(3000)
    assert (len(world.ended), world.requests["status"]) == (5, before)


def test_a_list_that_is_refused_says_nothing_of_the_runs() -> None:
    world = World(fault=lambda call: HttpStatusError("No.", status_code=403) if call.path.endswith("/runs") else None)
    for _ in range(3):
        world.wait(world.run(7, 200.0))
    world.live(600)
    assert len(world.ended) == 3
    assert world.requests["runs"] == 1


def test_only_the_runs_own_record_ends_a_wait() -> None:
    """The agents list says that the last run is over, and it is another one."""
    world = World()
    for agent_id in range(1, 20):
        world.wait(world.run(agent_id, 500.0))
    world.live(50)
    for agent_id in range(1, 20):
        world.run(agent_id, 1.0)
    world.live(400)
    assert not world.ended
    world.live(600)
    assert len(world.ended) == 19
    assert min(world.delays()) > 0
    assert max(world.delays()) <= 30


@pytest.mark.parametrize("seconds", [1.0, 1e5], ids=["over", "going on"])
def test_an_agent_whose_page_shows_a_newer_run_is_not_left_to_its_page(seconds: float) -> None:
    world = World()
    for agent_id in range(1, 20):
        world.wait(world.run(agent_id, 500.0 if agent_id == 7 else 1e5))
    world.live(50)
    world.run(7, seconds)
    world.live(600)
    assert len(world.ended) == 1
    assert max(world.delays()) <= 30


def test_a_run_behind_a_newer_one_that_was_there_before_is_heard_of_after_a_check_at_the_latest() -> None:
    world = World()
    old = [world.run(agent_id, 1000.0) for agent_id in range(1, 20)]
    for run in old:
        world.run(run.agent_id, 1e5)
        world.wait(run)
    world.live(3000)
    assert len(world.ended) == 19
    assert max(world.delays()) <= 60


# Waiting for a run that is not there yet


def test_the_first_run_since_a_moment_is_found_and_waited_for() -> None:
    world = World()
    world.run(7, 10.0)
    world.now += 1
    world.wait(agent_id=7, since=START + timedelta(seconds=1))
    world.live(100)
    first = world.run(7, 100.0)
    world.run(7, 1.0)
    world.live(400)
    assert list(world.ended) == [first.id]


@pytest.mark.parametrize("ahead", [timedelta(hours=3), timedelta(hours=-3)])
def test_the_first_run_since_a_moment_is_the_one_by_the_clocks_that_were_compared(ahead: timedelta) -> None:
    """A gateway with a wrong clock may write the ``Date`` of a response."""
    world = World()
    world.run(7, 10.0)
    world.now += 1
    world.wait(agent_id=7, since=START + timedelta(seconds=1), clock_ahead=0.0)
    first = world.run(7, 100.0)
    world.now += 10_000
    world.run(7, 1.0)
    world.gateway = ahead
    world.live(400)
    assert list(world.ended) == [first.id]


def test_a_run_that_never_comes_is_given_up_at_the_deadline() -> None:
    world = World()
    watched = world.wait(agent_id=7, since=START, deadline=START + timedelta(seconds=100))
    world.live(1000)
    [(at, news)] = [(at, news) for at, news in world.news if news.result.outcome]
    assert (news.wait, news.result.outcome) == (watched, PollOutcome.DEADLINE)
    assert 100 <= at <= 101


# Time


def test_a_deadline_brings_a_last_look() -> None:
    world = World()
    world.wait(world.run(7, 1e6), poll_interval=3600, deadline=START + timedelta(seconds=500))
    world.live(1000)
    at, news = world.news[-1]
    assert news.result.outcome is PollOutcome.DEADLINE
    assert news.wait.poller.run is not None
    assert 500 <= at <= 501


def test_a_deadline_holds_although_nothing_is_answered() -> None:
    world = World(spacing=3600)
    limited = world.wait(world.run(7, 1e6), deadline=START + timedelta(seconds=500))
    for _ in range(20):
        world.wait(world.run(7, 1e6))
    world.now = 1.0
    world.list.next_poll(world.moment.steady)
    world.list.pass_time(world.moment)
    world.now = 500.0
    world.list.pass_time(world.moment)
    assert world.news == []
    world.now = 500.0 + LAST_LOOK
    world.list.pass_time(world.moment)
    [(_, news)] = world.news
    assert (news.wait, news.result.outcome) == (limited, PollOutcome.DEADLINE)
    assert len(world.list) == 20


def test_one_request_is_the_last_look_of_all_waits_on_an_agent_that_have_one_deadline() -> None:
    world = World()
    for agent_id in (1, 2, 3):
        for _ in range(30):
            world.wait(world.run(agent_id, 1e6), poll_interval=3600, deadline=START + timedelta(seconds=500))
    world.live(1000)
    outcomes = [(at, news) for at, news in world.news if news.result.outcome]
    assert len(outcomes) == 90
    assert all(news.wait.poller.run is not None for _, news in outcomes)
    assert max(at for at, _ in outcomes) <= 505
    assert sum(at >= 500 for at, _ in world.asked) == 3


def test_the_last_look_at_a_run_that_is_missing_in_the_list_is_at_the_run_itself() -> None:
    world = World()
    for number in range(30):
        late = world.run(7, 1e6, listed_from=1e6)
        world.wait(late, poll_interval=600, deadline=START + timedelta(seconds=500 + 20 * number))
    world.live(1200)
    outcomes = [news for _, news in world.news if news.result.outcome]
    assert len(outcomes) == 30
    assert all(news.wait.poller.run is not None for news in outcomes)


def test_a_trigger_that_comes_back_long_after_its_deadline_still_looks() -> None:
    world = World()
    over, going = world.run(7, 100.0), world.run(8, 1e6)
    world.now = 5000.0
    world.wait(over, deadline=START + timedelta(seconds=600))
    world.wait(going, deadline=START + timedelta(seconds=600))
    world.live(60)
    outcomes = {news.wait.poller.spec.run_id: news.result.outcome for _, news in world.news}
    assert outcomes == {over.id: PollOutcome.ENDED, going.id: PollOutcome.DEADLINE}


def test_a_failure_is_looked_at_again_when_it_has_stood_long_enough() -> None:
    world = World()
    run = world.run(7, 100.0, outcome=RunStatus.FAILURE)
    world.wait(run, failure_pause=40.0, poll_interval=300.0)
    world.live(2000)
    seen = next(at for at, _ in world.asked if at >= run.end)
    assert world.ended[run.id] == pytest.approx(seen + 40.0, abs=1.5)


def test_no_one_is_asked_about_more_often_than_wanted() -> None:
    world = World()
    world.wait(world.run(7, 1000.0), poll_interval=100.0)
    world.live(2000)
    assert all(later - earlier >= 99 for (earlier, _), (later, _) in zip(world.asked, world.asked[1:], strict=False))


def test_where_waits_share_a_question_the_smallest_interval_holds() -> None:
    world = World()
    world.wait(world.run(7, 500.0), poll_interval=300.0)
    world.wait(world.run(7, 500.0))
    world.live(1000)
    assert max(world.delays()) <= 15


def test_a_wait_that_asks_for_few_polls_does_not_delay_another_of_its_agent() -> None:
    world = World()
    world.wait(world.run(7, 40.0))
    world.live(2)
    world.wait(world.run(7, 500.0), poll_interval=300.0)
    world.live(100)
    assert world.delays()[0] <= MIN_INTERVAL + 1


def test_a_deadline_brings_its_look_although_another_wait_comes_at_that_moment() -> None:
    world = World()
    world.wait(world.run(7, 1e6), poll_interval=3600, deadline=START + timedelta(seconds=500))
    world.live(499.5)
    world.now = 500.0
    world.list.pass_time(world.moment)
    world.wait(world.run(7, 1e6), poll_interval=60)
    assert world.list.due(world.moment.steady) == world.moment.steady


# Pages of the agents list


def test_pages_are_read_seldom_where_they_tell_of_fewer_runs_than_the_agents_lists() -> None:
    world = World()
    for number in range(600):
        world.wait(world.run(1 + number % 10, 1e5))
    world.live(600)
    assert 1 <= world.requests["all"] <= 12


def test_no_agent_is_left_to_a_page_that_is_read_seldom() -> None:
    world = World()
    for number in range(90):
        world.wait(world.run(1 + number % 6, 1e5))
    for agent_id in (7, 8):
        world.wait(world.run(agent_id, 31.0 * agent_id))
    world.live(360)
    assert len(world.ended) == 2
    assert world.requests["all"] <= 8
    assert max(world.delays()) <= 2 * 8 * world.spacing


def test_an_agent_that_is_left_to_its_page_is_checked_now_and_then() -> None:
    world = World()
    runs = [world.run(agent_id, 1e5) for agent_id in range(1, 41)]
    for run in runs:
        world.wait(run)
    world.live(CHECK_INTERVAL - 60)
    assert world.requests["status"] + world.requests["runs"] <= 40
    world.live(240)
    assert 40 <= world.requests["runs"] <= 80


def test_a_page_on_which_no_one_was_waited_for_is_read_again_when_somebody_is() -> None:
    world = World()
    first = [world.run(agent_id, 100.0) for agent_id in range(1, 31)]
    for run in first:
        world.wait(run)
    world.live(400)
    assert len(world.ended) == 30
    later = [world.run(agent_id, 600.0) for agent_id in range(1, 31)]
    for run in later:
        world.wait(run)
    pages_before = world.requests["all"]
    world.live(1000)
    assert len(world.ended) == 60
    assert world.requests["all"] > pages_before + 100


def test_pages_that_show_ends_that_are_none_cost_no_more_than_polling_the_agents_in_turn() -> None:
    """The last run of each agent is shown as ended again and again, and is not."""
    world = World()
    runs = [world.run(agent_id, 5000.0) for agent_id in range(1, 31)]
    activity = itertools.count()

    def lying_page(page: int, size: int) -> Page[Agent]:
        time = (START + timedelta(seconds=next(activity))).isoformat()
        shown = [{"id": run.agent_id, "status": 10, "lastActivity": time} for run in runs]
        return Page([Agent.model_validate(agent) for agent in shown], len(shown))

    world._page = lying_page  # type: ignore[method-assign]
    for run in runs:
        world.wait(run)
    world.live(6000)
    assert len(world.ended) == 30
    assert max(world.delays()) <= 31


def test_pages_that_do_not_show_ends_are_given_up_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    runs = [world.run(agent_id, 500.0 + 200.0 * agent_id) for agent_id in range(1, 31)]
    stale = world._page(1, 100)
    world._page = lambda page, size: stale  # type: ignore[method-assign]
    for run in runs:
        world.wait(run)
    with caplog.at_level(logging.INFO, "airflow_provider_sequentum.watching.watch_list"):
        world.live(8000)
    assert len(world.ended) == 30
    assert max(world.delays()) <= CHECK_INTERVAL + 31
    assert sum(delay > 31 for delay in world.delays()) <= 12
    assert [record.message for record in caplog.records if "list of agents" in record.message] == [
        "Working without the list of agents: it often does not show that their last runs have ended."
    ]


def test_smaller_pages_are_requested_until_the_service_does_not_refuse_them(caplog: pytest.LogCaptureFixture) -> None:
    def fault(call: Call[Any]) -> SequentumError | None:
        too_many = call.path == "/agent/all" and int(call.query["recordsPerPage"]) > 20
        return HttpStatusError("Too many.", status_code=400) if too_many else None

    world = World(fault=fault)
    for agent_id in range(1, 31):
        world.wait(world.run(agent_id, 500.0))
    with caplog.at_level(logging.INFO, "airflow_provider_sequentum.watching.watch_list"):
        world.live(600)
    assert len(world.ended) == 30
    assert world.requests["all"] > 100
    assert [record.message.partition(";")[2][:14] for record in caplog.records] == [" asking for 50", " asking for 20"]


def test_agents_whose_page_cannot_be_read_any_more_are_polled() -> None:
    world = World(fault=lambda call: server_error(call) if call.path == "/agent/all" and world.now > 100 else None)
    for agent_id in range(1, 31):
        world.wait(world.run(agent_id, 300.0))
    world.live(400)
    assert len(world.ended) == 30
    assert max(world.delays()) <= 35


# Listeners


def test_one_page_shows_news_which_of_many_agents_has_news() -> None:
    world = World()
    ears = [world.listen(agent_id) for agent_id in range(1, 301)]
    for agent_id in range(1, 301):
        world.run(agent_id, 1.0)
    world.live(900)
    assert all(ear.looks for ear in ears)
    before = Counter(world.requests)
    runs = []
    for number in range(20):
        runs.append(world.run(7 * number + 1, 100.0))
        world.live(60)
    world.live(300)
    delays = sorted(ears[run.agent_id - 1].heard[run.id] - run.end for run in runs)
    assert delays[0] >= 0
    assert delays[-1] <= 65
    requests = world.requests - before
    assert requests["all"] <= 1500 / 60 + 2 * 3
    assert requests["runs"] <= 2 * len(runs)


def test_a_run_that_ends_behind_a_newer_one_is_heard_of() -> None:
    world = World()
    ears = [world.listen(agent_id) for agent_id in range(1, 41)]
    for agent_id in range(1, 41):
        world.run(agent_id, 1.0)
    world.live(900)
    older = world.run(7, 400.0)
    world.live(120)
    world.run(7, 5000.0)
    world.live(600)
    assert ears[6].heard[older.id] - older.end <= 125


def test_an_agent_that_is_pushed_to_the_next_page_is_still_heard_of() -> None:
    world = World()
    ears = [world.listen(agent_id) for agent_id in range(1, 301)]
    for agent_id in range(1, 301):
        world.run(agent_id, 1.0)
    world.live(900)
    long = world.run(1, 1200.0)
    world.live(120)
    for agent_id in range(2, 200):
        world.run(agent_id, 1e5)
    world.live(1800)
    assert ears[0].heard[long.id] - long.end <= 125


@pytest.mark.parametrize("hints", [True, False])
def test_without_pages_an_agent_is_looked_at_as_often_as_its_listener_wants(hints: bool) -> None:
    refused = HttpStatusError("No.", status_code=403) if hints else None
    world = World(hints=hints, fault=lambda call: refused if call.path == "/agent/all" else None)
    ears = [world.listen(agent_id, 120.0) for agent_id in range(1, 11)]
    for agent_id in range(1, 11):
        world.run(agent_id, 100.0 * agent_id)
    world.live(1300)
    assert all(len(ear.heard) == 1 for ear in ears)
    assert all(10 <= len(ear.looks) <= 13 for ear in ears)


def test_listeners_take_a_fifth_of_the_polls_from_waits_at_most() -> None:
    world = World()
    for number in range(1000):
        world.wait(world.run(1000 + number % 20, 1e5))
    ears = [world.listen(agent_id) for agent_id in range(1, 301)]
    world.live(120)
    assert 0.15 <= sum(len(ear.looks) for ear in ears) / len(world.asked) <= 0.25


def test_an_agent_that_is_waited_for_and_listened_to_is_polled_for_both() -> None:
    world = World()
    ear = world.listen(7)
    run = world.run(7, 100.0)
    world.wait(run)
    world.live(300)
    assert world.ended[run.id] == ear.heard[run.id]
    assert world.requests["status"] == 0


def test_a_listener_hears_of_a_fault_and_a_busy_key_is_none() -> None:
    error = HttpStatusError("Busy.", status_code=429)
    world = World(fault=lambda call: error if world.now < 100 else server_error(call) if world.now < 200 else None)
    ear = world.listen(7)
    world.live(99)
    assert not ear.errors
    world.live(150)
    assert [status_of(error) for error in ear.errors] == [503]
    assert world.list.agent_count == 0


def test_a_listener_that_leaves_is_forgotten() -> None:
    world = World()
    ears = [world.listen(1 + number % 20, 5.0) for number in range(40)]
    world.live(60)
    for ear in ears:
        world.list.remove(ear)
        world.list.remove(ear)
    assert (world.list.agent_count, world.list.is_idle) == (0, True)


# Faults


def test_the_agents_list_that_fails_does_not_keep_agents_from_being_polled() -> None:
    world = World(fault=lambda call: server_error(call) if call.path == "/agent/all" else None)
    for agent_id in range(1, 31):
        world.wait(world.run(agent_id, 100.0))
    world.live(400)
    assert len(world.ended) == 30
    assert max(world.delays()) <= 35


def test_a_fault_of_the_service_is_tolerated_for_a_bounded_time_by_each_wait() -> None:
    world = World(fault=server_error)
    world.wait(world.run(7, 1e5))
    patient = world.wait(world.run(7, 1e5), tolerate_outages=True)
    world.live(FAULT_TOLERANCE.total_seconds() + 120)
    failed = [(at, news) for at, news in world.news if news.error is not None]
    assert len(failed) == 1
    assert FAULT_TOLERANCE.total_seconds() <= failed[0][0] <= FAULT_TOLERANCE.total_seconds() + 61
    assert len(world.list) == 1
    assert [news.wait for _, news in failed] != [patient]
    assert len(world.messages()) == 2 * 5  # to each when it began, then ever more rarely


def test_a_fault_of_one_agent_is_not_counted_against_another() -> None:
    world = World(fault=lambda call: server_error(call) if "/agent/7/" in call.path else None)
    world.wait(world.run(7, 100.0))
    world.wait(world.run(8, 100.0))
    world.live(400)
    assert list(world.ended) == [102]


def test_a_gateways_page_in_place_of_a_list_is_tolerated() -> None:
    world = World(fault=lambda call: UnexpectedResponse("HTML.") if world.now < 200 else None)
    for _ in range(3):
        world.wait(world.run(7, 100.0))
    world.live(600)
    assert len(world.ended) == 3
    assert world.requests["status"] == 0


def test_a_run_unknown_at_first_is_waited_for_and_one_unknown_for_long_is_not() -> None:
    world = World()
    new = world.run(7, 200.0)
    del world.runs[new.id]
    world.wait(new)
    world.live(30)
    world.runs[new.id] = new
    world.live(600)
    assert list(world.ended) == [new.id]

    world.wait(agent_id=7, run_id=999)
    begun = world.now
    world.live(600)
    at, news = world.news[-1]
    assert status_of(news.error) == 404
    assert at - begun >= NOT_FOUND_TOLERANCE.total_seconds()


def test_without_the_agents_list_everybody_is_still_heard_of() -> None:
    world = World(fault=lambda call: HttpStatusError("No.", status_code=403) if call.path == "/agent/all" else None)
    for agent_id in range(1, 30):
        world.wait(world.run(agent_id, 200.0))
    world.live(600)
    assert len(world.ended) == 29
    assert world.requests["all"] == 1


def test_an_agents_list_that_fails_in_passing_is_read_later() -> None:
    world = World(fault=lambda call: server_error(call) if call.path == "/agent/all" and world.now < 100 else None)
    for agent_id in range(1, 30):
        world.wait(world.run(agent_id, 200.0))
    world.live(600)
    assert len(world.ended) == 29
    assert [at for at, path in world.asked if path == "/agent/all"][-1] > 100


def test_that_a_run_asked_for_by_itself_is_unknown_says_nothing_of_the_others() -> None:
    world = World()
    gone, going = world.run(7, 500.0), world.run(7, 500.0)
    del world.runs[gone.id]
    lost = world.wait(gone)
    world.wait(going)
    world.live(1000)
    assert [(news.wait, status_of(news.error)) for _, news in world.news if news.error] == [(lost, 404)]
    assert list(world.ended) == [going.id]


def test_a_question_that_was_not_put_is_put_again_at_once() -> None:
    world = World()
    world.wait(world.run(7, 100.0))
    poll = world.list.next_poll(world.moment.steady + 10)
    world.list.ask_again(poll, world.moment)
    assert world.list.next_poll(world.moment.steady) == poll


# Coming and going


def test_who_leaves_is_forgotten() -> None:
    world = World()
    waits = [world.wait(world.run(1 + n % 40, 1e5), deadline=START + timedelta(days=1)) for n in range(400)]
    waits.append(world.wait(agent_id=99, since=START))
    world.live(60)
    for watched in waits:
        world.list.remove(watched)
        world.list.remove(watched)
    assert len(world.list) == 0
    assert world.list.agent_count == 0
    assert world.list.due(world.moment.steady + 1e6) == math.inf
    assert world.list.next_fixed_look() == math.inf
    assert not any(page.agents for page in world.list._pages.by_number.values())


def test_an_answer_for_somebody_who_left_is_dropped() -> None:
    world = World()
    watched = world.wait(world.run(7, 10.0))
    poll = world.list.next_poll(world.moment.steady + 10)
    world.list.remove(watched)
    world.list.answered(poll, Page([]), world.moment)
    world.list.failed(poll, server_error(None), world.moment)  # type: ignore[arg-type]
    assert world.news == []
    assert world.list.due(world.moment.steady) == math.inf


# The workloads the schedule is for


def test_many_runs_of_twenty_agents() -> None:
    world = World()
    for number, seconds in enumerate(lognormal(300)):
        world.wait(world.run(1000 + number % 20, seconds))
    world.live(20_000)
    delays = world.delays()
    assert len(delays) == 300
    assert fmean(delays) <= 1.05 * 20 * world.spacing / 2, "polling the agents in turn has half a round on average"
    assert delays[285] <= 18


@pytest.mark.parametrize(("hints", "mean"), [(True, 10.0), (False, 60.0)])
def test_as_many_agents_as_runs(hints: bool, mean: float) -> None:
    world = World(hints=hints)
    for number, seconds in enumerate(lognormal(150)):
        world.wait(world.run(1000 + number, seconds))
    world.live(20_000)
    assert len(world.ended) == 150
    assert fmean(world.delays()) <= mean


ERRORS = [
    HttpStatusError("Down.", status_code=503),
    UnexpectedResponse("HTML."),
    HttpStatusError("No.", status_code=403),
    HttpStatusError("Nothing here.", status_code=404),
]
DEADLINE = 6000.0
arrivals = st.tuples(
    st.integers(1, 8),  # agent
    st.floats(0, 2000),  # seconds the run takes
    st.floats(0, 300),  # seconds until the next arrival
    st.booleans(),  # whether it is waited for before it is known
    st.sampled_from([None, None, None, 30.0, 400.0]),  # after how many seconds the one who waits leaves
    st.sampled_from([0.0, 0.0, 60.0]),  # failure_pause
)


@settings(max_examples=25, deadline=None)
@given(st.lists(arrivals, min_size=1, max_size=30), st.floats(0, 0.3), st.booleans(), st.integers(0, 1000))
def test_every_wait_comes_to_an_end_whatever_comes(
    runs: list[tuple[int, float, float, bool, float | None, float]], faults: float, hints: bool, seed: int
) -> None:
    generator = random.Random(seed)
    world = World(hints=hints, fault=lambda call: generator.choice(ERRORS) if generator.random() < faults else None)
    waits, leaving = [], []
    for agent_id, seconds, gap, early, leaves_after, pause in runs:
        outcome = generator.choice([RunStatus.SUCCESS, RunStatus.FAILURE, RunStatus.STOPPED])
        deadline: dict[str, Any] = {
            "deadline": START + timedelta(seconds=DEADLINE),
            "failure_pause": pause,
            "is_patient": True,
        }
        since = START + timedelta(seconds=world.now)
        waits += [world.wait(agent_id=agent_id, since=since, **deadline)] if early else []
        waits.append(world.wait(world.run(agent_id, seconds, outcome=outcome), **deadline))
        if leaves_after is not None:
            leaving.append((world.now + leaves_after, waits[-1]))
        world.live(gap)
        for at, watched in tuple(leaving):
            if at <= world.now:
                world.list.remove(watched)
                waits.remove(watched)
                leaving.remove((at, watched))
    world.live(20_000)
    assert len(world.list) == 0
    over = [news.wait for _, news in world.news if news.result.outcome or news.error]
    assert len(over) == len(set(map(id, over)))
    heard = {id(watched) for watched in over}
    assert heard.issuperset(id(watched) for watched in waits)
    assert world.now <= DEADLINE + LAST_LOOK + 20
    assert min(world.delays(), default=0) >= 0


def test_a_check_that_fails_is_repeated_soon_although_a_page_shows_the_agent_as_running() -> None:
    failed: list[float] = []

    def fault(call: Call[Any]) -> SequentumError | None:
        if world.now < 100 or not call.path.startswith("/agent/3/") or len(failed) == 3:
            return None
        failed.append(world.now)
        return server_error(call)

    world = World(fault=fault)
    for agent_id in range(1, 9):
        world.wait(world.run(agent_id, 5000))
    world.live(6000)
    assert len(failed) == 3
    assert failed[-1] - failed[0] < 60
    assert len(world.ended) == 8


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.floats(0, 2000), st.floats(0, 500)), min_size=1, max_size=40),
    st.floats(0, 0.4),
    st.integers(0, 1000),
)
def test_everybody_hears_of_the_end_through_passing_faults(
    runs: list[tuple[int, float, float]], faults: float, seed: int
) -> None:
    generator = random.Random(seed)
    world = World(fault=lambda call: server_error(call) if generator.random() < faults else None)
    for agent_id, seconds, gap in runs:
        world.wait(world.run(agent_id, seconds))
        world.live(gap)
    world.live(10_000)
    assert len(world.ended) == len(runs)
    assert min(world.delays()) >= 0


@pytest.mark.parametrize("later", [1, 19, 20, 21, 79, 80, 81, 320, 999])
def test_the_first_run_since_a_moment_is_found_however_many_followed(later: int) -> None:
    world = World()
    world.run(7, 10.0)
    world.now = 100.0
    first = world.run(7, 1e5)
    for _ in range(later - 1):
        world.run(7, 1e5)
    watched = world.wait(agent_id=7, since=START + timedelta(seconds=50))
    world.live(60)
    assert watched.poller.spec.run_id == first.id


def test_more_runs_since_a_moment_than_the_service_lists_are_an_error() -> None:
    world = World()
    for _ in range(1500):
        world.run(7, 1e5)
    world.wait(agent_id=7, since=START)
    world.live(120)
    [error] = [update.error for _, update in world.news if update.error is not None]
    assert "cannot be determined. Set a later time" in str(error)


@pytest.mark.parametrize("skew", [timedelta(days=1), timedelta(seconds=50), -timedelta(days=1)])
def test_the_services_clock_may_differ_by_a_day(skew: timedelta) -> None:
    world = World(skew=skew)
    world.run(7, 10.0)
    world.now = 100.0
    first = world.run(7, 500.0)
    watched = world.wait(agent_id=7, since=START + timedelta(seconds=90))
    world.live(60)
    assert watched.poller.spec.run_id == first.id
