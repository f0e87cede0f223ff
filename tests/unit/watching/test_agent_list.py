from __future__ import annotations

import pytest

from airflow_provider_sequentum.api.agents import Agent
from airflow_provider_sequentum.watching.agent_list import AgentPages


def agent(agent_id: int, status: int | str | None, activity: str | None = None) -> Agent:
    return Agent.model_validate({"id": agent_id, "status": status, "lastActivity": activity})


def read(pages: AgentPages, *agents: Agent, page: int = 1, total: int | None = None, at: float = 0.0) -> list[int]:
    return pages.read(page, agents, total, at)


def test_an_agent_whose_last_run_is_over_is_hinted_at_once() -> None:
    pages = AgentPages()
    assert read(pages, agent(1, 1), agent(2, 10), agent(3, None), agent(4, 99)) == [2]
    assert read(pages, agent(1, 6), agent(2, 10), agent(3, 7), agent(4, 99)) == [1, 3]
    assert read(pages, agent(1, 6), agent(2, 10, "2026-11-22T09:00:00Z")) == [2]
    assert read(pages, agent(1, 1), agent(2, 10, "2026-11-22T09:00:00Z")) == []


def test_what_was_forgotten_is_news_again() -> None:
    pages = AgentPages()
    read(pages, agent(1, 10))
    pages.forget(1)
    assert read(pages, agent(1, 10)) == [1]


def test_where_an_agent_stands_is_learnt_from_the_pages() -> None:
    pages = AgentPages()
    assert pages.unread == {1}
    read(pages, agent(1, 1), agent(2, None), total=350)
    assert (pages.count, pages.unread) == (4, {2, 3, 4})
    assert (pages.page_of(1), pages.page_of(9)) == (1, None)
    assert list(pages.agents_on(1)) == [1, 2]
    assert (pages.shows_status(1), pages.shows_status(2), pages.shows_status(9)) == (True, False, False)


def test_a_list_that_grows_or_shrinks_is_followed() -> None:
    pages = AgentPages()
    read(pages, agent(1, 1), total=250)
    read(pages, agent(2, 1), page=2, total=250)
    read(pages, agent(1, 1), total=90)
    assert (pages.count, pages.unread) == (1, set())
    read(pages, agent(1, 1), total=150)
    assert (pages.count, pages.unread) == (2, {2})


def test_what_a_service_says_it_has_is_bounded() -> None:
    pages = AgentPages()
    read(pages, agent(1, 1), total=10**12)
    assert pages.count == 100


def test_the_whole_list_in_one_answer_is_one_page() -> None:
    pages = AgentPages()
    read(pages, *(agent(number, 1) for number in range(1, 301)))
    assert pages.count == 1


@pytest.mark.parametrize(("outcomes", "are_reliable"), [([True] * 20, True), ([False] * 20, False), ([], True)])
def test_reliability_is_learnt(outcomes: list[bool], are_reliable: bool) -> None:
    pages = AgentPages()
    for was_right in outcomes:
        pages.learn(was_right=was_right)
    assert pages.are_reliable is are_reliable


def test_what_was_long_ago_weighs_less() -> None:
    pages = AgentPages()
    for was_right in [True] * 1000 + [False] * 40:
        pages.learn(was_right=was_right)
    assert not pages.are_reliable


def test_a_page_tells_of_what_ended_before_it_was_read() -> None:
    pages = AgentPages()
    assert not pages.should_have_told(1, ended_at=0.0)
    read(pages, agent(1, 1), at=100.0)
    assert pages.should_have_told(1, ended_at=50.0)
    assert not pages.should_have_told(1, ended_at=98.0)


def test_smaller_pages_are_tried_until_there_are_none() -> None:
    pages: AgentPages | None = AgentPages()
    sizes = []
    while pages is not None:
        sizes.append(pages.size)
        pages = pages.smaller()
    assert sizes == [100, 50, 20]
