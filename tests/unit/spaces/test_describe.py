from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_sequentum.spaces.describe import (
    ERROR_SIZE,
    SUMMARIES_SIZE,
    bounded_summaries,
    describe_failures,
    shortened,
)


def summary(agent_id: int, **texts: Any) -> dict[str, Any]:
    facts = {"agent_id": agent_id, "run_id": 100_000 + agent_id, "status": "Success", "succeeded": True, "records": 5}
    return {**facts, "link": f"https://cloud.example/agents/{agent_id}/runs/{100_000 + agent_id}", **texts}


def size(values: object) -> int:
    return len(json.dumps(values, ensure_ascii=False).encode())


def test_summaries_that_fit_stay_whole() -> None:
    whole = [summary(agent, message="m" * 100, note=None) for agent in range(100)]
    assert bounded_summaries(whole) == whole


@pytest.mark.parametrize("letter", ["x", "\U0001f600", '"'])
@pytest.mark.parametrize("agents", [30, 100, 300, 900])
def test_summaries_are_bounded_and_say_what_is_cut(agents: int, letter: str) -> None:
    cut = bounded_summaries([summary(agent, message=letter * 2000, note=letter * 4000) for agent in range(agents)])
    assert size(cut) <= SUMMARIES_SIZE
    assert all(one["is_cut"] for one in cut)
    assert [one["agent_id"] for one in cut] == list(range(len(cut)))
    assert all(one["run_id"] == 100_000 + one["agent_id"] and one["succeeded"] for one in cut)
    assert len(cut) == agents or agents == 900


def test_texts_are_cut_before_anything_else() -> None:
    [*others, cut] = bounded_summaries([*(summary(agent) for agent in range(9)), summary(9, note="n" * 60_000)])
    assert others == [summary(agent) for agent in range(9)]
    assert (cut["records"], cut["is_cut"], len(cut["note"])) == (5, True, 400)


def test_few_failures_are_told_whole() -> None:
    message = describe_failures(1, 30, {4: "m" * 1000 + " What to do.", 17: "short"})
    assert message.splitlines()[0] == "2 of the 30 agents of space 1 did not succeed:"
    assert f"- Agent 4: {'m' * 1000} What to do." in message
    assert "- Agent 17: short" in message


@pytest.mark.parametrize("failures", [1, 20, 21, 500])
def test_many_failures_are_told_within_bounds(failures: int) -> None:
    message = describe_failures(1, 500, dict.fromkeys(range(failures), "m" * 4000))
    assert len(message) <= ERROR_SIZE + 200
    assert ("more: see the XCom 'runs'" in message) is (failures > 20)


@pytest.mark.parametrize("length", [0, 1, 10, 100, 4000])
def test_a_shortened_text_has_the_length_asked_for(length: int) -> None:
    text = "".join(chr(65 + number % 26) for number in range(3000))
    short = shortened(text, length)
    assert len(short) == min(length, len(text))
    if length == 100:
        assert (short[:40], short[-30:]) == (text[:40], text[-30:])
