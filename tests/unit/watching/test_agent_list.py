from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sequentum.api.agents import Agent
from airflow_provider_sequentum.watching.agent_list import AgentHints


def agent(agent_id: int, status: int | str | None, activity: str | None = None) -> Agent:
    return Agent.model_validate({"id": agent_id, "status": status, "lastActivity": activity})


def read(hints: AgentHints, *agents: Agent, page: int = 1, total: int | None = None, at: float = 0.0) -> list[int]:
    return hints.read(page, agents, total, at)


def test_an_agent_whose_last_run_is_over_is_hinted_at_once() -> None:
    hints = AgentHints()
    assert read(hints, agent(1, 1), agent(2, 10), agent(3, None), agent(4, 99)) == [2]
    assert read(hints, agent(1, 6), agent(2, 10), agent(3, 7), agent(4, 99)) == [1, 3]
    assert read(hints, agent(1, 6), agent(2, 10, "2026-11-22T09:00:00Z")) == [2]
    assert read(hints, agent(1, 1), agent(2, 10, "2026-11-22T09:00:00Z")) == []


def test_where_an_agent_stands_is_learnt_from_the_pages() -> None:
    hints = AgentHints()
    assert list(hints.pages) == [1]
    assert hints.chance(1, page=1) == hints.reliability
    read(hints, agent(1, 1), total=350)
    assert list(hints.pages) == [1, 2, 3, 4]
    assert hints.chance(1, page=1) == hints.chance(1) == hints.reliability
    assert hints.chance(1, page=2) == 0
    assert hints.chance(2, page=1) == hints.chance(2) == 0
    assert hints.chance(2, page=2) == pytest.approx(hints.reliability / 3)
    assert hints.agents_on(1, {1: None, 2: None}) == [1]
    assert hints.agents_on(3, {1: None, 2: None}) == [2]


def test_a_list_that_grows_or_shrinks_is_followed() -> None:
    hints = AgentHints()
    read(hints, agent(1, 1), total=250)
    read(hints, agent(2, 1), page=2, total=250)
    read(hints, agent(1, 1), total=90)
    assert list(hints.pages) == [1]
    assert hints.chance(9, page=3) == 0
    read(hints, agent(1, 1), total=150)
    assert list(hints.pages) == [1, 2]
    assert hints.chance(9, page=2) == hints.reliability


def test_the_whole_list_in_one_answer_is_one_page() -> None:
    hints = AgentHints()
    read(hints, *(agent(number, 1) for number in range(1, 301)))
    assert list(hints.pages) == [1]


@pytest.mark.parametrize(("outcomes", "low", "high"), [([True] * 20, 0.9, 1.0), ([False] * 20, 0.0, 0.1)])
def test_reliability_is_learnt(outcomes: list[bool], low: float, high: float) -> None:
    hints = AgentHints()
    assert hints.reliability == 0.5
    for was_right in outcomes:
        hints.learn(was_right=was_right)
    assert low <= hints.reliability < high


def test_old_experience_fades() -> None:
    hints = AgentHints()
    for _ in range(1000):
        hints.learn(was_right=True)
    for _ in range(100):
        hints.learn(was_right=False)
    assert hints.reliability < 0.2


@pytest.mark.parametrize(("ended_at", "expected"), [(50.0, True), (94.0, True), (96.0, False), (150.0, False)])
def test_an_end_should_have_been_told_by_a_page_read_after_it(ended_at: float, expected: bool) -> None:
    hints = AgentHints()
    read(hints, agent(1, 1), at=100.0)
    assert hints.should_have_told(1, ended_at) is expected
    assert not hints.should_have_told(2, ended_at)


@pytest.mark.parametrize("hostile", [{"id": 1}, {"id": 1, "status": "x" * 10_000}, {"id": 1, "lastActivity": "soon"}])
def test_odd_agents_are_no_hints(hostile: dict[str, Any]) -> None:
    hints = AgentHints()
    assert hints.read(1, [Agent.model_validate(hostile)], 10**12, 0.0) == []
