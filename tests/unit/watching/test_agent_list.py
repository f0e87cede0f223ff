from __future__ import annotations

import math

import pytest

from airflow_provider_sequentum.api.agents import Agent
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.watching.agent_list import NO_PAGES, NOT_FOUND, AgentPages


def agent(agent_id: int, status: int | str | None, activity: str | None = None) -> Agent:
    return Agent.model_validate({"id": agent_id, "status": status, "lastActivity": activity})


def look_for(*agent_ids: int, only_next_run: bool = False) -> AgentPages:
    pages = AgentPages()
    for agent_id in agent_ids:
        pages.look_for(agent_id, only_next_run=only_next_run)
    return pages


def read(
    pages: AgentPages, *agents: Agent, page: int = 1, total: int | None = None, at: float = 0.0
) -> dict[int, bool]:
    return pages.read(page, Page(list(agents), total), at)


def test_an_agent_whose_last_run_is_over_is_hinted_at_once() -> None:
    pages = look_for(1, 2, 3, 4)
    assert read(pages, agent(1, 1), agent(2, 10), agent(3, None), agent(4, 99)) == {2: True}
    assert read(pages, agent(1, 6), agent(2, 10), agent(3, 7), agent(4, 99)) == {1: True, 3: True}
    assert read(pages, agent(1, 6), agent(2, 10, "2026-11-22T09:00:00Z")) == {2: True}
    assert read(pages, agent(1, 1), agent(2, 10, "2026-11-22T09:00:00Z")) == {}


def test_an_agent_that_no_one_looks_for_is_no_news() -> None:
    pages = look_for(1, 2)
    pages.look_no_more_for(2)
    assert read(pages, agent(1, 10), agent(2, 10), agent(3, 10)) == {1: True}
    assert set(pages.agents_on(1)) == {1}


def test_a_run_that_took_the_place_of_one_that_was_not_over_is_news() -> None:
    pages = look_for(1)
    read(pages, agent(1, 1, "2026-11-22T09:00:00Z"))
    assert read(pages, agent(1, 5, "2026-11-22T09:00:00Z")) == {}
    assert read(pages, agent(1, 1, "2026-11-22T09:01:00Z")) == {1: False}
    assert read(pages, agent(1, 10, "2026-11-22T09:01:00Z")) == {1: True}
    assert read(pages, agent(1, 1, "2026-11-22T09:02:00Z")) == {}


def test_what_was_forgotten_is_news_again() -> None:
    pages = look_for(1)
    read(pages, agent(1, 10))
    pages.forget(1)
    assert read(pages, agent(1, 10)) == {1: True}


def test_where_an_agent_stands_is_learnt_from_the_pages() -> None:
    pages = look_for(1, 2, 9)
    assert pages.unread == {1}
    read(pages, agent(1, 1), agent(2, None), total=350)
    assert (pages.count, pages.unread) == (4, {2, 3, 4})
    assert (set(pages.agents_on(1)), set(pages.agents_on(NOT_FOUND))) == ({1, 2}, {9})
    assert (pages.shows_end(1), pages.shows_end(2), pages.shows_end(9)) == (False, None, None)


def test_pages_are_searched_only_for_agents_that_were_not_found() -> None:
    pages = look_for(1)
    read(pages, agent(1, 1), total=350)
    assert (pages.count, pages.unread, pages.needed) == (4, set(), 1)


def test_an_agent_that_is_pushed_off_its_page_is_on_the_next_one_as_far_as_is_known() -> None:
    pages = look_for(1)
    read(pages, agent(1, 1), total=150)
    read(pages, agent(2, 1), total=150)
    assert (set(pages.agents_on(1)), set(pages.agents_on(2)), pages.needed) == (set(), {1}, 2)
    assert pages.shows_end(1) is None
    read(pages, agent(3, 1), page=2, total=150)
    assert set(pages.agents_on(NOT_FOUND)) == {1}


def test_an_agent_at_rest_whose_next_run_alone_matters_needs_no_page() -> None:
    pages = look_for(1, 2, only_next_run=True)
    read(pages, agent(3, 1), total=150)
    read(pages, agent(1, 1), agent(2, 10), page=2, total=150)
    assert (set(pages.agents_on(2)), pages.needed) == ({1}, 2)
    assert read(pages, agent(2, 1), agent(1, 10), total=150) == {1: True}
    assert (set(pages.agents_on(1)), pages.needed) == ({2}, 1)
    pages.look_for(1)
    assert set(pages.agents_on(NOT_FOUND)) == {1}


def test_a_list_that_grows_or_shrinks_is_followed() -> None:
    pages = look_for(1, 2, 3)
    read(pages, agent(1, 1), total=250)
    read(pages, agent(2, 1), page=2, total=250)
    read(pages, agent(1, 1), total=90)
    assert (pages.count, pages.unread) == (1, set())
    read(pages, agent(1, 1), total=150)
    assert (pages.count, pages.unread) == (2, {2})


def test_what_a_service_says_it_has_is_bounded() -> None:
    pages = look_for(1)
    read(pages, agent(1, 1), total=10**12)
    assert pages.count == 100


def test_the_whole_list_in_one_answer_is_one_page() -> None:
    pages = look_for(1)
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
    pages = look_for(1)
    assert not pages.should_have_told(1, ended_at=0.0)
    read(pages, agent(1, 1), at=100.0)
    assert pages.should_have_told(1, ended_at=50.0)
    assert not pages.should_have_told(1, ended_at=98.0)


def test_smaller_pages_are_tried_until_there_are_none() -> None:
    sizes = [AgentPages().size]
    while sizes[-1] != NO_PAGES:
        sizes.append(AgentPages(sizes[-1]).next_size())
    assert sizes == [100, 50, 20, NO_PAGES]
    assert AgentPages(NO_PAGES).needed == math.inf
