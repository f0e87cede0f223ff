from __future__ import annotations

import pytest

from airflow_provider_sequentum.api.agents import Agent
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.runs.wait import RunPoller, WaitSpec
from airflow_provider_sequentum.watching.polls import LARGEST_SHARE, AgentPages, AgentPoll, PagePoll, Wait


def agent(agent_id: int, status: int | str | None, activity: str | None = None) -> Agent:
    return Agent.model_validate({"id": agent_id, "status": status, "lastActivity": activity})


class Looked:
    """Pages on which agents are looked for."""

    def __init__(self, *agent_ids: int) -> None:
        self.pages = AgentPages()
        self.agents = {agent_id: AgentPoll(agent_id, 0.0) for agent_id in agent_ids}
        for wanted in self.agents.values():
            self.pages.expect(wanted, 1)

    def read(self, *agents: Agent, page: int = 1, total: int | None = None, at: float = 1.0) -> set[int]:
        """Read a page; return of whom it says that the last run has ended, which was not known."""
        poll = self.pages.by_number[page]
        poll.asked_at = at
        for wanted in self.agents.values():
            wanted.news_at = None
        self.pages.read(poll, Page(list(agents), total), self.agents)
        return {wanted.agent_id for wanted in self.agents.values() if wanted.news_at is not None and wanted.shows_end}

    def has_news(self, agent_id: int) -> bool:
        """Return whether there is something of which only its list tells more, and forget that."""
        wanted = self.agents[agent_id]
        has_news, wanted.news_at = wanted.news_at is not None, None
        return has_news

    def places(self) -> dict[int, int]:
        return {wanted.agent_id: wanted.page.number if wanted.page else 0 for wanted in self.agents.values()}


def test_an_agent_whose_last_run_is_over_is_hinted_at_once() -> None:
    looked = Looked(1, 2, 3, 4)
    assert looked.read(agent(1, 1), agent(2, 10), agent(3, None), agent(4, 99)) == {2}
    assert looked.read(agent(1, 6), agent(2, 10), agent(3, 7), agent(4, 99)) == {1, 3}
    assert looked.read(agent(1, 6), agent(2, 10, "2026-11-22T09:00:00Z")) == {2}
    assert looked.read(agent(1, 1), agent(2, 10, "2026-11-22T09:00:00Z")) == set()


def test_a_run_that_took_the_place_of_one_that_was_not_over_is_news_but_no_end() -> None:
    looked = Looked(1)
    looked.read(agent(1, 1, "2026-11-22T09:00:00Z"))
    looked.read(agent(1, 5, "2026-11-22T09:00:00Z"))
    assert not looked.has_news(1)
    assert looked.read(agent(1, 1, "2026-11-22T09:01:00Z")) == set()
    assert looked.has_news(1)
    assert looked.read(agent(1, 10, "2026-11-22T09:01:00Z")) == {1}
    assert looked.has_news(1)
    looked.read(agent(1, 1, "2026-11-22T09:02:00Z"))
    assert not looked.has_news(1)


def test_who_is_not_on_a_page_is_expected_on_the_next_and_after_the_last_on_none() -> None:
    looked = Looked(1, 2, 9)
    looked.read(agent(1, 1), agent(2, None), total=250)
    assert looked.places() == {1: 1, 2: 0, 9: 2}
    looked.read(agent(5, 1), page=2, total=250)
    assert looked.places() == {1: 1, 2: 0, 9: 3}
    looked.read(page=3, total=250)
    assert looked.places() == {1: 1, 2: 0, 9: 0}


def test_an_agent_that_is_pushed_off_its_page_keeps_what_was_shown_until_it_is_on_none() -> None:
    looked = Looked(1)
    looked.read(agent(1, 1), total=150)
    looked.read(agent(2, 1), total=150)
    assert (looked.places(), looked.agents[1].shows_end) == ({1: 2}, False)
    looked.read(agent(3, 1), page=2, total=150)
    assert (looked.places(), looked.agents[1].shows_end) == ({1: 0}, None)


def test_an_agent_whose_last_run_is_over_needs_no_page_until_its_next_run() -> None:
    looked = Looked(1, 2)
    looked.read(agent(3, 1), total=150)
    looked.read(agent(1, 1), agent(2, 10), page=2, total=150)
    assert looked.places() == {1: 2, 2: 0}
    assert looked.read(agent(2, 1), agent(1, 10), total=150) == {1}
    assert looked.places() == {1: 0, 2: 1}


def test_what_a_service_says_it_has_is_bounded() -> None:
    looked = Looked(1)
    looked.read(agent(2, 1), total=10**12)
    for page in range(2, 101):
        looked.read(agent(2, 1), page=page, total=10**12)
    assert looked.places() == {1: 0}


def test_the_whole_list_in_one_answer_is_one_page() -> None:
    looked = Looked(1, 999)
    looked.read(*(agent(number, 1) for number in range(1, 301)))
    assert looked.places() == {1: 1, 999: 0}


@pytest.mark.parametrize(
    ("agents", "runs_each", "share"),
    [
        (200, 1, LARGEST_SHARE),
        (100, 2, LARGEST_SHARE),
        (8, 2, 2.0),
        (20, 50, 0.6),
        (2, 1, 1.4),
        (1, 1, 1.0),
        (0, 0, 0.0),
    ],
)
def test_a_page_is_polled_more_often_the_more_it_shows_and_the_less_the_lists_do(
    agents: int, runs_each: int, share: float
) -> None:
    page = PagePoll(1, 100)
    for agent_id in range(agents):
        wanted = AgentPoll(agent_id, 0.0)
        for run_id in range(1, 1 + runs_each):
            wanted.add(Wait(RunPoller(WaitSpec(agent_id=agent_id, run_id=run_id)), lambda *_: None), 0.0)
        page.agents.add(wanted)
    assert page.fair_share() == pytest.approx(share, abs=0.05)
    page.share = page.fair_share()
    assert page.is_worth_it is (share > 1)
