from __future__ import annotations

import itertools

import pytest

from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.runs.wait import RunPoller, WaitSpec
from airflow_provider_sequentum.watching.polls import AgentPoll, Listener, Listing, Wait


def runs(newest: int, count: int, *, running: int = 0) -> Page[Run]:
    numbers = range(newest, newest - count, -1)
    return Page(
        [
            Run.model_validate({"id": number, "configId": 7, "status": 1 if number == running else 10})
            for number in numbers
        ]
    )


class Heard:
    """An agent with a listener, which is polled."""

    def __init__(self) -> None:
        self.news: list[Listing | BaseException] = []
        self.agent = AgentPoll(7, 0.0)
        self.agent.add(Listener(7, 60.0, self.news.append), 0.0)
        self.requests = 0
        self._time = itertools.count(1.0)

    def read(self, listed: Page[Run]) -> None:
        """Poll once; a list is cut to what was requested."""
        self.requests += 1
        self.agent.take_turn(next(self._time))
        size = self.agent.asked_size
        self.agent.read_list(Page(listed[:size]) if len(listed) > size else listed)

    def hear(self, listed: Page[Run]) -> tuple[int, bool]:
        """Poll until there is no more news; return how many runs were heard of, and whether there may be more."""
        self.read(listed)
        while self.agent.news_at is not None:
            self.read(listed)
        [heard] = self.news
        assert isinstance(heard, Listing)
        self.news.clear()
        return len(heard.runs), heard.is_full


def test_a_list_that_ends_before_what_is_known_is_requested_again_longer() -> None:
    heard = Heard()
    assert heard.agent.list_size == 1000
    assert heard.hear(runs(300, 300)) == (300, False)
    assert heard.agent.list_size == 200
    assert heard.hear(runs(700, 700)) == (700, False)
    assert heard.requests == 3


def test_a_list_of_known_runs_is_not_requested_again() -> None:
    heard = Heard()
    heard.hear(runs(300, 300))
    assert heard.hear(runs(301, 301)) == (200, True)
    assert heard.requests == 2


@pytest.mark.parametrize("steps", [(300, 420, 500), (300, 340, 900)])
def test_a_run_that_is_active_stays_in_view(steps: tuple[int, ...]) -> None:
    heard = Heard()
    for newest in steps:
        assert heard.hear(runs(newest, newest, running=150))[0] > newest - 150
        assert heard.agent.list_size > newest - 150


def test_the_longest_list_is_not_requested_twice() -> None:
    heard = Heard()
    heard.hear(runs(10, 10))
    heard.hear(runs(11, 11))
    requests = heard.requests
    assert heard.hear(runs(1500, 1490)) == (1000, True)
    assert heard.requests - requests == 3


def test_what_cannot_be_read_counts_for_the_length_of_a_list() -> None:
    heard = Heard()
    heard.hear(runs(1, 1))
    heard.read(Page(runs(300, 199), unreadable=1))
    assert heard.agent.news_at is not None, "older ones may have come since"


def test_a_list_that_the_service_cuts_by_itself_is_not_requested_again() -> None:
    heard = Heard()
    heard.hear(runs(1, 1))
    heard.read(Page(runs(300, 100), 299))
    assert heard.agent.news_at is None
    assert [news.is_full for news in heard.news if isinstance(news, Listing)] == [True]


def test_runs_that_are_missing_are_requested_in_turn_with_the_list() -> None:
    agent = AgentPoll(7, 0.0)
    for run_id in (1, 2, 50):
        agent.add(Wait(RunPoller(WaitSpec(agent_id=7, run_id=run_id)), lambda *_: None), 0.0)
    asked = []
    for now in range(1, 13):
        agent.take_turn(float(now))
        asked.append(agent.asked_run)
        if agent.asked_run == 0:
            agent.read_list(runs(50, 3))
    assert sorted(asked[:3]) == sorted(asked[3:6]) == sorted(asked[6:9]) == [0, 1, 2]
